"""Which detector a scan uses: the option, else MUFLOW_DETECTOR."""

from __future__ import annotations

from pathlib import Path

from muflow_cli.errors import NothingToDo


def find_detector(given: Path | None) -> Path:
    """The bundle to load.

    Raises:
        NothingToDo: where none is named.
    """
    if given is None:
        raise NothingToDo("no detector: give --detector FILE, or fit one with `muflow fit`")
    return given
