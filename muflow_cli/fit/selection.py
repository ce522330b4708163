"""Leave one source out at a time: how long to train, and how large a flow, judged by reals of unseen sources.

Each round fits projection, target and flows to the other sources alone, so that nothing of a left-out source trains
anything that it judges. The images are encoded once for all rounds and the final fit. Only the averages are new in each
round, and there are fewer: their number is shared out, so that all rounds together encode as many as the final fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muflow_cli.canonical import canonical_json
from muflow_cli.detector import LeftOut, Selected
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.mixture import Mixture
from muflow_cli.engine.projection import Projection
from muflow_cli.engine.train_state import Progress, TrainHooks
from muflow_cli.engine.training import train
from muflow_cli.fit.choice import choose
from muflow_cli.fit.features import project, projections_of
from muflow_cli.fit.parts import read_sealed, write_sealed
from muflow_cli.fit.sources import Fold
from muflow_cli.fit.split import Split
from muflow_cli.fit.store import Store
from muflow_cli.fit.targets import Averaging, mu_targets, normal_targets
from muflow_cli.fit.work import Work
from muflow_cli.progress import ProgressListener
from muflow_cli.specs import BranchSpec, Selection, TargetKind, TargetSpec, TrainSpec

_FEWEST_AVERAGES = 50


@dataclass(frozen=True, slots=True)
class Round:
    """The history of a flow that was trained on all sources but the left-out ones."""

    left_out: tuple[str, ...]
    steps: int
    history: tuple[Progress, ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Specifications of the final flow and training, how they came about, and the histories behind them."""

    branch: BranchSpec
    train: TrainSpec
    selected: Selected | None
    rounds: tuple[Round, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """What the rounds of one branch share.

    Attributes:
        branch: its specification.
        train: seed, patience, and what is tried.
        store: the views.
        parts: of the fit.
        folds: what is left out in each round.
        encoder: of the branch, placed.
        pooled: per layer the maps of all views of training reals, then of held-out reals.
        work: the branch's folder.
        progress: told of the stages.
    """

    branch: BranchSpec
    train: TrainSpec
    store: Store
    parts: Split
    folds: Sequence[Fold]
    encoder: PlacedEncoder
    pooled: Sequence[NDArray[np.generic]]
    work: Work
    progress: ProgressListener


def select(rounds: Rounds) -> Chosen:
    """The flow and training that `rounds.train.selection` asks for; steps and epochs never exceed the given ones."""
    branch, spec = rounds.branch, rounds.train
    if spec.selection is Selection.HELD_OUT or not branch.flow.steps:
        return Chosen(branch, spec, None)
    if spec.selection is Selection.PRIOR or len(rounds.folds) < 2:
        steps, epochs = min(spec.prior_steps, branch.flow.steps), min(spec.prior_epochs, spec.epochs)
        return _chosen(rounds, Selected(left_out=(), candidates=(), steps=steps, epochs=epochs), ())
    tried = steps_to_try(branch, spec)
    histories = [_round(rounds, number, tried) for number in range(len(rounds.folds))]
    for layer in range(len(rounds.pooled)):
        rounds.work.file(f"round.{layer}").unlink(missing_ok=True)
    choice = choose({steps: [history[steps] for history in histories] for steps in tried})
    selected = Selected(
        left_out=tuple(LeftOut(sources=fold.names, images=len(fold.images)) for fold in rounds.folds),
        candidates=choice.candidates,
        steps=choice.steps,
        epochs=choice.epochs,
    )
    made = (
        Round(fold.names, steps, history)
        for fold, by_steps in zip(rounds.folds, histories, strict=True)
        for steps, history in by_steps.items()
    )
    return _chosen(rounds, selected, tuple(made))


def steps_to_try(branch: BranchSpec, train: TrainSpec) -> list[int]:
    """Numbers of steps of the flows that each round trains."""
    return sorted({min(steps, branch.flow.steps) for steps in train.selection_steps})


def averages_of_a_round(target: TargetSpec, rounds: int) -> int:
    """How many averages each of `rounds` rounds encodes."""
    return min(target.n_averages, max(_FEWEST_AVERAGES, target.n_averages // rounds))


def _chosen(rounds: Rounds, selected: Selected, made: tuple[Round, ...]) -> Chosen:
    flow = replace(rounds.branch.flow, steps=selected.steps)
    return Chosen(replace(rounds.branch, flow=flow), replace(rounds.train, epochs=selected.epochs), selected, made)


def why_stopped(given: TrainSpec, chosen: Chosen, epochs: int) -> str:
    """Why training ended after `epochs` epochs, for people.

    Args:
        given: as `fit` was asked to train.
        chosen: as it trained.
        epochs: of the final training.
    """
    steps, limit, selected = chosen.branch.flow.steps, chosen.train.epochs, chosen.selected
    flow = f"{steps} step" if steps == 1 else f"{steps} steps"
    if epochs < limit and steps:
        return (
            f"stopped after {epochs} of at most {limit} epochs with {flow}, since held-out reals had not improved for "
            f"{given.stop_patience}"
        )
    if selected is None:
        return f"stopped at the limit of {limit} epochs with {flow}" if steps else "the flow has no steps to train"
    if not selected.left_out:
        reason = f", since fewer than two sources have {given.source_minimum} images"
        return (
            f"stopped after {epochs} epochs with {flow}, the prior"
            f"{reason if given.selection is Selection.SOURCES else ''}"
        )
    if not steps:
        return "no steps, since every trained flow flags more reals of left-out sources"
    of = f"at the limit of {limit}" if limit == given.epochs else f"after {limit} of {given.epochs}"
    return f"stopped {of} epochs with {flow}, where left-out sources are flagged least"


def _round(rounds: Rounds, number: int, tried: Sequence[int]) -> Mapping[int, tuple[Progress, ...]]:
    """Steps -> history, without the sources of one fold; what an earlier run finished is read."""
    paths = {steps: rounds.work.file(f"round.{number}.{steps}.json") for steps in tried}
    missing = [steps for steps in tried if not paths[steps].exists()]
    if missing:
        _train_round(rounds, number, {steps: paths[steps] for steps in missing})
    stored = {steps: json.loads(read_sealed(path)) for steps, path in paths.items()}
    return {steps: tuple(Progress(**epoch) for epoch in history) for steps, history in stored.items()}


def _train_round(rounds: Rounds, number: int, paths: Mapping[int, Path]) -> None:
    """Train one flow for each number of steps without the sources of one fold, and store its history."""
    branch, parts, left_out = rounds.branch, rounds.parts, set(rounds.folds[number].images)
    train_on = [index for index in parts.train if index not in left_out]
    held_out = [index for index in parts.validation if index not in left_out]
    judged = [index for index in (*parts.train, *parts.validation) if index in left_out]
    rows = _pooled_rows(rounds)
    sets = [[row for index in images for row in rows[index]] for images in (train_on, held_out, judged)]
    projections = projections_of(rounds.pooled, branch.feature, sets[0])
    together = [row for one in sets for row in one]
    vectors = [
        project(map_, projection, branch.feature, rounds.work.file(f"round.{layer}"), together)
        for layer, (map_, projection) in enumerate(zip(rounds.pooled, projections, strict=True))
    ]
    sizes = [len(one) for one in sets]
    features, validation, others = zip(*(layer.split(sizes) for layer in vectors), strict=True)
    mixtures = _mixtures(rounds, train_on, projections)
    rounds.progress.stage(rounds.work.stage("select"), len(paths) * rounds.train.epochs)
    hooks = TrainHooks(on_epoch=lambda _: rounds.progress.advance())
    for steps, path in paths.items():
        flow = replace(branch.flow, steps=steps)
        trained = train(features, validation, mixtures, flow, rounds.train, hooks=hooks, others=others)
        write_sealed(path, canonical_json([asdict(epoch) for epoch in trained.history]))


def _pooled_rows(rounds: Rounds) -> dict[int, range]:
    """Image -> rows of its views in the pooled maps."""
    rows, start = {}, 0
    for index in (*rounds.parts.train, *rounds.parts.validation):
        views = rounds.store.entries[index].views[rounds.branch.name]
        rows[index] = range(start, start + views)
        start += views
    return rows


def _mixtures(rounds: Rounds, images: Sequence[int], projections: Sequence[Projection]) -> list[Mixture]:
    """The target of one round, from averages of `images` alone; of all of them where they are fewer than N."""
    name, target = rounds.branch.name, rounds.branch.target
    if target.kind is TargetKind.NORMAL:
        return normal_targets(projections).mixtures
    fewer = replace(
        target,
        n_averages=averages_of_a_round(target, len(rounds.folds)),
        images_per_average=min(target.images_per_average, len(images)),
    )
    averaging = Averaging(
        views=rounds.store.views[name],
        rows=[rounds.store.entries[index].first[name] for index in images],
        target=fewer,
        seed=rounds.train.seed,
    )
    targets = mu_targets(averaging, rounds.encoder, projections, rounds.progress)
    return [mixture.to(rounds.encoder.placement.device) for mixture in targets.mixtures]
