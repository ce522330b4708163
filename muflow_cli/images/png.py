"""The chunks of a PNG that its pixels need, without the texts and profiles that can hide bombs or damage."""

from __future__ import annotations

from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_FRAME: Final = 12  # bytes of a chunk around its data: length, name, checksum
_METADATA: Final = frozenset((b"iCCP", b"tEXt", b"zTXt", b"iTXt"))
_ANIMATION: Final = frozenset((b"acTL", b"fcTL", b"fdAT"))
_RAW_PROFILE: Final = b"Raw profile type "
_MAX_PROFILE: Final = 2**17  # twice what an EXIF block can have, compressed or in hexadecimal digits


def still_pixels(data: bytes) -> bytes:
    """A PNG without its colour profile, its texts and its further frames, but with the EXIF block of ImageMagick.

    Compressed texts and profiles may have any size, and Pillow refuses the image for those of more than 1 MB. The first
    frame needs neither, and faults in the frames behind it do not concern it. A file without such chunks is returned as
    it is, and so is whatever follows a damaged length.
    """
    parts = []
    at = kept = len(SIGNATURE)
    while at + _FRAME <= len(data):
        end = at + _FRAME + int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        if name in _METADATA | _ANIMATION and end <= len(data) and not _is_exif(data, at + 8, end):
            parts.append(data[kept:at])
            kept = end
        if name == b"IEND":
            break
        at = end
    return b"".join((SIGNATURE, *parts, data[kept:])) if parts else data


def _is_exif(data: bytes, start: int, end: int) -> bool:
    return data.startswith(_RAW_PROFILE, start) and end - start <= _MAX_PROFILE
