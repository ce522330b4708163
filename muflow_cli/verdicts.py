"""What a rule can say of one unit."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What a rule says of one unit."""

    FLAGGED = "flagged"
    NOT_FLAGGED = "not_flagged"
    INCONCLUSIVE = "inconclusive"


class Side(StrEnum):
    """On which side of the calibration reals a score lies."""

    HIGH = "high"
    LOW = "low"
