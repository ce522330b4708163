"""ENCODERS: name -> trunk, cuts, channels, strides, normalisation. A new encoder is a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from muflow_cli.engine.forensic import Forensic
from muflow_cli.engine.vision import build_features
from muflow_cli.errors import BadSpec, BadWeights

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Cut:
    """A layer whose output is one scale: torchvision's name, channels, pixels per position."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True, slots=True)
class Encoder:
    """A row of ENCODERS.

    Attributes:
        cuts: from fine to coarse.
        model: builder's name in `torchvision.models`; None = built by `build`.
        weights: torchvision's weights enum, pinned; None = the encoder has no learned weights.
        mean: per RGB channel, of pixels in 0..1, subtracted before the trunk.
        std: divides after that.
        build: for a trunk that is not torchvision's.
    """

    cuts: tuple[Cut, ...]
    model: str | None = None
    weights: str | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    build: Callable[[], nn.Module] | None = None


def _resnet(model: str, weights: str, widths: Sequence[int]) -> Encoder:
    cuts = tuple(Cut(f"layer{i + 1}", width, 4 * 2**i) for i, width in enumerate(widths))
    return Encoder(cuts=cuts, model=model, weights=weights)


def _of_features(model: str, weights: str, cuts: Sequence[tuple[str, int, int]]) -> Encoder:
    return Encoder(cuts=tuple(Cut(f"features.{n}", c, s) for n, c, s in cuts), model=model, weights=weights)


ENCODERS: Final[Mapping[str, Encoder]] = {
    "resnet18": _resnet("resnet18", "ResNet18_Weights.IMAGENET1K_V1", (64, 128, 256)),
    "resnet34": _resnet("resnet34", "ResNet34_Weights.IMAGENET1K_V1", (64, 128, 256)),
    "resnet50": _resnet("resnet50", "ResNet50_Weights.IMAGENET1K_V1", (256, 512, 1024)),
    "wide_resnet50_2": _resnet("wide_resnet50_2", "Wide_ResNet50_2_Weights.IMAGENET1K_V1", (256, 512, 1024)),
    "densenet121": _of_features(
        "densenet121",
        "DenseNet121_Weights.IMAGENET1K_V1",
        (("denseblock1", 256, 4), ("denseblock2", 512, 8), ("denseblock3", 1024, 16)),
    ),
    "mobilenet_v3_large": _of_features(
        "mobilenet_v3_large",
        "MobileNet_V3_Large_Weights.IMAGENET1K_V1",
        (("3", 24, 4), ("6", 40, 8), ("12", 112, 16)),
    ),
    "efficientnet_b0": _of_features(
        "efficientnet_b0",
        "EfficientNet_B0_Weights.IMAGENET1K_V1",
        (("2", 24, 4), ("3", 40, 8), ("5", 112, 16)),
    ),
    "forensic": Encoder(
        cuts=tuple(Cut(*cut) for cut in Forensic.CUTS), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), build=Forensic
    ),
}


def encoder_row(name: str) -> Encoder:
    """The row called `name`; BadSpec names the rows there are."""
    if name not in ENCODERS:
        raise BadSpec("encoder", name, "one of " + ", ".join(ENCODERS))
    return ENCODERS[name]


def chosen_cuts(name: str, names: Sequence[str]) -> tuple[Cut, ...]:
    """The cuts called `names`, in the encoder's order; all of them where `names` is empty."""
    cuts = encoder_row(name).cuts
    unknown = set(names) - {cut.name for cut in cuts}
    if unknown:
        raise BadSpec("cuts", ",".join(sorted(unknown)), f"among {', '.join(c.name for c in cuts)} for {name}")
    return tuple(cut for cut in cuts if not names or cut.name in names)


class _Selected(nn.Module):
    """Trunk of our own with the maps of the chosen cuts only."""

    def __init__(self, trunk: nn.Module, chosen: Sequence[int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.chosen = tuple(chosen)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        maps = self.trunk(pictures)
        return {str(index): maps[index] for index in self.chosen}


def build_trunk(name: str, cuts: Sequence[Cut]) -> nn.Module:
    """The encoder up to the last of `cuts`, without weights (parameters on the meta device).

    The module maps normalised pictures (B, 3, H, W) to a dict of one map (B, C, H / stride, W / stride) per cut,
    in order; its parameter names are torchvision's.
    """
    row = encoder_row(name)
    if row.build is not None:
        return _Selected(row.build(), [row.cuts.index(cut) for cut in cuts]).eval()
    return build_features(str(row.model), [cut.name for cut in cuts])


def load_trunk(name: str, cuts: Sequence[Cut], weights: Mapping[str, Tensor]) -> nn.Module:
    """The encoder up to the last of `cuts` with `weights` (torchvision's names; tensors beyond the cut are ignored).

    Raises:
        BadWeights: naming the first tensor that is missing or has another shape.
    """
    trunk = build_trunk(name, cuts)
    wanted = trunk.state_dict()
    state = {}
    for key, parameter in wanted.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.int64)
            continue
        state[key] = _fitting(name, key, parameter, weights)
    trunk.load_state_dict(state, assign=True)
    return trunk.requires_grad_(False)


def _fitting(name: str, key: str, wanted: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    if key not in weights:
        raise BadWeights(f"the weights lack the tensor {key} of {name}: give a file with torchvision's names")
    found = weights[key]
    if found.shape != wanted.shape:
        raise BadWeights(
            f"the tensor {key} has shape {tuple(found.shape)}, {name} needs {tuple(wanted.shape)}: "
            "the weights belong to another network"
        )
    if not bool(found.isfinite().all()):
        raise BadWeights(f"the tensor {key} of the weights has values that are not finite: get the file again")
    return found.to(torch.float32).contiguous()


def trunk_weights(trunk: nn.Module) -> dict[str, Tensor]:
    """The tensors that a bundle keeps of a trunk: all but the counters that only training uses."""
    return {k: v for k, v in trunk.state_dict().items() if not k.endswith("num_batches_tracked")}
