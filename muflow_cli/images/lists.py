"""Lists of paths (`--files-from`): bytes in any encoding that programs write them in -> names, one at a time."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from typing import BinaryIO, Final

from muflow_cli.errors import BadList

_READ_BYTES: Final = 2**16
_MAX_NAME: Final = 2**16  # bytes; no system allows a longer path, and few servers a longer address
_MAX_EMPTY: Final = 2**20  # names in a row
_MARKS: Final = ((codecs.BOM_UTF8, None), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class ListedPath(str):
    """A path from a list: never a pattern, since the program that wrote the list has resolved it."""

    __slots__ = ()


def read_list(stream: BinaryIO, null: bool) -> Iterator[ListedPath]:  # noqa: FBT001  the two formats of --files-from
    """Paths of a list, one per line (LF or CRLF) or, with `null`, each ended by a NUL byte; empty ones are left out.

    Names keep their bytes. A byte order mark is not part of the first name; that of UTF-16 (as PowerShell writes) says
    how to read the rest.

    Raises:
        BadList: for a name longer than any path or with a NUL byte, and for an endless row of empty ones.
    """
    rest = b""
    end = b"\0" if null else b"\n"
    empty = 0
    for block in _blocks(stream):
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
