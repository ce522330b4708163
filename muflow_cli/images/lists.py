"""Lists of paths (`--files-from`): bytes in any encoding that programs write them in -> names, one at a time."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, BinaryIO, Final

from muflow_cli.errors import BadList

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_READ_BYTES: Final = 2**16
_MAX_NAME: Final = 2**16  # bytes; no system allows a longer path, and few servers a longer address
_MAX_EMPTY: Final = 2**20  # names in a row
_MARKS: Final = ((codecs.BOM_UTF8, None), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class ListedPath(str):
    """A path from a list: never a pattern, since the program that wrote the list has resolved it.

    Attributes:
        group: that the list names for it; empty in a list of paths alone.
    """

    __slots__ = ("group",)
    group: str

    def __new__(cls, path: str, group: str = "") -> ListedPath:
        """The path, of a group."""
        self = super().__new__(cls, path)
        self.group = group
        return self


def read_list(stream: BinaryIO, null: bool) -> Iterator[ListedPath]:  # noqa: FBT001  the two formats of --files-from
    """Paths of a list, one per line or, with `null`, each ended by a NUL byte; empty ones are left out.

    Lines end with LF or CRLF, or with CR where there is no LF.

    Names keep their bytes. A byte order mark is not part of the first name; that of UTF-16 (as PowerShell writes) says
    how to read the rest.

    Raises:
        BadList: for a name longer than any path or with a NUL byte, and for an endless row of empty ones.
    """
    rest = b""
    end = b"\0" if null else b"\n"
    empty = 0
    blocks = _blocks(stream)
    for block in blocks if null else _with_line_feeds(blocks):
        *names, rest = (rest + block).split(end)
        for name in names:
            path = _path(name, null)
            empty = 0 if path else empty + 1
            if path:
                yield path
        if empty > _MAX_EMPTY:
            raise BadList(f"the list holds more than {_MAX_EMPTY} empty names in a row")
        if len(rest) > _MAX_NAME:
            raise BadList(f"the list holds a name of more than {_MAX_NAME} bytes")
    if path := _path(rest, null):
        yield path


def read_grouped_list(stream: BinaryIO, column: str) -> Iterator[ListedPath]:
    """Paths and groups of a CSV list: its header names the columns `path` and `column`.

    Encoded as lists of paths are. Rows without a path are left out.

    Raises:
        BadList: for a header without these columns or with one of them twice, for a row without a group or with more
            cells than the header, for a path in two groups, and as `read_list`.
    """
    group_of: dict[str, str] = {}
    text = io.TextIOWrapper(io.BufferedReader(_Blocks(_blocks(stream))), "utf-8", "surrogateescape", newline="")
    rows = csv.DictReader(text, strict=True)
    remedy = f"give a CSV file with the columns path and {column} in its first line, and both in every row"
    try:
        _check_header(rows.fieldnames or (), column, remedy)
        for row in rows:
            path, group = row["path"], row[column]
            if None in row:
                raise BadList(f"line {rows.reader.line_num} of the list has more cells than the first line", remedy)
            if path and group_of.setdefault(path, group) != group:
                raise BadList(f"the list names {path!a} in two groups", "give each path one group")
            if path and not group:
                raise BadList(f"the list names no {column} for {path!a}", remedy)
            if path:
                yield ListedPath(_path(os.fsencode(path), null=True), group)
    except csv.Error as error:
        raise BadList(f"line {rows.reader.line_num} of the list is not CSV ({error})", remedy) from None


def _with_line_feeds(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks; where they begin with CR and no LF, as old Macintosh programs write lines, each CR is an LF."""
    first = b"".join(islice(blocks, 2))  # of which the first has three bytes
    ends_with_return = b"\r" in first and b"\n" not in first
    for block in chain([first], blocks):
        yield block.replace(b"\r", b"\n") if ends_with_return else block


def _check_header(names: Sequence[str], column: str, remedy: str) -> None:
    missing = [name for name in ("path", column) if name not in names]
    if missing:
        raise BadList(f"the first line of the list names no column {' and no column '.join(missing)}", remedy)
    if len(set(names)) < len(names):
        raise BadList("the first line of the list names a column twice", remedy)


class _Blocks(io.RawIOBase):
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest = blocks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._rest and (block := next(self._blocks, None)) is not None:
            self._rest = block
        target = memoryview(buffer).cast("B")
        size = min(len(target), len(self._rest))
        target[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _path(name: bytes, null: bool) -> ListedPath:  # noqa: FBT001  as read_list
    if len(name) > _MAX_NAME:
        raise BadList(f"the list holds a name of more than {_MAX_NAME} bytes")
    if b"\0" in name:
        raise BadList("the list holds a NUL byte, which no name contains")
    return ListedPath(os.fsdecode(name if null else name.removesuffix(b"\r")))


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The bytes of a list without their byte order mark, in UTF-8 if the mark was that of UTF-16."""
    head = b""
    while len(head) < 3 and (more := stream.read(3 - len(head))):
        head += more
    mark, encoding = next(((mark, name) for mark, name in _MARKS if head.startswith(mark)), (b"", None))
    block = head[len(mark) :]
    decoder = None if encoding is None else codecs.getincrementaldecoder(encoding)("replace")
    while block or head:
        yield block if decoder is None else decoder.decode(block).encode("utf-8")
        block = head = stream.read(_READ_BYTES)
