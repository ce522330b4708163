"""The chunks of a RIFF file, as WebP has them (RFC 9649)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Chunk(NamedTuple):
    """A chunk: its name, and where its data begin and end, perhaps behind the file."""

    name: bytes
    start: int
    end: int


def chunks(data: bytes, at: int = 12) -> Iterator[Chunk]:
    """The chunks from a position on; a frame of an animation is one, whose chunks begin 16 bytes behind its start."""
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield Chunk(data[at : at + 4], at + 8, at + 8 + length)
        at += 8 + length + length % 2


def is_cut(data: bytes) -> bool:
    """Whether the file announces more bytes than it has."""
    return int.from_bytes(data[4:8], "little") + 8 > len(data)
