"""Weights of fewer bits whose errors cancel in what a network makes of pictures, instead of each being the nearest.

A weight that is rounded up moves what a convolution gives in proportion to its input; the next ones, whose inputs are
like it, are rounded so that they move it back. Nothing is learned here: the inputs are those of drawn pictures.

Source: Frantar et al. 2023, "GPTQ" (arXiv 2210.17323), with the bias as the weight of an input that is always 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor, fx, nn

# Of a ResNet-50 the first layer, whose weights make four fifths of what rounding all of them changes in a score.
CONVOLUTIONS: Final = 10

_PICTURES: Final = 4
_SIDE: Final = 128
_CONTRAST: Final = 55.0
_COLOUR: Final = 0.4
# Share of the mean square input that is taken as noise of each: errors are left where they matter too little.
_DAMPING: Final = 1e-3
_LEAST_NOISE: Final = 1e-12
_LARGEST_INTEGER: Final = 127


def natural_pictures() -> Tensor:
    """(4, 3, 128, 128) drawn pictures, grey levels 0..255, the same at every call.

    Amplitudes fall with frequency as in photographs, and the three colours are alike.

    Source: Field 1987, "Relations between the statistics of natural images and the response properties of cortical
    cells" (amplitude over frequency; the exponent 1.1 is within what is found there).
    """
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None])
    frequency[0, 0] = 1 / _SIDE
    real, imaginary = generator.normal(size=(2, _PICTURES, 4, *frequency.shape))
    planes = np.fft.irfft2((real + 1j * imaginary) / frequency**1.1, s=(_SIDE, _SIDE))
    planes /= planes.std(axis=(2, 3), keepdims=True)
    levels = 128 + _CONTRAST * (planes[:, :1] + _COLOUR * planes[:, 1:])
    return torch.from_numpy(levels.clip(0, 255).round()).float()


def round_weights(trunk: fx.GraphModule, pictures: Tensor) -> fx.GraphModule:
    """The network with the weights of its first convolutions chosen among what bfloat16 holds; still in float32.

    Args:
        trunk: traced, in float32, its batch normalisations folded. Its first convolution is left alone: it stays in
            float32. So are convolutions in groups, and all after the first ten.
        pictures: (B, 3, H, W), as the network takes them.
    """
    called = (str(node.target) for node in trunk.graph.nodes if node.op == "call_module")
    convolutions = [m for m in map(trunk.get_submodule, called) if isinstance(m, nn.Conv2d)][1:]
    chosen = [m for m in convolutions if m.groups == 1][:CONVOLUTIONS]
    moments: dict[nn.Module, Tensor] = {}
    hooks = [m.register_forward_pre_hook(partial(_record, moments)) for m in chosen]
    with torch.inference_mode():
        trunk(pictures)
    for hook in hooks:
        hook.remove()
    for convolution in chosen:
        weight, bias = rounded(convolution.weight, convolution.bias, moments[convolution])
        convolution.weight, convolution.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
    return trunk


def _record(moments: dict[nn.Module, Tensor], module: nn.Module, inputs: tuple[Tensor]) -> None:
    """Keep the second moments of a module's input channels, a constant 1 first."""
    channels = inputs[0].movedim(1, 0).flatten(1).double()
    channels = torch.cat([torch.ones_like(channels[:1]), channels])
    moments[module] = channels @ channels.T / channels.shape[1]


@torch.no_grad()
def rounded(weight: Tensor, bias: Tensor | None, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias in bfloat16's values (as float32) that change what is computed least.

    Args:
        weight: (Cout, Cin, k, k); each place of the kernel is rounded by itself, the bias with the middle one.
        bias: (Cout,); None = 0.
        moments: (1 + Cin, 1 + Cin) mean products of the inputs 1, x1, x2, ...
    """
    outputs, inputs, height, width = weight.shape
    places, middle = height * width, height * width // 2
    rows = torch.zeros(places, outputs, 1 + inputs, dtype=torch.float64)
    rows[:, :, 1:] = weight.permute(2, 3, 0, 1).reshape(places, outputs, inputs)
    if bias is not None:
        rows[middle, :, 0] = bias
    # The bias first: nothing can be done about an error of the last.
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + moments.diagonal()[1:].argsort(descending=True)])
    size = moments.diagonal()[1:].mean()
    rows = _chosen(rows.view(-1, 1 + inputs), moments, order, size, _bfloat16).reshape(places, outputs, 1 + inputs)
    kernels = rows[:, :, 1:].reshape(height, width, outputs, inputs).permute(2, 3, 0, 1)
    return kernels.float().contiguous(), rows[middle, :, 0].float()


@torch.no_grad()
def integers(weight: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers, and a step for each output, whose products change least of what is computed about its mean.

    Args:
        weight: (Cout, K).
        covariance: (K, K) of the inputs.

    Returns:
        (Cout, K) int8 in -127..127, and (Cout,) float64 positive steps.
    """
    largest = weight.abs().amax(dim=1).double()
    step = torch.where(largest > 0, largest, 1) / _LARGEST_INTEGER
    order = covariance.diagonal().argsort(descending=True)
    rows = _chosen(weight.double() / step[:, None], covariance, order, covariance.diagonal().mean(), _integer)
    return rows.to(torch.int8), step


def _bfloat16(values: Tensor) -> Tensor:
    return values.bfloat16().double()


def _integer(values: Tensor) -> Tensor:
    return values.round().clamp(-_LARGEST_INTEGER, _LARGEST_INTEGER)


def _chosen(rows: Tensor, moments: Tensor, order: Tensor, size: Tensor, nearest: Callable[[Tensor], Tensor]) -> Tensor:
    """`rows` (R, K) rounded by `nearest` in the order given, errors shared out where that changes less.

    `size` is the mean square input, to which the noise is in proportion.
    """
    noise = (_DAMPING * size).clamp_min(_LEAST_NOISE)
    known = moments[order][:, order] + noise * torch.eye(len(order), dtype=torch.float64)
    shared = _compensated(rows[:, order].T.contiguous(), known, nearest)[order.argsort()].T
    alone = nearest(rows)
    # Sharing errors out looks ahead by one: with few inputs it is not always the better of the two.
    better = _change(shared - rows, moments) < _change(alone - rows, moments)
    return torch.where(better[:, None], shared, alone)


def _change(gaps: Tensor, moments: Tensor) -> Tensor:
    """(rows,) mean square of what errors (rows, K) change."""
    return ((gaps @ moments) * gaps).sum(dim=1)


def _compensated(columns: Tensor, moments: Tensor, nearest: Callable[[Tensor], Tensor]) -> Tensor:
    """`columns` (K, rows) rounded from first to last, the error of each shared out to those that follow."""
    factor = torch.linalg.cholesky(torch.linalg.inv(moments), upper=True)
    shares = factor / factor.diagonal()[:, None]
    for place, column in enumerate(columns):
        value = nearest(column)
        columns[place + 1 :].addr_(shares[place, place + 1 :], column - value, alpha=-1)
        columns[place] = value
    return columns
