"""Encoder weights from a local file or from torchvision's own download; both as tensors and the file's SHA-256."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from muflow_cli.engine.backbones import import_torchvision
from muflow_cli.engine.encoders import encoder_row
from muflow_cli.errors import BadWeights


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by torchvision's names, the SHA-256 of the file they came from, and that file's name or enum."""

    tensors: Mapping[str, Tensor]
    sha256: str
    origin: str


def find_weights(encoder: str, path: Path | None) -> Weights:
    """Weights of `encoder`: from `path`, else from torchvision's download; none for an encoder without weights.

    Raises:
        BadWeights: where the file cannot be read, or the download fails.
    """
    enum = encoder_row(encoder).weights
    if enum is None:
        return Weights({}, hashlib.sha256(b"").hexdigest(), "none: fixed filters")
    if path is not None:
        return read_weights(path)
    # The pinned weights, from torchvision's cache or server, checked against the hash in their name.
    weight = import_torchvision().models.get_weight(enum)
    file = str(weight.url).rsplit("/", 1)[-1]
    try:
        weight.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
    except (URLError, OSError, RuntimeError, pickle.UnpicklingError):
        raise BadWeights(
            f"cannot download the encoder weights {enum}",
            f"fetch {weight.url} on a connected machine, copy {file} here and give it as --encoder-weights {file}",
        ) from None
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file
    return Weights(_read_pickled(cached), hashlib.sha256(cached.read_bytes()).hexdigest(), enum)


def read_weights(path: Path) -> Weights:
    """Tensors of a .safetensors file, or of a .pth file read with `weights_only=True`."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or "not readable"
        raise BadWeights(f"cannot read the encoder weights {path} ({reason})", "check --encoder-weights") from None
    digest = hashlib.sha256(data).hexdigest()
    if path.suffix != ".safetensors":
        return Weights(_read_pickled(path), digest, path.name)
    try:
        return Weights(load(data), digest, path.name)
    except SafetensorError:
        raise BadWeights(f"{path} is not a whole safetensors file", "copy or download it again") from None


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise BadWeights(
            f"{path} is not a file of plain tensors", "give a .safetensors file, or a .pth that holds only a state dict"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise BadWeights(f"{path} holds something other than named tensors", "give the network's state dict")
    return {str(k): v for k, v in state.items()}
