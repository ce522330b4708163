"""Two sets of scores as one histogram, in percent of the plot, so that a page can draw it at any width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 40


@dataclass(frozen=True, kw_only=True)
class Series:
    """One set of scores in the common bins.

    Attributes:
        heights: (BINS,) share of the set in each bin, percent of the tallest bin shown.
        count: size of the set.
        median: of the set, nats per dimension; None for an empty set.
        beyond: how many lie outside the axis; they are counted in the outermost bins.
    """

    heights: tuple[float, ...]
    count: int
    median: float | None
    beyond: int


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis: its position in percent of the axis, and its text."""

    position: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """This run over the calibration reals; both normalised to shares, since the sets differ in size.

    Attributes:
        run: scores of this run.
        calibration: those of the calibration reals.
        score_ticks: of the horizontal axis.
        share_ticks: of the vertical one.
        ends: of the horizontal axis, nats per dimension.
    """

    run: Series
    calibration: Series
    score_ticks: tuple[Tick, ...]
    share_ticks: tuple[Tick, ...]
    ends: tuple[float, float]

    def positions(self, scores: Iterable[float]) -> list[float]:
        """Where scores lie, percent of the axis, ascending, each tenth of a percent once; those beyond at its ends."""
        low, high = self.ends
        return sorted({round(100 * min(1.0, max(0.0, (score - low) / (high - low))), 1) for score in scores})


def histogram(run: Sequence[float], calibration: Sequence[float]) -> Histogram | None:
    """Histogram of two sets of finite scores over one axis; None where the run has no scores."""
    if not run:
        return None
    sets = [np.asarray(scores, dtype=np.float64) for scores in (run, calibration)]
    low, high = axis([scores for scores in sets if scores.size])
    counts = [np.histogram(np.clip(scores, low, high), bins=BINS, range=(low, high))[0] for scores in sets]
    shares = [count / max(1, scores.size) for count, scores in zip(counts, sets, strict=True)]
    top = max(float(share.max()) for share in shares)
    series = [_series(scores, share / top, low, high) for scores, share in zip(sets, shares, strict=True)]
    return Histogram(
        run=series[0],
        calibration=series[1],
        score_ticks=_ticks(low, high, 7, ""),
        share_ticks=_ticks(0.0, 100 * top, 6, " %"),
        ends=(low, high),
    )


def axis(sets: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Ends of an axis over several sets of scores, none of them empty.

    It covers the central 99 % of each set. It is extended to the most extreme scores where they lie within that span
    of it, so that a single outlier does not squeeze all others together.
    """
    inner_low = min(float(np.quantile(scores, 0.005, method="higher")) for scores in sets)
    inner_high = max(float(np.quantile(scores, 0.995, method="lower")) for scores in sets)
    # Two scores have no centre: their quantiles cross.
    inner_low, inner_high = min(inner_low, inner_high), max(inner_low, inner_high)
    span = inner_high - inner_low
    least, greatest = (float(choose(np.concatenate(sets))) for choose in (np.min, np.max))
    low = least if least >= inner_low - span else inner_low
    high = greatest if greatest <= inner_high + span else inner_high
    # A set of equal scores still needs an axis around it.
    margin = 0.03 * (high - low) or max(0.5, 0.05 * abs(high))
    return low - margin, high + margin


def _series(scores: NDArray[np.float64], heights: NDArray[np.float64], low: float, high: float) -> Series:
    return Series(
        heights=tuple(round(100 * float(height), 3) for height in heights),
        count=scores.size,
        median=float(np.median(scores)) if scores.size else None,
        beyond=int(np.sum((scores < low) | (scores > high))),
    )


def _ticks(low: float, high: float, about: int, unit: str) -> tuple[Tick, ...]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside [low, high]."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return tuple(
        Tick(position=round(100 * (number - low) / (high - low), 3), label=f"{number + 0.0:.{digits}f}{unit}")
        for number in numbers
    )
