"""A scan's progress on stderr, on a terminal only: rate, time left, flagged and unreadable counts."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from muflow_cli.scan import Tally


class ScanProgress:
    """Draws a tally while it grows.

    Args:
        console: where; nothing is drawn unless it is a terminal.
        listing: gives the inputs once more, to know how many there are; None where they can be listed only once.
        beside: results are written to the same terminal.
    """

    def __init__(
        self, console: Console, listing: Callable[[], Iterable[object]] | None, *, beside: bool = False
    ) -> None:
        self._shown = console.is_terminal and not console.quiet
        self._beside = self._shown and beside
        self._listing = listing if self._shown else None
        self._stopped = threading.Event()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("scan"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[flagged]} flagged, {task.fields[unreadable]} unreadable"),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not self._shown,
        )
        self._task = self._progress.add_task("scan", total=None, rate="-", flagged=0, unreadable=0)

    def __enter__(self) -> Self:
        self._progress.start()
        if self._listing is not None:
            threading.Thread(target=self._count, args=(self._listing,), name="count", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._progress.stop()

    def _count(self, listing: Callable[[], Iterable[object]]) -> None:
        """Learn the total while the scan runs."""
        counted = itertools.takewhile(lambda _: not self._stopped.is_set(), listing())
        total = sum(1 for _ in counted)
        if not self._stopped.is_set():
            self._progress.update(self._task, total=total)

    def show(self, tally: Tally) -> None:
        """Draw the counts."""
        if not self._shown:
            return
        speed = self._progress.tasks[self._task].finished_speed or self._progress.tasks[self._task].speed
        counts: dict[str, Any] = {"flagged": tally.flagged, "unreadable": tally.unreadable}
        rate = "-" if speed is None else f"{speed:.1f}"
        self._progress.update(self._task, completed=tally.inputs, rate=rate, **counts)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Take the line away while a result is written to the terminal that it is on."""
        if self._beside:
            self._progress.stop()
        yield
        if self._beside:
            self._progress.start()
