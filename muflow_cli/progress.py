"""How a workflow tells what it does, without printing: the CLI draws it, a library may ignore it."""

from __future__ import annotations

import time
from typing import Protocol


class ProgressListener(Protocol):
    """Listens to a running workflow."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins; `total` steps are expected, None = not known."""

    def advance(self, steps: int = 1) -> None:
        """This many steps of the stage are done."""

    def note(self, text: str) -> None:
        """A sentence that a user wants to read now."""


class NoProgress:
    """A listener that ignores everything."""

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

    def advance(self, steps: int = 1) -> None:
        """Pass on."""
        self._inner.advance(steps)

    def note(self, text: str) -> None:
        """Pass on."""
        self._inner.note(text)
