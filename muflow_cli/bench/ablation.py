"""The paper's ablations with one encoding of every picture: target x flow x classifier x alpha, and silhouettes over N.

Everything is fitted to reals that are no part of the benchmark; fakes are only scored. Sources: Pontorno et al. 2026,
Table 3 and Fig. 5.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from muflow_cli.bench.data import Picture
from muflow_cli.bench.evaluate import Against, EvaluateSpec, evaluate
from muflow_cli.bench.fitting import Encoded, Fitted, encode_fit, encode_pictures
from muflow_cli.bench.scores import Row
from muflow_cli.bench.scoring import Scoring
from muflow_cli.bench.silhouettes import silhouettes
from muflow_cli.canonical import to_json
from muflow_cli.engine.flow import PlainFlow
from muflow_cli.engine.mixture import Mixture
from muflow_cli.engine.nll import mahalanobis, nll
from muflow_cli.engine.train_state import TrainHooks
from muflow_cli.engine.training import train
from muflow_cli.errors import BadSpec, MuflowError
from muflow_cli.fit.targets import Averaging, mu_targets, normal_targets
from muflow_cli.metrics import auc, average_precision
from muflow_cli.rules import NOVELTY_METHODS, RULES, Novelty, Scores, picture_scores
from muflow_cli.specs import DetectorSpec, FlowSpec, Method, RuleSpec, Tail
from muflow_cli.watch import Watch

ALPHAS: Final = (0.05, 0.1, 0.2)
_CHUNK: Final = 256
_RESAMPLES: Final = 200


Measure = Callable[[PlainFlow, Mixture, Tensor], Tensor]


class Axis(StrEnum):
    """What is varied; an axis that is not named stays as the detector has it."""

    TARGET = "target"
    CLASSIFIER = "classifier"
    ALPHA = "alpha"
    MEAN_SIZE = "mean-size"


def parse_axes(text: str) -> frozenset[Axis]:
    """`target,classifier` -> axes.

    Raises:
        BadSpec: for an axis that there is not.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in set(Axis):
            raise BadSpec("--ablation", name or "empty", "axes out of " + ", ".join(Axis) + ", separated by commas")
    return frozenset(map(Axis, names))


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationSpec:
    """What is ablated.

    Attributes:
        axes: what is varied.
        fit_on: folders of real pictures to fit to.
        evaluate: how scores become figures.
    """

    axes: frozenset[Axis]
    fit_on: tuple[str, ...]
    evaluate: EvaluateSpec


def ablate(spec: AblationSpec, scoring: Scoring, pictures: Sequence[Picture], watch: Watch) -> dict[str, Any]:
    """The ablation for JSON: `fit` (what it was fitted to), `table`, `silhouette`.

    Encoder, space, flow, training and averages are those of the detector's specification and of its weights.

    Raises:
        TooFewPictures: where `fit_on` holds too few pictures that are not benchmarked.
    """
    with tempfile.TemporaryDirectory(prefix="muflow-ablation-") as folder:
        fitted = encode_fit(spec.fit_on, scoring, {p.sha256 for p in pictures}, Path(folder) / "fit", watch)
        tested = encode_pictures(pictures, scoring, fitted.spaces, Path(folder) / "tested", watch)
        table = [
            {"target": target, "flow": flow, **row}
            for target, flow, calibration, scores in _scorers(spec, scoring, fitted, tested, watch)
            for row in _classified(spec, scoring, calibration, scores, tested)
        ]
        found = None
        if Axis.MEAN_SIZE in spec.axes:
            found = silhouettes(tested, fitted, scoring, spec.evaluate.bootstrap.seed, watch)
    counts = {"train": fitted.train, "validation": fitted.validation, "calibration": len(fitted.calibration.starts) - 1}
    return {"fit": {**counts, "left_out": fitted.left_out}, "table": table, "silhouette": found}


