"""A traced network in bfloat16 that fuses each convolution with the steps after it into one oneDNN operation.

In bfloat16 a processor spends as long moving activations between these steps as on the products. Torch offers the
fused operations only to its compiler, so they are called by their private names. They are tried once, and not used
where they are missing or give another result.
"""

from __future__ import annotations

import operator
from functools import cache
from typing import Final, cast

import torch
from torch import Tensor, fx, nn

_ACTIVATIONS: Final = {nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.SiLU: "swish"}
_SUMS: Final = (operator.add, operator.iadd, torch.add)


class FusedConvolution(nn.Module):
    """A convolution, then a sum with another map if one is given, then an activation.

    Args:
        convolution: stride, padding and so on; its weights are fixed at the first call.
        activation: oneDNN's name; "none" for none. With another map to add, "relu" or "none".
    """

    def __init__(self, convolution: nn.Conv2d, activation: str) -> None:
        super().__init__()
        self.convolution = convolution
        self.activation = activation
        # oneDNN lays out the weights for one input shape; there is one shape for each batch size.
        self._packed: dict[torch.Size, Tensor] = {}

    def forward(self, maps: Tensor, other: Tensor | None = None) -> Tensor:
        """`activation(convolution(maps) + other)`."""
        conv = self.convolution
        window = (conv.padding, conv.stride, conv.dilation, conv.groups)
        weight = self._packed.get(maps.shape)
        if weight is None:
            weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *window, maps.shape)
            self._packed[maps.shape] = weight
        if other is None:
            out = torch.ops.mkldnn._convolution_pointwise(maps, weight, conv.bias, *window, self.activation, [], "")
        else:
            unary = None if self.activation == "none" else self.activation
            out = torch.ops.mkldnn._convolution_pointwise.binary(
                maps, other, weight, conv.bias, *window, "add", 1.0, unary, [], ""
            )
        return cast("Tensor", out)


def fuse_convolutions(trunk: fx.GraphModule) -> fx.GraphModule:
    """The same network with every convolution fused with the steps after it; unchanged where fusing is not available.

    Fused, bfloat16 sums are rounded once instead of after every step, so the result is closer to float32.

    Args:
        trunk: traced, in evaluation mode, its batch normalisations folded.
    """
    if not available():
        return trunk
    for node in list(trunk.graph.nodes):
        activation = _ACTIVATIONS.get(type(_module(trunk, node)))  # type: ignore[arg-type] # None is no key
        if activation is not None:
            _fuse_before(trunk, node, activation)
    for node in list(trunk.graph.nodes):
        if _is_convolution(trunk, node):
            _replace(trunk, node, node, "none")
    trunk.graph.lint()
    trunk.recompile()
    return trunk


@cache
def available() -> bool:
    """Whether this build of torch has the fused operations, and they agree with the plain ones."""
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1)
    maps, other = torch.randn(2, 1, 16, 8, 8, generator=generator)
    with torch.inference_mode():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) / 12)
        expected = torch.relu(conv(maps) + other)
        half = conv.bfloat16().to(memory_format=torch.channels_last)
        maps, other = (m.bfloat16().contiguous(memory_format=torch.channels_last) for m in (maps, other))
        try:
            fused = FusedConvolution(half, "relu")(maps, other)
        except (AttributeError, RuntimeError, TypeError):
            return False
    return fused.shape == expected.shape and bool(torch.allclose(fused.float(), expected, atol=0.1))


def _module(trunk: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return trunk.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_convolution(trunk: fx.GraphModule, node: object) -> bool:
    if not isinstance(node, fx.Node):
        return False
    module = _module(trunk, node)
    return isinstance(module, nn.Conv2d) and not isinstance(module.padding, str) and module.padding_mode == "zeros"


def _fuse_before(trunk: fx.GraphModule, node: fx.Node, activation: str) -> None:
    """Fuse `node`, an activation, with the convolution before it, or with the sum before it and one of its terms."""
    before = node.args[0]
    if not isinstance(before, fx.Node) or len(before.users) > 1:
        return
    if _is_convolution(trunk, before):
        _replace(trunk, before, node, activation)
    elif before.target in _SUMS and activation == "relu":
        terms = [term for term in before.args if isinstance(term, fx.Node)]
        alone = [term for term in terms if _is_convolution(trunk, term) and len(term.users) == 1]
        if len(terms) == 2 and alone:
            other = terms[1] if alone[0] is terms[0] else terms[0]
            _replace(trunk, alone[0], node, activation, other)
            trunk.graph.erase_node(before)
            trunk.graph.erase_node(alone[0])


def _replace(
    trunk: fx.GraphModule, convolution: fx.Node, last: fx.Node, activation: str, other: fx.Node | None = None
) -> None:
    """Replace the steps from `convolution` to `last` by one operation."""
    fused = FusedConvolution(cast("nn.Conv2d", _module(trunk, convolution)), activation)
    trunk.set_submodule(str(convolution.target), fused)
    with trunk.graph.inserting_after(last):
        new = trunk.graph.call_module(
            str(convolution.target), (convolution.args[0],) if other is None else (convolution.args[0], other)
        )
    last.replace_all_uses_with(new)
    trunk.graph.erase_node(last)
    if last is not convolution and other is None:
        trunk.graph.erase_node(convolution)
