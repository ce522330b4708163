"""The stages of a fit that take long, and what they are expected to take: for the time left of the whole fit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from muflow_cli.engine.devices import Placement
from muflow_cli.engine.mixture import BIC_COMPONENTS, Mixture
from muflow_cli.engine.train_state import TrainHooks
from muflow_cli.engine.training import train
from muflow_cli.fit.features import map_shapes
from muflow_cli.fit.selection import averages_of_a_round, steps_to_try
from muflow_cli.fit.split import Split
from muflow_cli.fit.store import Store
from muflow_cli.progress import PlannedStage
from muflow_cli.specs import BranchSpec, DetectorSpec, Selection, TargetKind, TrainSpec


def planned(spec: DetectorSpec, store: Store, parts: Split, folds: int, placement: Placement) -> list[PlannedStage]:
    """The stages between the split and the bundle; an epoch's time is measured on random vectors, in seconds.

    Args:
        spec: of the detector.
        store: the views.
        parts: of the fit.
        folds: sources, or groups of them, that are left out in turn.
        placement: what computes.
    """
    stages: list[PlannedStage] = []
    for branch in spec.branches:
        label = f"{branch.name} " if len(spec.branches) > 1 else ""
        rows = [len(store.rows(branch.name, part)) for part in (parts.train, parts.validation)]
        epoch = seconds_of_an_epoch(branch, spec.train, rows[0], rows[1], placement)
        stages += _of_branch(branch, spec.train, label, sum(rows), folds, epoch)
    return [*stages, PlannedStage("calibrate", len(parts.calibration), images=len(spec.branches))]


def _of_branch(
    branch: BranchSpec, train_spec: TrainSpec, label: str, rows: int, folds: int, epoch: float
) -> Iterator[PlannedStage]:
    target, trains = branch.target, branch.flow.steps > 0
    averages = target.n_averages if target.kind is TargetKind.MU else 0
    yield PlannedStage(f"{label}encode", rows, images=1)
    if train_spec.selection is Selection.SOURCES and trains and folds > 1:
        tried = len(steps_to_try(branch, train_spec)) * train_spec.epochs
        for _ in range(folds):
            if averages:
                yield PlannedStage("encode averages", averages_of_a_round(target, folds), images=1)
            yield PlannedStage(f"{label}select", tried, seconds=epoch)
    if averages and target.images_per_average > 1:
        yield PlannedStage("encode averages", averages, images=1)
    known = train_spec.selection is Selection.PRIOR or (train_spec.selection is Selection.SOURCES and folds < 2)
    epochs = min(train_spec.prior_epochs, train_spec.epochs) if known else train_spec.epochs
    yield PlannedStage(f"{label}train", epochs if trains else 0, seconds=epoch)


def seconds_of_an_epoch(
    branch: BranchSpec, train_spec: TrainSpec, rows: int, held_out: int, placement: Placement
) -> float:
    """How long one epoch takes, from one that trains on at most a batch of random vectors; 0 where nothing trains.

    Args:
        branch: its flow, and the shapes of its features.
        train_spec: the size of a batch.
        rows: views that are trained on.
        held_out: views that are held out.
        placement: what computes.
    """
    if not branch.flow.steps:
        return 0.0
    few = min(rows, train_spec.batch_size)
    generator = torch.Generator().manual_seed(train_spec.seed)
    shapes = [
        (min(branch.feature.dimensions or c, c), h, w) for c, h, w in map_shapes(branch.feature, branch.view.size)
    ]
    features, validation = (
        [torch.randn(n, *shape, generator=generator) for shape in shapes]
        for n in (few, max(1, round(few * held_out / rows)))
    )
    components = branch.target.components or max(BIC_COMPONENTS)
    targets = [Mixture.normal(shape[0], components).to(placement.device) for shape in shapes]
    ends: list[float] = []
    hooks = TrainHooks(on_epoch=lambda _: ends.append(time.monotonic()))
    # The first epoch also prepares what later ones use again.
    train(features, validation, targets, branch.flow, replace(train_spec, epochs=2), hooks=hooks)
    return (ends[2] - ends[1]) * rows / few
