"""How far two detectors differ on the same images: paired differences of AUC with bootstrap intervals. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from muflow_cli.bench.evaluate import Figure
from muflow_cli.bench.intervals import BootstrapSpec, percentile_interval, resample
from muflow_cli.bench.metrics import Floats, auc, macro, rank
from muflow_cli.bench.scores import Row, grouped


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """AUC of this detector minus that of another against one real source; the interval is that of the difference.

    Attributes:
        generators: by name.
        macro: unweighted mean over the generators.
    """

    generators: Mapping[str, Figure]
    macro: Figure


def paired_differences(
    ours: Sequence[Row], theirs: Sequence[Row], bootstrap: BootstrapSpec
) -> dict[str, dict[str, Difference]]:
    """Real source -> ranking -> difference; empty where no real or no fake is left.

    Every resample draws the same images for both detectors, so that what is hard for both cancels out. The rankings are
    "score" and, where both detectors give p-values, "rule".

    Args:
        ours: rows of this detector.
        theirs: of the other one, of some or all of these images.
        bootstrap: resamples, seed, level.
    """
    own = {row.path: row for row in ours}
    rankings: dict[str, Callable[[Row], float]] = {"score": lambda row: row.score}
    if all(row.suspicion is not None for row in (*(own[row.path] for row in theirs), *theirs)):
        rankings["rule"] = lambda row: row.suspicion or 0.0

    def paired(*, fake: bool) -> dict[str, list[tuple[Row, Row]]]:
        return {name: [(own[row.path], row) for row in rows] for name, rows in grouped(theirs, fake=fake).items()}

    sources, groups = paired(fake=False), paired(fake=True)
    if not groups:
        return {}
    return {
        source: {name: _difference(reals, groups, ranking, bootstrap) for name, ranking in rankings.items()}
        for source, reals in sources.items()
    }


def _difference(
    reals: Sequence[tuple[Row, Row]],
    groups: Mapping[str, Sequence[tuple[Row, Row]]],
    ranking: Callable[[Row], float],
    bootstrap: BootstrapSpec,
) -> Difference:
    values: dict[str, list[float]] = {name: [] for name in groups}
    resampled: dict[str, list[Floats]] = {name: [] for name in groups}
    for side in (0, 1):
        of_reals = [ranking(pair[side]) for pair in reals]
        of_fakes = {name: [ranking(pair[side]) for pair in members] for name, members in groups.items()}
        drawn = resample(of_reals, of_fakes, bootstrap, {"auc": auc})
        for name, scores in of_fakes.items():
            values[name].append(float(auc(rank(of_reals, scores).counts())))
            resampled[name].append(drawn[name]["auc"])
    gaps = {name: ours - theirs for name, (ours, theirs) in values.items()}
    drawn_gaps = {name: ours - theirs for name, (ours, theirs) in resampled.items()}

    def figure(value: float, draws: Floats) -> Figure:
        interval = percentile_interval(draws, bootstrap.level)
        return Figure(value, interval.low, interval.high)

    return Difference(
        generators={name: figure(gap, drawn_gaps[name]) for name, gap in gaps.items()},
        macro=figure(float(macro(gaps)), macro(drawn_gaps)),
    )
