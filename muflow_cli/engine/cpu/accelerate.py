"""The only entry point to the kernels of this folder."""

from __future__ import annotations

import torch
from torch import fx, nn

from muflow_cli.engine.cpu.fused import fuse_convolutions
from muflow_cli.engine.cpu.winograd import WinogradFlow
from muflow_cli.engine.devices import Placement
from muflow_cli.engine.flow import PlainFlow
from muflow_cli.run_specs import Precision


def accelerate(module: nn.Module, placement: Placement) -> nn.Module:
    """A module that computes the same up to rounding, faster on a processor; `module` itself where none exists.

    Args:
        module: a traced backbone in float32 whose batch normalisations are folded, or a flow in float32.
        placement: where it will run, and in which precision.
    """
    if placement.device.type != "cpu":
        return module
    if isinstance(module, fx.GraphModule) and placement.precision is Precision.BF16:
        return fuse_convolutions(module)
    if isinstance(module, PlainFlow) and WinogradFlow.can(module):
        return WinogradFlow(module, torch.bfloat16 if placement.precision is Precision.BF16 else torch.float32)
    return module
