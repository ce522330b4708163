"""What `muflow scan` is to read: the paths of its command line, and those that a list names."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final

from muflow_cli.errors import BadSpec, IncompatibleOptions, NoSuchInput, NothingToDo
from muflow_cli.files import temporary_folder
from muflow_cli.run_specs import InputSpec

STDIN: Final = "-"


def scan_arguments(
    paths: Sequence[str], files_from: Path | None, outputs: Sequence[Path], *, null: bool, group_by: str | None
) -> tuple[Iterable[str], Sequence[str | Path]]:
    """What to scan, and those files of it that are known before the scan, none of which may be an output.

    Args:
        paths: of the command line.
        files_from: a list of further paths; `-` is stdin.
        outputs: files that the scan will write.
        null: the paths of the list end with NUL.
        group_by: column of a CSV list that names the group of each path.

    Raises:
        NothingToDo: without anything to scan, or where the list cannot be read.
        IncompatibleOptions: where standard input would be both the list and an image.
        BadSpec: where standard input is given twice.
    """
    if paths.count(STDIN) > 1:
        raise BadSpec("PATH", "- -", "- once, since standard input is one image")
    if STDIN in paths and str(files_from) == STDIN:
        raise IncompatibleOptions("PATH -", "--files-from -", "standard input is either an image or a list")
    if not paths and files_from is None:
        raise NothingToDo("there is nothing to scan", "give files or folders, or a list with --files-from")
    if files_from is None:
        return paths, paths
    arguments = chain(paths, _listed(files_from, null, group_by))
    if not any(path.is_file() for path in outputs):
        return arguments, [*paths, files_from]
    whole = list(arguments)  # an output exists, and a list can be read only once
    return whole, [*whole, files_from]


def absent_arguments(paths: Sequence[str], spec: InputSpec, *, listed: bool) -> list[str]:
    """Paths of the command line that name nothing; the rest is scanned all the same.

    Args:
        paths: of the command line.
        spec: which files are read.
        listed: whether a list names further paths.

    Raises:
        NoSuchInput: where nothing else is given.
    """
    from muflow_cli.images.find import missing

    absent = missing([path for path in paths if path != STDIN], spec)
    if absent and len(absent) == len(paths) and not listed:
        raise NoSuchInput(absent)
    return absent


def _listed(files_from: Path, null: bool, group_by: str | None) -> Iterator[str]:
    from muflow_cli.images.lists import read_grouped_list, read_list

    def paths(stream: BinaryIO) -> Iterator[str]:
        return read_list(stream, null) if group_by is None else read_grouped_list(stream, group_by)

    if str(files_from) == "-":
        yield from paths(sys.stdin.buffer)
        return
    try:
        stream: BinaryIO = files_from.open("rb")
    except OSError as error:
        raise NothingToDo(f"cannot read the list {files_from} ({error.strerror})", "check --files-from") from None
    with stream:
        yield from paths(stream)


@contextmanager
def reading_stdin(arguments: Iterable[str], max_bytes: int) -> Iterator[Iterable[str]]:
    """The same arguments with `-` read: standard input is kept in a temporary file until the block ends.

    A path of a list is never standard input.
    """
    with ExitStack() as stack:

        def given(argument: str) -> str:
            if type(argument) is not str or argument != STDIN:
                return argument
            from muflow_cli.images.stdin import spool

            return spool(sys.stdin.buffer, stack.enter_context(temporary_folder("muflow-stdin-")), max_bytes)

        yield [*map(given, arguments)] if isinstance(arguments, list) else map(given, arguments)
