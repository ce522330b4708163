"""ENCODERS: name -> trunk, layers, channels, strides, normalisation. A new encoder is a row; timm's need none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from muflow_cli.engine.backbones import build_features
from muflow_cli.engine.encoder_row import EncoderRow, Layer, Library
from muflow_cli.engine.forensic import Forensic
from muflow_cli.engine.timm_models import NETWORK, PREFIX, timm_row
from muflow_cli.errors import BadSpec, BadWeights
from muflow_cli.specs import FeatureSpec, Statistics


def _torchvision(model: str, weights: str, layers: Sequence[Layer]) -> EncoderRow:
    def build(chosen: Sequence[Layer]) -> nn.Module:
        return build_features(model, [layer.name for layer in chosen])

    return EncoderRow(layers=tuple(layers), library=Library.TORCHVISION, build=build, weights=weights)


def _resnet(model: str, weights: str, widths: Sequence[int]) -> EncoderRow:
    layers = [Layer(f"layer{i + 1}", width, 4 * 2**i) for i, width in enumerate(widths)]
    return _torchvision(model, weights, layers)


def _from_features(model: str, weights: str, layers: Sequence[tuple[str, int, int]]) -> EncoderRow:
    return _torchvision(model, weights, [Layer(f"features.{n}", c, s) for n, c, s in layers])


_FORENSIC: Final = tuple(Layer(*row) for row in Forensic.LAYERS)


class _Selected(nn.Module):
    """The forensic encoder's maps of the chosen layers only; it computes all of them."""

    def __init__(self, chosen: Sequence[Layer]) -> None:
        super().__init__()
        self.trunk = Forensic()
        self.chosen = tuple(_FORENSIC.index(layer) for layer in chosen)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.trunk(images)
        return {str(index): maps[index] for index in self.chosen}


ENCODERS: Final[Mapping[str, EncoderRow]] = {
    "resnet18": _resnet("resnet18", "ResNet18_Weights.IMAGENET1K_V1", (64, 128, 256)),
    "resnet34": _resnet("resnet34", "ResNet34_Weights.IMAGENET1K_V1", (64, 128, 256)),
    "resnet50": _resnet("resnet50", "ResNet50_Weights.IMAGENET1K_V1", (256, 512, 1024)),
    "wide_resnet50_2": _resnet("wide_resnet50_2", "Wide_ResNet50_2_Weights.IMAGENET1K_V1", (256, 512, 1024)),
    "densenet121": _from_features(
        "densenet121",
        "DenseNet121_Weights.IMAGENET1K_V1",
        (("denseblock1", 256, 4), ("denseblock2", 512, 8), ("denseblock3", 1024, 16)),
    ),
    "mobilenet_v3_large": _from_features(
        "mobilenet_v3_large",
        "MobileNet_V3_Large_Weights.IMAGENET1K_V1",
        (("3", 24, 4), ("6", 40, 8), ("12", 112, 16)),
    ),
    "efficientnet_b0": _from_features(
        "efficientnet_b0",
        "EfficientNet_B0_Weights.IMAGENET1K_V1",
        (("2", 24, 4), ("3", 40, 8), ("5", 112, 16)),
    ),
    "forensic": EncoderRow(
        layers=_FORENSIC, library=Library.OWN, build=_Selected, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    ),
}


def encoder_row(name: str) -> EncoderRow:
    """The row called `name`, or that of timm's model where `name` is `timm:MODEL`.

    Raises:
        BadSpec: for a name that does not exist; it names the rows there are.
        MissingExtra: for a model of timm where timm is not installed.
    """
    if name.startswith(PREFIX):
        return timm_row(name.removeprefix(PREFIX))
    if name not in ENCODERS:
        raise BadSpec("encoder", name, f"one of {', '.join(ENCODERS)}, or {PREFIX}MODEL")
    return ENCODERS[name]


def chosen_layers(name: str, names: Sequence[str]) -> tuple[Layer, ...]:
    """The layers called `names`, in the encoder's order; the usual ones of its row where `names` is empty."""
    row = encoder_row(name)
    unknown = set(names) - {layer.name for layer in row.layers}
    if unknown:
        raise BadSpec("layers", ",".join(sorted(unknown)), f"among {', '.join(c.name for c in row.layers)} for {name}")
    chosen = names or row.usual
    return tuple(layer for layer in row.layers if not chosen or layer.name in chosen)


def layers_of(feature: FeatureSpec, view_size: int) -> tuple[Layer, ...]:
    """The layers of `feature`, whose maps of square views of `view_size` pixels are at least as large as its grid.

    Raises:
        BadSpec: for an unknown encoder or layer, views that the encoder does not take, or where a map has fewer
            positions than the grid.
        MissingExtra: as `encoder_row`.
    """
    row, layers = encoder_row(feature.encoder), chosen_layers(feature.encoder, feature.layers)
    # The forensic encoder computes all of its layers, whichever are chosen.
    least = max(layer.stride for layer in (layers if row.learned else row.layers))
    if row.size is not None and view_size != row.size:
        raise BadSpec("size", view_size, f"{row.size}, the only size that {feature.encoder} takes (view.size)")
    if view_size % row.multiple:
        raise BadSpec("size", view_size, f"a multiple of {row.multiple}, which {feature.encoder} needs (view.size)")
    if view_size < least:
        raise BadSpec("size", view_size, f"at least {least}, which {feature.encoder} needs")
    side = view_size // max(layer.stride for layer in layers)
    if feature.grid > side:
        raise BadSpec("grid", feature.grid, f"at most {side}, the side of the smallest map of {view_size} pixels")
    if feature.grid == side and feature.statistics is not Statistics.MEAN:
        raise BadSpec("grid", feature.grid, f"less than {side}, since a deviation needs several positions in a cell")
    return layers


def build_backbone(name: str, layers: Sequence[Layer]) -> nn.Module:
    """The encoder up to the last of `layers`, without weights (parameters on the meta device).

    The module maps normalised images (B, 3, H, W) to a dict of one map (B, C, H / stride, W / stride) per layer,
    in order; its parameter names are its library's, those of timm after `network.`.
    """
    backbone = encoder_row(name).build(layers).eval()
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_batches_tracked = None  # a counter that only training uses, and no bundle holds
    return backbone


def load_backbone(name: str, layers: Sequence[Layer], weights: Mapping[str, Tensor]) -> nn.Module:
    """The encoder up to the last of `layers` with `weights` (its library's names; tensors beyond it are ignored).

    Raises:
        BadWeights: naming the first tensor that is missing or has another shape.
    """
    backbone = build_backbone(name, layers)
    state = backbone.state_dict()  # with its versions, which torch looks at when it loads batch normalisations
    for own, empty in list(state.items()):
        key = own.removeprefix(NETWORK)
        if key not in weights:
            names = f"give a file with the names of {encoder_row(name).library.value}"
            raise BadWeights(f"the weights lack the tensor {key} of {name}", names)
        tensor = weights[key]
        if tensor.shape != empty.shape:
            raise BadWeights(
                f"the tensor {key} has shape {tuple(tensor.shape)}, but {name} needs {tuple(empty.shape)}",
                "give weights of the same network",
            )
        if not bool(tensor.isfinite().all()):
            raise BadWeights(f"the tensor {key} of the weights holds NaN or infinite values", "get the file again")
        state[own] = tensor.to(torch.float32).contiguous()
    backbone.load_state_dict(state, assign=True)
    return backbone.requires_grad_(False)
