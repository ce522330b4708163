"""Statistics of an encoder map over its positions: what a batch of images is compared by."""

from __future__ import annotations

import torch
from torch import Tensor


def channel_statistics(map_: Tensor) -> Tensor:
    """(B, 2C) float32 of an encoder map (B, C, H, W): the mean of every channel over positions, then the deviations."""
    if not map_.is_contiguous(memory_format=torch.channels_last):
        variance, mean = torch.var_mean(map_.float(), dim=(2, 3), correction=0)
        return torch.cat([mean, variance.sqrt()], dim=1)
    # Sums as products with a row of ones: torch's own take several times as long on a channels-last map.
    batch, channels, height, width = map_.shape
    positions = map_.permute(0, 2, 3, 1).reshape(batch, height * width, channels).float()
    row = positions.new_full((batch, 1, height * width), 1 / (height * width))
    mean = row @ positions
    # Centred first: the difference of two large sums would lose the deviation of a channel that hardly varies.
    variance = row @ (positions - mean).square()
    return torch.cat([mean, variance.sqrt()], dim=2)[:, 0]
