"""Coded data of the images in a HEIC or AVIF file: the items of an ISO base media file (ISO/IEC 14496-12, 23008-12)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CodedItem:
    """One coded image: the primary image, or a tile of it.

    Attributes:
        kind: hvc1 or av01.
        configuration: content of the codec's configuration box; empty if there is none.
        data: all extents of the item, joined.
    """

    kind: bytes
    configuration: bytes
    data: bytes


class _Reader:
    """Big-endian numbers one after the other; EOFError at the end."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        if len(taken) < size:
            raise EOFError
        self.at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")


def coded_items(data: bytes) -> list[CodedItem]:
    """The primary image of a file, or its tiles; empty for what this does not read (sequences, external data).

    Raises:
        EOFError: if a box or an extent ends behind the data.
    """
    boxes = dict(_boxes(data, only=b"meta"))
    meta = dict(_boxes(boxes.get(b"meta", b"")[4:]))
    if not {b"pitm", b"iinf", b"iloc", b"iprp"} <= meta.keys():
        return []
    primary = _Reader(meta[b"pitm"], 4).number(2 if meta[b"pitm"][0] == 0 else 4)
    kinds, places = _kinds(meta[b"iinf"]), _places(meta[b"iloc"])
    wanted = [primary]
    if kinds.get(primary) == b"grid":
        wanted = list(dict.fromkeys(_tiles(meta.get(b"iref", b"\0\0\0\0"), primary)))
    configurations = _configurations(meta[b"iprp"])
    items, allowed = [], len(data)
    for item in wanted:
        if kinds.get(item) not in (b"hvc1", b"av01") or item not in places:
            continue
        construction, extents = places[item]
        source = {0: data, 1: meta.get(b"idat", b"")}.get(construction)
        allowed -= sum(length for _, length in extents)
        # A length of 0 means up to the end; extents that overlap could claim any amount of memory.
        if source is None or allowed < 0 or any(length == 0 for _, length in extents):
            return []
        parts = [_Reader(source, offset).take(length) for offset, length in extents]
        items.append(CodedItem(kinds[item], configurations.get(item, b""), b"".join(parts)))
    return items


def _boxes(data: bytes, only: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each box; of those of another type than `only`, no content is copied."""
    at = 0
    while at + 8 <= len(data):
        size, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = at + size if size else len(data)
        if end < at + head:
            raise EOFError
        yield kind, (data[at + head : end] if only in (None, kind) else b"")
        at = end


def _kinds(iinf: bytes) -> dict[int, bytes]:
    kinds = {}
    for kind, content in _boxes(iinf[6 if iinf[0] == 0 else 8 :]):
        if kind == b"infe" and content[0] >= 2:
            reader = _Reader(content, 4)
            item = reader.number(2 if content[0] == 2 else 4)
            reader.take(2)
            kinds[item] = reader.take(4)
    return kinds


def _places(iloc: bytes) -> dict[int, tuple[int, list[tuple[int, int]]]]:
    """Item -> construction method, (offset, length) of each extent."""
    version = iloc[0]
    reader = _Reader(iloc, 4)
    sizes = reader.number(2)
    offset_size, length_size, base_size, index_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
    wide = 4 if version == 2 else 2
    places = {}
    for _ in range(reader.number(wide)):
        item = reader.number(wide)
        construction = reader.number(2) & 15 if version else 0
        reader.take(2)
        base = reader.number(base_size)
        extents = []
        for _ in range(reader.number(2)):
            if version:
                reader.take(index_size)
            extents.append((base + reader.number(offset_size), reader.number(length_size)))
        places[item] = (construction, extents)
    return places


def _tiles(iref: bytes, grid: int) -> Iterator[int]:
    wide = 2 if iref[0] == 0 else 4
    for kind, content in _boxes(iref[4:]):
        reader = _Reader(content)
        if kind == b"dimg" and reader.number(wide) == grid:
            yield from (reader.number(wide) for _ in range(reader.number(2)))


def _configurations(iprp: bytes) -> dict[int, bytes]:
    """Item -> content of the configuration box that it is associated with."""
    properties: list[tuple[bytes, bytes]] = []
    found = {}
    for kind, content in _boxes(iprp):
        if kind == b"ipco":
            properties = list(_boxes(content))
        elif kind == b"ipma":
            reader = _Reader(content, 4)
            for _ in range(reader.number(4)):
                item = reader.number(2 if content[0] == 0 else 4)
                for _ in range(reader.number(1)):
                    wide = content[3] & 1
                    index = reader.number(1 + wide) & (0x7FFF if wide else 0x7F)
                    if 0 < index <= len(properties) and properties[index - 1][0] in (b"hvcC", b"av1C"):
                        found[item] = properties[index - 1][1]
    return found
