"""Views of images -> columns and maps, in input order: what scan, calibrate, bench and fit score with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Final, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from muflow_cli.engine.backends import compute
from muflow_cli.engine.branch import Branch
from muflow_cli.engine.devices import Placement
from muflow_cli.engine.executor import PieceExecutor, gather, pipelined
from muflow_cli.errors import NotFinite

Views = Mapping[str, NDArray[np.uint8]]

# Units held for one batch, in batches of views.
_HELD: Final = 4


@runtime_checkable
class Viewed(Protocol):
    """A unit that can be scored: (V, H, W, 3) uint8 views of each branch by its name."""

    @property
    def views(self) -> Views:
        """The views of each branch."""
        ...


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ScoredUnit(Generic[_T]):
    """A unit and its scores.

    Attributes:
        unit: as given.
        columns: (S,) float64, nats per dimension: the mean over positions and over the unit's distinct views.
        maps: branch -> (V, g, g) mean over layers of the position scores, on the finest layer's grid; empty unless
            requested.
        features: (F,) float16 channel statistics of every branch, the mean over its distinct views; empty unless
            requested.
    """

    unit: _T
    columns: NDArray[np.float64]
    maps: Mapping[str, NDArray[np.float32]]
    features: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Scores:
    """Columns (S,), maps and features of one image, as in ScoredUnit."""

    columns: NDArray[np.float64]
    maps: Mapping[str, NDArray[np.float32]]
    features: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Extras:
    """What to keep of a pass beside the columns: position scores, channel statistics."""

    maps: bool = False
    features: bool = False


COLUMNS_ONLY: Final = Extras()
_NO_FEATURES: Final = np.empty(0, np.float16)


class Scorer:
    """The branches of a detector on a device.

    Args:
        branches: by name, in the order of their columns.
        placement: where and how to compute.
    """

    def __init__(self, branches: Mapping[str, Branch], placement: Placement) -> None:
        self.placement = placement
        self._computes = {name: compute(branch, placement) for name, branch in branches.items()}
        self._executor = PieceExecutor(placement)
        self._splitters = {name: self._executor.splitter() for name in branches}

    @property
    def ready(self) -> bool:
        """Whether the first batch begins at once, without a preparation that takes long."""
        return all(own.ready() for own in self._computes.values())

    def submit(self, images: Sequence[Views], extras: Extras = COLUMNS_ONLY) -> Future[list[Scores]]:
        """Begin to score images by the views of every branch; the future holds one entry per image, in order.

        Its result raises NotFinite where a score is not finite.
        """
        stacks = {name: [views[name] for views in images] for name in self._computes}

        def combined(branches: list[list[Tensor]]) -> list[Scores]:
            parts = [
                _image_scores(tensors, stack, extras) for tensors, stack in zip(branches, stacks.values(), strict=True)
            ]
            return [
                Scores(
                    np.concatenate([part.columns for part in image]),
                    {name: part.map for name, part in zip(stacks, image, strict=True) if part.map is not None},
                    np.concatenate([part.features for part in image]),
                )
                for image in zip(*parts, strict=True)
            ]

        return gather([self._begin(name, stack, extras) for name, stack in stacks.items()], combined)

    def _begin(self, name: str, views: Sequence[NDArray[np.uint8]], extras: Extras) -> Future[list[Tensor]]:
        computing, splitter = partial(self._computes[name], features=extras.features), self._splitters[name]
        stacked = torch.from_numpy(np.concatenate(views)).permute(0, 3, 1, 2)
        return self._executor.submit(lambda piece: splitter.run(computing, piece), stacked, padded=True)


@dataclass(frozen=True, slots=True)
class _BranchScores:
    """What one branch says of one image: (S,) columns, its map (V, g, g) or None, (F,) features or none."""

    columns: NDArray[np.float64]
    map: NDArray[np.float32] | None
    features: NDArray[np.float16]


def _image_scores(tensors: Sequence[Tensor], views: Sequence[NDArray[np.uint8]], extras: Extras) -> list[_BranchScores]:
    """Per image the means over its views and positions, and what `extras` names of the rest."""
    position_scores = tensors[:-1] if extras.features else tensors
    by_view = torch.stack([m.mean(dim=(1, 2)) for m in position_scores], dim=1).double().numpy()
    if not np.isfinite(by_view).all():
        raise NotFinite("a score is NaN or infinite", "scan with --precision fp32, or fit the detector again")
    spans = list(pairwise(accumulate(map(len, views), initial=0)))
    flat = None
    if extras.maps:
        side = position_scores[0].shape[-1]
        same = [nn.functional.interpolate(m[:, None], size=(side, side), mode="nearest")[:, 0] for m in position_scores]
        flat = torch.stack(same).mean(dim=0).numpy()
    features = _half(tensors[-1].numpy(), spans) if extras.features else [_NO_FEATURES] * len(spans)
    return [
        _BranchScores(by_view[start:end].mean(axis=0), None if flat is None else flat[start:end], own)
        for (start, end), own in zip(spans, features, strict=True)
    ]


def _half(by_view: NDArray[np.float32], spans: Sequence[tuple[int, int]]) -> list[NDArray[np.float16]]:
    """The mean over each image's views in float16; what float16 cannot hold becomes its largest number."""
    largest = np.finfo(np.float16).max
    means = np.stack([by_view[start:end].mean(axis=0) for start, end in spans])
    return list(np.clip(means, -largest, largest).astype(np.float16))


def score_stream(units: Iterable[_T], scorer: Scorer, extras: Extras = COLUMNS_ONLY) -> Iterator[ScoredUnit[_T] | _T]:
    """Every unit in its order: those with views (`Viewed`) as ScoredUnit, the others unchanged.

    Units are drawn in the calling thread, a few batches ahead of the results, which bounds the memory.

    Args:
        units: units to score, mixed with others (unreadable inputs, content that is already known).
        scorer: of the detector.
        extras: what else to give, from the same pass.

    Raises:
        NotFinite: where a score is not finite.
    """

    def begin(batch: list[_T]) -> Future[list[Scores]]:
        views = [unit.views for unit in batch if isinstance(unit, Viewed)]
        if views:
            return scorer.submit(views, extras)
        nothing: Future[list[Scores]] = Future()
        nothing.set_result([])
        return nothing

    for batch, scores in pipelined(_batches(units, scorer.placement.batch_size), begin):
        rest = iter(scores)
        for unit in batch:
            if isinstance(unit, Viewed):
                own = next(rest)
                yield ScoredUnit(unit, own.columns, own.maps, own.features)
            else:
                yield unit


def _batches(units: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of units whose views fill a batch, of limited length even where few units need scoring."""
    held: list[_T] = []
    views = 0
    for unit in units:
        held.append(unit)
        if isinstance(unit, Viewed):
            views += sum(map(len, unit.views.values()))
        if views >= size or len(held) >= _HELD * size:
            yield held
            held, views = [], 0
    if held:
        yield held
