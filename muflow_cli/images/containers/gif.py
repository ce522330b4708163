"""The blocks of a GIF (GIF89a), walked without decoding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_EXTENSION: Final = 0x21
_IMAGE: Final = 0x2C
_HAS_COLOURS: Final = 0x80


def frame_count(data: bytes) -> int:
    """Number of images in the file, as far as its blocks can be walked."""
    return sum(kind == _IMAGE for kind in _blocks(data))


def _blocks(data: bytes) -> Iterator[int]:
    """The kind of each block; the last is anything but an image or an extension, or the file ends without one."""
    at = 13 + (_colours(data[10]) if len(data) > 10 else 0)
    while at < len(data):
        kind = data[at]
        yield kind
        if kind == _IMAGE and at + 9 < len(data):
            at += 11 + _colours(data[at + 9])
        elif kind == _EXTENSION:
            at += 2
        else:
            return
        while at < len(data) and data[at]:  # sub-blocks, the last of which is empty
            at += 1 + data[at]
        at += 1


def lacks_its_end(data: bytes) -> bool:
    """Whether the blocks lead behind the end of the file before its trailer."""
    last = None
    for kind in _blocks(data):
        last = kind
    # Extensions and images lead on; an image that ends the walk is cut in its head.
    return last in (None, _IMAGE, _EXTENSION)


def _colours(flags: int) -> int:
    """Bytes of the colour table that the flags of a screen or an image announce."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & _HAS_COLOURS else 0
