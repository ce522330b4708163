"""The three standard streams as the commands need them, whatever state a caller left them in."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# A closed input or output is opened the wrong way round, so that using it is an error and not a silence; what is said
# on a closed stderr goes nowhere.
_INSTEAD: Final = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)


class _Talk(io.FileIO):
    """Standard error: a stream that is full or has no reader must not change what a run does."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write what can be written and take the rest as written."""
        with contextlib.suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes


def prepare() -> None:
    """Open streams that are closed, since the next file would take their place; let no write to stderr fail."""
    for number, mode in enumerate(_INSTEAD):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open as long as the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    talk = _Talk(2, "w", closefd=False)
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(talk), errors="backslashreplace", line_buffering=True)
    # Rich takes a width of 0 at its word and prints nothing.
    for name in ("COLUMNS", "LINES"):
        if os.environ.get(name, "").strip("0") == "":
            os.environ.pop(name, None)
