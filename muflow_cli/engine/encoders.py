"""ENCODERS: name -> trunk, layers, channels, strides, normalisation. A new encoder is a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from muflow_cli.engine.backbones import build_features
from muflow_cli.engine.forensic import Forensic
from muflow_cli.errors import BadSpec, BadWeights
from muflow_cli.specs import FeatureSpec

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer whose output is modelled: torchvision's name, channels, pixels per position."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True, slots=True)
class EncoderRow:
    """A row of ENCODERS.

    Attributes:
        layers: from fine to coarse.
        model: builder's name in `torchvision.models`; None = built by `build`.
        weights: torchvision's weights enum, pinned; None = the encoder has no learned weights.
        mean: per RGB channel, of pixels in 0..1, subtracted before the trunk.
        std: divides after that.
        build: for a trunk that is not torchvision's.
    """

    layers: tuple[Layer, ...]
    model: str | None = None
    weights: str | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    build: Callable[[], nn.Module] | None = None


def _resnet(model: str, weights: str, widths: Sequence[int]) -> EncoderRow:
    layers = tuple(Layer(f"layer{i + 1}", width, 4 * 2**i) for i, width in enumerate(widths))
    return EncoderRow(layers=layers, model=model, weights=weights)


def _from_features(model: str, weights: str, layers: Sequence[tuple[str, int, int]]) -> EncoderRow:
    return EncoderRow(layers=tuple(Layer(f"features.{n}", c, s) for n, c, s in layers), model=model, weights=weights)


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
        layers=tuple(Layer(*row) for row in Forensic.LAYERS), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), build=Forensic
    ),
}


def encoder_row(name: str) -> EncoderRow:
    """The row called `name`; BadSpec names the rows there are."""
    if name not in ENCODERS:
        raise BadSpec("encoder", name, "one of " + ", ".join(ENCODERS))
    return ENCODERS[name]


def chosen_layers(name: str, names: Sequence[str]) -> tuple[Layer, ...]:
    """The layers called `names`, in the encoder's order; all of them where `names` is empty."""
    layers = encoder_row(name).layers
    unknown = set(names) - {layer.name for layer in layers}
    if unknown:
        raise BadSpec("layers", ",".join(sorted(unknown)), f"among {', '.join(c.name for c in layers)} for {name}")
    return tuple(layer for layer in layers if not names or layer.name in names)


def layers_of(feature: FeatureSpec, view_size: int) -> tuple[Layer, ...]:
    """The layers of `feature`, whose maps of square views of `view_size` pixels are at least as large as its grid.

    Raises:
        BadSpec: for an unknown encoder or layer, or where a map has fewer positions than the grid.
    """
    row, layers = encoder_row(feature.encoder), chosen_layers(feature.encoder, feature.layers)
    # A trunk of our own computes all of its layers, whichever are chosen.
    least = max(layer.stride for layer in (row.layers if row.build else layers))
    if view_size < least:
        raise BadSpec("size", view_size, f"at least {least}, which {feature.encoder} needs")
    side = view_size // max(layer.stride for layer in layers)
    if feature.grid > side:
        raise BadSpec("grid", feature.grid, f"at most {side}, the side of the smallest map of {view_size} pixels")
    return layers


class _Selected(nn.Module):
    """Trunk of our own with the maps of the chosen layers only."""

    def __init__(self, trunk: nn.Module, chosen: Sequence[int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.chosen = tuple(chosen)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.trunk(images)
        return {str(index): maps[index] for index in self.chosen}


def build_backbone(name: str, layers: Sequence[Layer]) -> nn.Module:
    """The encoder up to the last of `layers`, without weights (parameters on the meta device).

    The module maps normalised images (B, 3, H, W) to a dict of one map (B, C, H / stride, W / stride) per layer,
    in order; its parameter names are torchvision's.
    """
    row = encoder_row(name)
    if row.build is not None:
        return _Selected(row.build(), [row.layers.index(layer) for layer in layers]).eval()
    backbone = build_features(str(row.model), [layer.name for layer in layers])
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_batches_tracked = None  # a counter that only training uses, and no bundle holds
    return backbone


def load_backbone(name: str, layers: Sequence[Layer], weights: Mapping[str, Tensor]) -> nn.Module:
    """The encoder up to the last of `layers` with `weights` (torchvision's names; tensors beyond it are ignored).

    Raises:
        BadWeights: naming the first tensor that is missing or has another shape.
    """
    backbone = build_backbone(name, layers)
    state = backbone.state_dict()  # with its versions, which torch looks at when it loads batch normalisations
    for key, empty in list(state.items()):
        if key not in weights:
            raise BadWeights(f"the weights lack the tensor {key} of {name}", "give a file with torchvision's names")
        tensor = weights[key]
        if tensor.shape != empty.shape:
            raise BadWeights(
                f"the tensor {key} has shape {tuple(tensor.shape)}, but {name} needs {tuple(empty.shape)}",
                "give weights of the same network",
            )
        if not bool(tensor.isfinite().all()):
            raise BadWeights(f"the tensor {key} of the weights holds NaN or infinite values", "get the file again")
        state[key] = tensor.to(torch.float32).contiguous()
    backbone.load_state_dict(state, assign=True)
    return backbone.requires_grad_(False)
