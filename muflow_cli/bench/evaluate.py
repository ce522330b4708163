"""Rows -> figures with intervals, per real source, generator and family; macro, pooled, and the worst source. Pure.

Three rankings stand side by side. `auc` and its like rank by the score itself; `folded_auc` by the distance from the
median of the calibration reals; `rule_auc` as the detector's rule ranks, which is what it flags by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from muflow_cli.bench.intervals import (
    BootstrapSpec,
    clopper_pearson,
    percentile_interval,
    resample,
    resample_flags,
)
from muflow_cli.bench.metrics import (
    FLAG_METRICS,
    RANKING_METRICS,
    Floats,
    RankingMetric,
    count_flags,
    macro,
    prevalence,
    rank,
    worst,
)
from muflow_cli.bench.scores import Row, grouped
from muflow_cli.errors import BadScores

# No group has this name, since names come from folders and CSV cells.
POOLED: Final = "\0pooled"
RANKINGS: Final = ("", "folded_", "rule_")
METRICS: Final[tuple[str, ...]] = (
    *(f"{prefix}{name}" for prefix in RANKINGS for name in RANKING_METRICS),
    *FLAG_METRICS,
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Share:
    """Number of images flagged, of how many, and the rate with its exact 95 % interval."""

    flagged: int
    images: int
    value: float
    low: float
    high: float


Figures = Mapping[str, Figure]


@dataclass(frozen=True, kw_only=True, slots=True)
class Generator:
    """One generator against one set of reals.

    Attributes:
        family: of the generator.
        fakes: number of its images.
        prevalence: share of fakes among these images, the AP of chance.
        caught: fakes flagged; None for scores without verdicts.
        figures: metric -> figure; METRICS lists all names.
    """

    family: str
    fakes: int
    prevalence: float
    caught: Share | None
    figures: Figures


@dataclass(frozen=True, kw_only=True, slots=True)
class Against:
    """Every generator against one set of reals.

    Attributes:
        reals: number of real images.
        flagged: reals flagged, the false-positive rate; None for scores without verdicts.
        generators: by name.
        families: unweighted means over each family's generators.
        macro: unweighted means over all generators.
        pooled: all fakes as one set.
    """

    reals: int
    flagged: Share | None
    generators: Mapping[str, Generator]
    families: Mapping[str, Figures]
    macro: Figures
    pooled: Figures


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Figures against every real source on its own, and against all reals together.

    Attributes:
        sources: by name; each is a claim of its own.
        all_reals: every source's reals as one set.
        worst_source: the source with the lowest macro AUC, which the headline is about.
    """

    sources: Mapping[str, Against]
    all_reals: Against
    worst_source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateSpec:
    """How rows are evaluated.

    Attributes:
        bootstrap: resamples, seed, level.
        centre: median score of the calibration reals; None = no folded ranking.
        family: group -> family.
        metrics: ranking metrics to compute.
    """

    bootstrap: BootstrapSpec
    centre: float | None
    family: Callable[[str], str]
    metrics: Mapping[str, RankingMetric] = field(default_factory=lambda: RANKING_METRICS)


def evaluate(rows: Sequence[Row], spec: EvaluateSpec) -> Evaluation:
    """Every figure of the rows.

    Raises:
        BadScores: where reals or fakes are missing.
        NotFinite: where a score is NaN or infinite.
    """
    reals, fakes = grouped(rows, fake=False), grouped(rows, fake=True)
    if not reals or not fakes:
        raise BadScores("a benchmark", sum(map(len, reals.values())), sum(map(len, fakes.values())))
    sources = {name: _against(members, fakes, spec) for name, members in reals.items()}
    everyone = [row for members in reals.values() for row in members]
    lowest, _ = worst({name: against.macro["auc"].value for name, against in sources.items()})
    together = sources[lowest] if len(sources) == 1 else _against(everyone, fakes, spec)
    return Evaluation(sources=sources, all_reals=together, worst_source=lowest)


@dataclass(frozen=True, slots=True)
class _Draw:
    """A figure and its (resamples,) values."""

    value: float
    resampled: Floats


