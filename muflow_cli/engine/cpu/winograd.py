"""3 x 3 convolutions with 16 products instead of 36, and the flow that uses them to score on processors.

Source: Lavin & Gray 2016, "Fast algorithms for convolutional neural networks" (arXiv 1509.09308), F(2x2, 3x3).

Maps are kept by phase: (2, 2, C, B, h, w), where [a, b, :, :, i, j] is the position (2i + a, 2j + b) of a map with
2h rows and 2w columns. A tile of four neighbours is then one index (i, j), and no data moves between two layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import torch
from torch import Tensor, nn

from muflow_cli.engine.flow import PlainFlow, Step

# Rows of the algorithm's matrices: of a tile's inputs, its weights and its outputs.
_INPUTS: Final = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_WEIGHTS: Final = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUTS: Final = ((1, 1, 1, 0), (0, 1, -1, -1))
# The four rows (and columns) that a tile reads: their phase, and how many tiles away they are.
_READS: Final = ((1, -1), (0, 0), (1, 0), (0, 1))
# Adding to this product adds as much to all four outputs.
_BIAS: Final = 5
# Tiles that are computed together: enough to keep weights in use, few enough for the caches.
_TILES: Final = 1024


def to_phases(maps: Tensor) -> Tensor:
    """(2, 2, C, B, H/2, W/2) of maps (B, C, H, W) with even H and W."""
    batch, channels, height, width = maps.shape
    return maps.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(3, 5, 1, 0, 2, 4).contiguous()


def from_phases(phases: Tensor) -> Tensor:
    """Inverse of `to_phases`."""
    _, _, channels, batch, rows, columns = phases.shape
    return phases.permute(3, 2, 4, 0, 5, 1).reshape(batch, channels, 2 * rows, 2 * columns)


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution with 3 x 3 kernels and zeros around the maps, or with 1 x 1 kernels.

    Attributes:
        weight: (16, Cout, Cin) transformed; (1, Cout, Cin) for 1 x 1 kernels.
        bias: (Cout,).
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Convolution:
        """The convolution with kernels (Cout, Cin, k, k), k = 1 or 3, computed in `dtype`."""
        if weight.shape[-1] == 1:
            return cls(weight.flatten(1)[None].to(dtype), bias.to(dtype))
        rows = torch.tensor(_WEIGHTS, dtype=torch.float64)
        tiles = torch.einsum("ai,ocij,bj->aboc", rows, weight.double(), rows)
        return cls(tiles.reshape(16, *weight.shape[:2]).to(dtype).contiguous(), bias.to(dtype))

    def __call__(self, phases: Tensor) -> Tensor:
        """Maps (2, 2, Cout, B, h, w) of maps (2, 2, Cin, B, h, w), in the weights' dtype."""
        _, _, channels, batch, rows, columns = phases.shape
        positions = batch * rows * columns
        if len(self.weight) == 1:
            flat = phases.reshape(4, channels, positions)
            out = torch.baddbmm(self.bias[:, None], self.weight.expand(4, -1, -1), flat)
        else:
            tiles = _square(_INPUTS, phases.dtype) @ _tiles(phases).view(16, -1)
            products = torch.bmm(self.weight, tiles.view(16, channels, positions))
            products[_BIAS].add_(self.bias[:, None])
            out = _square(_OUTPUTS, phases.dtype) @ products.view(16, -1)
        return out.view(2, 2, -1, batch, rows, columns)


@cache
def _square(matrix: tuple[tuple[float, ...], ...], dtype: torch.dtype) -> Tensor:
    """A transform of rows, done to rows and columns at once."""
    rows = torch.tensor(matrix, dtype=dtype)
    return torch.kron(rows, rows)


def _tiles(phases: Tensor) -> Tensor:
    """(4, 4, C, B, h, w): what each tile reads, zeros beyond the edges."""
    tiles = phases.new_empty(4, 4, *phases.shape[2:])
    tiles[0, :, ..., 0, :] = 0
    tiles[3, :, ..., -1, :] = 0
    tiles[:, 0, ..., 0] = 0
    tiles[:, 3, ..., -1] = 0
    for row, (a, down) in enumerate(_READS):
        for column, (b, right) in enumerate(_READS):
            to = tiles[row, column][..., _inside(-down), _inside(-right)]
            to.copy_(phases[a, b][..., _inside(down), _inside(right)])
    return tiles


