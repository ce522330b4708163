"""Progress and hooks of training, and the state from which a killed run continues. No pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Progress:
    """One epoch; epoch 0 is the flow before training.

    Attributes:
        epoch: passes over the training features so far.
        train_nll: nats per dimension, mean over layers, during the pass (while the weights still change).
        validation_nll: the same for the held-out features, after the pass.
        learning_rate: of the pass.
        other_nll: the NLL of reals of a source that takes no part in training, after the pass; None without any.
        other_rate: share of them outside the central part of the held-out reals' scores (see `training.NOMINAL`).
    """

    epoch: int
    train_nll: float
    validation_nll: float
    learning_rate: float
    other_nll: float | None = None
    other_rate: float | None = None


@dataclass(frozen=True, slots=True)
class TrainState:
    """Everything that the rest of a run depends on: a resumed run ends as if it had not been interrupted.

    Attributes:
        parameters: trained tensors of all flows, by "layer.name".
        best: the same at the best epoch.
        moments: AdamW's `step`, `exp_avg` and `exp_avg_sq`, by "layer.name.moment".
        generator: state of the shuffling generator.
        plateau: the counters of ReduceLROnPlateau.
        learning_rate: of the next epoch.
        history: one Progress per epoch so far, from epoch 0.
        best_epoch: the epoch of `best`.
    """

    parameters: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    generator: Tensor
    plateau: Mapping[str, float]
    learning_rate: float
    history: tuple[Progress, ...]
    best_epoch: int

    @property
    def epoch(self) -> int:
        """The last epoch of the state."""
        return self.history[-1].epoch

    def to_parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Contiguous CPU tensors by name, and the rest as JSON values."""
        named = {"generator": self.generator}
        for kind in ("parameters", "best", "moments"):
            named |= {f"{kind}/{name}": tensor for name, tensor in getattr(self, kind).items()}
        rest = {
            "plateau": dict(self.plateau),
            "learning_rate": self.learning_rate,
            "history": [asdict(progress) for progress in self.history],
            "best_epoch": self.best_epoch,
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}, rest

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> TrainState:
        """The state whose `to_parts()` these are; KeyError where one is missing."""
        kinds: dict[str, dict[str, Tensor]] = {"parameters": {}, "best": {}, "moments": {}}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            if name:
                kinds[kind][name] = tensor
        return cls(
            **kinds,
            generator=tensors["generator"],
            plateau=rest["plateau"],
            learning_rate=rest["learning_rate"],
            history=tuple(Progress(**progress) for progress in rest["history"]),
            best_epoch=rest["best_epoch"],
        )


@dataclass(frozen=True, slots=True)
class TrainHooks:
    """What training calls, and where it starts.

    Attributes:
        on_epoch: called after every epoch, epoch 0 included.
        save: stores a state, every `checkpoint_every` epochs.
        resume: the state to continue from, of a run with the same features, targets and specs.
    """

    on_epoch: Callable[[Progress], None] = lambda _progress: None
    save: Callable[[TrainState], None] | None = None
    resume: TrainState | None = None