def _against(reals: Sequence[Row], fakes: Mapping[str, Sequence[Row]], spec: EvaluateSpec) -> Against:
    everyone = {**fakes, POOLED: [row for members in fakes.values() for row in members]}
    draws = _draws(reals, everyone, spec)
    pooled = draws.pop(POOLED)
    families: dict[str, dict[str, dict[str, _Draw]]] = {}
    for name in fakes:
        families.setdefault(spec.family(name), {})[name] = draws[name]
    return Against(
        reals=len(reals),
        flagged=_share(reals),
        generators={
            name: Generator(
                family=spec.family(name),
                fakes=len(members),
                prevalence=float(prevalence(rank(np.zeros(len(reals)), np.zeros(len(members))).counts())),
                caught=_share(members),
                figures=_figures(draws[name], spec),
            )
            for name, members in fakes.items()
        },
        families={name: _figures(_mean(members), spec) for name, members in families.items()},
        macro=_figures(_mean(draws), spec),
        pooled=_figures(pooled, spec),
    )


def _draws(reals: Sequence[Row], fakes: Mapping[str, Sequence[Row]], spec: EvaluateSpec) -> dict[str, dict[str, _Draw]]:
    """Set of fakes -> metric -> figure and resamples."""
    draws: dict[str, dict[str, _Draw]] = {name: {} for name in fakes}
    everyone = [*reals, *(row for members in fakes.values() for row in members)]
    for prefix, ranking in _rankings(everyone, spec.centre).items():
        of_reals = ranking(reals)
        of_fakes = {name: ranking(members) for name, members in fakes.items()}
        resampled = resample(of_reals, of_fakes, spec.bootstrap, spec.metrics)
        for name, scores in of_fakes.items():
            counts = rank(of_reals, scores).counts()
            for metric, function in spec.metrics.items():
                draws[name][prefix + metric] = _Draw(float(function(counts)), resampled[name][metric])
    if all(row.flagged is not None for row in everyone):
        real_flags = [bool(row.flagged) for row in reals]
        for name, members in fakes.items():
            fake_flags = [bool(row.flagged) for row in members]
            counts = count_flags([*real_flags, *fake_flags], [False] * len(real_flags) + [True] * len(fake_flags))
            resamples = resample_flags(real_flags, fake_flags, spec.bootstrap, FLAG_METRICS)
            for metric, function in FLAG_METRICS.items():
                draws[name][metric] = _Draw(float(function(counts)), resamples[metric])
    return draws


def _rankings(rows: Sequence[Row], centre: float | None) -> dict[str, Callable[[Sequence[Row]], list[float]]]:
    """Prefix -> what the rows are ranked by; only rankings that every row has."""
    rankings: dict[str, Callable[[Sequence[Row]], list[float]]] = {"": lambda rows: [row.score for row in rows]}
    if centre is not None:
        rankings["folded_"] = lambda rows: [abs(row.score - centre) for row in rows]
    if all(row.suspicion is not None for row in rows):
        rankings["rule_"] = lambda rows: [row.suspicion or 0.0 for row in rows]
    return rankings


def _mean(members: Mapping[str, Mapping[str, _Draw]]) -> dict[str, _Draw]:
    """Unweighted mean over sets, of the figures and of each resample."""
    names = next(iter(members.values()))
    return {
        metric: _Draw(
            float(macro({name: draws[metric].value for name, draws in members.items()})),
            macro({name: draws[metric].resampled for name, draws in members.items()}),
        )
        for metric in names
    }


def _figures(draws: Mapping[str, _Draw], spec: EvaluateSpec) -> dict[str, Figure]:
    figures = {}
    for metric, draw in draws.items():
        interval = percentile_interval(draw.resampled, spec.bootstrap.level)
        figures[metric] = Figure(draw.value, interval.low, interval.high)
    return figures


def _share(rows: Sequence[Row]) -> Share | None:
    if any(row.flagged is None for row in rows):
        return None
    flagged = sum(bool(row.flagged) for row in rows)
    interval = clopper_pearson(flagged, len(rows))
    return Share(flagged, len(rows), flagged / len(rows), interval.low, interval.high)
