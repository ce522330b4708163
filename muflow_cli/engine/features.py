"""Encoder maps -> standardised, projected, pooled vectors on a grid: one space for averages, flow and target.

A vector flow is the case grid = 1; there is no second code path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from muflow_cli.errors import NotFinite, TooFewPictures
from muflow_cli.specs import FeatureSpec, Normalisation

# A channel that never varies among the training reals carries nothing; its deviation is taken as this instead of 0.
_LEAST_STD = 1e-6


def pool(map_: Tensor, spec: FeatureSpec) -> Tensor:
    """Pooled map (B, C, g, g) in float32 of an encoder map (B, C, H, W); its own grid where `spec.grid` is 0.

    Averaging commutes with the affine maps that follow, so it comes first, where it saves most.
    """
    if spec.normalisation is Normalisation.LAYERNORM:
        map_ = functional.layer_norm(map_.float(), map_.shape[1:])
    if spec.grid == 0:
        return map_.float()
    if map_.shape[-2] % spec.grid == 0 and map_.shape[-1] % spec.grid == 0:
        if map_.is_contiguous(memory_format=torch.channels_last):
            return _pool_rows(map_, spec.grid)
        batch, channels, height, width = map_.shape
        cells = map_.reshape(batch, channels, spec.grid, height // spec.grid, spec.grid, width // spec.grid)
        return cells.mean(dim=(3, 5), dtype=torch.float32)
    return functional.adaptive_avg_pool2d(map_.float(), spec.grid)


def _pool_rows(map_: Tensor, grid: int) -> Tensor:
    """The same of a map whose channels lie together in memory, row by row: torch's own means take ten times as long."""
    batch, channels, height, width = map_.shape
    rows = map_.permute(0, 2, 3, 1).reshape(batch * grid, height // grid, width * channels)
    sums = rows[:, 0].float()
    for row in rows.unbind(dim=1)[1:]:
        sums = sums + row
    cells = sums.reshape(batch, grid, grid, width // grid, channels).sum(dim=3)
    return cells.div(height * width // grid**2).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True, slots=True)
class Space:
    """The fixed affine map of one scale, from C channels to D dimensions at every grid position.

    Attributes:
        mean: (C,) of the training reals.
        std: (C,) of the training reals.
        projection: (C, D) orthonormal principal axes of the standardised channels; (C, 0) = no projection, D = C.
    """

    mean: Tensor
    std: Tensor
    projection: Tensor

    @property
    def dimensions(self) -> int:
        """D."""
        return self.projection.shape[1] or self.mean.shape[0]

    def apply(self, pooled: Tensor) -> Tensor:
        """(B, D, g, g) of pooled maps (B, C, g, g)."""
        standard = (pooled - self.mean[:, None, None]) / self.std[:, None, None]
        if self.projection.shape[1] == 0:
            return standard
        return functional.conv2d(standard, self.projection.T[:, :, None, None])

    def to(self, device: torch.device) -> Space:
        """The same space on `device`."""
        return Space(self.mean.to(device), self.std.to(device), self.projection.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a bundle keeps."""
        return {"mean": self.mean, "std": self.std, "projection": self.projection}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Space:
        """The space that `tensors()` described; KeyError where one is missing."""
        return cls(tensors["mean"], tensors["std"], tensors["projection"])


@dataclass(frozen=True, slots=True)
class _Moments:
    count: int
    mean: Tensor
    covariance: Tensor


def _moments(chunks: Iterable[Tensor]) -> _Moments:
    """Mean and covariance of all position vectors of pooled maps (b, C, g, g), one pass, float64, chunk-merged."""
    count, mean, scatter = 0, torch.zeros(()), torch.zeros(())
    for chunk in chunks:
        vectors = chunk.movedim(1, -1).reshape(-1, chunk.shape[1]).double()
        here = vectors.mean(dim=0)
        centred = vectors - here
        gap, total = here - mean, count + len(vectors)
        # Chan, Golub & LeVeque 1979: merging moments of two sets without cancellation.
        scatter = (
            scatter + centred.T @ centred + torch.outer(gap, gap) * (count * len(vectors) / total)
            if count
            else (centred.T @ centred)
        )
        mean = mean + gap * (len(vectors) / total) if count else here
        count = total
    if count < 2:
        raise TooFewPictures("feature statistics", count, 2, "a deviation needs two values")
    return _Moments(count, mean, scatter / (count - 1))


def fit_space(chunks: Iterable[Tensor], spec: FeatureSpec) -> Space:
    """Statistics and principal axes of training reals.

    Args:
        chunks: pooled maps (b, C, g, g), each picture once.
        spec: dimensions above C are taken as C.

    Raises:
        NotFinite: where the encoder gave values that are not finite.

    The sign of an axis is fixed (its largest entry is positive), so that two fits agree.
    """
    moments = _moments(chunks)
    if not bool(moments.covariance.isfinite().all()):
        raise NotFinite("the encoder gave values that are not finite: use --precision fp32, or other weights")
    variance = moments.covariance.diagonal()
    std = variance.sqrt().clamp_min(_LEAST_STD)
    channels = len(std)
    if spec.normalisation is Normalisation.LAYERNORM:
        moments = _Moments(moments.count, torch.zeros_like(std), moments.covariance)
        std = torch.ones_like(std)
    if spec.dimensions == 0:
        return Space(moments.mean.float(), std.float(), torch.zeros(channels, 0))
    correlation = moments.covariance / torch.outer(std, std)
    axes = torch.linalg.eigh(correlation).eigenvectors.flip(1)[:, : min(spec.dimensions, channels)]
    signs = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    return Space(moments.mean.float(), std.float(), (axes * signs).float().contiguous())
