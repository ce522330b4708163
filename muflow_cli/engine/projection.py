"""Encoder maps -> standardised, projected, pooled vectors on a grid: the same for averages, flow and target.

A flow over single vectors is the case grid = 1; it needs no second code path.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from muflow_cli.engine.statistics import cell_statistics
from muflow_cli.errors import NotFinite, TooFewImages
from muflow_cli.specs import FeatureSpec, Normalisation, Statistics

# Standard deviation of a channel that never varies among the training reals, in place of 0.
_LEAST_STD = 1e-6
# Joint cells with more numbers than this are described by at most so many images.
WIDE: Final = 2048
WIDE_IMAGES: Final = 4096
# A deviation below this share of the cell's mean comes from rounding in float32.
_ROUNDING = 1e-5


def pool(map_: Tensor, spec: FeatureSpec) -> Tensor:
    """Pooled map (B, C, g, g) in float32 of an encoder map (B, C, H, W); the map's own grid if `spec.grid` is 0.

    Where all cells are one vector (`spec.joint`) it is (B, C g g, 1, 1), channel by channel.

    Averaging commutes with the affine maps that follow, so it comes first, where it saves the most work. With the
    statistics `std` a cell holds the deviations of the channels in place of their means, with `both` (B, 2C, g, g) the
    means and then the deviations. A channel that is constant in a cell has the deviation 0.
    """
    if spec.normalisation is Normalisation.LAYERNORM:
        map_ = functional.layer_norm(map_.float(), map_.shape[1:])
    cells = _cells(map_, spec)
    return cells.flatten(1)[:, :, None, None] if spec.joint else cells


def _cells(map_: Tensor, spec: FeatureSpec) -> Tensor:
    """(B, C, g, g) of a normalised map."""
    if spec.statistics is not Statistics.MEAN:
        mean, std = cell_statistics(map_, spec.grid)
        std = std.masked_fill(std < _ROUNDING * mean.abs(), 0)
        return std if spec.statistics is Statistics.STD else torch.cat([mean, std], dim=1)
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
    """The same for a channels-last map, row by row: torch's own means take ten times as long."""
    batch, channels, height, width = map_.shape
    rows = map_.permute(0, 2, 3, 1).reshape(batch * grid, height // grid, width * channels)
    sums = rows[:, 0].float()
    for row in rows.unbind(dim=1)[1:]:
        sums = sums + row
    cells = sums.reshape(batch, grid, grid, width // grid, channels).sum(dim=3)
    return cells.div(height * width // grid**2).permute(0, 3, 1, 2).contiguous()


class Moments(nn.Module):
    """Mean and covariance of projected vectors over all positions of many images.

    Args:
        mean: (D,).
        covariance: (D, D).
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("covariance", covariance)


class Adaptation(nn.Module):
    """An affine map of projected vectors, by which reals of another source get the moments of the training reals.

    Args:
        matrix: (D, D).
        offset: (D,).
    """

    matrix: Tensor
    offset: Tensor

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("offset", offset)

    def forward(self, projected: Tensor) -> Tensor:
        """(B, D, g, g) of (B, D, g, g)."""
        return functional.conv2d(projected, self.matrix[:, :, None, None], self.offset)


class Projection(nn.Module):
    """The fixed affine map of one layer, from C channels to D dimensions at every grid position.

    Args:
        mean: (C,) of the training reals.
        std: (C,) of the training reals.
        axes: (C, D) orthonormal principal axes of the standardised channels; (C, 0) = no PCA, D = C.
        moments: of the projected training reals, which decide no score; None in bundles of earlier versions.
        adaptation: that follows; None = the projection of the fit.
    """

    mean: Tensor
    std: Tensor
    axes: Tensor

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        axes: Tensor,
        moments: Moments | None = None,
        adaptation: Adaptation | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("axes", axes)
        self.moments, self.adaptation = moments, adaptation

    @classmethod
    def empty(cls, channels: int, dimensions: int, *, moments: bool = True, adapted: bool = False) -> Projection:
        """A projection of `channels` channels to `dimensions` (0 = no PCA) without values (meta device)."""
        width = dimensions or channels
        vector, square = torch.empty(width, device="meta"), torch.empty(width, width, device="meta")
        of_channels, axes = torch.empty(channels, device="meta"), torch.empty(channels, dimensions, device="meta")
        own = Moments(vector, square) if moments else None
        return cls(of_channels, of_channels, axes, own, Adaptation(square, vector) if adapted else None)

    @property
    def dimensions(self) -> int:
        """D."""
        return self.axes.shape[1] or self.mean.shape[0]

    def with_adaptation(self, adaptation: Adaptation | None) -> Projection:
        """The projection of the fit followed by `adaptation` in place of its own."""
        return Projection(self.mean, self.std, self.axes, self.moments, adaptation)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D, g, g) of pooled maps (B, C, g, g)."""
        projected = (pooled - self.mean[:, None, None]) / self.std[:, None, None]
        if self.axes.shape[1]:
            projected = functional.conv2d(projected, self.axes.T[:, :, None, None])
        return projected if self.adaptation is None else self.adaptation(projected)


class RunningMoments:
    """Moments of all position vectors of maps that come a few at a time, in float64."""

    def __init__(self) -> None:
        self._count, self._mean, self._scatter = 0, torch.zeros(()), torch.zeros(())

    def add(self, maps: Tensor) -> None:
        """Take the vectors of maps (b, D, g, g) in."""
        vectors = maps.movedim(1, -1).reshape(-1, maps.shape[1]).double()
        mean = vectors.mean(dim=0)
        centred = vectors - mean
        scatter = centred.T @ centred
        if self._count:
            # Chan, Golub & LeVeque 1979: merge the moments of two sets without cancellation.
            gap, total = mean - self._mean, self._count + len(vectors)
            scatter = self._scatter + scatter + torch.outer(gap, gap) * (self._count * len(vectors) / total)
            mean = self._mean + gap * (len(vectors) / total)
        self._count, self._mean, self._scatter = self._count + len(vectors), mean, scatter

    def moments(self) -> Moments:
        """Mean and covariance, float64; TooFewImages of fewer than two positions."""
        if self._count < 2:
            raise TooFewImages("feature statistics", self._count, 2, "a deviation needs two values")
        return Moments(self._mean, self._scatter / (self._count - 1))


def fit_projection(chunks: Iterable[Tensor], spec: FeatureSpec) -> Projection:
    """Statistics and principal axes of training reals.

    Args:
        chunks: pooled maps (b, C, g, g), each image once.
        spec: dimensions above C are reduced to C.

    Raises:
        NotFinite: if the encoder gave NaN or infinite values.

    The sign of an axis is fixed (its entry of largest magnitude is positive), so that two fits agree. Joint cells of
    more than WIDE numbers are described by the first WIDE_IMAGES images, since their covariance would take too much
    memory.
    """
    chunks = iter(chunks)
    first = next(chunks, None)
    if first is None:
        raise TooFewImages("feature statistics", 0, 2, "a deviation needs two values")
    if spec.joint and first.shape[1] > WIDE:
        return _fit_wide(chain([first], chunks), spec)
    chunks = chain([first], chunks)
    running = RunningMoments()
    for chunk in chunks:
        running.add(chunk)
    moments = running.moments()
    _check_finite(moments.covariance)
    std = moments.covariance.diagonal().sqrt().clamp_min(_LEAST_STD)
    mean = moments.mean
    if spec.normalisation is Normalisation.LAYERNORM:
        mean, std = torch.zeros_like(std), torch.ones_like(std)
    centre, correlation = (moments.mean - mean) / std, moments.covariance / torch.outer(std, std)
    channels = len(std)
    if spec.dimensions == 0:
        own = Moments(centre.float(), correlation.float())
        return Projection(mean.float(), std.float(), torch.zeros(channels, 0), own)
    values, vectors = (part.flip(-1)[..., : min(spec.dimensions, channels)] for part in torch.linalg.eigh(correlation))
    axes = vectors * vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()
    # The eigenvalues are its covariance; a product would leave rounding beside them that differs between machines.
    own = Moments((centre @ axes).float(), torch.diag(values).float())
    return Projection(mean.float(), std.float(), axes.float().contiguous(), own)


def _fit_wide(chunks: Iterable[Tensor], spec: FeatureSpec) -> Projection:
    """The same from the images' inner products, of which there are fewer than products of numbers."""
    vectors = torch.cat([chunk.flatten(1) for chunk in islice(chunks, WIDE_IMAGES)])[:WIDE_IMAGES].double()
    _check_finite(vectors)
    if len(vectors) <= spec.dimensions:
        raise TooFewImages("projection", len(vectors), spec.dimensions + 1, "one more than its dimensions")
    std, mean = torch.std_mean(vectors, dim=0)
    std = std.clamp_min(_LEAST_STD)
    standard = (vectors - mean) / std
    values, images = torch.linalg.eigh(standard @ standard.T)
    values, images = (part.flip(-1)[..., : spec.dimensions] for part in (values, images))
    axes = standard.T @ images / values.sqrt()
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    own = Moments(torch.zeros(axes.shape[1]), torch.diag(values / (len(vectors) - 1)).float())
    return Projection(mean.float(), std.float(), axes.float().contiguous(), own)


def _check_finite(numbers: Tensor) -> None:
    if not bool(numbers.isfinite().all()):
        raise NotFinite("the encoder gave NaN or infinite values", "use --precision fp32, or other weights")
