"""torchvision's networks without torch's compiler, and without drawing numbers that weights will replace.

torchvision loads the compiler for a single check in one operation of object detection, and torch loads it to draw
initial weights on the meta device. Both would take half of a short scan's time, for things that a scan never does.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_COMPILER: Final = "torch._dynamo.utils"
_FILLING: Final = (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_)


def import_torchvision() -> ModuleType:
    """torchvision, without loading the compiler until something uses it."""
    if _COMPILER in sys.modules or "torchvision" in sys.modules:
        return importlib.import_module("torchvision")
    stand_in = _StandIn(_COMPILER)
    sys.modules[_COMPILER] = stand_in
    try:
        return importlib.import_module("torchvision")
    finally:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]


class _StandIn(ModuleType):
    """Stands in for the compiler's module while torchvision is imported; any other name in it loads the real one."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        """The compiler's own answer."""
        return bool(_compiler().is_compile_supported(device_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks for these on every module
            raise AttributeError(name)
        return getattr(_compiler(), name)


def _compiler() -> ModuleType:
    if isinstance(sys.modules.get(_COMPILER), _StandIn):
        del sys.modules[_COMPILER]
    return importlib.import_module(_COMPILER)


def build_features(model: str, layers: Sequence[str]) -> nn.Module:
    """The network that `torchvision.models` calls `model`, up to the last of `layers`; parameters on the meta device.

    Returns:
        In evaluation mode, from normalised images to a dict of each layer's output by its name.
    """
    vision = import_torchvision()
    with torch.device("meta"), Unfilled():
        network = getattr(vision.models, model)(weights=None).eval()
    extract = importlib.import_module("torchvision.models.feature_extraction").create_feature_extractor
    features: nn.Module = extract(network, {layer: layer for layer in layers})
    return features.eval()


class Unfilled(TorchFunctionMode):
    """While it is active, the initialisation of tensors is skipped."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLING or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