def _scorers(
    spec: AblationSpec, scoring: Scoring, fitted: Fitted, tested: Encoded, watch: Watch
) -> Iterator[tuple[str, str, Scores, Scores]]:
    """Target, flow, (n, S) scores of the calibration reals and (B, S) of the pictures, for every scorer."""
    detector = scoring.detector.spec
    targets: dict[str, Sequence[Mixture]] = {}
    if Axis.TARGET in spec.axes or detector.target.kind == "normal":
        targets["normal"] = normal_targets(fitted.spaces).mixtures
    if Axis.TARGET in spec.axes or detector.target.kind == "mu":
        averaging = Averaging(
            views=fitted.views, places=fitted.first_places, target=detector.target, seed=detector.train.seed
        )
        targets["mu"] = mu_targets(averaging, scoring.scorer.extractor, fitted.spaces, watch).mixtures
    for name, mixtures in targets.items():
        watch.stage(f"train flow to {name}", detector.train.epochs)
        flows = {"flow": _trained(fitted, mixtures, detector, detector.flow, watch)}
        if Axis.TARGET in spec.axes:
            flows["identity"] = _trained(fitted, mixtures, detector, replace(detector.flow, steps=0), watch)
        for flow_name, flow in flows.items():
            parts = flow, mixtures, nll
            yield name, flow_name, _scores(fitted.calibration, *parts), _scores(tested, *parts)
        if Axis.TARGET in spec.axes:
            parts = flows["flow"], mixtures, mahalanobis
            yield name, "latent mahalanobis", _scores(fitted.calibration, *parts), _scores(tested, *parts)


def _trained(
    fitted: Fitted, mixtures: Sequence[Mixture], detector: DetectorSpec, flow: FlowSpec, watch: Watch
) -> list[PlainFlow]:
    hooks = TrainHooks(on_epoch=lambda _: watch.advance())
    return train(fitted.features, fitted.held_out, mixtures, flow, detector.train, hooks=hooks).flows


@torch.inference_mode()
def _scores(encoded: Encoded, flows: Sequence[PlainFlow], targets: Sequence[Mixture], measure: Measure) -> Scores:
    """(B, S) scores in nats per dimension, the mean over positions and views."""
    columns = []
    for features, flow, target in zip(encoded.features, flows, targets, strict=True):
        matched = target.to(dtype=torch.float32)
        chunks = [measure(flow, matched, chunk.float()).mean(dim=(1, 2)) for chunk in features.split(_CHUNK)]
        columns.append(torch.cat(chunks).double() / features.shape[1])
    return encoded.per_picture(torch.stack(columns, dim=1).numpy())


def _classified(
    spec: AblationSpec, scoring: Scoring, calibration: Scores, scores: Scores, tested: Encoded
) -> Iterator[dict[str, Any]]:
    """One row for every classifier and alpha; one that needs more reals than there are says so."""
    own = scoring.detector.calibration
    alphas = ALPHAS if Axis.ALPHA in spec.axes else (own.rule.alpha if own else 0.1,)
    kinds = {"threshold": (Method.GAUSSIAN, Tail.UPPER), "conformal, both tails": (Method.CONFORMAL, Tail.BOTH)}
    if Axis.CLASSIFIER in spec.axes:
        kinds |= {"LOF": (Method.LOF, Tail.BOTH), "OC-SVM": (Method.OCSVM, Tail.BOTH)}
    for name, (method, tail) in kinds.items():
        for alpha in alphas:
            row = {"classifier": name, "alpha": alpha}
            try:
                yield {
                    **row,
                    **_figures(spec, RuleSpec(method=method, alpha=alpha, tail=tail), calibration, scores, tested),
                }
            except MuflowError as error:
                yield {**row, "worst_source": None, "figures": None, "note": str(error)}


def _figures(
    spec: AblationSpec, rule_spec: RuleSpec, calibration: Scores, scores: Scores, tested: Encoded
) -> dict[str, Any]:
    rule = RULES[rule_spec.method](calibration, rule_spec)
    judged = rule.judge(scores)
    if isinstance(rule, Novelty) and rule_spec.method in NOVELTY_METHODS:
        ranking = -np.asarray(rule.model.decision_function(scores), np.float64)
    else:
        ranking = picture_scores(scores) if rule_spec.tail is Tail.UPPER else -judged.p_value
    rows = [
        Row(path=p.sample.path, label=p.sample.label, group=p.sample.group, source=p.sample.source,
            score=float(rank), flagged=bool(flag))
        for p, rank, flag in zip(tested.pictures, ranking, judged.flagged, strict=True)
    ]  # fmt: skip  # one record
    bootstrap = replace(spec.evaluate.bootstrap, resamples=min(_RESAMPLES, spec.evaluate.bootstrap.resamples))
    how = replace(spec.evaluate, bootstrap=bootstrap, centre=None, metrics={"auc": auc, "ap": average_precision})
    found = evaluate(rows, how)
    return {
        "worst_source": found.worst_source,
        "figures": {source: _macro(against) for source, against in found.sources.items()},
        "note": None,
    }


def _macro(against: Against) -> Mapping[str, Any]:
    return {**to_json(dict(against.macro)), "fpr": to_json(against.flagged)}
