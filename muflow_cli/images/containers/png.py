"""The chunks of a PNG, and those that its pixels need without the texts and profiles that hide bombs or damage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_UNNEEDED: Final = frozenset((b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"fdAT"))
_RAW_PROFILE: Final = b"Raw profile type "
_MAX_PROFILE: Final = 2**17  # twice what an EXIF block can have, compressed or in hexadecimal digits


class Chunk(NamedTuple):
    """A chunk: its name, where its length stands, and where its data begin and end, perhaps behind the file."""

    name: bytes
    at: int
    start: int
    end: int


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG, whatever stands behind its end included; four bytes of checksum follow each."""
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        yield Chunk(data[at + 4 : at + 8], at, at + 8, end)
        at = end + 4


def still_pixels(data: bytes) -> bytes:
    """A PNG without its colour profile, its texts and its further frames, but with the EXIF block of ImageMagick.

    Compressed texts and profiles may have any size, and Pillow refuses the image for those of more than 1 MB. The first
    frame needs neither, and faults in the frames behind it do not concern it. A file without such chunks is returned as
    it is, and so is whatever follows a damaged length.
    """
    parts = []
    kept = len(PNG_SIGNATURE)
    for name, at, start, end in chunks(data):
        if name in _UNNEEDED and end + 4 <= len(data) and not _is_exif(data, start, end):
            parts.append(data[kept:at])
            kept = end + 4
        if name == b"IEND":
            break
    return b"".join((PNG_SIGNATURE, *parts, data[kept:])) if parts else data


def _is_exif(data: bytes, start: int, end: int) -> bool:
    return data.startswith(_RAW_PROFILE, start) and end - start <= _MAX_PROFILE
