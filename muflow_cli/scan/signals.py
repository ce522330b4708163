"""Signals that end a scan: the first one lets it finish what it has begun, the second one stops it at once."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """While open, turns SIGINT, SIGTERM and SIGHUP into a request to finish the batch and stop.

    A second signal raises KeyboardInterrupt. Only the main thread can open it.
    """

    def __init__(self) -> None:
        self._requested = False

    def __call__(self) -> bool:
        """Whether to stop after this batch."""
        return self._requested

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number, handler in self._before.items():
            # Under nohup SIGHUP is ignored, so that the run outlives its terminal.
            if number != signal.SIGHUP or handler is not signal.SIG_IGN:
                signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
