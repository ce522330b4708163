"""Boxes of the ISO base media format (ISO/IEC 14496-12), of HEIF, AVIF, JPEG 2000 and JUMBF, and the items of HEIF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

_MAX_ITEMS: Final = 1_000
_MAX_ITEM_BYTES: Final = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a HEIF file.

    Attributes:
        kind: four characters.
        content_type: MIME type of an item of the kind `mime`, else empty.
        content: at most 4 MiB.
    """

    kind: bytes
    content_type: bytes
    content: bytes


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte and last byte + 1 of the body of each box in data[start:end]; stops where a length is wrong."""
    while start + 8 <= end:
        length, kind, head = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        elif length == 0:
            length = end - start
        if length < head or start + length > end:
            return
        yield kind, start + head, start + length
        start += length


def read_items(data: bytes, start: int, end: int) -> Iterator[Item]:
    """The EXIF and MIME items of the box `meta` whose body is data[start:end] (ISO/IEC 14496-12, 8.11)."""
    inner = {kind: (first, last) for kind, first, last in islice(boxes(data, start + 4, end), 64)}
    if not {b"iinf", b"iloc"} <= inner.keys():
        return
    places = _locations(data, *inner[b"iloc"], idat=inner.get(b"idat", (0, 0))[0])
    first, last = inner[b"iinf"]
    first += 6 if data[first : first + 1] == b"\0" else 8
    for kind, at, stop in islice(boxes(data, first, last), _MAX_ITEMS):
        version = data[at] if at < stop else 0
        if kind != b"infe" or version < 2:
            continue
        wide = 4 if version > 2 else 2
        number = int.from_bytes(data[at + 4 : at + 4 + wide], "big")
        named = at + 4 + wide + 2
        type_ = data[named : named + 4]
        if type_ in (b"Exif", b"mime") and number in places:
            names = data[named + 4 : stop].split(b"\0")  # item name, content type
            content = b"".join(data[begin : begin + size] for begin, size in places[number])[:_MAX_ITEM_BYTES]
            yield Item(type_, names[1] if type_ == b"mime" and len(names) > 1 else b"", content)


def _locations(data: bytes, start: int, end: int, *, idat: int) -> dict[int, list[tuple[int, int]]]:
    """Item number -> offset and length of each of its extents."""
    body = _Numbers(data[start : min(end, start + 2**20)])
    version = body.take(1)
    body.take(3)
    sizes = body.take(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    places: dict[int, list[tuple[int, int]]] = {}
    for _ in range(min(body.take(wide), _MAX_ITEMS)):
        number = body.take(wide)
        method = body.take(2) & 15 if version in (1, 2) else 0
        body.take(2)
        base = body.take(base_size) + (idat if method == 1 else 0)
        extents = []
        for _ in range(min(body.take(2), 64)):
            if version in (1, 2):
                body.take(index_size)
            offset = body.take(offset_size)
            extents.append((base + offset, min(body.take(length_size), _MAX_ITEM_BYTES)))
        places[number] = extents
    return places


class _Numbers:
    """Big-endian numbers one after the other; 0 beyond the end."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self, size: int) -> int:
        number = int.from_bytes(self._body[self._at : self._at + size], "big")
        self._at += size
        return number
