"""How far a measured figure can be trusted: exact binomial intervals and a fast stratified bootstrap. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from muflow_cli.bench.metrics import RANKING_METRICS, Floats, RankingMetric, Ranks, ScoreCounts, rank
from muflow_cli.errors import BadSpec

# Distinct scores x resamples held at a time: 2 MiB an array, which stays in a core's cache.
_CHUNK_CELLS: Final = 2**18
_REALS, _FAKES = 0, 1


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends of a two-sided interval, in the figure's own unit."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class EventRate:
    """How often something happened, in how many trials, and the rate with its exact 95 % interval."""

    events: int
    trials: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapSpec:
    """How a bootstrap is drawn.

    Attributes:
        resamples: number of times that images are drawn with replacement, reals and fakes apart.
        seed: of the draws; a group's draws depend on the seed and its name alone.
        level: share of the resamples inside the interval.
    """

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise BadSpec("resamples", self.resamples, "at least 1")
        if self.seed < 0:
            raise BadSpec("seed", self.seed, "at least 0")
        if not 0 < self.level < 1:
            raise BadSpec("level", self.level, "between 0 and 1, both excluded")


def clopper_pearson(events: int, trials: int, level: float = 0.95) -> Interval:
    """Exact interval of a rate from `events` among `trials`; its coverage is at least `level`.

    Raises:
        BadSpec: unless 0 <= events <= trials and trials >= 1.

    Source: Clopper and Pearson 1934.
    """
    if not 0 <= events <= trials or trials < 1:
        raise BadSpec("events of trials", f"{events} of {trials}", "0 <= events <= trials, with at least 1 trial")
    interval = binomtest(events, trials).proportion_ci(confidence_level=level, method="exact")
    return Interval(float(interval.low), float(interval.high))


def event_rate(events: int, trials: int, level: float = 0.95) -> EventRate:
    """The rate of `events` among `trials`; its interval and errors are those of `clopper_pearson`."""
    interval = clopper_pearson(events, trials, level)
    return EventRate(events, trials, events / trials, interval.low, interval.high)


def percentile_interval(resampled: ArrayLike, level: float = 0.95) -> Interval:
    """The middle `level` share of (resamples,) values of a statistic."""
    low, high = np.quantile(np.asarray(resampled, np.float64), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def resample(
    reals: ArrayLike,
    fakes: Mapping[str, ArrayLike],
    spec: BootstrapSpec,
    metrics: Mapping[str, RankingMetric] = RANKING_METRICS,
) -> dict[str, dict[str, Floats]]:
    """Each metric of each group of fakes against one set of reals, in every resample.

    All groups meet the same resampled reals, so `metrics.macro` of the returned arrays is the macro figure's own
    bootstrap. Reals and fakes are drawn apart (stratified): the prevalence stays.

    Args:
        reals: (R,) scores of the reals.
        fakes: group -> (F,) scores of its fakes.
        spec: number of resamples, seed.
        metrics: name -> function of counts.

    Returns:
        group -> metric -> (resamples,) values.

    Raises:
        BadScores: if the reals or a group's fakes are missing.
        NotFinite: if a score is NaN or infinite.
    """
    return {group: _resample_group(rank(reals, scores), group, spec, metrics) for group, scores in fakes.items()}


def resample_flags(
    reals: ArrayLike, fakes: ArrayLike, spec: BootstrapSpec, metrics: Mapping[str, RankingMetric]
) -> dict[str, Floats]:
    """Metrics of (R,) and (F,) verdicts in every resample: metric -> (resamples,) values.

    Raises:
        BadScores: if one kind is missing.
    """
    # Scored as 0 and 1 with both present in the grid, so that the counts are (not flagged, flagged).
    ranks = rank(np.asarray(reals, bool), np.asarray(fakes, bool))
    both = Ranks(np.array([0.0, 1.0]), ranks.scores[ranks.reals].astype(np.intp), ranks.scores[ranks.fakes].astype(int))
    return _resample_group(both, "flags", spec, metrics)


def _resample_group(
    ranks: Ranks, group: str, spec: BootstrapSpec, metrics: Mapping[str, RankingMetric]
) -> dict[str, Floats]:
    # Two streams, both drawn row by row: neither the size of a chunk nor another group changes a draw.
    real_rng = np.random.default_rng([spec.seed, _REALS])
    fake_rng = np.random.default_rng([spec.seed, _FAKES, *group.encode("utf-8", "surrogateescape")])
    distinct = len(ranks.scores)
    rows = max(1, _CHUNK_CELLS // distinct)
    values: dict[str, list[Floats]] = {name: [] for name in metrics}
    for start in range(0, spec.resamples, rows):
        size = min(rows, spec.resamples - start)
        counts = ScoreCounts(
            _drawn_counts(ranks.reals, distinct, size, real_rng), _drawn_counts(ranks.fakes, distinct, size, fake_rng)
        )
        for name, metric in metrics.items():
            values[name].append(metric(counts))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _drawn_counts(places: NDArray[np.intp], distinct: int, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    drawn = places[rng.integers(0, len(places), size=(rows, len(places)))]
    drawn += distinct * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * distinct).reshape(rows, distinct)
