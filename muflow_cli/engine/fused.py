"""A traced network in bfloat16: its first step in float32, convolutions and what follows them as one oneDNN operation.

In bfloat16 a processor spends as long on moving the activations between these steps as on the products. Torch offers
the fused operations to its compiler only, so they are asked for by their private names, tried once, and left alone
where they are missing or give something else.
"""

from __future__ import annotations

import copy
import operator
from functools import cache
from typing import Final, cast

import torch
from torch import Tensor, fx, nn

_ACTIVATIONS: Final = {nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.SiLU: "swish"}
_SUMS: Final = (operator.add, operator.iadd, torch.add)


class FusedConvolution(nn.Module):
    """A convolution, then the sum with another map where one is given, then an activation.

    Args:
        convolution: stride, padding and so on; its weights when it is called first are those that stay.
        activation: oneDNN's name; "none" for none. With another map to add, "relu" or "none".
    """

    def __init__(self, convolution: nn.Conv2d, activation: str) -> None:
        super().__init__()
        self.convolution = convolution
        self.activation = activation
        # oneDNN lays the weights out for the shape of what comes in; there are as many shapes as sizes of batches.
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
    """The same network, every convolution fused with what follows it; as it was where that cannot be had.

    In bfloat16 sums are rounded once instead of after every step, so that the result is nearer to float32 than before.

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


class _Narrowed(nn.Module):
    """A step that computes in float32 what goes on in bfloat16."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, maps: Tensor) -> Tensor:
        return cast("Tensor", self.step(maps)).to(torch.bfloat16)


def halve(trunk: fx.GraphModule) -> fx.GraphModule:
    """The network in bfloat16 for pictures in float32: its first convolution and those that read its result stay wide.

    Rounding the pictures, and what is made of them at once, is half of all that bfloat16 changes in a score, and most
    of it where a background of one colour has the same error everywhere.

    Args:
        trunk: traced, in float32, in evaluation mode.
    """
    wide = _wide(trunk)
    narrowing = [node for node in trunk.graph.nodes if node not in wide and _narrows(trunk, node, wide)]
    kept = {str(node.target) for node in [*wide, *narrowing] if node.op == "call_module"}
    modules = {name: copy.deepcopy(trunk.get_submodule(name)) for name in kept}
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
    """The pictures, the convolution that reads them, and what follows it without weights; in the graph's order."""
    wide: list[fx.Node] = []
    for node in trunk.graph.nodes:
        if node.op == "placeholder":
            wide.append(node)
        elif node.op == "call_module" and all(one in wide for one in node.all_input_nodes):
            first = any(one.op == "placeholder" for one in node.all_input_nodes)
            if first or not list(trunk.get_submodule(str(node.target)).parameters()):
                wide.append(node)
    return wide


def _narrows(trunk: fx.GraphModule, node: fx.Node, wide: list[fx.Node]) -> bool:
    """Whether `node` is a convolution of what is wide alone."""
    convolves = isinstance(_module(trunk, node), nn.Conv2d | FusedConvolution)
    return convolves and all(one in wide for one in node.all_input_nodes)


def _narrow_for(trunk: fx.GraphModule, node: fx.Node, users: list[fx.Node]) -> None:
    """Give `users` the result of `node` in bfloat16."""
    if users:
        with trunk.graph.inserting_after(node):
            half = trunk.graph.call_method("bfloat16", (node,))
        for user in users:
            user.replace_input_with(node, half)


@cache
def available() -> bool:
    """Whether this build of torch has the operations, and they compute what its plain ones do."""
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1)
    maps, other = torch.randn(2, 1, 16, 8, 8, generator=generator)
    with torch.inference_mode():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) / 12)
        wanted = torch.relu(conv(maps) + other)
        half = conv.bfloat16().to(memory_format=torch.channels_last)
        maps, other = (m.bfloat16().contiguous(memory_format=torch.channels_last) for m in (maps, other))
        try:
            got = FusedConvolution(half, "relu")(maps, other)
        except (AttributeError, RuntimeError, TypeError):
            return False
    return got.shape == wanted.shape and bool(torch.allclose(got.float(), wanted, atol=0.1))


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
    """Put one operation in the place of `last`, for all from `convolution` to it."""
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
