"""A fitted branch in its fastest form on a device: folded, in the placement's precision, with faster kernels."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

from muflow_cli.engine.branch import Branch, Encoder, Head
from muflow_cli.engine.devices import Placement
from muflow_cli.engine.encoder_row import Library
from muflow_cli.engine.encoders import encoder_row
from muflow_cli.engine.executor import one_thread
from muflow_cli.engine.flow import PlainFlow
from muflow_cli.engine.half import Halved, halve, natural_images, round_weights
from muflow_cli.engine.mixture import Mixture
from muflow_cli.run_specs import Precision

try:
    from muflow_cli.engine.cpu import accelerate
except ModuleNotFoundError as error:  # the folder of faster kernels may be left out
    if error.name != "muflow_cli.engine.cpu":
        raise

    def accelerate(module: nn.Module, placement: Placement) -> nn.Module:  # noqa: ARG001 - the signature is the folder's
        """The module itself."""
        return module


def for_inference(branch: Branch, placement: Placement, *, faster: bool = True) -> Branch:
    """A copy of `branch` on a device with the same scores up to rounding; `branch` does not change.

    Args:
        branch: as it was fitted.
        placement: where and how to compute.
        faster: with kernels that torch alone has, where they are faster.
    """
    heads = heads_for_inference(branch, placement, faster=faster)
    encoder = encoder_for_inference(branch.encoder, placement, faster=faster)
    return Branch(branch.spec, encoder, heads).to(placement.device).eval()


def heads_for_inference(branch: Branch, placement: Placement, *, faster: bool = True) -> list[Head]:
    """Copies of the branch's heads on a device, which score pooled maps as `for_inference` does."""
    heads = []
    for head in branch.layer_heads():
        density = Mixture(*(buffer.float() for buffer in head.density.buffers()))
        plain = cast("PlainFlow", head.flow)
        projection, flow = head.projection, accelerate(plain, placement) if faster else plain
        # Nets that read a single position cost next to nothing in float32.
        if flow is plain and placement.precision is Precision.BF16 and plain.reach > 1:
            flow = plain.with_nets(torch.bfloat16)
        if placement.device.type != "cpu":  # a GPU needs its own tensors, a processor reads those of the branch
            projection, flow = copy.deepcopy(projection), copy.deepcopy(flow)
        own = Head(projection, flow, density, branch.spec.target.score_kind)
        heads.append(own.to(placement.device).eval())
    return heads


def encoder_for_inference(encoder: Encoder, placement: Placement, *, faster: bool = True) -> Encoder:
    """A copy of `encoder` on a device; `encoder` does not change."""
    backbone, library = copy.deepcopy(encoder.backbone).eval(), encoder_row(encoder.feature.encoder).library
    # Fixed filters measure differences of single grey levels, which bfloat16 cannot represent; float32 is cheap here.
    if library is Library.TORCHVISION:
        # Traced again: torchvision's own modules, which were left whole, contain batch normalisations.
        traced = cast("fx.GraphModule", fuse(backbone, inplace=True).eval())
        if placement.precision is Precision.BF16:
            with one_thread():  # the same weights whatever the number of cores
                rounded = round_weights(traced, encoder.normalise(natural_images()))
                backbone = halve(cast("fx.GraphModule", accelerate(rounded, placement)))
        else:
            backbone = accelerate(traced, placement) if faster else traced
    elif library is Library.TIMM and placement.precision is Precision.BF16:
        backbone = Halved(backbone)
    prepared = Encoder(encoder.feature, backbone.to(memory_format=torch.channels_last))
    prepared.normalise.load_state_dict(encoder.normalise.state_dict())
    return prepared.to(placement.device).eval()
