"""What is known of an encoder before it is built: its layers, its input, and where its weights come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from torch import nn

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


class Library(StrEnum):
    """Where an encoder's network and the names of its tensors come from."""

    TORCHVISION = "torchvision"
    TIMM = "timm"
    OWN = "muflow"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer whose output is modelled: its library's name, channels, pixels per position."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True, slots=True)
class EncoderRow:
    """A row of ENCODERS, or what the row of a timm model would be.

    Attributes:
        layers: from fine to coarse.
        library: of the network.
        build: the network up to the last of some layers, with parameters on the meta device: from normalised images
            (B, 3, H, W) to a dict of one map (B, C, H / stride, W / stride) per layer, in order.
        weights: pinned weights to download, torchvision's enum or timm's repository; None = there are none.
        mean: per RGB channel, of pixels in 0..1, subtracted before the trunk.
        std: divides after that.
        usual: names of the layers that are modelled unless others are chosen; empty = all.
        multiple: the side of a view is a multiple of it, in pixels.
        size: the only side of a view that the network takes, in pixels; None = any that the others allow.
    """

    layers: tuple[Layer, ...]
    library: Library
    build: Callable[[Sequence[Layer]], nn.Module]
    weights: str | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    usual: tuple[str, ...] = ()
    multiple: int = 1
    size: int | None = None

    @property
    def learned(self) -> bool:
        """Whether the encoder has weights that were learned."""
        return self.library is not Library.OWN
