"""The FastFlow of one layer: FrEIA blocks for training, and the same function on plain tensors for scoring.

Source: Yu et al. 2021, FastFlow (arXiv 2111.07677), over FrEIA 0.2's `AllInOneBlock`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor, nn

from muflow_cli.specs import FlowSpec

if TYPE_CHECKING:
    from FrEIA.modules import AllInOneBlock

# Maps (B, C, H, W) to latents (B, C, H, W) and log-determinants (B, H, W).
Transport = Callable[[Tensor], tuple[Tensor, Tensor]]

# FrEIA multiplies the coupling nets' output by this, "for stability and easier initialization".
NET_SCALE = 0.1


class Flow(nn.Module):
    """A chain of FrEIA coupling blocks over (C, H, W) maps of any height and width: the trained form.

    Args:
        channels: C, at least 2.
        spec: steps, kernels, hidden ratio, clamp.
        block_scale: factor by which each block multiplies its input at the start.
    """

    def __init__(self, channels: int, spec: FlowSpec, block_scale: float) -> None:
        # Imported here because FrEIA takes a second to import, and scoring never needs it.
        from FrEIA.modules import AllInOneBlock

        super().__init__()
        self.clamp = spec.clamp
        self.volume_preserving = spec.volume_preserving
        kernels = (spec.kernels[i % len(spec.kernels)] for i in range(spec.steps))
        self.blocks = nn.ModuleList(
            AllInOneBlock(
                [(channels, 1, 1)],
                subnet_constructor=_coupling_net(kernel, spec.hidden_ratio),
                affine_clamping=spec.clamp,
                gin_block=spec.volume_preserving,
                global_affine_init=block_scale,
                global_affine_type="SOFTPLUS",
            )
            for kernel in kernels
        )
        for block in self.blocks:
            # FrEIA stores a permutation as two dense C x C matrices; this is the same permutation as indices.
            block.register_buffer(
                "permutation", block.get_parameter("w_perm").flatten(1).argmax(dim=1), persistent=False
            )
            if spec.volume_preserving:
                # Volume is kept at every position, not only over the map, so that each position's score is its own.
                block.sum_dims = (1,)  # type: ignore[assignment]  # nn.Module announces tensors
                block.global_scale.requires_grad_(False)  # FrEIA does not use it in these blocks

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, C, H, W) and the log-determinant of the whole map (B,), by FrEIA's own code."""
        log_det = x.new_zeros(len(x))
        for block in self.blocks:
            (x,), block_log_det = block([x])
            log_det = log_det + block_log_det.reshape(len(x), -1).sum(dim=1)
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The map (B, C, H, W) whose latents are `z`."""
        for block in self.blocks[::-1]:
            (z,), _ = block([z], rev=True)
        return z


def _coupling_net(kernel: int, hidden_ratio: float) -> Callable[[int, int], nn.Module]:
    def build(inputs: int, outputs: int) -> nn.Module:
        hidden = _hidden(inputs, hidden_ratio)
        return nn.Sequential(
            nn.Conv2d(inputs, hidden, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.Conv2d(hidden, outputs, kernel, padding=kernel // 2),
        )

    return build


def _hidden(inputs: int, ratio: float) -> int:
    """Channels between the two convolutions of a coupling net."""
    return max(1, int(ratio * inputs))


def count_parameters(channels: int, spec: FlowSpec) -> int:
    """Number of trained parameters of a flow over `channels` channels: per step two convolutions, scales, offsets."""
    active = channels // 2
    passive = channels - active
    hidden = _hidden(passive, spec.hidden_ratio)
    kernels = (spec.kernels[step % len(spec.kernels)] for step in range(spec.steps))
    weights = sum(hidden * (passive + 2 * active) * kernel**2 for kernel in kernels)
    affine = channels if spec.volume_preserving else 2 * channels
    return weights + spec.steps * (hidden + 2 * active + affine)


def build_flow(channels: int, spec: FlowSpec, seed: int, scale: float = 1.0) -> Flow:
    """An untrained flow, which depends on the arguments but not on the state of the global generators.

    Args:
        channels: C, at least 2.
        spec: steps, kernels, hidden ratio, clamp.
        seed: for the permutations and the coupling nets.
        scale: factor by which the whole flow multiplies its input at the start, coupling aside; above 0. A flow that
            preserves volume ignores it.
    """
    block_scale = scale ** (1 / spec.steps) if spec.steps else 1.0
    # FrEIA draws permutations from NumPy's global generator, nn.Conv2d draws from torch's; neither accepts another.
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            return Flow(channels, spec, block_scale)
        finally:
            np.random.set_state(state)


@dataclass(frozen=True, slots=True)
class Step:
    """One coupling block: the passive half of the channels scales and shifts the active half, then all are permuted.

    Attributes:
        weight_in: (hidden, C1, k, k), C1 = C - C // 2.
        bias_in: (hidden,).
        weight_out: (2 C2, hidden, k, k), C2 = C // 2, FrEIA's factor 0.1 included.
        bias_out: (2 C2,), likewise.
        scale: (C,) positive, before the permutation.
        offset: (C,).
        permutation: (C,) int64; output channel i is channel permutation[i].
    """

    weight_in: Tensor
    bias_in: Tensor
    weight_out: Tensor
    bias_out: Tensor
    scale: Tensor
    offset: Tensor
    permutation: Tensor

    @property
    def kernel(self) -> int:
        """Side of the convolutions."""
        return self.weight_in.shape[-1]

    def net(self, x: Tensor) -> Tensor:
        """Scales and shifts (B, 2 C2, H, W) of the passive half (B, C1, H, W), in x's dtype."""
        padding = self.kernel // 2
        hidden = F.conv2d(x.to(self.weight_in.dtype), self.weight_in, self.bias_in, padding=padding).relu_()
        return F.conv2d(hidden, self.weight_out, self.bias_out, padding=padding).to(x.dtype)

    def pointwise_net(self, x: Tensor) -> Tensor:
        """The same for 1x1 kernels over channels-first positions: (C1, P) to (2 C2, P)."""
        weight_in, weight_out = self.weight_in.flatten(1), self.weight_out.flatten(1)
        hidden = torch.addmm(self.bias_in[:, None], weight_in, x.to(weight_in.dtype)).relu_()
        return torch.addmm(self.bias_out[:, None], weight_out, hidden).to(x.dtype)

    def steepness(self) -> Tensor:
        """Square of an upper bound of the coupling net's Lipschitz constant: 0 where the step is affine.

        The Frobenius norm of each convolution, which bounds the spectral norm of its matrix over one position.
        """
        return self.weight_in.square().sum() * self.weight_out.square().sum()

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> Step:
        """The step on `device`, its nets in `dtype`; the affine part stays at least float32."""
        wide = None if dtype is None else torch.promote_types(dtype, torch.float32)
        return Step(
            weight_in=self.weight_in.to(device, dtype),
            bias_in=self.bias_in.to(device, dtype),
            weight_out=self.weight_out.to(device, dtype),
            bias_out=self.bias_out.to(device, dtype),
            scale=self.scale.to(device, wide),
            offset=self.offset.to(device, wide),
            permutation=self.permutation.to(device),
        )


