"""Boxes of the ISO base media file format (ISO/IEC 14496-12) and of JPEG 2000 (ISO/IEC 15444-1, annex I)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Box(NamedTuple):
    """A box: its type, and where its content begins and ends in the file; `end` may lie behind the file."""

    type: bytes
    start: int
    end: int


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes between two positions, up to the first whose length makes no sense; `end` None = of the file."""
    limit = len(data) if end is None else min(end, len(data))
    at = start
    while at + 8 <= limit:
        length, head = int.from_bytes(data[at : at + 4], "big"), 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif length == 0:  # to the end
            length = limit - at
        if length < head:
            return
        yield Box(data[at + 4 : at + 8], at + head, at + length)
        at += length


def child(data: bytes, parent: Box, kind: bytes, skip: int = 0) -> Box | None:
    """The first box of a type in another, whose own fields take `skip` bytes."""
    return next((box for box in boxes(data, parent.start + skip, parent.end) if box.type == kind), None)


def is_cut(data: bytes, needed: bytes) -> bool:
    """Whether a box announces more bytes than the file has, or the file ends before its first box of the type `needed`.

    Boxes whose lengths make no sense are no evidence of a cut.
    """
    at, types = 0, set()
    for box in boxes(data):
        at = box.end
        types.add(box.type)
    return at > len(data) or (needed not in types and len(data) - at < 8)
