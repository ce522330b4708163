"""Maximum likelihood for the flows of all layers at once, on cached features; held-out reals decide when to stop."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from muflow_cli.engine.executor import one_thread
from muflow_cli.engine.flow import PlainFlow, build_flow, plain, trace
from muflow_cli.engine.likelihood import nll
from muflow_cli.engine.mixture import Mixture
from muflow_cli.engine.train_state import Progress, TrainHooks, TrainState
from muflow_cli.errors import NotFinite, TooFewImages
from muflow_cli.specs import FlowSpec, TrainSpec

__all__ = ["Progress", "TrainHooks", "TrainState", "Trained", "outside_rate", "train"]

STATISTICS_CHUNK: Final = 1024
_Each = Callable[[Callable[[int], Tensor], Iterable[int]], Iterable[Tensor]]
# Of the rate at which reals of other sources lie outside the held-out reals' scores; ten held-out reals reach it.
NOMINAL: Final = 0.2
PLATEAU_COUNTS: Final = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


@dataclass(frozen=True, slots=True)
class Trained:
    """Trained flows, one per layer, as they were at the best epoch; NLLs in nats per dimension, mean over layers."""

    flows: list[PlainFlow]
    epochs: int
    best_epoch: int
    train_nll: float
    validation_nll: float
    history: tuple[Progress, ...]


def train(
    train_features: Sequence[Tensor],
    validation_features: Sequence[Tensor],
    targets: Sequence[Mixture],
    flow: FlowSpec,
    train: TrainSpec,
    *,
    hooks: TrainHooks,
    others: Sequence[Tensor] | None = None,
) -> Trained:
    """Fit one flow per layer to single reals under the layer's target.

    The loss is the mean over layers of NLL / D, and the flow's penalty where it has one; every reported loss is without
    the penalty. The result is the flow of the epoch with the lowest loss on the
    held-out reals, epoch 0 (before training) included. The same input ends in the same flows, resumed or not.

    Args:
        train_features: per layer (n, D, H, W), any float dtype, on any device, possibly memory-mapped; a batch at a
            time is copied to the target's device as float32.
        validation_features: the same of reals that are held out.
        targets: per layer; they decide the device.
        flow: the flow of every layer; 0 steps leave nothing to train.
        train: seed, epochs, batches, learning rate and patience.
        hooks: progress, checkpoints, resumption.
        others: features of reals of sources that are not trained on. Their NLL and rate enter the history, and their
            rate in place of the held-out reals' NLL decides which epoch is best. It is less steady, so that twice the
            patience passes before training stops.

    Raises:
        NotFinite: if a likelihood is not finite; epoch and layer are named.
        TooFewImages: if there is nothing to train on or to validate with.

    Source: Pontorno et al. 2026, "The method"; Yu et al. 2021.
    """
    for purpose, features in (("training", train_features), ("validation", validation_features)):
        if not len(features[0]):
            raise TooFewImages(purpose, 0, 1, "one per batch")
    with _lanes(flow, targets) as each:
        run = _Run(train_features, validation_features, targets, flow, train, each, others)
        if hooks.resume is None:
            hooks.on_epoch(run.before())
        else:
            run.restore(hooks.resume)
        while run.goes_on():
            hooks.on_epoch(run.epoch())
            if hooks.save is not None and run.history[-1].epoch % train.checkpoint_every == 0:
                hooks.save(run.state())
        return run.result()


@contextlib.contextmanager
def _lanes(flow: FlowSpec, targets: Sequence[Mixture]) -> Iterator[_Each]:
    """A `map` over layers: at the same time where a layer is too little work for a whole processor or a GPU."""
    if set(flow.kernels) != {1} or any(target.means.is_cuda for target in targets):
        yield map
        return
    # Layers share nothing until the optimiser's step, so that the result does not depend on the number of threads.
    pool = ThreadPoolExecutor(len(targets), "train", initializer=torch.set_num_threads, initargs=(1,))
    with one_thread(), pool:
        yield pool.map


class _Run:
    """The moving parts of one training run."""

    def __init__(
        self,
        train_features: Sequence[Tensor],
        validation_features: Sequence[Tensor],
        targets: Sequence[Mixture],
        flow: FlowSpec,
        train: TrainSpec,
        each: _Each,
        others: Sequence[Tensor] | None,
    ) -> None:
        self.each = each
        self.train_features, self.validation_features, self.others = train_features, validation_features, others
        self.targets = [copy.deepcopy(target).float() for target in targets]
        self.spec = train
        self.trainable = flow.steps > 0
        self.spectral_penalty = flow.spectral_penalty
        self.flows = [
            build_flow(
                features.shape[1],
                flow,
                train.seed + layer,
                target.spread() / _root_mean_variance(features) if flow.matched_init and flow.steps else 1.0,
            ).to(target.means.device)
            for layer, (features, target) in enumerate(zip(train_features, targets, strict=True))
        ]
        self.generator = torch.Generator().manual_seed(train.seed)
        self.history: list[Progress] = []
        self.best: dict[str, Tensor] = self.parameters()
        self.best_epoch = 0
        if self.trainable:
            self.optimiser = torch.optim.AdamW(
                self.named().values(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
            )
            self.plateau = ReduceLROnPlateau(
                self.optimiser, factor=train.plateau_factor, patience=train.plateau_patience
            )

    def named(self) -> dict[str, Parameter]:
        """Trained parameters by "layer.name"."""
        return {
            f"{layer}.{name}": parameter
            for layer, flow in enumerate(self.flows)
            for name, parameter in flow.named_parameters()
            if parameter.requires_grad
        }

    def parameters(self) -> dict[str, Tensor]:
        """Copies of the trained parameters."""
        return {name: parameter.detach().clone() for name, parameter in self.named().items()}

    def before(self) -> Progress:
        """Epoch 0: both losses before training."""
        trained = _mean(self.losses(self.train_features), len(self.train_features[0]), 0)
        return self.record(0, trained, self.spec.learning_rate)

    def goes_on(self) -> bool:
        """Whether to train another epoch."""
        epoch = self.history[-1].epoch
        patience = self.spec.stop_patience * (1 if self.others is None else 2)
        return self.trainable and epoch < self.spec.epochs and epoch - self.best_epoch < patience

    def epoch(self) -> Progress:
        """One pass over the training features, then the held-out ones."""
        epoch, rate = self.history[-1].epoch + 1, self.optimiser.param_groups[0]["lr"]
        count = len(self.train_features[0])
        order = torch.randperm(count, generator=self.generator)
        # Equal batches: a last batch of two images would cost a whole step and count as much as one of sixty. Within
        # a batch the rows are in the file's order, which makes memory-mapped reads faster.
        batches = [rows.sort().values for rows in order.tensor_split(math.ceil(count / self.spec.batch_size))]
        losses = [self.step(rows) * len(rows) for rows in batches]
        trained = _mean(torch.stack(losses), count, epoch)
        progress = self.record(epoch, trained, rate)
        if _watched(progress) < _watched(self.history[self.best_epoch]):
            self.best, self.best_epoch = self.parameters(), epoch
        self.plateau.step(progress.validation_nll)
        return progress

    def record(self, epoch: int, trained: float, rate: float) -> Progress:
        """Measure the current flows on the reals that they are not trained on, and add the epoch to the history."""
        held_out = self.losses(self.validation_features)
        progress = Progress(epoch, trained, _mean(held_out, len(held_out), epoch), rate)
        if self.others is not None:
            others = self.losses(self.others)
            other_nll = _mean(others, len(others), epoch)
            outside = outside_rate(others.mean(dim=1), held_out.mean(dim=1))
            progress = replace(progress, other_nll=other_nll, other_rate=outside)
        self.history.append(progress)
        return progress

    def step(self, rows: Tensor) -> Tensor:
        """One update of every flow; (S,) losses, left on the device so that nothing waits for them."""
        self.optimiser.zero_grad()
        losses = list(self.each(partial(self.gradients, rows), range(len(self.flows))))
        self.optimiser.step()
        return torch.stack(losses)

    def gradients(self, rows: Tensor, layer: int) -> Tensor:
        """Compute the gradients of one flow, and return its loss.

        One whole layer at a time, so that its activations are freed before the next layer begins.
        """
        flow, target = self.flows[layer], self.targets[layer]
        x = _batch(self.train_features[layer][rows], target)
        live = trace(flow)
        loss = nll(live, target, x).mean() / x.shape[1]
        objective = loss
        if self.spectral_penalty:
            steepness = torch.stack([step.steepness() for step in live.steps])
            objective = loss + self.spectral_penalty * steepness.mean()
        (objective / len(self.flows)).backward()
        # Each flow is clipped by itself: a steep layer must not slow the others down.
        clip_grad_norm_(flow.parameters(), self.spec.clip_norm)
        return loss.detach()

    def losses(self, features: Sequence[Tensor]) -> Tensor:
        """(n, S) losses of images under the current flows, float64."""
        return torch.stack(list(self.each(partial(self.loss, features), range(len(self.flows)))), dim=1)

    @torch.no_grad()
    def loss(self, features: Sequence[Tensor], layer: int) -> Tensor:
        """(n,) losses of images under one flow."""
        flow, target = plain(self.flows[layer]), self.targets[layer]
        parts = [
            nll(flow, target, _batch(chunk, target)).double().sum(dim=(1, 2)) / chunk[0].numel()
            for chunk in features[layer].split(self.spec.batch_size)
        ]
        return torch.cat(parts)

    def state(self) -> TrainState:
        """The content of a checkpoint."""
        states = self.optimiser.state
        moments = {f"{key}.{name}": t for key, p in self.named().items() for name, t in states[p].items()}
        counts = self.plateau.state_dict()
        return TrainState(
            parameters=self.parameters(),
            best=self.best,
            moments={name: moment.clone() for name, moment in moments.items()},
            generator=self.generator.get_state(),
            plateau={name: counts[name] for name in PLATEAU_COUNTS},
            learning_rate=self.optimiser.param_groups[0]["lr"],
            history=tuple(self.history),
            best_epoch=self.best_epoch,
        )

    def restore(self, state: TrainState) -> None:
        """Continue from `state`."""
        self.history, self.best_epoch = list(state.history), state.best_epoch
        self.generator.set_state(state.generator.cpu())
        self.best = {name: state.best[name].to(p.device) for name, p in self.named().items()}
        self.load(state.parameters)
        moments = ("step", "exp_avg", "exp_avg_sq")
        states = {i: {m: state.moments[f"{name}.{m}"] for m in moments} for i, name in enumerate(self.named())}
        groups = self.optimiser.state_dict()["param_groups"]
        groups[0]["lr"] = state.learning_rate
        self.optimiser.load_state_dict({"state": states, "param_groups": groups})
        self.plateau.load_state_dict(self.plateau.state_dict() | dict(state.plateau))

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy `parameters` into the flows."""
        with torch.no_grad():
            for name, parameter in self.named().items():
                parameter.copy_(parameters[name])

    def result(self) -> Trained:
        """The flows of the best epoch."""
        self.load(self.best)
        best = self.history[self.best_epoch]
        return Trained(
            flows=[plain(flow) for flow in self.flows],
            epochs=self.history[-1].epoch,
            best_epoch=self.best_epoch,
            train_nll=best.train_nll,
            validation_nll=best.validation_nll,
            history=tuple(self.history),
        )


