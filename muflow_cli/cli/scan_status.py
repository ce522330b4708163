"""The exit status of a scan, and what `--fail-on` makes of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from muflow_cli.errors import BadSpec
from muflow_cli.records import Origin
from muflow_cli.run_records import Summary

BAD: Final = 2  # wrong usage


class FailOn(StrEnum):
    """What makes the exit status 1."""

    FLAGGED = "flagged"
    DECLARED = "declared"
    ERROR = "error"


def fail_on_of(text: str) -> frozenset[FailOn]:
    """The value of --fail-on; BadSpec for an unknown or empty name."""
    names = [name.strip() for name in text.split(",")]
    if not set(names) <= set(FailOn):
        raise BadSpec("--fail-on", text, f"one or several of {', '.join(FailOn)}, separated by commas")
    return frozenset(map(FailOn, names))


def status_of(summary: Summary, failing: frozenset[FailOn], *, exit_zero: bool) -> int:
    """The exit status of a scan."""
    if exit_zero:
        return 0
    counts = {
        FailOn.FLAGGED: summary.flagged,
        FailOn.DECLARED: summary.declared_by_origin.get(Origin.SYNTHETIC, 0),
        FailOn.ERROR: summary.unreadable,
    }
    if any(counts[kind] for kind in failing):
        return 1
    return 3 if summary.unreadable else 0
