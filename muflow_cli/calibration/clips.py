"""The scores of a clip's frames -> one row of columns for the clip, whatever the number of its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from muflow_cli.calibration.pvalues import Scores

# Of the frames of a clip, which of a column stands for those that are unlike the others.
UPPER: Final = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Which frames the clips of a calibration gave: another number of frames has another upper quantile.

    Attributes:
        frames: number of frames of a clip.
        every: seconds between two frames; 0 = `frames` decides.
    """

    frames: int
    every: float = 0.0


def clip_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns of a clip: the mean of each column, then the upper quantile of each."""
    return (*(f"{name} mean" for name in columns), *(f"{name} q{100 * UPPER:.0f}" for name in columns))


def frame_columns(columns: int) -> int:
    """How many columns the frames of clips have whose rows have so many."""
    return columns // 2


def aggregated(frames: Scores) -> Scores:
    """(2 S,) the mean and the upper quantile of each column over T frames.

    Args:
        frames: (T, S) of one clip, or of one face that is followed through it, T >= 1, nats per dimension.
    """
    upper = np.quantile(frames, UPPER, axis=0, method="linear")
    return np.concatenate([frames.mean(axis=0), upper])
