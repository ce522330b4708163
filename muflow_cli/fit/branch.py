"""One branch fitted to its stored views: encode once -> projection -> target -> flow -> Branch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from muflow_cli.detector import BranchProvenance
from muflow_cli.engine.branch import Branch, Head
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.projection import Projection
from muflow_cli.engine.train_state import Progress, TrainHooks
from muflow_cli.engine.training import Trained, train
from muflow_cli.fit.features import Encodes, encode, project, projections_of, take
from muflow_cli.fit.selection import Chosen, Round, Rounds, select, why_stopped
from muflow_cli.fit.sources import Fold
from muflow_cli.fit.split import Split
from muflow_cli.fit.store import Store
from muflow_cli.fit.targets import Averaging, Targets, mu_targets, normal_targets, single_targets
from muflow_cli.fit.work import Work
from muflow_cli.output.history import Epoch
from muflow_cli.progress import ProgressListener
from muflow_cli.specs import BranchSpec, TargetKind, TrainSpec


@dataclass(frozen=True, slots=True)
class FittedBranch:
    """A branch, its provenance, and how it was trained.

    Attributes:
        branch: fitted.
        provenance: where it comes from.
        raised: columns whose regularisation had to be raised.
        rounds: of leaving sources out; empty without any.
        history: of the training of the flow that the branch holds.
    """

    branch: Branch
    provenance: BranchProvenance
    raised: tuple[str, ...]
    rounds: tuple[Round, ...]
    history: tuple[Progress, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchFit:
    """The inputs of a branch's fit.

    Attributes:
        spec: of the branch.
        train: seed, epochs, patience.
        encoder: on its device.
        weights_origin: as BranchProvenance has it.
        weights_sha256: likewise.
        folds: sources to leave out, one fold after the other.
        work: the branch's folder.
        progress: told of the stages.
        pooled: per layer the pooled maps (n, C, g, g) of all views in the store, where several fits share them; None =
            the views that the fit needs are encoded.
        elsewhere: other machines that encode them; None = this one.
    """

    spec: BranchSpec
    train: TrainSpec
    encoder: PlacedEncoder
    weights_origin: str
    weights_sha256: str
    folds: Sequence[Fold]
    work: Work
    progress: ProgressListener
    pooled: Sequence[NDArray[np.generic]] | None = None
    elsewhere: Encodes | None = None


def fit_branch(fit: BranchFit, store: Store, parts: Split) -> FittedBranch:
    """Fit projection, target and flow of every layer to the training reals; `fit.train` says what ends the training."""
    spec, work = fit.spec, fit.work
    train_rows, held_out_rows = store.rows(spec.name, parts.train), store.rows(spec.name, parts.validation)
    rows = train_rows + held_out_rows
    if fit.pooled is None:
        pooled = encode(fit.encoder, store.views[spec.name], rows, work, fit.progress, fit.elsewhere)
    else:
        pooled = [take(map_, rows, work.file(f"pooled.{index}")) for index, map_ in enumerate(fit.pooled)]
    trained_on = len(train_rows)
    chosen = _select(fit, store, parts, pooled)
    fit.progress.stage(work.stage("statistics"), len(pooled))
    projections = projections_of([map_[:trained_on] for map_ in pooled], spec.feature)
    features = [
        project(map_, projection, spec.feature, work.file(f"vectors.{index}"))
        for index, (map_, projection) in enumerate(zip(pooled, projections, strict=True))
    ]
    training, held_out = [f[:trained_on] for f in features], [f[trained_on:] for f in features]
    targets = _targets(fit, store, parts, projections, training)
    trained = _train(fit, chosen, training, held_out, targets)
    heads = [
        Head(projection, flow.cpu(), mixture, spec.target.score_kind)
        for projection, flow, mixture in zip(projections, trained.flows, targets.mixtures, strict=True)
    ]
    branch = Branch(chosen.branch, fit.encoder.encoder, heads).requires_grad_(False)
    provenance = _provenance(fit, chosen, targets, trained)
    raised = (column for column, fitted in zip(branch.columns, targets.fits, strict=True) if fitted.raised)
    return FittedBranch(branch, provenance, tuple(raised), chosen.rounds, trained.history)


def _select(fit: BranchFit, store: Store, parts: Split, pooled: Sequence[NDArray[np.generic]]) -> Chosen:
    """The flow and the training that `fit.train` asks for."""
    return select(
        Rounds(
            branch=fit.spec,
            train=fit.train,
            store=store,
            parts=parts,
            folds=fit.folds,
            encoder=fit.encoder,
            pooled=pooled,
            work=fit.work,
            progress=fit.progress,
        )
    )


def _provenance(fit: BranchFit, chosen: Chosen, targets: Targets, trained: Trained) -> BranchProvenance:
    return BranchProvenance(
        weights_origin=fit.weights_origin,
        weights_sha256=fit.weights_sha256,
        overlap=targets.overlap.shared,
        effective_sample_size=targets.overlap.effective_sample_size,
        components=tuple(fitted.components for fitted in targets.fits),
        reg_covar=tuple(fitted.reg_covar for fitted in targets.fits),
        epochs=trained.epochs,
        best_epoch=trained.best_epoch,
        train_nll=trained.train_nll,
        validation_nll=trained.validation_nll,
        stopped=why_stopped(fit.train, chosen, trained.epochs),
        selected=chosen.selected,
    )


def _targets(
    fit: BranchFit, store: Store, parts: Split, projections: Sequence[Projection], training: Sequence[Tensor]
) -> Targets:
    """The densities that the flow maps reals onto."""
    if fit.spec.target.kind is TargetKind.NORMAL:
        return normal_targets(projections)
    if fit.spec.target.images_per_average == 1:
        return single_targets(training, len(parts.train), fit.spec.target, fit.train.seed)
    averaging = Averaging(
        views=store.views[fit.spec.name],
        rows=[store.entries[index].first[fit.spec.name] for index in parts.train],
        target=fit.spec.target,
        seed=fit.train.seed,
    )
    return mu_targets(averaging, fit.encoder, projections, fit.progress)


def _train(fit: BranchFit, chosen: Chosen, features: list[Tensor], held_out: list[Tensor], targets: Targets) -> Trained:
    """The trained flows, continued from the last checkpoint if there is one."""
    resumed = fit.work.load_checkpoint()
    epochs = chosen.train.epochs if chosen.branch.flow.steps else 0
    fit.progress.stage(fit.work.stage("train"), epochs - (resumed.epoch if resumed else 0))

    def on_epoch(progress: Progress) -> None:
        fit.progress.advance(min(progress.epoch, 1))  # epoch 0 is before training

    hooks = TrainHooks(on_epoch=on_epoch, save=fit.work.save_checkpoint, resume=resumed)
    mixtures = [copy.deepcopy(mixture).to(fit.encoder.placement.device) for mixture in targets.mixtures]
    return train(features, held_out, mixtures, chosen.branch.flow, chosen.train, hooks=hooks)


def branch_history(name: str, fitted: FittedBranch) -> Iterator[Epoch]:
    """Every epoch of the rounds of leaving out, then of the final training."""
    final = Round((), fitted.branch.spec.flow.steps, fitted.history)
    for stage, one in [*(("select", one) for one in fitted.rounds), ("train", final)]:
        for epoch in one.history:
            yield Epoch(
                branch=name,
                stage=stage,
                left_out="+".join(one.left_out),
                steps=one.steps,
                epoch=epoch.epoch,
                learning_rate=epoch.learning_rate,
                train_nll=epoch.train_nll,
                validation_nll=epoch.validation_nll,
                left_out_nll=epoch.other_nll,
                left_out_rate=epoch.other_rate,
            )
