"""The table of an ablation: target x flow x classifier x alpha, each with its macro figures.

Source: Pontorno et al. 2026, Table 3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import torch
from torch import Tensor

from muflow_cli.ablate.encoded import Encoded, Fitted, Subject
from muflow_cli.ablate.records import AblationFigures, AblationRow
from muflow_cli.bench.data import HashedSample
from muflow_cli.bench.evaluate import EvaluateSpec, Evaluation, Share, evaluate
from muflow_cli.bench.metrics import auc, average_precision
from muflow_cli.bench.scores import Row
from muflow_cli.calibration.pvalues import Scores
from muflow_cli.calibration.rules import RULES, rule_class
from muflow_cli.engine.flow import PlainFlow
from muflow_cli.engine.likelihood import mahalanobis, nll
from muflow_cli.engine.mixture import Mixture
from muflow_cli.engine.train_state import TrainHooks
from muflow_cli.engine.training import train
from muflow_cli.errors import BadSpec, MuflowError
from muflow_cli.fit.targets import Averaging, mu_targets, normal_targets
from muflow_cli.progress import ProgressListener
from muflow_cli.specs import FlowSpec, RuleSpec, ScoreKind, Tail, TargetKind

ALPHAS: Final = (0.05, 0.1, 0.2)
_CHUNK: Final = 256

Measure = Callable[[PlainFlow, Mixture, Tensor], Tensor]


class Axis(StrEnum):
    """What is varied; an axis that is not named stays as the detector has it."""

    TARGET = "target"
    CLASSIFIER = "classifier"
    ALPHA = "alpha"
    IMAGES_PER_AVERAGE = "images-per-average"


def parse_axes(text: str) -> frozenset[Axis]:
    """`target,classifier` -> axes.

    Raises:
        BadSpec: for an axis that does not exist.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in set(Axis):
            raise BadSpec("--axes", name or "empty", "one or several of " + ", ".join(Axis) + ", separated by commas")
    return frozenset(map(Axis, names))


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What every row of the table is measured with.

    Attributes:
        subject: the branch that is ablated.
        axes: what is varied.
        fitted: reals to fit to.
        tested: features of the labelled images.
        images: these images.
        evaluate: how scores become figures.
    """

    subject: Subject
    axes: frozenset[Axis]
    fitted: Fitted
    tested: Encoded
    images: Sequence[HashedSample]
    evaluate: EvaluateSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """One way to score.

    Attributes:
        target: by name.
        flow: how images are scored under the target, by name.
        calibration: (n, S) scores of the calibration reals, nats per dimension.
        scores: (B, S) scores of the labelled images.
    """

    target: str
    flow: str
    calibration: Scores
    scores: Scores


def make_table(bench: Bench, progress: ProgressListener) -> tuple[AblationRow, ...]:
    """Every row; encoder, projection, training and averages are those of the branch."""
    return tuple(row for scorer in _scorers(bench, progress) for row in _classified(bench, scorer))


def _scorers(bench: Bench, progress: ProgressListener) -> Iterator[Scorer]:
    fitted, subject = bench.fitted, bench.subject
    spec, training = subject.spec, subject.scoring.detector.spec.train
    every = Axis.TARGET in bench.axes
    targets: dict[TargetKind, Sequence[Mixture]] = {}
    if every or spec.target.kind is TargetKind.NORMAL:
        targets[TargetKind.NORMAL] = normal_targets(fitted.projections).mixtures
    if every or spec.target.kind is TargetKind.MU:
        averaging = Averaging(views=fitted.views, rows=fitted.first_rows, target=spec.target, seed=training.seed)
        targets[TargetKind.MU] = mu_targets(averaging, subject.encoder, fitted.projections, progress).mixtures
    for target, mixtures in targets.items():
        progress.stage(f"train flow to {target}", training.epochs)
        flows = _trained(bench, mixtures, spec.flow, progress)
        if every or spec.target.score_kind is ScoreKind.NLL:
            yield _scorer(bench, target, "flow", (flows, mixtures, nll))
        if every:
            identity = _trained(bench, mixtures, replace(spec.flow, steps=0), progress)
            yield _scorer(bench, target, "identity", (identity, mixtures, nll))
        if every or spec.target.score_kind is ScoreKind.MAHALANOBIS:
            yield _scorer(bench, target, "latent mahalanobis", (flows, mixtures, mahalanobis))


def _trained(bench: Bench, mixtures: Sequence[Mixture], flow: FlowSpec, progress: ProgressListener) -> list[PlainFlow]:
    scoring, fitted = bench.subject.scoring, bench.fitted
    placed = [copy.deepcopy(mixture).to(scoring.placement.device) for mixture in mixtures]
    hooks = TrainHooks(on_epoch=lambda _: progress.advance())
    trained = train(fitted.features, fitted.held_out, placed, flow, scoring.detector.spec.train, hooks=hooks)
    return [flow_.cpu() for flow_ in trained.flows]


def _scorer(
    bench: Bench, target: TargetKind, flow: str, parts: tuple[Sequence[PlainFlow], Sequence[Mixture], Measure]
) -> Scorer:
    calibration, scores = _scores(bench.fitted.calibration, *parts), _scores(bench.tested, *parts)
    return Scorer(target=target.value, flow=flow, calibration=calibration, scores=scores)


@torch.inference_mode()
def _scores(encoded: Encoded, flows: Sequence[PlainFlow], targets: Sequence[Mixture], measure: Measure) -> Scores:
    """(B, S) scores in nats per dimension, the mean over positions and views."""
    columns = []
    for features, flow, target in zip(encoded.features, flows, targets, strict=True):
        density = copy.deepcopy(target).float()
        chunks = [measure(flow, density, chunk.float()).mean(dim=(1, 2)) for chunk in features.split(_CHUNK)]
        columns.append(torch.cat(chunks).double() / features.shape[1])
    return encoded.per_image(torch.stack(columns, dim=1).numpy())


def _classified(bench: Bench, scorer: Scorer) -> Iterator[AblationRow]:
    """One row for every classifier and alpha; one that needs more reals than there are says so."""
    own = bench.subject.scoring.detector.calibration.rule
    alphas = ALPHAS if Axis.ALPHA in bench.axes else (own.alpha,)
    classifiers = [(own.method, own.tail)]
    if Axis.CLASSIFIER in bench.axes:
        classifiers = [(method, tail) for method in RULES for tail in Tail]
    for method, tail in classifiers:
        for alpha in alphas:
            yield _row(bench, scorer, RuleSpec(method=method, alpha=alpha, tail=tail))


def _row(bench: Bench, scorer: Scorer, spec: RuleSpec) -> AblationRow:
    worst_source, figures, note = None, None, None
    try:
        evaluation = _evaluation(bench, scorer, spec)
        worst_source, figures = evaluation.worst_source, {}
        for source, against in evaluation.sources.items():
            assert isinstance(against.flagged, Share)  # noqa: S101 - every row has a verdict
            figures[source] = AblationFigures(**against.macro, fpr=against.flagged)
    except MuflowError as error:
        note = str(error)
    return AblationRow(
        target=scorer.target,
        flow=scorer.flow,
        classifier=spec.method,
        tail=spec.tail.value,
        alpha=spec.alpha,
        worst_source=worst_source,
        figures=figures,
        note=note,
    )


def _evaluation(bench: Bench, scorer: Scorer, spec: RuleSpec) -> Evaluation:
    """Figures of the images, ranked and judged by a rule that is fitted to the calibration reals."""
    rule = rule_class(spec.method).fit(scorer.calibration, spec)
    rows = [
        Row(
            path=image.sample.path,
            label=image.sample.label,
            group=image.sample.group,
            source=image.sample.source,
            score=float(rank),
            flagged=bool(flag),
        )
        for image, rank, flag in zip(
            bench.images, rule.ranking(scorer.scores), rule.judge(scorer.scores).flagged, strict=True
        )
    ]
    return evaluate(rows, replace(bench.evaluate, metrics={"auc": auc, "ap": average_precision}))
