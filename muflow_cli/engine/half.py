"""A traced network in bfloat16: the first step stays in float32, and weights are rounded so that their errors cancel.

Rounding a weight up moves a convolution's output in proportion to that weight's input; the next weights, whose inputs
correlate with it, are rounded to move the output back. Nothing is learned: the inputs come from random images.

Source: Frantar et al. 2023, "GPTQ" (arXiv 2210.17323), with the bias as the weight of an input that is always 1.
"""

from __future__ import annotations

import copy
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

# The first layer of a ResNet-50: its weights cause four fifths of the change in a score from rounding all weights.
CONVOLUTIONS: Final = 10

_IMAGES: Final = 4
_SIDE: Final = 128
_CONTRAST: Final = 55.0
_COLOUR: Final = 0.4
# Share of the mean square input that is assumed as noise in each input, so that negligible errors are not shared out.
_DAMPING: Final = 1e-3
_LEAST_NOISE: Final = 1e-12


def natural_images() -> Tensor:
    """(4, 3, 128, 128) random images, grey levels 0..255, the same at every call.

    Amplitudes fall with frequency as in photographs, and the three colours are correlated.

    Source: Field 1987, "Relations between the statistics of natural images and the response properties of cortical
    cells" (amplitude over frequency; the exponent 1.1 is within the range reported there).
    """
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None])
    frequency[0, 0] = 1 / _SIDE
    real, imaginary = generator.normal(size=(2, _IMAGES, 4, *frequency.shape))
    planes = np.fft.irfft2((real + 1j * imaginary) / frequency**1.1, s=(_SIDE, _SIDE))
    planes /= planes.std(axis=(2, 3), keepdims=True)
    levels = 128 + _CONTRAST * (planes[:, :1] + _COLOUR * planes[:, 1:])
    return torch.from_numpy(levels.clip(0, 255).round()).float()


def round_weights(trunk: fx.GraphModule, images: Tensor) -> fx.GraphModule:
    """The network with the weights of its first ten convolutions rounded to bfloat16's values; still in float32.

    Args:
        trunk: traced, in float32, its batch normalisations folded. The very first convolution keeps its weights, since
            it will run in float32; grouped convolutions keep theirs too.
        images: (B, 3, H, W), as the network takes them.
    """
    called = (str(node.target) for node in trunk.graph.nodes if node.op == "call_module")
    convolutions = [m for m in map(trunk.get_submodule, called) if isinstance(m, nn.Conv2d)][1:]
    chosen = [m for m in convolutions if m.groups == 1][:CONVOLUTIONS]
    moments: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, inputs: tuple[Tensor]) -> None:
        channels = inputs[0].movedim(1, 0).flatten(1).double()
        channels = torch.cat([torch.ones_like(channels[:1]), channels])
        moments[module] = channels @ channels.T / channels.shape[1]

    hooks = [m.register_forward_pre_hook(record) for m in chosen]
    with torch.inference_mode():
        trunk(images)
    for hook in hooks:
        hook.remove()
    for convolution in chosen:
        weight, bias = rounded(convolution.weight, convolution.bias, moments[convolution])
        convolution.weight, convolution.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
    return trunk


