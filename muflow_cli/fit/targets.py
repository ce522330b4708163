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
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.executor import pipelined
from muflow_cli.engine.mixture import Mixture, MixtureFit, fit_mixture
from muflow_cli.engine.projection import Projection
from muflow_cli.fit.features import view_chunks
from muflow_cli.progress import ProgressListener
from muflow_cli.specs import TargetSpec

# The same on all machines, because vectors are drawn and projected batch by batch.
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Targets:
    """The fitted mixture of each layer, and the overlap of the averages."""

    fits: tuple[MixtureFit, ...]
    overlap: Overlap

    @property
    def mixtures(self) -> list[Mixture]:
        """The densities alone."""
        return [fit.mixture for fit in self.fits]


def normal_targets(projections: Sequence[Projection]) -> Targets:
    """N(0, I) at every layer: the FastFlow baseline, without averages."""
    fits = [MixtureFit(Mixture.normal(p.dimensions), 1, 0.0, {}, raised=False) for p in projections]
    return Targets(tuple(fits), Overlap(0.0, 0.0))


def single_targets(features: Sequence[Tensor], images: int, target: TargetSpec, seed: int) -> Targets:
    """The densities of single reals, which are averages of one image: nothing is drawn or encoded again.

    Args:
        features: per layer (n, D, g, g) of all views of the training reals.
        images: number of training reals.
        target: components, regularisation, and the most vectors of a layer, drawn at random.
        seed: of the draw and of the mixtures.
    """
    generator = torch.Generator().manual_seed(seed)
    fits = []
    for layer in features:
        vectors = layer.float().flatten(2).movedim(1, -1).reshape(-1, layer.shape[1])
        drawn = torch.randperm(len(vectors), generator=generator)[: target.max_vectors].sort().values
        fits.append(fit_mixture(vectors[drawn], target.components, target.reg_covar, seed))
    return Targets(tuple(fits), Overlap(0.0, float(images)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Averaging:
    """How averages are made.

    Attributes:
        views: (n, size, size, 3) uint8, of the store.
        rows: row of one view of each training image.
        target: number of averages, and images in each.
        seed: for the draws.
    """

    views: NDArray[np.uint8]
    rows: Sequence[int]
    target: TargetSpec
    seed: int


def mu_targets(
    averaging: Averaging, encoder: PlacedEncoder, projections: Sequence[Projection], progress: ProgressListener
) -> Targets:
    """Draw and average (Eq. 1), encode the averages, fit one mixture per layer to their position vectors (Eq. 2)."""
    target = averaging.target
    generator = torch.Generator().manual_seed(averaging.seed)
    images = len(averaging.rows)
    members = draw_members(images, target.n_averages, target.images_per_average, generator)
    progress.stage("average", images)

    def training_images() -> Iterator[Tensor]:
        for chunk in view_chunks(averaging.views, averaging.rows):
            yield chunk
            progress.advance(len(chunk))

    averages = average(training_images(), members, images)
    progress.stage("encode averages", target.n_averages)
    vectors = _vectors(averages, encoder, projections, target, generator, progress)
    del averages
    progress.stage("fit target", len(projections))
    fits = []
    for layer in vectors:
        fits.append(fit_mixture(layer, target.components, target.reg_covar, averaging.seed))
        progress.advance()
    return Targets(tuple(fits), overlap(members, images))


def _vectors(
    averages: Tensor,
    encoder: PlacedEncoder,
    projections: Sequence[Projection],
    target: TargetSpec,
    generator: torch.Generator,
    progress: ProgressListener,
) -> list[Tensor]:
    """Per layer (n, D): at most `target.max_vectors` position vectors, equally many from each average."""
    per_average = math.ceil(target.max_vectors / len(averages))
    collected: list[list[Tensor]] = [[] for _ in projections]

    def projected(pooled: list[Tensor]) -> list[Tensor]:
        return [projection(map_.cpu()) for projection, map_ in zip(projections, pooled, strict=True)]

    for batch, maps in pipelined(averages.split(_BATCH), partial(encoder.submit, after=projected)):
        for layer, projection in enumerate(maps):
            flat = projection.flatten(2).movedim(1, -1)
            drawn = torch.randperm(flat.shape[1], generator=generator)[:per_average]
            collected[layer].append(flat[:, drawn].reshape(-1, flat.shape[-1]))
        progress.advance(len(batch))
    return [torch.cat(parts)[: target.max_vectors] for parts in collected]