@dataclass(frozen=True, slots=True)
class Chain:
    """Coupling steps as plain tensors, in order: permutations by index, one log-determinant per position.

    Attributes:
        steps: none = the identity.
        clamp: bound of the couplings' log-scale, before its mean is taken away.
        volume_preserving: take the mean over channels from each position's log-scales, so that the log-determinant of
            the couplings is 0 (GIN; Sorrenson et al. 2020).
    """

    steps: tuple[Step, ...]
    clamp: float
    volume_preserving: bool = False

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, C, H, W) and log-determinants (B, H, W), nats, whose sum over positions is that of the map.

        x (B, C, H, W) and the log-determinants are computed in at least float32, the nets in the steps' dtype.
        """
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if any(step.kernel > 1 for step in self.steps):
            return self._run(x, 1)
        # Positions are independent, so they form one long matrix, channels first: halves are views, nets are products.
        flat = x.transpose(0, 1)
        z, log_det = self._run(flat.reshape(x.shape[1], -1), 0)
        return z.view(flat.shape).transpose(0, 1), log_det.view(flat.shape[1:])

    def _run(self, x: Tensor, channel: int) -> tuple[Tensor, Tensor]:
        """The flow over x whose channels lie in dimension `channel`: (C, P) or (B, C, H, W)."""
        like = [1] * (x.dim() - channel - 1)
        log_det = x.new_zeros(()).expand(x.select(channel, 0).shape)
        for step in self.steps:
            passive, active = x.tensor_split([step.weight_in.shape[1]], channel)
            net = step.net(passive) if channel else step.pointwise_net(passive)
            raw, shift = net.tensor_split(2, channel)
            log_scale = self.clamp * torch.tanh(raw)
            if self.volume_preserving:
                log_scale = log_scale - log_scale.mean(channel, keepdim=True)
            x = torch.cat([passive, torch.addcmul(shift, active, log_scale.exp())], channel)
            x = torch.addcmul(step.offset.to(x.dtype).view(-1, *like), x, step.scale.to(x.dtype).view(-1, *like))
            x = x.index_select(channel, step.permutation)
            log_det = log_det + log_scale.sum(channel)
        # The part of the log-determinant that is the same at every position.
        common = sum((step.scale.log().sum() for step in self.steps), torch.zeros(()))
        return x, log_det + common.to(log_det)


class PlainFlow(nn.Module):
    """The flow for scoring: a chain whose tensors are the module's buffers, `steps.0.weight_in` and so on.

    Args:
        chain: no steps = the identity.
    """

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.clamp = chain.clamp
        self.volume_preserving = chain.volume_preserving
        self.steps = nn.ModuleList(_Buffers(step) for step in chain.steps)

    @classmethod
    def empty(cls, channels: int, spec: FlowSpec) -> PlainFlow:
        """The flow of `spec` over `channels` channels: tensors of the right shapes without values (meta device)."""
        passive, active = channels - channels // 2, channels // 2
        hidden = _hidden(passive, spec.hidden_ratio)
        steps = []
        for index in range(spec.steps):
            side = spec.kernels[index % len(spec.kernels)]
            shapes = ((hidden, passive, side, side), (hidden,), (2 * active, hidden, side, side), (2 * active,))
            tensors = [torch.empty(shape, device="meta") for shape in (*shapes, (channels,), (channels,))]
            tensors.append(torch.empty(channels, dtype=torch.int64, device="meta"))
            steps.append(Step(**dict(zip(Step.__slots__, tensors, strict=True))))
        return cls(Chain(tuple(steps), spec.clamp, spec.volume_preserving))

    def chain(self) -> Chain:
        """The module's tensors as a chain."""
        steps = (Step(*(step.get_buffer(name) for name in Step.__slots__)) for step in self.steps)
        return Chain(tuple(steps), self.clamp, self.volume_preserving)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, C, H, W) and log-determinants (B, H, W) of x (B, C, H, W), as `Chain`."""
        return self.chain()(x)

    @property
    def reach(self) -> int:
        """Side of the largest kernel; 1 where positions are independent."""
        return max((step.kernel for step in self.chain().steps), default=1)

    def with_nets(self, dtype: torch.dtype) -> PlainFlow:
        """A copy whose coupling nets compute in `dtype`; the affine part stays at least float32."""
        chain = self.chain()
        return PlainFlow(replace(chain, steps=tuple(step.to(None, dtype) for step in chain.steps)))

    def check(self) -> None:
        """ValueError if a permutation is not one, or a global scale is not positive."""
        for index, step in enumerate(self.chain().steps):
            channels = len(step.scale)
            if not torch.equal(step.permutation.sort().values, torch.arange(channels, device=step.permutation.device)):
                raise ValueError(f"steps.{index}.permutation is not a permutation of {channels} channels")
            if not bool((step.scale > 0).all()):
                raise ValueError(f"steps.{index}.scale is not positive")


class _Buffers(nn.Module):
    """The tensors of one step as buffers."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        for name in Step.__slots__:
            self.register_buffer(name, getattr(step, name))


