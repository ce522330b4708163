"""Progress on stderr, on a terminal only."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed


def stderr_console(quiet: bool) -> Console:
    """The console for everything that is not a result; NO_COLOR and pipes turn colours off."""
    return Console(file=sys.stderr, quiet=quiet, highlight=False, markup=False, soft_wrap=True)


class StageProgress:
    """A Watch that draws one line per stage; `note` prints above it. Silent where stderr is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Elapsed(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, total: int | None) -> None:
        """Finish the line before, begin one."""
        self._end()
        self._task = self._progress.add_task(name, total=total)

    def _end(self) -> None:
        if self._task is not None:
            done = self._progress.tasks[self._task].completed
            self._progress.update(self._task, total=done)

    def advance(self, steps: int = 1) -> None:
        """Move the line."""
        if self._task is not None:
            self._progress.advance(self._task, steps)

    def note(self, text: str) -> None:
        """Print a sentence."""
        self._console.print(text)