def _inside(shift: int) -> slice:
    """Positions of an axis whose neighbour `shift` positions before also lies on the axis."""
    return slice(max(0, shift), None if shift >= 0 else shift)


@dataclass(frozen=True, slots=True)
class _Coupling:
    """A step of the flow; the active half's global affine map is folded into the net.

    Attributes:
        net: two convolutions.
        log_scale: (C2, 1, 1, 1) of the active half.
        scale: (C1, 1, 1, 1) of the passive half.
        offset: likewise.
        permutation: (C,).
    """

    net: tuple[Convolution, Convolution]
    log_scale: Tensor
    scale: Tensor
    offset: Tensor
    permutation: Tensor

    @classmethod
    def of(cls, step: Step, dtype: torch.dtype) -> _Coupling:
        passive = step.weight_in.shape[1]
        active = len(step.scale) - passive
        scale = step.scale[passive:]
        # The raw half is doubled: tanh(x) = 2 sigmoid(2x) - 1, and torch's sigmoid takes a third of tanh's time.
        factor = torch.cat([torch.full_like(scale, 2.0), scale])
        bias = step.bias_out * factor
        bias[active:] += step.offset[passive:]
        return cls(
            net=(
                Convolution.of(step.weight_in, step.bias_in, dtype),
                Convolution.of(step.weight_out * factor[:, None, None, None], bias, dtype),
            ),
            log_scale=scale.log().view(-1, 1, 1, 1),
            scale=step.scale[:passive].view(-1, 1, 1, 1),
            offset=step.offset[:passive].view(-1, 1, 1, 1),
            permutation=step.permutation,
        )


class WinogradFlow(nn.Module):
    """A flow whose largest kernel is 3 x 3: the same function as `PlainFlow`, on a processor.

    Args:
        flow: in float32; at least one step.
        dtype: of the coupling nets.
    """

    def __init__(self, flow: PlainFlow, dtype: torch.dtype) -> None:
        super().__init__()
        self._flow = flow
        self._clamp = flow.clamp
        self._dtype = dtype
        steps = flow.chain().steps
        self._couplings = [_Coupling.of(step, dtype) for step in steps]
        self._log_det = float(sum(step.scale.double().log().sum() for step in steps))

    @cached_property
    def _plain(self) -> PlainFlow:
        """The flow for maps with odd sides, which cannot be split into tiles."""
        return self._flow.with_nets(self._dtype)

    @staticmethod
    def can(flow: PlainFlow) -> bool:
        """Whether the largest kernel is 3 x 3, the others are 1 x 1, and the flow is free to change volume."""
        return (
            flow.reach == 3 and not flow.volume_preserving and all(step.kernel in (1, 3) for step in flow.chain().steps)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, C, H, W) and log-determinants (B, H, W), nats, of x (B, C, H, W), float32."""
        height, width = x.shape[2:]
        if height % 2 or width % 2:
            latents, log_dets = self._plain(x)
            return latents, log_dets
        together = max(1, _TILES * 4 // (height * width))
        parts = [self._run(to_phases(part)) for part in x.split(together)]
        latents, log_dets = zip(*parts, strict=True)
        return torch.cat(latents), torch.cat(log_dets)

    def _run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and log-determinants of x (2, 2, C, B, h, w), which is overwritten."""
        gained = torch.zeros(())
        for coupling in self._couplings:
            passive, active = x.tensor_split([len(coupling.scale)], 2)
            first, last = coupling.net
            net = last(first(passive.to(self._dtype)).relu_())
            raw, shift = net.tensor_split(2, 2)
            squashed = raw.float().sigmoid_()
            gained = squashed.sum(2, keepdim=True) + gained
            log_scale = squashed.mul_(2 * self._clamp).add_(coupling.log_scale - self._clamp)
            active.mul_(log_scale.exp_()).add_(shift)
            torch.addcmul(coupling.offset, passive, coupling.scale, out=passive)
            x = x.index_select(2, coupling.permutation)
        lost = self._clamp * sum(len(coupling.log_scale) for coupling in self._couplings)
        log_det = gained * (2 * self._clamp) + (self._log_det - lost)
        return from_phases(x), from_phases(log_det)[:, 0]
