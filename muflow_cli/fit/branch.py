"""One branch fitted to its stored views: encode once -> projection -> target -> flow -> Branch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from muflow_cli.detector import BranchProvenance
from muflow_cli.engine.branch import Branch, Encoder, Head
from muflow_cli.engine.devices import Placement
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.projection import Projection, fit_projection
from muflow_cli.engine.train_state import Progress, TrainHooks
from muflow_cli.engine.training import Trained, train
from muflow_cli.engine.weights import Weights
from muflow_cli.fit.features import chunks, encode, project
from muflow_cli.fit.split import Split
from muflow_cli.fit.store import Store
from muflow_cli.fit.targets import Averaging, Targets, mu_targets, normal_targets
from muflow_cli.fit.work import Work
from muflow_cli.progress import ProgressListener
from muflow_cli.specs import BranchSpec, TargetKind, TrainSpec


@dataclass(frozen=True, slots=True)
class FittedBranch:
    """A branch, its provenance, and the columns whose regularisation had to be raised."""

    branch: Branch
    provenance: BranchProvenance
    raised: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchFit:
    """The inputs of a branch's fit.

    Attributes:
        spec: of the branch.
        train: seed, epochs, patience.
        weights: of its encoder.
        placement: where to compute.
        work: the branch's folder.
        progress: told of the stages.
    """

    spec: BranchSpec
    train: TrainSpec
    weights: Weights
    placement: Placement
    work: Work
    progress: ProgressListener


def fit_branch(fit: BranchFit, store: Store, parts: Split) -> FittedBranch:
    """Fit projection, target and flow of every layer to the training reals; held-out reals decide when to stop."""
    spec, work = fit.spec, fit.work
    encoder = Encoder.load(spec.feature, fit.weights.tensors)
    placed = PlacedEncoder(encoder, fit.placement)
    train_rows, held_out_rows = store.rows(spec.name, parts.train), store.rows(spec.name, parts.validation)
    pooled = encode(placed, store.views[spec.name], train_rows + held_out_rows, work, fit.progress)
    trained_on = len(train_rows)
    fit.progress.stage(work.stage("statistics"), len(pooled))
    projections = [fit_projection(chunks(map_[:trained_on]), spec.feature) for map_ in pooled]
    features = [
        project(map_, projection, spec.feature, work.file(f"vectors.{index}"))
        for index, (map_, projection) in enumerate(zip(pooled, projections, strict=True))
    ]
    targets = _targets(fit, store, parts, placed, projections)
    trained = _train(fit, [f[:trained_on] for f in features], [f[trained_on:] for f in features], targets)
    heads = [
        Head(projection, flow.cpu(), mixture, spec.target.score_kind)
        for projection, flow, mixture in zip(projections, trained.flows, targets.mixtures, strict=True)
    ]
    branch = Branch(spec, encoder, heads).requires_grad_(False)
    provenance = BranchProvenance(
        weights_origin=fit.weights.origin,
        weights_sha256=fit.weights.sha256,
        overlap=targets.overlap.shared,
        effective_sample_size=targets.overlap.effective_sample_size,
        components=tuple(fitted.components for fitted in targets.fits),
        reg_covar=tuple(fitted.reg_covar for fitted in targets.fits),
        epochs=trained.epochs,
        best_epoch=trained.best_epoch,
        train_nll=trained.train_nll,
        validation_nll=trained.validation_nll,
    )
    raised = (column for column, fitted in zip(branch.columns, targets.fits, strict=True) if fitted.raised)
    return FittedBranch(branch, provenance, tuple(raised))


def _targets(
    fit: BranchFit, store: Store, parts: Split, encoder: PlacedEncoder, projections: Sequence[Projection]
) -> Targets:
    """The densities that the flow maps reals onto."""
    if fit.spec.target.kind is TargetKind.NORMAL:
        return normal_targets(projections)
    averaging = Averaging(
        views=store.views[fit.spec.name],
        rows=[store.entries[index].first[fit.spec.name] for index in parts.train],
        target=fit.spec.target,
        seed=fit.train.seed,
    )
    return mu_targets(averaging, encoder, projections, fit.progress)


def _train(fit: BranchFit, features: list[Tensor], held_out: list[Tensor], targets: Targets) -> Trained:
    """The trained flows, continued from the last checkpoint if there is one."""
    fit.progress.stage(fit.work.stage("train"), fit.train.epochs)

    def on_epoch(_progress: Progress) -> None:
        fit.progress.advance()

    hooks = TrainHooks(on_epoch=on_epoch, save=fit.work.save_checkpoint, resume=fit.work.load_checkpoint())
    mixtures = [copy.deepcopy(mixture).to(fit.placement.device) for mixture in targets.mixtures]
    return train(features, held_out, mixtures, fit.spec.flow, fit.train, hooks=hooks)
