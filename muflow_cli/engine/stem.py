"""The step from grey levels to the first maps: normalised and convolved in float32, or all of it in whole numbers.

A picture is whole numbers as it comes. With weights of eight bits a processor convolves it exactly, in less than half
the time that float32 takes; bfloat16 could not hold what comes of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor, fx, nn

from muflow_cli.engine.fused import FusedConvolution
from muflow_cli.engine.rounding import integers

# By oneDNN's names, which FusedConvolution has.
_ACTIVATIONS: Final = {"none": nn.Identity(), "relu": nn.ReLU(), "hardswish": nn.Hardswish(), "swish": nn.SiLU()}


class Normal(nn.Module):
    """Grey levels as an encoder takes them.

    Args:
        mean: per RGB channel, of pixels in 0..1.
        std: likewise.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        means, stds = (torch.tensor(values)[:, None, None] for values in (mean, std))
        self.register_buffer("scale", 1 / (255 * stds))
        self.register_buffer("shift", -means / stds)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) float32, channels last, of grey levels 0..255 in any dtype."""
        normal = torch.addcmul(self.shift, pictures.float(), self.scale)
        return normal.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True)
class _Product:
    """activation(step * (whole * pictures) + bias) of pictures that are framed already, float32.

    Attributes:
        whole: (Cout, 3, k, k) int8.
        step: (Cout,) float32.
        bias: likewise.
    """

    whole: Tensor
    step: Tensor
    bias: Tensor
    stride: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
    activation: str = "none"

    def in_float32(self, pictures: Tensor) -> Tensor:
        """Of pictures in any dtype."""
        weight = self.whole * self.step[:, None, None, None]
        out = F.conv2d(pictures.float(), weight, self.bias, self.stride, 0, self.dilation)
        return cast("Tensor", _ACTIVATIONS[self.activation](out))

    def packed(self, shape: torch.Size) -> Tensor:
        """The weights as oneDNN lays them out for pictures of one shape."""
        window = (self.stride, [0, 0], self.dilation, 1)
        return cast("Tensor", torch.ops.onednn.qconv_prepack(self.whole, self.step, 1.0, 0, *window, list(shape)))

    def in_integers(self, pictures: Tensor, packed: Tensor) -> Tensor:
        """Of pictures in uint8. Torch has the operation for its compiler, by a private name."""
        weights = (packed, self.step, torch.zeros(len(self.step), dtype=torch.int64), self.bias)
        window = (self.stride, [0, 0], self.dilation, 1)
        after: tuple[object, ...] = (1.0, 0, torch.float32, self.activation, [], "")
        return cast("Tensor", torch.ops.onednn.qconv2d_pointwise(pictures, 1.0, 0, *weights, *window, *after))


class IntegerConvolution(nn.Module):
    """Normalisation, convolution and activation of grey levels, with weights that are whole numbers times a step.

    Pictures in whole numbers are convolved in whole numbers; others, averages, in float32 with the same weights, which
    gives the same but for float32's rounding. The picture is framed by the whole grey levels nearest to the mean.

    Args:
        first: the convolution that reads normalised pictures, and its activation.
        normal: how they are normalised.
        pictures: (B, 3, H, W) float32 grey levels; the weights' errors cancel on them.
    """

    def __init__(self, first: FusedConvolution, normal: Normal, pictures: Tensor) -> None:
        super().__init__()
        conv, scale, shift = first.convolution, normal.scale.double(), normal.shift.double()
        wanted = (conv.weight.double() * scale).flatten(1)
        bias = (conv.weight.double() * shift).sum(dim=(1, 2, 3))
        if conv.bias is not None:
            bias = bias + conv.bias.double()
        seen = F.unfold(pictures, conv.kernel_size, conv.dilation, stride=conv.stride).transpose(1, 2).flatten(0, 1)
        seen = seen.double()
        whole, step = integers(wanted, torch.cov(seen.T, correction=0))
        # What the weights' errors change on the average is known, and the bias need not be whole.
        bias = bias + (wanted - whole * step[:, None]) @ seen.mean(dim=0)
        window = (conv.stride, conv.dilation, first.activation)
        self._product = _Product(whole.view(conv.weight.shape), step.float(), bias.float(), *window)
        self._packed: dict[torch.Size, Tensor] = {}
        self._padding = cast("tuple[int, int]", conv.padding)
        self._frame = (-shift / scale).round().clamp(0, 255)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, Cout, H', W') float32 of (B, 3, H, W) grey levels 0..255, uint8 or float32."""
        framed = self._framed(pictures)
        if framed.dtype != torch.uint8 or not available():
            return self._product.in_float32(framed)
        if framed.shape not in self._packed:
            self._packed[framed.shape] = self._product.packed(framed.shape)
        return self._product.in_integers(framed, self._packed[framed.shape])

    def _framed(self, pictures: Tensor) -> Tensor:
        (high, wide), (batch, channels, height, width) = self._padding, pictures.shape
        shape = (batch, channels, height + 2 * high, width + 2 * wide)
        framed = torch.empty(shape, dtype=pictures.dtype, memory_format=torch.channels_last).copy_(self._frame)
        framed[:, :, high : high + height, wide : wide + width] = pictures
        return framed


def with_stem(trunk: fx.GraphModule, normal: Normal, pictures: Tensor) -> nn.Module:
    """A network of normalised pictures as one of grey levels, its first convolution in whole numbers where it can be.

    Args:
        trunk: traced, its convolutions fused; what reads the pictures in float32.
        normal: what it takes.
        pictures: (B, 3, H, W) float32 grey levels to choose the weights by.
    """
    readers = [node for node in trunk.graph.nodes if any(one.op == "placeholder" for one in node.all_input_nodes)]
    first = trunk.get_submodule(str(readers[0].target)) if readers[0].op == "call_module" else None
    if len(readers) > 1 or not isinstance(first, FusedConvolution) or first.convolution.groups > 1:
        return nn.Sequential(normal, trunk)
    trunk.set_submodule(str(readers[0].target), IntegerConvolution(first, normal, pictures))
    return trunk


@cache
def available() -> bool:
    """Whether this build of torch convolves whole numbers, and exactly, the largest among them."""
    pictures = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    pictures[:, :, 4:] = torch.arange(32, dtype=torch.uint8).view(4, 8)
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    whole = torch.tensor([127, -127, 1, -3], dtype=torch.int8).repeat(4)[:, None, None, None].repeat(1, 3, 3, 3)
    product = _Product(whole, torch.ones(16), torch.zeros(16))
    try:
        got = product.in_integers(pictures, product.packed(pictures.shape))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(torch.equal(got, product.in_float32(pictures)))
