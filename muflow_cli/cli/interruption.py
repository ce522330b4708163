"""SIGINT, SIGTERM and SIGHUP from the first moment to the last: one line, status 130, nothing unfinished left behind.

Nearly everywhere a signal ends the process at once: an exception could come between any two steps and be swallowed by a
library, and would wait for threads that decode. Where a command can stop in order, it opens `Stop`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final, Self

from muflow_cli.system import ENDING

INTERRUPTED: Final = 130
_last_words: Final[list[Callable[[], str]]] = []


def end_at_once() -> None:
    """Let a signal end the process from now on."""
    for number in ENDING:
        # Under nohup SIGHUP is ignored, so that the run outlives its terminal; so is SIGINT behind `&` in a script.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


@contextlib.contextmanager
def last_words(words: Callable[[], str]) -> Iterator[None]:
    """While open, a signal that ends the process also writes what `words` returns, at the end of its line."""
    _last_words.append(words)
    try:
        yield
    finally:
        _last_words.remove(words)


class Stop:
    """While open, the first signal is a request to finish the batch and stop; the second one ends the process at once.

    Only the main thread can open it.
    """

    def __init__(self) -> None:
        self._requested = False

    def __call__(self) -> bool:
        """Whether a signal has come."""
        return self._requested

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in ENDING}
        for number, handler in self._before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            _end(number, frame)
        self._requested = True


def _end(_number: int, _frame: FrameType | None) -> None:
    """End the process without waiting for anything; unfinished files, locks and worker processes go with it."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # a third signal must not interrupt this
    # Modules that are not loaded hold nothing yet, and nothing can be imported in the middle of another import.
    files, processes = (sys.modules.get(name) for name in ("muflow_cli.files", "multiprocessing"))
    with contextlib.suppress(Exception):
        if files is not None:
            files.abandon()
        if processes is not None:
            for child in processes.active_children():
                child.kill()
    with contextlib.suppress(Exception):
        clear = "\r\x1b[K" if os.isatty(2) else ""  # a line of progress may stand there
        said = "".join(words() for words in _last_words)
        os.write(2, f"{clear}muflow: interrupted{said}\n".encode(errors="backslashreplace"))
    os._exit(INTERRUPTED)
