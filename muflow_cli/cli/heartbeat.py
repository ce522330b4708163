"""Progress in plain lines, one every now and then, for a stderr that is no terminal and for a log file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

EVERY: Final = 30.0  # seconds between two lines


class Heartbeat:
    """A thread that says something every `every` seconds while it is open.

    Args:
        say: called on that thread.
        every: seconds.
    """

    def __init__(self, say: Callable[[], None], every: float) -> None:
        self._say, self._every = say, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin; the first time to speak is after `every` seconds."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait until the last line is complete."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            self._say()


def progress_text(stage: str, done: int, total: int | None, seconds: float) -> str:
    """A stage in one line: its name, how far it is, how fast, and how long it still takes at that rate.

    Args:
        stage: its name.
        done: steps.
        total: steps that are expected; None = not known.
        seconds: since it began.
    """
    share = f"{done:,}" if total is None else f"{done:,} of {total:,} ({_percent(done, total)})"
    if not done or seconds <= 0:
        return f"progress: {stage}, {share}"
    rate = done / seconds
    speed = f"{rate:.1f}/s" if rate >= 0.1 else f"{1 / rate:.0f} s each"
    left = "" if total is None or done >= total else f", {duration((total - done) / rate)} left"
    return f"progress: {stage}, {share}, {speed}{left}"


def _percent(done: int, total: int) -> str:
    return f"{min(100, 100 * done // total) if total else 100} %"


def duration(seconds: float) -> str:
    """A time in its two largest units, such as "2 h 5 min"."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
