"""How long a workflow of several stages still takes, from its plan and from what it has done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from muflow_cli.progress import PlannedStage


@dataclass(slots=True)
class _Open:
    """The stage that is open."""

    since: float
    total: int | None
    planned: PlannedStage | None
    done: int = 0


class TimeLeft:
    """Adds up the stages of a plan that are not finished.

    A stage that runs is taken to go on at its own rate. One that has not begun takes the seconds of its plan, and for
    each image that it encodes the mean of all images encoded so far. Stages outside the plan count as nothing.

    Args:
        plan: the stages in their order; one whose name comes again is another stage.
        clock: seconds.
    """

    def __init__(self, plan: Sequence[PlannedStage], clock: Callable[[], float] = time.monotonic) -> None:
        self._ahead = list(plan)
        self._clock = clock
        self._open: _Open | None = None
        self._images = self._seconds = 0.0

    def stage(self, name: str, total: int | None) -> None:
        """Close the stage before and begin one; planned stages before it are over, or were skipped."""
        self._images, self._seconds = self._encoded()
        place = next((i for i, stage in enumerate(self._ahead) if stage.name == name), None)
        planned = None if place is None else self._ahead[place]
        if place is not None:
            del self._ahead[: place + 1]
        self._open = _Open(self._clock(), total, planned)

    def advance(self, steps: int) -> None:
        """Steps of the open stage are done."""
        if self._open is not None:
            self._open.done += steps

    def seconds(self) -> float | None:
        """From now to the end; None while the rate of a stage that counts is unknown."""
        images, spent = self._encoded()
        if not images and any(stage.images for stage in self._ahead):
            return None
        each = spent / images if images else 0.0
        left = sum(stage.steps * (stage.seconds + stage.images * each) for stage in self._ahead)
        if self._open is None or self._open.total is None:
            return left
        steps = self._open.total - self._open.done
        if self._open.done:
            return left + max(0, steps) * (self._clock() - self._open.since) / self._open.done
        planned = self._open.planned
        if planned is None:
            return left
        return None if planned.images and not images else left + steps * (planned.seconds + planned.images * each)

    def _encoded(self) -> tuple[float, float]:
        """Images encoded so far and the seconds that they took."""
        now = self._open
        if now is None or now.planned is None or not now.planned.images:
            return self._images, self._seconds
        spent = self._clock() - now.since if now.done else 0.0
        return self._images + now.done * now.planned.images, self._seconds + spent