def _root_mean_variance(features: Tensor) -> float:
    """Root of the mean over channels of the variance over images and positions; 1 where nothing varies."""
    count = len(features) * features[0, 0].numel()
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in features.split(STATISTICS_CHUNK):
        wide = chunk.double().cpu()
        total += wide.sum(dim=(0, 2, 3))
        squares += wide.square().sum(dim=(0, 2, 3))
    variance = float((squares / count - (total / count).square()).mean())
    return math.sqrt(variance) if variance > 0 else 1.0


def _watched(progress: Progress) -> float:
    """What is least at the best epoch."""
    return progress.validation_nll if progress.other_rate is None else progress.other_rate


def outside_rate(scores: Tensor, reals: Tensor) -> float:
    """Share of `scores` (n,) whose two-sided conformal p-value among `reals` (m,) is at most NOMINAL.

    It is about NOMINAL for scores that are distributed as the reals'.
    """
    ordered = reals.sort().values.contiguous()
    below = torch.searchsorted(ordered, scores.contiguous(), right=True)
    above = len(reals) - torch.searchsorted(ordered, scores.contiguous(), right=False)
    p_values = 2 * (torch.minimum(below, above) + 1) / (len(reals) + 1)
    return float((p_values <= NOMINAL).double().mean())


def _batch(features: Tensor, target: Mixture) -> Tensor:
    return features.to(target.means.device, torch.float32)


def _mean(sums: Tensor, count: int, epoch: int) -> float:
    """Loss of a pass: `sums` over batches or images (n, S), averaged over its `count` images and over layers.

    A pass waits for the device only here, so a NaN or infinite loss is noticed here.
    """
    sums = sums.double().cpu()
    bad = (~torch.isfinite(sums)).nonzero()
    if len(bad):
        remedy = (
            "lower the learning rate (--set train.learning_rate=) or raise the target's regularisation "
            "(--set target.reg_covar=)"
            if epoch
            else "its features hold NaN or infinite values, so encode with --precision fp32"
        )
        where = f"epoch {epoch}, layer {int(bad[0, 1]) + 1} of {sums.shape[1]}"
        raise NotFinite(f"training diverged with a NaN or infinite loss in {where}", remedy)
    return float(sums.sum() / (count * sums.shape[1]))
