"""The blocks of a GIF (GIF89a), walked without decoding."""

from __future__ import annotations

from typing import Final

_EXTENSION: Final = 0x21
_IMAGE: Final = 0x2C
_HAS_COLOURS: Final = 0x80


def lacks_its_end(data: bytes) -> bool:
    """Whether the blocks lead behind the end of the file before its trailer."""
    at = 13 + (_colours(data[10]) if len(data) > 10 else 0)
    while at < len(data):
        kind = data[at]
        if kind == _IMAGE and at + 9 < len(data):
            at += 11 + _colours(data[at + 9])
        elif kind == _EXTENSION:
            at += 2
        else:
            return kind == _IMAGE
        while at < len(data) and data[at]:  # sub-blocks, the last of which is empty
            at += 1 + data[at]
        at += 1
    return True


def _colours(flags: int) -> int:
    """Bytes of the colour table that the flags of a screen or an image announce."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & _HAS_COLOURS else 0
