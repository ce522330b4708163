"""Which files are clips, by how they begin: never by their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from muflow_cli.images.containers.boxes import brands
from muflow_cli.images.formats import SIGNATURE_BYTES, is_image, unread_format

HEAD_BYTES: Final = 512

_SOUND_BRANDS: Final = frozenset((b"M4A ", b"M4B ", b"M4P "))
_OLD_QUICKTIME: Final = (b"moov", b"mdat", b"wide")
_TRANSPORT_PACKET: Final = 188
_SYNC: Final = 0x47


@dataclass(frozen=True, slots=True)
class ClipFormat:
    """A container of clips.

    Attributes:
        demuxer: FFmpeg's name of it. It is never guessed: a text file that lists other files is a format there too.
        name: for a sentence.
    """

    demuxer: str
    name: str


_MP4: Final = ClipFormat("mov", "an MP4 or QuickTime video")
_GIF: Final = ClipFormat("gif", "an animated GIF")
_SIGNATURES: Final = (
    (0, b"\x1a\x45\xdf\xa3", ClipFormat("matroska", "a Matroska or WebM video")),
    (0, b"FLV\x01", ClipFormat("flv", "a Flash video")),
    (0, b"\x00\x00\x01\xba", ClipFormat("mpeg", "an MPEG video")),
    (0, b"OggS", ClipFormat("ogg", "an Ogg file")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ClipFormat("asf", "a Windows Media file")),
    (0, b"DKIF\x00\x00", ClipFormat("ivf", "an IVF video")),
)
_AVI: Final = ClipFormat("avi", "an AVI video")
_TRANSPORT: Final = ClipFormat("mpegts", "an MPEG transport stream")


def clip_format(head: bytes, *, animations: bool = False) -> ClipFormat | None:
    """The container of a clip that begins with these bytes; None for anything else.

    Args:
        head: the first HEAD_BYTES bytes of the file, or all of it.
        animations: whether GIF is such a container.
    """
    if animations and head[:4] == b"GIF8":
        return _GIF
    if is_image(head[:SIGNATURE_BYTES]) or unread_format(head):
        return None
    if head[4:8] == b"ftyp":
        return None if brands(head) & _SOUND_BRANDS else _MP4
    if head[4:8] in _OLD_QUICKTIME and head[:1] == b"\0":
        return _MP4
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _AVI
    known = next((format_ for at, magic, format_ in _SIGNATURES if head.startswith(magic, at)), None)
    return _TRANSPORT if known is None and _is_transport(head) else known


def _is_transport(head: bytes) -> bool:
    """Whether packets of a transport stream begin where they should; in a camera's, four bytes stand before each."""
    starts = [range(before, len(head), before + _TRANSPORT_PACKET) for before in (0, 4)]
    return any(len(own) > 2 and all(head[at] == _SYNC for at in own) for own in starts)
