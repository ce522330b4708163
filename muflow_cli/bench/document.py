"""The report of a benchmark, from which every other output is made. Pure.

Everything outside `run` is a function of data, detector and seed; `run` holds what changes: times, machine, command.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from muflow_cli.bench.batches import Batches
from muflow_cli.bench.data import OverlapPolicy, Selection
from muflow_cli.bench.detects import Claim, make_claims
from muflow_cli.bench.differences import Difference
from muflow_cli.bench.evaluate import Against, EvaluateSpec, Evaluation
from muflow_cli.bench.gates import Checked
from muflow_cli.bench.groups import SourceGroups
from muflow_cli.bench.manifest import Label
from muflow_cli.bench.metrics import worst
from muflow_cli.bench.nulls import NullAgainst
from muflow_cli.bench.records import (
    BenchDocument,
    BenchRun,
    Bootstrap,
    Compared,
    Data,
    Failure,
    Group,
    Headline,
    Overlap,
    Perturbed,
    Protocols,
    Robustness,
    RocPoints,
    RuleHeadline,
    Undeclared,
)
from muflow_cli.bench.robustness import Condition, curves
from muflow_cli.bench.roc import GRID, roc_points
from muflow_cli.bench.scores import Row, data_digest
from muflow_cli.output.encode import to_object
from muflow_cli.records import Origin, Unreadable
from muflow_cli.run_records import DetectorInfo
from muflow_cli.specs import ContainerSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Another detector's scores of the same images, and how far this detector differs from it."""

    name: str
    scored: int
    missing: int
    evaluation: Evaluation
    differences: Mapping[str, Mapping[str, Difference]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Everything that was measured.

    Attributes:
        rows: clean rows.
        evaluation: of them; None where protocols were measured.
        protocols: figures of the detector's settings, fitted again; None where the detector itself was measured.
        undeclared: rows without the images that declare themselves synthetic, and their evaluation; None without any.
        selection: what was scored; None where scores were read from a file.
        detector: None where scores were read from a file.
        conditions: every perturbed condition and its evaluation.
        nulls: baseline -> real source -> figures.
        comparisons: other detectors' scores.
        batches: adaptive p-values in batches; None where they were not asked for.
        groups: groups of every source; None likewise.
        failed: images that could not be decoded.
        checked: outcomes of the gates and of the baseline.
    """

    rows: Sequence[Row]
    evaluation: Evaluation | None
    protocols: Protocols | None = None
    undeclared: tuple[Sequence[Row], Evaluation] | None = None
    selection: Selection | None = None
    detector: DetectorInfo | None = None
    conditions: Sequence[tuple[Condition, Evaluation]] = ()
    nulls: Mapping[str, Mapping[str, NullAgainst]] = field(default_factory=dict)
    comparisons: Sequence[Comparison] = ()
    batches: Batches | None = None
    groups: tuple[SourceGroups, ...] | None = None
    failed: Sequence[Unreadable] = ()
    checked: Sequence[Checked] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings that decide a figure."""

    evaluate: EvaluateSpec
    overlap: OverlapPolicy
    limit: int
    container: ContainerSpec | None = None


def build_document(measured: Measured, settings: Settings, run: BenchRun) -> dict[str, Any]:
    """The report's JSON value, names of schema /1 included.

    Args:
        measured: every figure.
        settings: that decide them.
        run: times, machine, command.

    Raises:
        NotFinite: where a figure is NaN or infinite.
    """
    return dict(to_object(make_document(measured, settings, run), "the benchmark"))


def make_document(measured: Measured, settings: Settings, run: BenchRun) -> BenchDocument:
    """The report as a record; arguments as in `build_document`."""
    unreadable = [*(measured.selection.unreadable if measured.selection else ()), *measured.failed]
    return BenchDocument(
        detector=measured.detector,
        data=make_data(measured.rows, measured.selection, unreadable, settings),
        settings=make_bootstrap(settings.evaluate),
        headline=None if measured.evaluation is None else headline(measured.evaluation),
        results=measured.evaluation,
        claims=_claims(measured, settings),
        protocols=measured.protocols,
        undeclared=None if measured.undeclared is None else make_undeclared(*measured.undeclared),
        roc=RocPoints(fpr=tuple(GRID.tolist()), tpr=roc_points(measured.rows)) if measured.evaluation else None,
        nulls=measured.nulls,
        robustness=Robustness(
            conditions=tuple(
                Perturbed(
                    perturbation=str(condition.perturbation),
                    on=condition.on,
                    headline=headline(evaluation),
                    results=evaluation,
                )
                for condition, evaluation in measured.conditions
            ),
            curves=tuple(curves(measured.conditions)),
        ),
        comparisons=tuple(
            Compared(
                name=other.name,
                scored=other.scored,
                missing=other.missing,
                headline=headline(other.evaluation),
                results=other.evaluation,
                differences=other.differences,
            )
            for other in measured.comparisons
        ),
        batches=measured.batches,
        groups=measured.groups,
        gates=tuple(measured.checked),
        run=run,
    )


def _claims(measured: Measured, settings: Settings) -> tuple[Claim, ...]:
    """What may be said of each generator; nothing of scores from a file, which have no null baselines."""
    if measured.evaluation is None or not measured.nulls:
        return ()
    return make_claims(measured.evaluation.sources, measured.nulls, settings.container)


def make_undeclared(rows: Sequence[Row], evaluation: Evaluation) -> Undeclared:
    """Figures of the rows that are left without the images that declare themselves synthetic."""
    fakes = sum(row.fake for row in rows)
    return Undeclared(reals=len(rows) - fakes, fakes=fakes, headline=headline(evaluation), results=evaluation)


def make_bootstrap(spec: EvaluateSpec) -> Bootstrap:
    """The settings behind the intervals."""
    bootstrap = spec.bootstrap
    return Bootstrap(seed=bootstrap.seed, resamples=bootstrap.resamples, level=bootstrap.level, centre=spec.centre)


def make_data(
    rows: Sequence[Row], selection: Selection | None, unreadable: Sequence[Unreadable], settings: Settings
) -> Data:
    """What was scored and what was left out.

    Args:
        rows: of the images that were scored.
        selection: where they come from; None = a file of scores.
        unreadable: images that could not be scored.
        settings: family of a generator, overlap policy, limit.
    """
    counts = Counter((row.label, row.group, row.source) for row in rows)
    origins: dict[tuple[Label, str, str], Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row.declared.origin is not Origin.NONE:
            origins[row.label, row.group, row.source][row.declared.origin.value] += 1
    groups = tuple(
        Group(
            label=label,
            group=group,
            source=source,
            family=settings.evaluate.family(group) if label is Label.FAKE else None,
            images=images,
            declared=dict(sorted(origins[label, group, source].items())),
        )
        for (label, group, source), images in counts.items()
    )
    return Data(
        digest=data_digest(rows, settings.container),
        container=None if settings.container is None else str(settings.container),
        images=len(rows),
        reals=sum(not row.fake for row in rows),
        fakes=sum(row.fake for row in rows),
        groups=groups,
        duplicates=selection.duplicates if selection else 0,
        near_copies=selection.near_copies if selection else 0,
        limit=settings.limit or None,
        beyond_limit=selection.limited if selection else 0,
        overlap=Overlap(policy=settings.overlap, groups=selection.overlap if selection else {}),
        unreadable=tuple(Failure(path=item.path, code=item.code, message=item.message) for item in unreadable),
        skipped=selection.skipped if selection else (),
    )


def headline(evaluation: Evaluation) -> Headline:
    """Macro AUC at the worst real source, and that of the rule's ranking at its own worst source."""
    return headline_of(evaluation.sources)


def headline_of(sources: Mapping[str, Against]) -> Headline:
    """The same of real source -> figures, at least one."""
    by_rule = {name: against.macro["rule_auc"] for name, against in sources.items() if "rule_auc" in against.macro}
    rule = None
    if by_rule:
        source, _ = worst({name: figure.value for name, figure in by_rule.items()})
        figure = by_rule[source]
        rule = RuleHeadline(source=source, value=figure.value, low=figure.low, high=figure.high)
    source, _ = worst({name: against.macro["auc"].value for name, against in sources.items()})
    figure = sources[source].macro["auc"]
    return Headline(source=source, value=figure.value, low=figure.low, high=figure.high, rule=rule)
