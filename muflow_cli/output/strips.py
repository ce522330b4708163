"""Where the scores of a group lie among those of the calibration, in percent of a strip that a page can draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from muflow_cli.output.histogram import axis

BINS: Final = 60
_BAND: Final = (0.05, 0.95)


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The scores of one group.

    Attributes:
        heights: (BINS,) scores in each bin, percent of the fullest; those beyond the axis are in the outermost bins.
        median: of the scores, nats per dimension.
        inside: share of the scores inside the band, 0..1.
    """

    heights: tuple[float, ...]
    median: float
    inside: float


@dataclass(frozen=True, kw_only=True)
class Strips:
    """Groups over one axis, so that strips can be compared.

    Attributes:
        left: position of the calibration's 5 % quantile, percent of the axis.
        right: position of its 95 % quantile.
        middle: position of its median.
        by_name: group -> its strip.
    """

    left: float
    right: float
    middle: float
    by_name: Mapping[str, Strip]


def strips(groups: Mapping[str, Sequence[float]], calibration: Sequence[float]) -> Strips | None:
    """Strips of the finite scores of groups; None without any, or without calibration scores.

    Args:
        groups: name -> scores, at least one each.
        calibration: scores of the calibration reals.
    """
    if not groups or not calibration:
        return None
    reals = np.asarray(calibration, dtype=np.float64)
    sets = {name: np.asarray(scores, dtype=np.float64) for name, scores in groups.items()}
    low, high = axis([np.concatenate([*sets.values()]), reals])
    start, end = np.quantile(reals, _BAND)

    def position(score: float) -> float:
        return round(100 * (score - low) / (high - low), 3)

    def strip(scores: np.typing.NDArray[np.float64]) -> Strip:
        counts = np.histogram(np.clip(scores, low, high), bins=BINS, range=(low, high))[0]
        return Strip(
            heights=tuple(np.round(100 * counts / counts.max(), 3).tolist()),
            median=float(np.median(scores)),
            inside=float(np.mean((scores >= start) & (scores <= end))),
        )

    return Strips(
        left=position(float(start)),
        right=position(float(end)),
        middle=position(float(np.median(reals))),
        by_name={name: strip(scores) for name, scores in sets.items()},
    )
