"""Progress on stderr, drawn on a terminal only."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from muflow_cli.cli import log_file
from muflow_cli.cli.heartbeat import EVERY, Heartbeat, duration, progress_text
from muflow_cli.cli.interruption import last_words
from muflow_cli.cli.time_left import TimeLeft
from muflow_cli.output.inert import escape, inert
from muflow_cli.progress import PlannedStage
from muflow_cli.records import Result, Unreadable

if TYPE_CHECKING:
    from muflow_cli.scan.tally import Tally


class _InertConsole(Console):
    """A console on which text is text: what a file name or a bundle holds moves no cursor and sets no colour."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print as Rich does, every string made inert."""
        lines = [inert(item) if isinstance(item, str) else item for item in objects]
        log_file.note(" ".join(line for line in lines if isinstance(line, str)))
        super().print(*lines, **how)


def stderr_console(quiet: bool) -> Console:
    """The console for everything that is not a result; NO_COLOR and pipes turn colours off."""
    return _InertConsole(file=sys.stderr, quiet=quiet, highlight=False, markup=False, soft_wrap=True)


class _Lines:
    """A context that draws lines of progress on a console while it is open.

    Where the console is no terminal, and in a log file, one plain line is written every `every` seconds.
    """

    def __init__(
        self, console: Console, *columns: ProgressColumn, transient: bool = False, every: float = EVERY
    ) -> None:
        self._heartbeat = Heartbeat(self._say, every)
        self._console = console
        self._shown = console.is_terminal and not console.quiet
        self._at_the_end = contextlib.ExitStack()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            *columns,
            console=console,
            transient=transient,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not self._shown,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        if log_file.is_open() or not (self._shown or self._console.quiet):
            self._heartbeat.start()
        # Rich hides the cursor while it draws.
        self._at_the_end.enter_context(last_words(lambda: "\x1b[?25h" if self._shown else ""))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeat.stop()
        self._at_the_end.close()
        self._progress.stop()

    def note(self, text: str) -> None:
        """Print a sentence above the lines."""
        self._console.print(text)

    def status(self) -> str:
        """How far the work is, in one plain line; empty where there is nothing to say."""
        return ""

    def _say(self) -> None:
        text = inert(self.status())
        if text and self._shown:  # what the terminal shows already
            log_file.note(text)
        elif text:
            self._console.print(text)


@dataclass(slots=True)
class _Stage:
    """A stage that has begun."""

    name: str
    total: int | None
    done: int = 0
    since: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return progress_text(self.name, self.done, self.total, time.monotonic() - self.since)


class _WholeLeft(ProgressColumn):
    """The time left of all stages, on the line of the stage that is open."""

    def __init__(self, text: Callable[[Task], str]) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._text = text

    def render(self, task: Task) -> Text:
        """The column of one line."""
        return Text(self._text(task))


class StageProgress(_Lines):
    """A ProgressListener that draws one line per stage, with the time left of the whole where there is a plan.

    Args:
        console: where to draw.
        every: seconds between two plain lines.
    """

    def __init__(self, console: Console, every: float = EVERY) -> None:
        super().__init__(
            console, TimeElapsedColumn(), TimeRemainingColumn(), _WholeLeft(self._left_of_all), every=every
        )
        self._task: TaskID | None = None
        self._stage = _Stage("", None)
        self._whole: TimeLeft | None = None

    def plan(self, make: Callable[[], Sequence[PlannedStage]]) -> None:
        """Learn the stages that are to come, if they are drawn."""
        if self._shown:
            self._whole = TimeLeft(make())

    def stage(self, name: str, total: int | None) -> None:
        """Finish the line of the stage before and begin one."""
        if self._task is not None:
            self._progress.update(self._task, total=self._progress.tasks[self._task].completed)
        self._task = self._progress.add_task(inert(name), total=total)
        self._stage = _Stage(name, total)
        if self._whole is not None:
            self._whole.stage(name, total)

    def advance(self, steps: int = 1) -> None:
        """Move the line."""
        self._stage.done += steps
        if self._whole is not None:
            self._whole.advance(steps)
        if self._task is not None:
            self._progress.advance(self._task, steps)

    def status(self) -> str:
        """The stage that is open."""
        return str(self._stage) if self._stage.name else ""

    def _left_of_all(self, task: Task) -> str:
        left = self._whole.seconds() if self._whole is not None and task.id == self._task else None
        return "" if left is None else f"all stages: {duration(left)}"


class ScanProgress(_Lines):
    """A ScanListener that draws one line: rate, time left, flagged and unreadable counts.

    Args:
        console: where to draw.
        listing: lists the inputs once more, to know their number; None where they can be listed only once.
        beside: results are written to the terminal that the line is on.
        verbose: print every unreadable input.
        every: seconds between two plain lines.
    """

    def __init__(
        self,
        console: Console,
        listing: Callable[[], Iterable[object]] | None,
        *,
        beside: bool = False,
        verbose: bool = False,
        every: float = EVERY,
    ) -> None:
        super().__init__(
            console,
            TextColumn("{task.fields[rate]}/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[flagged]} flagged, {task.fields[unreadable]} unreadable"),
            transient=True,
            every=every,
        )
        self._stage = _Stage("scan", None)
        self._flagged = self._unreadable = 0
        self._beside = self._shown and beside
        self._verbose = verbose
        self._listing = listing
        self._stopped = threading.Event()
        self._task = self._progress.add_task("scan", total=None, rate="-", flagged=0, unreadable=0)

    def __enter__(self) -> Self:
        super().__enter__()
        if self._shown:
            self._begin_to_count()
        return self

    def _begin_to_count(self) -> None:
        listing, self._listing = self._listing, None
        if listing is not None:
            threading.Thread(target=self._count, args=(listing,), name="count", daemon=True).start()

    def status(self) -> str:
        """Inputs so far; that somebody asks is a reason to learn how many there are."""
        self._begin_to_count()
        return f"{self._stage}, {self._flagged} flagged, {self._unreadable} unreadable"

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        super().__exit__(kind, value, trace)

    def _count(self, listing: Callable[[], Iterable[object]]) -> None:
        """Learn the total while the scan runs."""
        total = sum(1 for _ in itertools.takewhile(lambda _: not self._stopped.is_set(), listing()))
        if not self._stopped.is_set():
            self._stage.total = total
            self._progress.update(self._task, total=total)

    def result(self, result: Result, tally: Tally) -> None:
        """Draw the counts."""
        self._stage.done, self._flagged, self._unreadable = tally.inputs, tally.flagged, tally.unreadable
        if self._verbose and isinstance(result, Unreadable):
            self.note(f"{escape(result.path)}: {escape(result.message)}")
        if self._shown:
            task = self._progress.tasks[self._task]
            speed = task.finished_speed or task.speed
            rate = "-" if speed is None else f"{speed:.1f}"
            self._progress.update(
                self._task, completed=tally.inputs, rate=rate, flagged=tally.flagged, unreadable=tally.unreadable
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Take the line away while a result is written to the terminal that it is on."""
        if self._beside:
            self._progress.stop()
        yield
        if self._beside:
            self._progress.start()