@torch.no_grad()
def rounded(weight: Tensor, bias: Tensor | None, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias rounded to bfloat16's values (as float32) so that the output changes least.

    Args:
        weight: (Cout, Cin, k, k); kernel positions are rounded separately, the bias together with the middle one.
        bias: (Cout,); None = 0.
        moments: (1 + Cin, 1 + Cin) mean products of the inputs 1, x1, x2, ...
    """
    outputs, inputs, height, width = weight.shape
    positions, middle = height * width, height * width // 2
    rows = torch.zeros(positions, outputs, 1 + inputs, dtype=torch.float64)
    rows[:, :, 1:] = weight.permute(2, 3, 0, 1).reshape(positions, outputs, inputs)
    if bias is not None:
        rows[middle, :, 0] = bias
    rows = rows.view(-1, 1 + inputs)
    # The bias first: the error of the last weight cannot be compensated.
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + moments.diagonal()[1:].argsort(descending=True)])
    noise = (_DAMPING * moments.diagonal()[1:].mean()).clamp_min(_LEAST_NOISE)
    known = moments[order][:, order] + noise * torch.eye(len(order), dtype=torch.float64)
    shared = _compensated(rows[:, order].T.contiguous(), known)[order.argsort()].T
    alone = _nearest(rows)
    # Compensation looks ahead by one weight only: with few inputs it is not always the better choice.
    better = _change(shared - rows, moments) < _change(alone - rows, moments)
    rows = torch.where(better[:, None], shared, alone).reshape(positions, outputs, 1 + inputs)
    kernels = rows[:, :, 1:].reshape(height, width, outputs, inputs).permute(2, 3, 0, 1)
    return kernels.float().contiguous(), rows[middle, :, 0].float()


def _nearest(values: Tensor) -> Tensor:
    return values.bfloat16().double()


def _change(gaps: Tensor, moments: Tensor) -> Tensor:
    """(rows,) mean square change of the output that errors (rows, K) cause."""
    return ((gaps @ moments) * gaps).sum(dim=1)


def _compensated(columns: Tensor, moments: Tensor) -> Tensor:
    """`columns` (K, rows) rounded from first to last, the error of each compensated by those that follow."""
    factor = torch.linalg.cholesky(torch.linalg.inv(moments), upper=True)
    shares = factor / factor.diagonal()[:, None]
    for index, column in enumerate(columns):
        value = _nearest(column)
        columns[index + 1 :].addr_(shares[index, index + 1 :], column - value, alpha=-1)
        columns[index] = value
    return columns


class _Narrowed(nn.Module):
    """A float32 step whose output is cast to bfloat16."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, maps: Tensor) -> Tensor:
        return cast("Tensor", self.step(maps)).to(torch.bfloat16)


class Halved(nn.Module):
    """A network that was not traced, in bfloat16 but for its batch normalisations; images come in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(torch.bfloat16)
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.float()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps in bfloat16 by the layers' names, of normalised images (B, 3, H, W)."""
        return cast("dict[str, Tensor]", self.network(images.to(torch.bfloat16)))


def halve(trunk: fx.GraphModule) -> fx.GraphModule:
    """The network in bfloat16 for images in float32: the first convolution, and those that read it, stay in float32.

    Rounding the images and the first maps causes half of the change that bfloat16 makes in a score, and most of it
    where a background of one colour has the same error everywhere.

    Args:
        trunk: traced, in float32, in evaluation mode.
    """
    wide = _wide(trunk)
    narrowing = []
    for node in trunk.graph.nodes:
        if node.op == "call_module" and node not in wide and all(source in wide for source in node.all_input_nodes):
            module = trunk.get_submodule(str(node.target))
            # A fused convolution of engine/cpu carries the plain one.
            if isinstance(getattr(module, "convolution", module), nn.Conv2d):
                narrowing.append(node)
    names = {str(node.target) for node in [*wide, *narrowing] if node.op == "call_module"}
    modules = {name: copy.deepcopy(trunk.get_submodule(name)) for name in names}
    trunk.to(torch.bfloat16)
    for name, module in modules.items():
        trunk.set_submodule(name, module)
    for node in narrowing:
        trunk.set_submodule(str(node.target), _Narrowed(modules[str(node.target)]))
    for node in wide:
        _narrow_for(trunk, node, [user for user in node.users if user not in wide and user not in narrowing])
    trunk.graph.lint()
    trunk.recompile()
    return trunk


def _wide(trunk: fx.GraphModule) -> list[fx.Node]:
    """The images, the convolution that reads them, and the steps without weights after it; in the graph's order."""
    wide: list[fx.Node] = []
    for node in trunk.graph.nodes:
        if node.op == "placeholder":
            wide.append(node)
        elif node.op == "call_module" and all(source in wide for source in node.all_input_nodes):
            first = any(source.op == "placeholder" for source in node.all_input_nodes)
            if first or not list(trunk.get_submodule(str(node.target)).parameters()):
                wide.append(node)
    return wide


def _narrow_for(trunk: fx.GraphModule, node: fx.Node, users: list[fx.Node]) -> None:
    """Give `users` the result of `node` in bfloat16."""
    if users:
        with trunk.graph.inserting_after(node):
            narrowed = trunk.graph.call_method("bfloat16", (node,))
        for user in users:
            user.replace_input_with(node, narrowed)
