"""Boxes of the ISO base media file format (ISO/IEC 14496-12), which HEIC, AVIF, JPEG 2000 and JUMBF are made of.

In HEIC and AVIF (ISO/IEC 23008-12) the box `meta` describes items: images, tiles, EXIF blocks and texts.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import takewhile
from typing import Final, NamedTuple

_MAX_ITEMS: Final = 20_000  # a picture of 4 gigapixels in tiles of 512 x 512
_MAX_EXTENTS: Final = 100_000
_EXTENTS_WITHIN: Final = 2**20  # bytes of a file


class Box(NamedTuple):
    """A box: its type, and where its content begins and ends in the file; `end` may lie behind the file."""

    type: bytes
    start: int
    end: int


class Place(NamedTuple):
    """Where the content of an item lies.

    Attributes:
        method: 0 = in the file, 1 = in the box `idat`, 2 = in another item.
        extents: offset and length of each part.
    """

    method: int
    extents: list[tuple[int, int]]


class Item(NamedTuple):
    """An item of HEIC or AVIF.

    Attributes:
        type: four characters.
        content_type: MIME type of an item of the type `mime`, else empty.
    """

    type: bytes
    content_type: bytes


class CodedItem(NamedTuple):
    """One coded image: the primary image, or a tile of it.

    Attributes:
        type: hvc1 or av01.
        configuration: content of the codec's configuration box; empty if there is none.
        data: all extents of the item, joined.
    """

    type: bytes
    configuration: bytes
    data: bytes


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


def whole_boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """The boxes between two positions, up to the first that does not end there."""
    return takewhile(lambda box: box.end <= end, boxes(data, start, end))


def child(data: bytes, parent: Box, kind: bytes, skip: int = 0) -> Box | None:
    """The first box of a type in another, whose own fields take `skip` bytes."""
    return next((box for box in boxes(data, parent.start + skip, parent.end) if box.type == kind), None)


def brands(head: bytes) -> set[bytes]:
    """Major and compatible brands of a file that begins with these bytes, from its box `ftyp`; empty if it has none."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}


def is_cut(data: bytes, needed: bytes) -> bool:
    """Whether a box announces more bytes than the file has, or the file ends before its first box of the type `needed`.

    Boxes whose lengths make no sense are no evidence of a cut.
    """
    at, types = 0, set()
    for box in boxes(data):
        at = box.end
        types.add(box.type)
    return at > len(data) or (needed not in types and len(data) - at < 8)


def largest_extent(data: bytes) -> tuple[int, int]:
    """Width and height of the largest image that a HEIC or AVIF announces (property `ispe`); zeros if it has none.

    Searched for, not walked to: memory must be set aside for it even where the boxes around it are damaged.
    """
    starts = [match.end() + 4 for match in re.finditer(b"ispe", data[:_EXTENTS_WITHIN])]
    extents = [struct.unpack_from(">II", data, at) for at in starts if at + 8 <= len(data)]
    return max(extents, key=lambda extent: extent[0] * extent[1], default=(0, 0))


def items(data: bytes, iinf: Box) -> Iterator[tuple[int, Item]]:
    """Number and description of each item."""
    first = iinf.start + (6 if data[iinf.start : iinf.start + 1] == b"\0" else 8)
    for number, (kind, start, end) in enumerate(whole_boxes(data, first, iinf.end)):
        if number >= _MAX_ITEMS:
            return
        version = data[start] if start < end else 0
        if kind == b"infe" and version >= 2:
            named = start + 6 + (2 if version == 2 else 4)
            type_ = data[named : named + 4]
            names = data[named + 4 : end].split(b"\0", 2) if type_ == b"mime" else []  # item name, content type
            item = int.from_bytes(data[start + 4 : named - 2], "big")
            yield item, Item(type_, names[1] if len(names) > 1 else b"")


