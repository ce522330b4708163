"""SIGINT, SIGTERM and SIGHUP end the process at once before the work begins, and raise KeyboardInterrupt after that."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130
SENTENCE: Final = "muflow: interrupted\n"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_at_once() -> None:
    """Let a signal end the process, while libraries load and nothing is written yet.

    A library that an exception interrupts while it loads may swallow it, and the run goes on with half of the library.
    """
    _handle(_end)


def raise_from_now_on() -> None:
    """Let a signal raise KeyboardInterrupt, so that unfinished files are removed."""
    _handle(signal.default_int_handler)


def _handle(handler: signal._HANDLER) -> None:
    for number in _SIGNALS:
        # Under nohup SIGHUP is ignored, so that the run outlives its terminal.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _end(_number: int, _frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, SENTENCE.encode())
    os._exit(INTERRUPTED)
