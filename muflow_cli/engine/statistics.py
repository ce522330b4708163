"""Statistics of an encoder map over the positions of each grid cell: what is modelled, and what batches compare."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def channel_statistics(map_: Tensor) -> Tensor:
    """(B, 2C) float32 of an encoder map (B, C, H, W): the mean of every channel over positions, then the deviations."""
    return torch.cat(cell_statistics(map_, 1), dim=1).flatten(1)


def cell_statistics(map_: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each (B, C, g, g) float32, of an encoder map (B, C, H, W) in each cell of a grid.

    Args:
        map_: in any floating type; sums are in float32.
        grid: g, at most H and W. Cells are those of adaptive pooling: they overlap where g does not divide the sides.
    """
    batch, channels, height, width = map_.shape
    if height % grid or width % grid:
        return _of_uneven_cells(map_, grid)
    split = (grid, height // grid, grid, width // grid)
    if not map_.is_contiguous(memory_format=torch.channels_last):
        variance, mean = torch.var_mean(map_.float().reshape(batch, channels, *split), dim=(3, 5), correction=0)
        return mean, variance.sqrt()
    # Sums as products with a row of ones: torch's own take several times as long on a channels-last map.
    cells = map_.permute(0, 2, 3, 1).reshape(batch, *split, channels).transpose(2, 3)
    positions = cells.reshape(batch * grid**2, -1, channels).float()
    row = positions.new_full((positions.shape[0], 1, positions.shape[1]), 1 / positions.shape[1])
    mean = row @ positions
    # Centred first: the difference of two large sums would lose the deviation of a channel that hardly varies.
    variance = row @ (positions - mean).square()
    shape = (batch, grid, grid, channels)
    return mean.view(shape).permute(0, 3, 1, 2), variance.sqrt().view(shape).permute(0, 3, 1, 2)


def _of_uneven_cells(map_: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """The same where the cells differ in size: from sums in float64, which the difference of squares needs."""
    wide = map_.double()
    middle = wide.mean(dim=(2, 3), keepdim=True)
    mean = functional.adaptive_avg_pool2d(wide - middle, grid)
    variance = functional.adaptive_avg_pool2d((wide - middle).square(), grid) - mean.square()
    return (mean + middle).float(), variance.clamp_min(0).sqrt().float()
