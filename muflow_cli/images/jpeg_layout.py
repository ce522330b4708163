"""The marker segments of a JPEG (ITU-T T.81, annex B), walked without decoding: its size and its number of scans."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from muflow_cli.images.error import ImageError

# Encoders write about 10 scans (libjpeg), or up to 64 where they search for the best (mozjpeg, jpegrescan). The time
# to decode an image grows with this number even if the scans are empty.
MAX_SCANS: Final = 100
# Ordinary files have about 10 segments, and up to some hundreds with large profiles or extended XMP.
_MAX_STEPS: Final = 2000

_SEQUENTIAL: Final = frozenset((0xC0, 0xC1, 0xC9))
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN: Final = 0xDA
_END: Final = 0xD9
_ALONE: Final = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a segment
# In coded data, FF 00 is a byte and FF D0 to FF D7 are restarts; anything else is a marker.
_NEXT_IN_SCAN: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


@dataclass(frozen=True, slots=True)
class JpegLayout:
    """What stands before the coded data.

    Attributes:
        width: of the frame, pixels; 0 if no frame header was found.
        height: the same; 0 also where the number of lines stands at the end of the first scan.
        header_bytes: before the first scan, junk between the segments included.
        scans: number of scans, an upper bound while it is at most MAX_SCANS.
        plain: whether the walk reached the first scan in an ordinary number of steps.
    """

    width: int
    height: int
    header_bytes: int
    scans: int
    plain: bool


def jpeg_layout(data: bytes) -> JpegLayout:
    """The layout of `data`, which begins with FF D8, in time that its size does not make long.

    Raises:
        ImageError: too_many_scans.
    """
    frame = width = height = components = 0
    at = 2
    for _ in range(_MAX_STEPS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return JpegLayout(width, height, len(data), 0, plain=True)
        marker = data[at + 1]
        if marker in (0x00, 0xFF):
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker == _SCAN:
            # A sequential frame whose first scan holds all components is complete with it; decoders read no other.
            complete = frame in _SEQUENTIAL and data[at + 4 : at + 5] == bytes((components,))
            return JpegLayout(width, height, at, 1 if complete else _scans(data, at), plain=True)
        elif marker == _END:
            return JpegLayout(width, height, at, 0, plain=True)
        else:
            if marker in _FRAMES:
                frame = marker
                height, width = (int.from_bytes(data[at + n : at + n + 2], "big") for n in (5, 7))
                components = data[at + 9] if at + 9 < len(data) else 0
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return JpegLayout(width, height, at, 0, plain=False)


def _scans(data: bytes, first: int) -> int:
    # Counting is quick, but also counts thumbnails and the further images of a multi-picture file.
    scans = data.count(b"\xff\xda", first)
    if scans <= MAX_SCANS:
        return scans
    scans, at = 0, first
    while match := _NEXT_IN_SCAN.search(data, at):
        marker, at = data[match.start() + 1], match.end()
        if marker == _END:
            break
        if marker == _SCAN:
            scans += 1
            if scans > MAX_SCANS:
                message = f"it has more than the {MAX_SCANS} scans allowed, more than an encoder writes"
                raise ImageError("too_many_scans", message)
        if marker not in _ALONE:
            at += int.from_bytes(data[at : at + 2], "big")
    return scans
