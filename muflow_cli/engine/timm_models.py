"""timm's models as encoders, from their names alone: convolutional maps, or the patch tokens of a transformer as maps.

A name reaches timm only if timm lists it, so none can name a folder or a repository of models.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from muflow_cli.engine.backbones import Unfilled
from muflow_cli.engine.encoder_row import EncoderRow, Layer, Library
from muflow_cli.errors import BadSpec, MissingExtra

PREFIX: Final = "timm:"
NETWORK: Final = "network."  # before timm's own names of the tensors

# Pixels per position of the layers that are modelled unless others are chosen, as those of a ResNet's layer1 to layer3.
_USUAL_STRIDES: Final = (4, 8, 16)


class TimmFeatures(nn.Module):
    """A model of timm as far as its last chosen layer; its tensors have timm's names after `network.`.

    Args:
        network: with `forward_intermediates`.
        layers: position of each chosen layer among those of the network -> its name.
    """

    def __init__(self, network: nn.Module, layers: Mapping[int, str]) -> None:
        super().__init__()
        self.network = network
        self.layers = dict(layers)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps (B, C, h, w) by the layers' names, of normalised images (B, 3, H, W)."""
        read = cast("Any", self.network).forward_intermediates
        maps = read(images, indices=list(self.layers), intermediates_only=True, output_fmt="NCHW")
        return dict(zip(self.layers.values(), maps, strict=True))


@cache
def timm_row(name: str) -> EncoderRow:
    """The row of the model that timm calls `name`, which may end in the tag of its weights, as in `resnet50.a1_in1k`.

    Raises:
        MissingExtra: where timm is not installed.
        BadSpec: for a name that timm does not list, or a model that gives no maps.
    """
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise MissingExtra(f"the encoder {PREFIX}{name[:80]}", "timm") from None
    if name not in timm.list_models() and name not in timm.list_models(pretrained=True):
        raise BadSpec("encoder", f"{PREFIX}{name[:80]}", "a name that timm.list_models() has, such as timm:resnet101")
    network, arguments = _create(name, {}), {}
    config: Mapping[str, Any] = network.default_cfg
    layers = _layers(network)
    if not layers or not hasattr(network, "forward_intermediates"):
        raise BadSpec("encoder", f"{PREFIX}{name}", "another one, since this model gives no maps of its layers")
    if any(module._non_persistent_buffers_set for module in network.modules()):
        needed = "another one, since a detector cannot hold the tables that this model computes when it is made"
        raise BadSpec("encoder", f"{PREFIX}{name}", needed)
    tokens = len({layer.stride for layer in layers}) == 1
    fixed = bool(config.get("fixed_input_size"))
    if fixed and "dynamic_img_size" in inspect.signature(type(network).__init__).parameters:
        arguments, fixed = {"dynamic_img_size": True}, False
    return EncoderRow(
        layers=layers,
        library=Library.TIMM,
        build=partial(_build, name, arguments, layers),
        weights=config.get("hf_hub_id"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        usual=_usual(layers, tokens=tokens),
        multiple=layers[0].stride if tokens else 1,
        size=config["input_size"][-1] if fixed else None,
    )


def _layers(network: Any) -> tuple[Layer, ...]:
    described = getattr(network, "feature_info", None) or ()
    return tuple(Layer(str(row["module"]), int(row["num_chs"]), int(row["reduction"])) for row in described)


def _usual(layers: Sequence[Layer], *, tokens: bool) -> tuple[str, ...]:
    """The last block of each of the first three quarters of a transformer; else the layers of the usual strides."""
    if tokens:
        return tuple(dict.fromkeys(layers[max(0, len(layers) * part // 4 - 1)].name for part in (1, 2, 3)))
    return tuple(layer.name for layer in layers if layer.stride in _USUAL_STRIDES)


def _create(name: str, arguments: Mapping[str, Any]) -> Any:
    """The whole model but its classifier, on the meta device; timm downloads nothing for it."""
    with torch.device("meta"), Unfilled():
        return importlib.import_module("timm").create_model(name, pretrained=False, num_classes=0, **arguments).eval()


def _build(name: str, arguments: Mapping[str, Any], known: Sequence[Layer], layers: Sequence[Layer]) -> nn.Module:
    network = _create(name, arguments)
    chosen = {known.index(layer): layer.name for layer in layers}
    network.prune_intermediate_layers(list(chosen), prune_norm=True, prune_head=True)
    return TimmFeatures(network, chosen).eval()
