"""The kind of a JPEG (ITU-T T.81, table B.1), from the marker of its frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

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
_READ: Final = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
_SCAN: Final = 0xDA
_END: Final = b"\xff\xd9"
_MAX_SEGMENTS: Final = 2000


def unread_kind(data: bytes) -> str | None:
    """What kind of JPEG a file is, if it is a valid one that libjpeg does not read: "12-bit", "lossless", ..."""
    for marker, start in _segments(data):
        if marker in _KINDS:
            return _KINDS[marker]
        if marker in _READ:
            depth = data[start] if start < len(data) else 8
            return None if depth == 8 else f"{depth}-bit"
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Markers up to the first scan, and where the content of each begins."""
    at = 2
    for _ in range(_MAX_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # no segment
            at += 1
            continue
        yield marker, at + 4
        if marker == _SCAN:
            return
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))


def lacks_its_end(data: bytes) -> bool:
    """Whether there is no end mark behind the first scan; a thumbnail in front of it has one of its own."""
    scan = next((start for marker, start in _segments(data) if marker == _SCAN), None)
    return scan is None or data.find(_END, scan) < 0
