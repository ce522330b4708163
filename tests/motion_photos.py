"""Motion photos as tests need them: an image and a video in one file, as the makers of phones write them."""

from __future__ import annotations

import io
import struct

import numpy as np
from conftest import draw_face
from PIL import Image

_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_RDF = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" '
    'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
    'xmlns:Item="http://ns.google.com/photos/1.0/container/item/" {}</rdf:Description></rdf:RDF></x:xmpmeta>'
)
_ENTRY = '<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="{}" Item:Length="{}"/></rdf:li>'


def still(seed: int = 0, side: int = 72, kind: str = "JPEG") -> bytes:
    """An image alone."""
    stream = io.BytesIO()
    draw_face(np.random.default_rng(seed), side).save(stream, kind)
    return stream.getvalue()


def with_xmp(jpeg: bytes, packet: str) -> bytes:
    """A JPEG with a packet of XMP behind its first marker."""
    content = _XMP + packet.encode()
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def google(jpeg: bytes, video: bytes, *between: bytes, length: int | None = None, behind: bytes = b"") -> bytes:
    """Motion Photo format 1.0: a directory in XMP names what follows the image.

    Args:
        jpeg: the image.
        video: the last of what follows, unless `behind` does.
        between: other files in front of the video, such as a gain map.
        length: of the video as the directory says it; None = the truth.
        behind: a file behind the video.
    """
    items = [("Primary", 0), *(("GainMap", len(one)) for one in between)]
    items.append(("MotionPhoto", len(video) if length is None else length))
    items += [("Depth", len(behind))] if behind else []
    entries = "".join(_ENTRY.format(*item) for item in items)
    body = f'GCamera:MotionPhoto="1"><Container:Directory><rdf:Seq>{entries}</rdf:Seq></Container:Directory>'
    return with_xmp(jpeg, _RDF.format(body)) + b"".join(between) + video + behind


def google_in_elements(jpeg: bytes, video: bytes) -> bytes:
    """The same with elements instead of attributes."""
    item = f"<Item:Semantic>MotionPhoto</Item:Semantic><Item:Length>{len(video)}</Item:Length>"
    entry = (
        f'<rdf:li rdf:parseType="Resource"><Container:Item rdf:parseType="Resource">{item}</Container:Item></rdf:li>'
    )
    body = f"><Container:Directory><rdf:Seq>{entry}</rdf:Seq></Container:Directory>"
    return with_xmp(jpeg, _RDF.format(body)) + video


def micro_video(jpeg: bytes, video: bytes, offset: int | None = None) -> bytes:
    """The forerunner of that format: how far before the end of the file the video begins."""
    at = len(video) if offset is None else offset
    return with_xmp(jpeg, _RDF.format(f'GCamera:MicroVideo="1" GCamera:MicroVideoOffset="{at}">')) + video


def samsung(jpeg: bytes, video: bytes, *, back: int | None = None, length: int | None = None) -> bytes:
    """Blocks behind the image, and a directory at the end of the file; the numbers of the video's may be other ones."""
    blocks = [(0x0A01, b"Image_UTC_Data", b"1788746908069"), (0x0A30, b"MotionPhoto_Data", video)]
    blocks.append((0x0A31, b"MotionPhoto_Version", b"mpv3"))
    written = [struct.pack("<HHI", 0, kind, len(name)) + name + data for kind, name, data in blocks]
    entries = b""
    for number, (kind, _, data) in enumerate(blocks):
        own = data is video
        before = sum(map(len, written[number:])) if back is None or not own else back
        size = len(written[number]) if length is None or not own else length
        entries += struct.pack("<HHII", 0, kind, before, size)
    directory = b"SEFH" + struct.pack("<II", 106, len(blocks)) + entries
    return jpeg + b"".join(written) + directory + struct.pack("<I", len(directory)) + b"SEFT"


def in_box(image: bytes, video: bytes, length: int | None = None) -> bytes:
    """A HEIC or AVIF with a box `mpvd`, whose length may be another one."""
    return image + struct.pack(">I", len(video) + 8 if length is None else length) + b"mpvd" + video


def heif(seed: int = 0, side: int = 72, kind: str = "AVIF") -> bytes:
    """A HEIC or AVIF alone."""
    stream = io.BytesIO()
    image: Image.Image = draw_face(np.random.default_rng(seed), side)
    image.save(stream, kind)
    return stream.getvalue()
