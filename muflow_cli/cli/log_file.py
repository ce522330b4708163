"""`--log-file`: what a command says on stderr, kept in a file with the times in UTC."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import typer

from muflow_cli.errors import CannotWrite
from muflow_cli.files import OutputFile, appending, open_regular

_STAMP: Final = "%Y-%m-%dT%H:%M:%SZ"
_LINE: Final = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ")
_open: Final[list[OutputFile]] = []  # the file of this process, if it has one
_until_closed: Final = contextlib.ExitStack()


def note(text: str) -> None:
    """Append a text, each of its lines behind the time; a disk that is full does not stop a run."""
    now = datetime.now(UTC).strftime(_STAMP)
    data = "".join(f"{now} {line}\n" for line in text.splitlines()).encode(errors="backslashreplace")
    for file in _open:
        with contextlib.suppress(CannotWrite):
            file.write(data)


def is_open() -> bool:
    """Whether there is such a file."""
    return bool(_open)


def open_log(context: typer.Context, path: Path | None) -> Path | None:
    """Open the file until `close`; an existing one must be such a file, since nothing else is appended to.

    Raises:
        CannotWrite: where it cannot be written, or holds something else.
    """
    if path is None:
        return None
    _check(path)
    close()
    _open.append(_until_closed.enter_context(appending(path)))
    note("muflow " + (context.info_name or ""))
    return path


def close() -> None:
    """Close the file, after the last that is said, which may be an error."""
    _until_closed.close()
    _open.clear()


def _check(path: Path) -> None:
    if not path.is_file():
        return
    with open_regular(path) as file:
        head = file.read(64) or b""
    if head and not _LINE.match(head):
        raise CannotWrite(str(path), "it is not a log of muflow", "choose another name for --log-file")
