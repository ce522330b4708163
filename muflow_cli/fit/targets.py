"""Averages of training reals -> the density that the flow maps single reals onto."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muflow_cli.engine.averaging import Overlap, average, draw_members, overlap
from muflow_cli.engine.cores import pipelined
from muflow_cli.engine.features import Space
from muflow_cli.engine.mixture import Mixture, MixtureFit, fit_mixture
from muflow_cli.engine.scoring import Extractor
from muflow_cli.specs import TargetSpec
from muflow_cli.watch import Watch

_CHUNK = 64
# One figure for all machines: vectors are drawn, and projected, by the batch.
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Targets:
    """Per scale the fitted mixture; how far the averages are from being independent."""

    fits: tuple[MixtureFit, ...]
    overlap: Overlap

    @property
    def mixtures(self) -> list[Mixture]:
        """The densities alone."""
        return [fit.mixture for fit in self.fits]


def normal_targets(spaces: Sequence[Space]) -> Targets:
    """N(0, I) at every scale: the FastFlow baseline, no averages drawn."""
    fits = [MixtureFit(Mixture.normal(space.dimensions), 1, 0.0, {}, raised=False) for space in spaces]
    return Targets(tuple(fits), Overlap(0.0, 0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Averaging:
    """Where averages come from: the store's views, one place per training picture, and what to draw."""

    views: NDArray[np.uint8]
    places: Sequence[int]
    target: TargetSpec
    seed: int


def mu_targets(averaging: Averaging, extractor: Extractor, spaces: Sequence[Space], watch: Watch) -> Targets:
    """Draw and average (Eq. 1), encode the averages, fit one mixture per scale to their position vectors (Eq. 2)."""
    target = averaging.target
    generator = torch.Generator().manual_seed(averaging.seed)
    pictures = len(averaging.places)
    members = draw_members(pictures, target.means, target.mean_size, generator)
    watch.stage("average", pictures)
    means = average(_pictures(averaging, watch), members, pictures)
    watch.stage("encode averages", target.means)
    vectors = _vectors(means, extractor, spaces, target, generator, watch)
    del means
    watch.stage("fit target", len(spaces))
    fits = []
    for scale in vectors:
        fits.append(fit_mixture(scale, target.components, target.reg_covar, averaging.seed))
        watch.advance()
    return Targets(tuple(fits), overlap(members, pictures))


def _pictures(averaging: Averaging, watch: Watch) -> Iterator[Tensor]:
    for start in range(0, len(averaging.places), _CHUNK):
        places = list(averaging.places[start : start + _CHUNK])
        yield torch.from_numpy(averaging.views[places]).permute(0, 3, 1, 2)
        watch.advance(len(places))


def _vectors(
    means: Tensor,
    extractor: Extractor,
    spaces: Sequence[Space],
    target: TargetSpec,
    generator: torch.Generator,
    watch: Watch,
) -> list[Tensor]:
    """Per scale (n, D): position vectors of the averages, at most `target.max_vectors`, the same share of each."""
    per_average = math.ceil(target.max_vectors / len(means))
    collected: list[list[Tensor]] = [[] for _ in spaces]

    def projected(piece: Tensor) -> list[Tensor]:
        return [space.apply(pooled.cpu()) for space, pooled in zip(spaces, extractor(piece), strict=True)]

    for batch, maps in pipelined(means.split(_BATCH), partial(extractor.spread, projected)):
        for scale, projections in enumerate(maps):
            flat = projections.flatten(2).movedim(1, -1)
            keep = torch.randperm(flat.shape[1], generator=generator)[:per_average]
            collected[scale].append(flat[:, keep].reshape(-1, flat.shape[-1]))
        watch.advance(len(batch))
    return [torch.cat(parts)[: target.max_vectors] for parts in collected]
