"""Standard input as an input: one image, or one archive, kept in a file so that it can be read like any other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from muflow_cli.errors import NothingToDo
from muflow_cli.files import naming
from muflow_cli.images import archives
from muflow_cli.images.archive_limits import is_archive
from muflow_cli.images.frames import without_frame
from muflow_cli.images.inputs import Input, InputKind
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec

NAME: Final = "-"

_BLOCK: Final = 2**16
# (offset, bytes there, extension that the archive modules know it by).
_ARCHIVES: Final = (
    (0, b"PK\x03\x04", ".zip"),
    (0, b"PK\x05\x06", ".zip"),
    (257, b"ustar", ".tar"),
    (0, b"\x1f\x8b", ".tar.gz"),
    (0, b"BZh", ".tar.bz2"),
    (0, b"\xfd7zXZ\x00", ".tar.xz"),
)


def is_stdin(path: str) -> bool:
    """Whether a result with this path is of standard input."""
    return without_frame(path) == NAME or path.startswith(f"{NAME}!")


class StandardInput(str):
    """The argument `-` once it is read.

    Attributes:
        file: path of the file that keeps the bytes.
    """

    __slots__ = ("file",)
    file: str

    def __new__(cls, file: str) -> StandardInput:
        """The argument whose bytes lie in `file`."""
        self = super().__new__(cls, NAME)
        self.file = file
        return self


def spool(stream: BinaryIO, folder: Path, max_bytes: int) -> StandardInput:
    """Keep what `stream` holds in `folder`: an archive whole, anything else up to one byte more than `max_bytes`.

    Raises:
        NothingToDo: where the stream cannot be read.
        CannotWrite: where the folder cannot hold it.
    """
    blocks = _blocks(stream)
    head = next(blocks, b"")
    suffix = next((name for at, magic, name in _ARCHIVES if head.startswith(magic, at)), "")
    file = folder / f"stdin{suffix}"
    room = None if suffix else max_bytes + 1 - len(head)
    with naming(f"a temporary file in {folder.parent}"), file.open("xb") as kept:
        kept.write(head)
        for block in blocks:
            kept.write(block if room is None else block[:room])
            room = None if room is None else max(0, room - len(block))
            if room == 0:
                break
    return StandardInput(str(file))


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The bytes of a stream; a pipe may give fewer than it is asked for, but `read` waits for a whole block."""
    try:
        while block := stream.read(_BLOCK):
            yield block
    except OSError as error:
        why = f"standard input cannot be read ({error.strerror})"
        raise NothingToDo(why, "pipe an image or an archive into muflow scan -") from None


def inputs_of(argument: StandardInput, spec: InputSpec) -> Iterator[Input | Unreadable]:
    """The image, or the images of the archive as `-!inner/name.jpg`."""
    if not is_archive(argument.file):
        yield Input(NAME, InputKind.STDIN, location=argument.file)
        return
    for item in archives.members(argument.file, spec):
        yield replace(item, path=NAME + item.path.removeprefix(argument.file))
