"""The marker segments of a JPEG (ITU-T T.81, annex B): its size, its kind, its number of scans, its end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from muflow_cli.images.error import ImageError

# Encoders write about 10 scans (libjpeg), or up to 64 where they search for the best (mozjpeg, jpegrescan). The time
# to decode an image grows with this number even if the scans are empty.
MAX_SCANS: Final = 100
MAX_SEGMENTS: Final = 100_000
# Ordinary files have about 10 segments, and up to some hundreds with large profiles or extended XMP.
_MAX_STEPS: Final = 2000

FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SCAN: Final = 0xDA
END: Final = 0xD9
_ALONE: Final = frozenset((0x01, *range(0xD0, 0xDA)))  # markers without a length
_SEQUENTIAL: Final = frozenset((0xC0, 0xC1, 0xC9))
_READ: Final = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
_KINDS: Final = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical lossless",
    0xCB: "lossless arithmetic-coded",
    0xCD: "hierarchical arithmetic-coded",
    0xCE: "hierarchical arithmetic-coded",
    0xCF: "hierarchical lossless arithmetic-coded",
    0xDE: "hierarchical",  # DHP, which stands before the first frame
}
_MARKER: Final = re.compile(rb"\xff[^\x00\xff]")
# In coded data, FF 00 is a byte and FF D0 to FF D7 are restarts; anything else is a marker.
_NEXT_IN_SCAN: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


class Segment(NamedTuple):
    """A segment, or a marker alone.

    Attributes:
        marker: its second byte.
        at: where its marker begins.
        start: where its content begins.
        end: where its content ends by its length, perhaps before `start` or behind the file.
    """

    marker: int
    at: int
    start: int
    end: int


def segments(data: bytes, start: int = 0) -> Iterator[Segment]:
    """The first MAX_SEGMENTS segments of the image at `start`, up to its first scan, found as libjpeg finds them.

    Junk and fill bytes between segments are passed over, and so is an end mark.
    """
    at = start + 2
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, at)
        if match is None:
            return
        at, marker = match.start(), data[match.start() + 1]
        alone = marker in _ALONE
        segment = Segment(
            marker,
            at,
            start=at + (2 if alone else 4),
            end=at + 2 + (0 if alone else int.from_bytes(data[at + 2 : at + 4], "big")),
        )
        yield segment
        if marker == SCAN:
            return
        at = max(segment.start, segment.end)


@dataclass(frozen=True, slots=True)
class JpegLayout:
    """What stands before the coded data.

    Attributes:
        width: of the frame, pixels; 0 if no frame header was found.
        height: the same; 0 also where the number of lines stands at the end of the first scan.
        header_bytes: before the first scan, junk between the segments included.
        scans: number of scans, an upper bound while it is at most MAX_SCANS.
        plain: whether the first scan is reached in an ordinary number of steps.
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
    frame = width = height = components = steps = 0
    end = 2
    for marker, at, start, behind in segments(data):
        steps += 1 + data.count(b"\xff", end, at)
        if steps > _MAX_STEPS:
            break
        if marker == SCAN:
            # A sequential frame whose first scan holds all components is complete with it; decoders read no other.
            complete = frame in _SEQUENTIAL and data[start : start + 1] == bytes((components,))
            return JpegLayout(width, height, at, 1 if complete else _scans(data, at), plain=True)
        if marker == END:
            return JpegLayout(width, height, at, 0, plain=True)
        if marker in FRAMES and start <= len(data):
            frame = marker
            height, width = (int.from_bytes(data[start + n : start + n + 2], "big") for n in (1, 3))
            components = data[start + 5] if start + 5 < len(data) else 0
        end = max(start, behind)
    plain = steps + data.count(b"\xff", end) < _MAX_STEPS
    return JpegLayout(width, height, len(data), 0, plain=plain)


def _scans(data: bytes, first: int) -> int:
    # Counting is quick, but also counts thumbnails and the further images of a multi-picture file.
    scans = data.count(b"\xff\xda", first)
    if scans <= MAX_SCANS:
        return scans
    scans, at = 0, first
    while match := _NEXT_IN_SCAN.search(data, at):
        marker, at = data[match.start() + 1], match.end()
        if marker == END:
            break
        if marker == SCAN:
            scans += 1
            if scans > MAX_SCANS:
                message = f"it has more than the {MAX_SCANS} scans allowed, more than an encoder writes"
                raise ImageError("too_many_scans", message)
        if marker not in _ALONE:
            at += int.from_bytes(data[at : at + 2], "big")
    return scans


def unread_kind(data: bytes) -> str | None:
    """What kind of JPEG a file is, if it is a valid one that libjpeg does not read: "12-bit", "lossless", ..."""
    for marker, _, start, _ in segments(data):
        if marker in _KINDS:
            return _KINDS[marker]
        if marker in _READ:
            depth = data[start] if start < len(data) else 8
            return None if depth == 8 else f"{depth}-bit"
    return None


def lacks_its_end(data: bytes) -> bool:
    """Whether there is no end mark behind the first scan; a thumbnail in front of it has one of its own."""
    scan = next((segment.start for segment in segments(data) if segment.marker == SCAN), None)
    return scan is None or data.find(bytes((0xFF, END)), scan) < 0


def image_end(data: bytes, start: int = 0) -> int | None:
    """Where the image at `start` ends, behind its end mark; None where it has none within MAX_SEGMENTS segments."""
    at = next((segment.at for segment in segments(data, start) if segment.marker == SCAN), len(data))
    for _ in range(MAX_SEGMENTS):
        match = _NEXT_IN_SCAN.search(data, at)
        if match is None:
            return None
        marker, at = data[match.start() + 1], match.end()
        if marker == END:
            return at
        if marker not in _ALONE:
            at += int.from_bytes(data[at : at + 2], "big")
    return None
