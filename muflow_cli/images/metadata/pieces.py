"""Image file -> the pieces of metadata in it: where each container keeps EXIF, XMP, C2PA, Photoshop blocks and texts.

Nothing here follows a length beyond the file, visits more than MAX_PIECES pieces, or keeps more than MAX_BYTES.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from muflow_cli.images.containers import jpeg, png, riff
from muflow_cli.images.containers.boxes import items, places, whole_boxes
from muflow_cli.images.metadata.tiff import Tag, read_tags

MAX_PIECES: Final = 100_000
MAX_BYTES: Final = 16 * 2**20
_MAX_ITEM: Final = 4 * 2**20
_MAX_TEXT: Final = 2**20
_MAX_TEXT_COUNT: Final = 200
_MAX_TEXTS: Final = 4 * 2**20

_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_EXTENSION: Final = b"http://ns.adobe.com/xmp/extension/\0"
_EXIF: Final = b"Exif\0\0"
_PHOTOSHOP: Final = b"Photoshop 3.0\0"
_C2PA_UUID: Final = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_XMP_UUID: Final = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_GIF_BLOCK: Final = re.compile(rb"!\xff\x0b(XMP DataXMP|C2PA_GIF\x01\x00\x00)")


@dataclass(slots=True)
class Metadata:
    """The pieces of one file, as bytes.

    Attributes:
        exif: TIFF streams.
        xmp: XML packets.
        c2pa: JUMBF boxes, those of one manifest store joined.
        photoshop: image resource blocks.
        iptc: IPTC records that stand outside of such blocks.
        texts: key (lower case) and text, in the order of the file; together at most 4 MiB.
        problem: the first thing in the metadata that is damaged or beyond the bounds; None where all was read.
        room: bytes that may still be taken.
        text_room: bytes of text that may still be taken.
    """

    exif: list[bytes] = field(default_factory=list)
    xmp: list[bytes] = field(default_factory=list)
    c2pa: list[bytes] = field(default_factory=list)
    photoshop: list[bytes] = field(default_factory=list)
    iptc: list[bytes] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    problem: str | None = None
    room: int = MAX_BYTES
    text_room: int = _MAX_TEXTS

    def take(self, piece: bytes | memoryview) -> bytes:
        """A copy of a piece, or nothing once the pieces together are larger than MAX_BYTES."""
        if len(piece) > self.room:
            self.complain(f"more than {MAX_BYTES // 2**20} MiB of metadata")
            return b""
        self.room -= len(piece)
        return bytes(piece)

    def text(self, key: bytes, value: bytes, encoding: str) -> None:
        """Add a text; one of several MiB is cut, and beyond 4 MiB of texts the others are left out."""
        value = value[:_MAX_TEXT]
        if len(value) > self.text_room or len(self.texts) >= _MAX_TEXT_COUNT:
            self.complain("more texts than are read")
            return
        self.text_room -= len(value)
        self.texts.append((key[:80].decode("latin-1").strip().lower(), value.decode(encoding, "replace")))

    def complain(self, problem: str) -> None:
        """Keep the first problem."""
        self.problem = self.problem or problem


def read_metadata(data: bytes) -> Metadata:
    """The metadata of an image file, by its signature; empty for any other bytes."""
    found = Metadata()
    for signature, read in _READERS.items():
        if signature.match(data):
            read(data, found)
            break
    return found


def _jpeg(data: bytes, found: Metadata) -> None:
    segments = list(_jpeg_segments(data, found))
    photoshop = []
    for marker, _, start, end in segments:
        body = memoryview(data)[start:end]
        if marker == 0xE1 and data.startswith(_EXIF, start):
            found.exif.append(found.take(body[len(_EXIF) :]))
        elif marker == 0xE1 and data.startswith(_XMP, start):
            found.xmp.append(found.take(body[len(_XMP) :]))
        elif marker == 0xED and data.startswith(_PHOTOSHOP, start):
            photoshop.append(found.take(body[len(_PHOTOSHOP) :]))
        elif marker == 0xFE:
            found.text(b"comment", bytes(body), "utf-8")
    if photoshop:
        found.photoshop.append(b"".join(photoshop))
    _jpeg_parts(data, segments, found)


def _jpeg_parts(data: bytes, segments: Sequence[jpeg.Segment], found: Metadata) -> None:
    """Extended XMP and JUMBF boxes, which lie in several segments in any order."""
    xmp: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
    jumbf: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
    for marker, _, start, end in segments:
        if marker == 0xE1 and data.startswith(_XMP_EXTENSION, start):
            # 32 characters name the packet, then its length and the part's offset (Adobe XMP part 3, 1.1.3.1).
            at = start + len(_XMP_EXTENSION)
            offset = int.from_bytes(data[at + 36 : at + 40], "big")
            xmp[data[at : at + 32]].append((offset, found.take(data[at + 40 : end])))
        elif marker == 0xEB and data.startswith(b"JP", start) and end - start > 16:
            # Box instance, packet number, then the box's own header, which every packet repeats (ISO 19566-5, D.2).
            number = int.from_bytes(data[start + 4 : start + 8], "big")
            first = start + (8 if number <= 1 else 16)
            jumbf[data[start + 2 : start + 4]].append((number, found.take(data[first:end])))
    for pieces, packets in ((found.xmp, xmp), (found.c2pa, jumbf)):
        for parts in packets.values():
            pieces.append(b"".join(part for _, part in sorted(parts, key=lambda numbered: numbered[0])))


def _jpeg_segments(data: bytes, found: Metadata) -> Iterator[jpeg.Segment]:
    """The whole segments before the first scan, up to the first junk between them."""
    reached = 2
    for segment in jpeg.segments(data):
        if data[reached : segment.at].strip(b"\xff"):
            break
        if segment.marker in (jpeg.SCAN, jpeg.END):
            return
        if segment.end < segment.start > segment.at + 2 or segment.end > len(data):
            found.complain("a JPEG segment is cut short")
            return
        if segment.start > segment.at + 2:
            yield segment
        reached = segment.end
    if data[reached:].strip(b"\xff") or reached >= len(data):
        found.complain("the JPEG's segments end in other bytes")


def _png(data: bytes, found: Metadata) -> None:
    for number, (name, _, start, end) in enumerate(png.chunks(data)):
        if number >= MAX_PIECES:
            found.complain("too many PNG chunks")
            return
        if name == b"IEND":
            return
        if end + 4 > len(data):
            break
        if name in _PNG_CHUNKS:
            _PNG_CHUNKS[name](memoryview(data)[start:end], found)
    found.complain("a PNG chunk is cut short")


def _png_text(body: memoryview, found: Metadata) -> None:
    key, _, value = bytes(body[: _MAX_TEXT + 80]).partition(b"\0")
    found.text(key, value, _latin_or_utf8(value))


def _latin_or_utf8(value: bytes) -> str:
    """The standard says Latin-1; the generators write UTF-8."""
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _png_compressed(body: memoryview, found: Metadata) -> None:
    key, _, rest = bytes(body[: _MAX_TEXT + 80]).partition(b"\0")
    value = _inflated(rest[1:], found)
    found.text(key, value, _latin_or_utf8(value))


def _png_international(body: memoryview, found: Metadata) -> None:
    key, _, rest = bytes(body[: 2 * _MAX_TEXT]).partition(b"\0")
    value = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # language, translated keyword
    if rest[:1] == b"\1":
        value = _inflated(value, found)
    if key == b"XML:com.adobe.xmp":
        found.xmp.append(found.take(value))
    else:
        found.text(key, value, "utf-8")


def _inflated(value: bytes, found: Metadata) -> bytes:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(value, min(_MAX_TEXT, found.room))
    except zlib.error:
        found.complain("a compressed text is damaged")
        return b""
    if inflater.unconsumed_tail:
        found.complain("a compressed text is longer than 1 MiB")
    return text


_PNG_CHUNKS: Final[Mapping[bytes, Callable[[memoryview, Metadata], None]]] = {
    b"tEXt": _png_text,
    b"zTXt": _png_compressed,
    b"iTXt": _png_international,
    b"eXIf": lambda body, found: found.exif.append(found.take(body)),
    b"caBX": lambda body, found: found.c2pa.append(found.take(body)),
}


def _webp(data: bytes, found: Metadata) -> None:
    for number, (name, start, end) in enumerate(riff.chunks(data)):
        if number >= MAX_PIECES:
            found.complain("too many WebP chunks")
            return
        if end > len(data):
            found.complain("a WebP chunk is cut short")
            return
        body = memoryview(data)[start:end]
        if name == b"EXIF":
            found.exif.append(found.take(body[6:] if data.startswith(_EXIF, start) else body))
        elif name == b"XMP ":
            found.xmp.append(found.take(body))
        elif name == b"C2PA":
            found.c2pa.append(found.take(body))


def _gif(data: bytes, found: Metadata) -> None:
    for match in _GIF_BLOCK.finditer(data):
        if match[1].startswith(b"XMP"):
            # The packet stands there as it is; a trailer of 258 bytes lets other readers skip it.
            end = data.find(b"</x:xmpmeta>", match.end(), match.end() + MAX_BYTES)
            found.xmp.append(found.take(memoryview(data)[match.end() : end + 12]) if end > 0 else b"")
        else:
            found.c2pa.append(_gif_subblocks(data, match.end(), found))


def _gif_subblocks(data: bytes, at: int, found: Metadata) -> bytes:
    parts = []
    for _ in range(MAX_PIECES):
        length = data[at] if at < len(data) else 0
        if not length:
            break
        parts.append(found.take(memoryview(data)[at + 1 : at + 1 + length]))
        at += 1 + length
    return b"".join(parts)


def _tiff(data: bytes, found: Metadata) -> None:
    tags = read_tags(data)
    found.exif.append(data)
    for tag, pieces in (
        (Tag.XMP, found.xmp),
        (Tag.C2PA, found.c2pa),
        (Tag.PHOTOSHOP, found.photoshop),
        (Tag.IPTC, found.iptc),
    ):
        if tag in tags:
            pieces.append(found.take(tags[tag]))


def _iso(data: bytes, found: Metadata) -> None:
    """HEIF, AVIF and JPEG 2000: boxes."""
    for number, (kind, start, end) in enumerate(whole_boxes(data, 0, len(data))):
        if number >= MAX_PIECES:
            found.complain("too many boxes")
            return
        body = memoryview(data)[start:end]
        if kind == b"uuid" and data.startswith(_XMP_UUID, start):
            found.xmp.append(found.take(body[16:]))
        elif kind == b"uuid" and data.startswith(_C2PA_UUID, start):
            # Version and flags, a purpose ending in NUL, an offset of 8 bytes, then the manifest store.
            purpose = data[start + 20 : min(start + 60, end)].find(b"\0")
            if purpose >= 0 and data.startswith(b"manifest", start + 20):
                found.c2pa.append(found.take(body[20 + purpose + 1 + 8 :]))
        elif kind == b"meta":
            _iso_items(data, start, end, found)


def _iso_items(data: bytes, start: int, end: int, found: Metadata) -> None:
    inner = {box.type: box for box in islice(whole_boxes(data, start + 4, end), 64)}
    if not {b"iinf", b"iloc"} <= inner.keys():
        return
    located = places(data, inner[b"iloc"])
    for number, item in items(data, inner[b"iinf"]):
        if item.type not in (b"Exif", b"mime") or number not in located:
            continue
        method, extents = located[number]
        base = inner[b"idat"].start if method == 1 and b"idat" in inner else 0
        parts = (data[base + at : base + at + min(size, _MAX_ITEM)] for at, size in extents[:64])
        content = b"".join(parts)[:_MAX_ITEM]
        if item.type == b"Exif":
            # Four bytes say where the TIFF stream begins after them.
            skip = 4 + int.from_bytes(content[:4], "big")
            found.exif.append(found.take(content[skip:].removeprefix(_EXIF)))
        elif item.content_type == b"application/rdf+xml":
            found.xmp.append(found.take(content))


_READERS: Final[Mapping[re.Pattern[bytes], Callable[[bytes, Metadata], None]]] = {
    re.compile(rb"\xff\xd8"): _jpeg,
    re.compile(rb"\x89PNG\r\n\x1a\n"): _png,
    re.compile(rb"RIFF....WEBP", re.DOTALL): _webp,
    re.compile(rb"GIF8[79]a"): _gif,
    re.compile(rb"II[*+]\0|MM\0[*+]"): _tiff,
    re.compile(rb"....(?:ftyp|jP  )", re.DOTALL): _iso,
}