def trace(flow: Flow) -> Chain:
    """`flow` as plain tensors through which gradients reach its parameters."""
    blocks: list[AllInOneBlock] = list(flow.blocks)
    if not blocks:
        return Chain((), flow.clamp, flow.volume_preserving)
    # The global scales of all blocks at once, which saves eight tiny operations per block and training step.
    raw = torch.stack([block.global_scale.flatten() for block in blocks])
    scales = (torch.ones_like(raw) if flow.volume_preserving else NET_SCALE * F.softplus(raw, beta=0.5)).unbind()
    steps = []
    for block, scale in zip(blocks, scales, strict=True):
        first, _, last = block.subnet
        steps.append(
            Step(
                first.weight,
                first.bias,
                NET_SCALE * last.weight,
                NET_SCALE * last.bias,
                scale,
                block.global_offset.flatten(),
                block.permutation,
            )
        )
    return Chain(tuple(steps), flow.clamp, flow.volume_preserving)


def plain(flow: Flow) -> PlainFlow:
    """A copy of `flow` without gradients, for scoring and for a bundle."""
    live = trace(flow)
    copies = (Step(*(getattr(s, name).detach().clone() for name in Step.__slots__)) for s in live.steps)
    return PlainFlow(replace(live, steps=tuple(copies)))
