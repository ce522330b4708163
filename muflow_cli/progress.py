"""How a workflow tells what it does, without printing: the CLI draws it, a library may ignore it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage that a workflow is going to run.

    Attributes:
        name: as `ProgressListener.stage` will be told it.
        steps: of it, at most.
        images: that each step encodes; how long that takes is learnt from the first stage that encodes.
        seconds: that each step takes besides.
    """

    name: str
    steps: int
    images: float = 0.0
    seconds: float = 0.0


class ProgressListener(Protocol):
    """Listens to a running workflow."""

    def plan(self, make: Callable[[], Sequence[PlannedStage]]) -> None:
        """All stages that take long, in their order, are known; `make` gives them, and may take seconds."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins; `total` steps are expected, None = not known."""

    def advance(self, steps: int = 1) -> None:
        """This many steps of the stage are done."""

    def note(self, text: str) -> None:
        """A sentence that a user wants to read now."""


class NoProgress:
    """A listener that ignores everything."""

    def plan(self, make: Callable[[], Sequence[PlannedStage]]) -> None:
        """Ignore the plan."""

    def stage(self, name: str, total: int | None) -> None:
        """Ignore the stage."""

    def advance(self, steps: int = 1) -> None:
        """Ignore the steps."""

    def note(self, text: str) -> None:
        """Ignore the note."""


class StageTimer:
    """A listener that passes everything on and adds up the seconds of each stage."""

    def __init__(self, inner: ProgressListener) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = inner
        self._name: str | None = None
        self._since = time.monotonic()

    def stage(self, name: str, total: int | None) -> None:
        """Close the stage before, open `name`."""
        self.close()
        self._name = name
        self._inner.stage(name, total)

    def close(self) -> None:
        """Close the stage that is open."""
        now = time.monotonic()
        if self._name is not None:
            self.seconds[self._name] = round(self.seconds.get(self._name, 0.0) + now - self._since, 3)
        self._since, self._name = now, None

    def plan(self, make: Callable[[], Sequence[PlannedStage]]) -> None:
        """Pass on."""
        self._inner.plan(make)

    def advance(self, steps: int = 1) -> None:
        """Pass on."""
        self._inner.advance(steps)

    def note(self, text: str) -> None:
        """Pass on."""
        self._inner.note(text)
