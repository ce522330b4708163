"""Encoder weights from a local file or from the library's own download; both as tensors and the file's SHA-256."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from muflow_cli.engine.backbones import import_torchvision
from muflow_cli.engine.encoder_row import Library
from muflow_cli.engine.encoders import encoder_row
from muflow_cli.errors import BadWeights
from muflow_cli.files import NotAFile, open_regular


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors by their library's names, the SHA-256 of their file, and its name, torchvision's enum or a repository."""

    tensors: Mapping[str, Tensor]
    sha256: str
    origin: str


def find_weights(encoder: str, path: Path | None) -> Weights:
    """Weights of `encoder`: from `path`, else from its library's download; none for an encoder without weights.

    Raises:
        BadWeights: where the file cannot be read, or the download fails.
        MuflowError: as `encoder_row`.
    """
    row = encoder_row(encoder)
    if not row.learned:
        return Weights({}, hashlib.sha256(b"").hexdigest(), "none: fixed filters")
    if path is not None:
        return read_weights(path)
    if row.weights is None:
        raise BadWeights(f"nobody offers weights of {encoder} for download", "give a file with --encoder-weights")
    return _from_hub(row.weights) if row.library is Library.TIMM else _from_torchvision(row.weights)


def _from_torchvision(enum: str) -> Weights:
    """The pinned weights, from torchvision's cache or server, checked against the hash in their name."""
    weight = import_torchvision().models.get_weight(enum)
    file = str(weight.url).rsplit("/", 1)[-1]
    if not Path(torch.hub.get_dir()).is_absolute():  # torch would make a folder named "~" here
        raise BadWeights(
            f"there is no home folder to keep the encoder weights {enum} in",
            "set TORCH_HOME to a folder, or give the weights with --encoder-weights",
        )
    try:
        weight.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
    except (URLError, OSError, RuntimeError, pickle.UnpicklingError):
        raise BadWeights(
            f"cannot download the encoder weights {enum}",
            f"fetch {weight.url} on a connected machine, copy {file} here and give it as --encoder-weights {file}",
        ) from None
    cached = read_weights(Path(torch.hub.get_dir()) / "checkpoints" / file)
    return Weights(cached.tensors, cached.sha256, enum)


def _from_hub(repository: str) -> Weights:
    """The weights in one of timm's repositories, from the cache or server that timm uses; nobody is logged in."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils.tqdm import disable_progress_bars

    file = "model.safetensors"
    disable_progress_bars()
    try:
        path = try_to_load_from_cache(repository, file)
        if not isinstance(path, str):
            # This fails at once without a network, where the download would try again for half a minute.
            get_hf_file_metadata(hf_hub_url(repository, file), token=False)
            path = hf_hub_download(repository, file, token=False)
    except Exception:  # noqa: BLE001  the client and what it calls end in a dozen exceptions without a common base
        raise BadWeights(
            f"cannot download the encoder weights {repository}",
            f"fetch {file} of {repository} on a connected machine and give it as --encoder-weights {file}",
        ) from None
    cached = read_weights(Path(path))
    return Weights(cached.tensors, cached.sha256, repository)


def read_weights(path: Path) -> Weights:
    """Tensors of a .safetensors file, or of a .pth file read with `weights_only=True`; each file is read once.

    Raises:
        BadWeights: where the file cannot be read, or holds anything but named dense tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with open_regular(path) as file:
            data = file.readall()
    except NotAFile:
        raise BadWeights(f"the encoder weights {path} are not a file", "check --encoder-weights") from None
    except OSError as error:
        reason = error.strerror or "not readable"
        raise BadWeights(f"cannot read the encoder weights {path} ({reason})", "check --encoder-weights") from None
    # A name that is not UTF-8 is written out, since a bundle holds text.
    origin = path.name.encode(errors="backslashreplace").decode()
    digest = hashlib.sha256(data).hexdigest()
    if path.suffix != ".safetensors":
        return Weights(_unpickled(path, data), digest, origin)
    try:
        return Weights(load(data), digest, origin)
    except (SafetensorError, KeyError, ValueError, RuntimeError, MemoryError):  # KeyError: a type that torch lacks
        raise BadWeights(f"{path} is not a whole safetensors file", "copy or download it again") from None


def _unpickled(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old forms of files, which are refused or read
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  torch's reader ends in any of a dozen exceptions where a file is damaged
        raise BadWeights(
            f"{path} is not a file of plain tensors", "give a .safetensors file, or a .pth that holds only a state dict"
        ) from None
    if not isinstance(state, dict) or not all(_is_plain(tensor) for tensor in state.values()):
        raise BadWeights(f"{path} holds something other than named tensors", "give the network's state dict")
    return {str(name): tensor for name, tensor in state.items()}


def _is_plain(value: object) -> bool:
    """Whether `value` is a dense tensor of numbers in memory."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
        return False
    return not (value.is_quantized or value.is_complex())
