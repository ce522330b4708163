"""Grey levels -> the input of an encoder: the first step of every branch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Scales grey levels to the input of an encoder.

    Args:
        mean: per RGB channel, of pixels in 0..1.
        std: likewise.
        stored: whether they are part of the bundle; else they are constants of the encoder's row.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], *, stored: bool = False) -> None:
        super().__init__()
        means, stds = (torch.tensor(values)[:, None, None] for values in (mean, std))
        self.register_buffer("scale", 1 / (255 * stds), persistent=stored)
        self.register_buffer("shift", -means / stds, persistent=stored)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32, channels last, of grey levels 0..255 in any dtype."""
        normal = torch.addcmul(self.shift, images.float(), self.scale)
        return normal.contiguous(memory_format=torch.channels_last)