def places(data: bytes, iloc: Box) -> dict[int, Place]:
    """Item -> where its content lies; items that the box is too short for are left out."""
    numbers = _Numbers(data[iloc.start : iloc.end])
    found: dict[int, Place] = {}
    left = _MAX_EXTENTS
    try:
        version = numbers.take(4) >> 24
        sizes = numbers.take(2)
        offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        wide = 4 if version == 2 else 2
        for _ in range(min(numbers.take(wide), _MAX_ITEMS)):
            item = numbers.take(wide)
            method = numbers.take(2) & 15 if version else 0
            numbers.take(2)
            base = numbers.take(base_size)
            extents = []
            for _ in range(numbers.take(2)):
                numbers.take(index_size if version else 0)
                extents.append((base + numbers.take(offset_size), numbers.take(length_size)))
                left -= 1
                if left < 0:  # numbers of no bytes, as many as are announced
                    return found
            found[item] = Place(method, extents)
    except EOFError:
        pass
    return found


def associations(data: bytes, ipma: Box) -> Iterator[tuple[int, list[int]]]:
    """Item and the numbers of its properties, the first of which is 1."""
    numbers = _Numbers(data[ipma.start : ipma.end])
    try:
        head = numbers.take(4)
        item_size, index_size = (2 if head < 1 << 24 else 4), 1 + (head & 1)
        essential = 0x80 << 8 * (index_size - 1)
        for _ in range(numbers.take(4)):
            item = numbers.take(item_size)
            yield item, [numbers.take(index_size) & ~essential for _ in range(numbers.take(1))]
    except EOFError:
        return


def coded_items(data: bytes) -> list[CodedItem]:
    """The primary image of a file, or its tiles; empty for what this does not read (sequences, external data).

    Raises:
        EOFError: if an extent ends behind the data.
    """
    top = next((box for box in boxes(data) if box.type == b"meta"), None)
    meta = {} if top is None else {box.type: box for box in boxes(data, top.start + 4, top.end)}
    if not {b"pitm", b"iinf", b"iloc", b"iprp"} <= meta.keys():
        return []
    pitm, idat = meta[b"pitm"], meta.get(b"idat")
    primary = _Numbers(data[pitm.start + 4 : pitm.end]).take(2 if data[pitm.start] == 0 else 4)
    described, located = dict(items(data, meta[b"iinf"])), places(data, meta[b"iloc"])
    wanted = [primary]
    if primary in described and described[primary].type == b"grid":
        wanted = list(dict.fromkeys(_tiles(data, meta[b"iref"], primary))) if b"iref" in meta else []
    configurations = _configurations(data, meta[b"iprp"])
    found, allowed = [], len(data)
    for item in wanted:
        if item not in described or described[item].type not in (b"hvc1", b"av01") or item not in located:
            continue
        method, extents = located[item]
        source = {0: data, 1: data[idat.start : idat.end] if idat else b""}.get(method)
        allowed -= sum(length for _, length in extents)
        # A length of 0 means up to the end; extents that overlap could claim any amount of memory.
        if source is None or allowed < 0 or any(length == 0 for _, length in extents):
            return []
        if any(offset + length > len(source) for offset, length in extents):
            raise EOFError
        parts = [source[offset : offset + length] for offset, length in extents]
        found.append(CodedItem(described[item].type, configurations.get(item, b""), b"".join(parts)))
    return found


def _tiles(data: bytes, iref: Box, grid: int) -> Iterator[int]:
    wide = 2 if data[iref.start] == 0 else 4
    for kind, start, end in boxes(data, iref.start + 4, iref.end):
        numbers = _Numbers(data[start:end])
        if kind == b"dimg" and numbers.take(wide) == grid:
            yield from (numbers.take(wide) for _ in range(numbers.take(2)))


def _configurations(data: bytes, iprp: Box) -> dict[int, bytes]:
    """Item -> content of the configuration box that it is associated with."""
    properties: list[Box] = []
    found = {}
    for box in boxes(data, iprp.start, iprp.end):
        if box.type == b"ipco":
            properties = list(boxes(data, box.start, box.end))
        elif box.type == b"ipma":
            for item, indices in associations(data, box):
                for index in indices:
                    if 0 < index <= len(properties) and properties[index - 1].type in (b"hvcC", b"av1C"):
                        found[item] = data[properties[index - 1].start : properties[index - 1].end]
    return found


class _Numbers:
    """Big-endian numbers one after the other; EOFError at the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> int:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise EOFError
        self._at += size
        return int.from_bytes(taken, "big")
