"""Directories of a TIFF (TIFF 6.0 and BigTIFF) or of an EXIF block, which is one: read leniently, and written again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Types of values: BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, UNDEFINED, SSHORT, SLONG, SRATIONAL, FLOAT, DOUBLE, IFD,
# LONG8, SLONG8, IFD8.
_WIDTHS: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_UNSIGNED: Final = frozenset((1, 3, 4, 13, 16, 18))
_SHORT: Final = 3
_LONG: Final = 4
_MAX_DIRECTORIES: Final = 64  # a document's first image and a raw file's marks stand in its first few

TIFF_SIGNATURES: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Field(NamedTuple):
    """An entry of a directory: its tag, its type's number, and where its value begins and ends.

    The value may end behind the file; one of a type that TIFF does not know is empty.
    """

    tag: int
    type: int
    start: int
    end: int


class Reader:
    """Numbers and directories of a TIFF.

    Attributes:
        order: of its bytes.
        first: position of the first directory.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
        self._count, self._width = (8, 8) if data[2:4] in (b"+\0", b"\0+") else (2, 4)
        self._entry = 4 + 2 * self._width
        self.first = self._at(self._width, self._width)

    def number(self, raw: bytes) -> int:
        """A whole number in the byte order of the file."""
        return int.from_bytes(raw, "little" if self.order == "<" else "big")

    def _at(self, at: int, width: int) -> int:
        return self.number(self._data[at : at + width])

    def fields(self, at: int) -> Iterator[Field]:
        """The entries of the directory at a position, as far as the file holds them."""
        for entry in range(*self._entries(at), self._entry):
            kind = self._at(entry + 2, 2)
            length = _WIDTHS.get(kind, 0) * self._at(entry + 4, self._width)
            value = entry + 4 + self._width
            start = value if length <= self._width else self._at(value, self._width)
            yield Field(self._at(entry, 2), kind, start, start + length)

    def following(self, at: int) -> int:
        """Position of the directory behind the one at a position; 0 if that is the last."""
        return self._at(self._entries(at)[1], self._width)

    def _entries(self, at: int) -> tuple[int, int]:
        """Where the entries of a directory begin and end."""
        begin = at + self._count
        # The last entry may lack bytes behind its value.
        count = min(self._at(at, self._count), max(0, len(self._data) - at) // self._entry) if at >= 8 else 0
        return begin, begin + self._entry * count


class Tag:
    """Numbers of the tags that are looked at or passed on."""

    NEW_SUBFILE_TYPE: Final = 254
    SUBFILE_TYPE: Final = 255
    WIDTH: Final = 256
    LENGTH: Final = 257
    BITS: Final = 258
    COMPRESSION: Final = 259
    PHOTOMETRIC: Final = 262
    FILL_ORDER: Final = 266
    STRIP_OFFSETS: Final = 273
    ORIENTATION: Final = 274
    SAMPLES: Final = 277
    ROWS_PER_STRIP: Final = 278
    STRIP_BYTES: Final = 279
    PLANAR: Final = 284
    GROUP3: Final = 292
    GROUP4: Final = 293
    PREDICTOR: Final = 317
    COLOR_MAP: Final = 320
    TILE_WIDTH: Final = 322
    TILE_LENGTH: Final = 323
    TILE_OFFSETS: Final = 324
    TILE_BYTES: Final = 325
    SUB_DIRECTORIES: Final = 330
    INK_SET: Final = 332
    EXTRA_SAMPLES: Final = 338
    SAMPLE_FORMAT: Final = 339
    JPEG_TABLES: Final = 347
    YCBCR_COEFFICIENTS: Final = 529
    YCBCR_SUBSAMPLING: Final = 530
    YCBCR_POSITIONING: Final = 531
    REFERENCE_BLACK_WHITE: Final = 532
    DNG_VERSION: Final = 50706


@dataclass(frozen=True, slots=True)
class Entry:
    """The value of a tag: its type's number and its bytes, in the byte order of the file."""

    type: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class Directory:
    """One image of a TIFF: its tags, and the byte order of their values."""

    order: Literal["<", ">"]
    entries: Mapping[int, Entry]

    def numbers(self, tag: int) -> NDArray[np.uint64]:
        """Values of a tag of whole numbers, (N,); empty if it is missing or of another type."""
        entry = self.entries.get(tag)
        if entry is None or entry.type not in _UNSIGNED:
            return np.empty(0, np.uint64)
        return np.frombuffer(entry.raw, f"{self.order}u{_WIDTHS[entry.type]}").astype(np.uint64)

    def number(self, tag: int, default: int = 0) -> int:
        """First value of a tag of whole numbers."""
        values = self.numbers(tag)
        return int(values[0]) if len(values) else default

    def replaced(self, changes: Mapping[int, NDArray[np.uint64] | int | None]) -> Directory:
        """The same directory with some values replaced by whole numbers, or removed where they are None."""
        entries = {tag: entry for tag, entry in self.entries.items() if tag not in changes}
        for tag, value in changes.items():
            if value is not None:
                values = np.atleast_1d(np.asarray(value, np.uint64))
                kind = _SHORT if int(values.max(initial=0)) < 2**16 else _LONG
                entries[tag] = Entry(kind, values.astype(f"{self.order}u{_WIDTHS[kind]}").tobytes())
        return Directory(self.order, entries)


def directories(data: bytes) -> Iterator[Directory]:
    """The directories of a TIFF in the order of its pages, each followed by its sub-directories; at most 64.

    An entry whose value lies outside the file is passed over, as damaged metadata need not cost the image.
    """
    reader = Reader(data)
    seen: set[int] = set()
    waiting = [reader.first]
    while waiting and len(seen) < _MAX_DIRECTORIES:
        at = waiting.pop(0)
        if at in seen or not 8 <= at < len(data):
            continue
        seen.add(at)
        entries: dict[int, Entry] = {}
        for tag, kind, start, end in reader.fields(at):
            if start < end <= len(data):
                entries.setdefault(tag, Entry(kind, data[start:end]))
        directory = Directory(reader.order, entries)
        yield directory
        children = [int(child) for child in directory.numbers(Tag.SUB_DIRECTORIES)[:_MAX_DIRECTORIES]]
        waiting = [*children, reader.following(at), *waiting]


def with_directory(data: bytes, directory: Directory) -> bytes:
    """A classic TIFF of the bytes of `data` whose only directory is `directory`; offsets stay what they are.

    Raises:
        OverflowError: for offsets of 4 GB and more.
    """
    name: Literal["little", "big"] = "little" if directory.order == "<" else "big"
    start = len(data) + len(data) % 2
    at = start + 2 + 12 * len(directory.entries) + 4
    entries, values = [], []
    for tag, entry in sorted(directory.entries.items()):
        kind, raw = entry.type, entry.raw
        if _WIDTHS[kind] == 8 and kind in _UNSIGNED:  # BigTIFF alone knows LONG8
            numbers = directory.numbers(tag)
            kind, raw = _LONG, b"".join(int(number).to_bytes(4, name) for number in numbers)
        count = len(raw) // _WIDTHS[kind]
        field = raw.ljust(4, b"\0") if len(raw) <= 4 else at.to_bytes(4, name)
        if len(raw) > 4:
            raw += bytes(len(raw) % 2)
            values.append(raw)
            at += len(raw)
        entries.append(tag.to_bytes(2, name) + kind.to_bytes(2, name) + count.to_bytes(4, name) + field)
    head = (b"II*\0" if name == "little" else b"MM\0*") + start.to_bytes(4, name)
    table = len(entries).to_bytes(2, name) + b"".join(entries) + bytes(4)
    return b"".join((head, memoryview(data)[8:], bytes(len(data) % 2), table, *values))
