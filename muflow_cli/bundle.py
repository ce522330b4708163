"""Detector <-> one .safetensors file, without pickle, written atomically and checked against its fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from muflow_cli.bundle_format_1 import from_format_1
from muflow_cli.calibration.calibration import Calibration
from muflow_cli.canonical import canonical_json, from_json, to_json
from muflow_cli.detector import Detector, Provenance, fingerprint
from muflow_cli.engine.branch import Branch
from muflow_cli.engine.encoders import chosen_layers
from muflow_cli.engine.flow import PlainFlow
from muflow_cli.errors import BadBundle, MuflowError
from muflow_cli.files import write_whole
from muflow_cli.specs import BranchSpec, DetectorSpec

FORMAT: Final = 2
_KEY: Final = "muflow"
_CALIBRATION: Final = "calibration."


def save(detector: Detector, path: Path, *, force: bool = False) -> None:
    """Write `detector` to `path` atomically.

    Raises:
        OutputExists: if `path` exists and `force` is false.
        CannotWrite: with the system's reason; no file is left behind.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in detector.tensors().items()}
    calibration = detector.calibration
    head: dict[str, Any] = {
        "format": FORMAT,
        "fingerprint": fingerprint(tensors, detector.spec),
        "spec": {name: value for name, value in to_json(detector.spec).items() if name != "rule"},
        "provenance": to_json(detector.provenance),
        "calibration": calibration.meta(),
        "calibration_fingerprint": calibration.fingerprint(),
    }
    head["head_sha256"] = _head_digest(head)
    arrays = {f"{_CALIBRATION}{name}": torch.from_numpy(array) for name, array in calibration.arrays().items()}
    write_whole(path, to_safetensors(tensors | arrays, {_KEY: canonical_json(head).decode()}), force=force)


def _head_digest(head: Mapping[str, Any]) -> str:
    """SHA-256 over the whole head; the fingerprints in it cover the tensors, this also covers the provenance."""
    return hashlib.sha256(canonical_json({k: v for k, v in head.items() if k != "head_sha256"})).hexdigest()


def load(path: Path | str) -> Detector:
    """The detector in the bundle at `path`, in FORMAT 2 or 1.

    Raises:
        BadBundle: if it is missing, foreign, damaged, newer or inconsistent, each with its own sentence.
    """
    name = str(path)
    head, tensors = _read(name)
    try:
        detector = _intact(head, tensors)
    except KeyError as error:
        missing = str(error.args[0]) if error.args else "a part"
        raise BadBundle(name, f"lacks {missing}", "get the file again, or fit a new detector") from None
    except (MuflowError, ValueError, TypeError, RuntimeError, AttributeError, RecursionError) as error:
        reason = error.problem if isinstance(error, MuflowError) else str(error)
        # An error has one colon and no line break, but the text of a file or a library may hold others.
        reason = " ".join(reason.replace(": ", ", ").split())[:200]
        raise BadBundle(name, f"is inconsistent ({reason})", "get the file again, or fit a new detector") from None
    if detector is None:
        raise BadBundle(name, "is damaged, since its content does not match its fingerprint", "get the file again")
    return detector


def _intact(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Detector | None:
    """The detector; None if a digest in the head does not match."""
    if head["format"] == 1:
        upgraded = from_format_1(head, tensors)
        return None if upgraded is None else _assemble(*upgraded)
    if head["head_sha256"] != _head_digest(head):
        return None
    detector = _assemble(head, tensors)
    same = detector.fingerprint == head["fingerprint"]
    return detector if same and detector.calibration.fingerprint() == head["calibration_fingerprint"] else None


def _read(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not Path(name).is_file():
        raise BadBundle(name, "is not a file", "check the name of the detector")
    try:
        with safe_open(name, framework="pt") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise BadBundle(name, "is a safetensors file but not a muflow detector", "make one with `muflow fit`")
            head = _head(name, metadata[_KEY])
            return head, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, UnicodeDecodeError):
        raise BadBundle(name, "is truncated, damaged or not a safetensors file", "get the file again") from None
    except OSError as error:
        raise BadBundle(name, f"cannot be read ({error.strerror})", "check its permissions") from None


def _head(name: str, text: str) -> dict[str, Any]:
    try:
        head = dict(json.loads(text))
        version = head["format"]
        if type(version) is not int or version < 1:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadBundle(name, "has a damaged header", "get the file again") from None
    if version > FORMAT:
        raise BadBundle(name, f"has format {version}, but this muflow reads up to {FORMAT}", "upgrade muflow-cli")
    return head


def _assemble(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Detector:
    # The rule is stored once, with the calibration.
    spec = from_json(DetectorSpec, {**head["spec"], "rule": head["calibration"]["rule"]})
    branches = {branch.name: _branch(branch, tensors) for branch in spec.branches}
    of_calibration = {name: tensor for name, tensor in tensors.items() if name.startswith(_CALIBRATION)}
    arrays = {name.removeprefix(_CALIBRATION): tensor.numpy() for name, tensor in of_calibration.items()}
    detector = Detector(
        spec=spec,
        branches=branches,
        provenance=from_json(Provenance, head["provenance"]),
        fitted_on=tensors["fitted_on"].numpy(),
        calibration=Calibration.load(arrays, head["calibration"]),
        fitted_near=tensors["fitted_near"].numpy() if "fitted_near" in tensors else None,
    )
    unknown = tensors.keys() - detector.tensors().keys() - of_calibration.keys()
    if unknown:
        raise ValueError(f"it holds the unknown tensor {min(unknown)}")
    if detector.fitted_on.dtype != "uint8" or detector.fitted_on.shape[1:] != (32,):
        raise ValueError("fitted_on holds no content hashes")
    near = detector.fitted_near
    if near is not None and (near.dtype != "uint8" or near.shape != (len(detector.fitted_on), 8)):
        raise ValueError("fitted_near holds no perceptual hashes of the images in fitted_on")
    return detector


def _branch(spec: BranchSpec, tensors: Mapping[str, Tensor]) -> Branch:
    """The branch of `spec` with its tensors, which are checked.

    Raises:
        KeyError: if a tensor is missing.
        ValueError: if a tensor has another shape or type, or holds NaN or infinite values.
    """
    prefix = f"branches.{spec.name}."
    layers = chosen_layers(spec.feature.encoder, spec.feature.layers)
    components = [tensors[f"{prefix}heads.{index}.density.weights"].numel() for index in range(len(layers))]
    branch = Branch.empty(spec, components)
    state = branch.state_dict()
    for key, empty in state.items():
        tensor = tensors[prefix + key]
        if tensor.shape != empty.shape:
            raise ValueError(f"{key} has shape {tuple(tensor.shape)}, but needs {tuple(empty.shape)}")
        if tensor.dtype != empty.dtype:
            raise ValueError(f"{key} has type {tensor.dtype}, but needs {empty.dtype}")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{key} holds NaN or infinite values")
        state[key] = tensor
    branch.load_state_dict(state, assign=True)
    for head in branch.layer_heads():
        if isinstance(head.flow, PlainFlow):
            head.flow.check()
    return branch.requires_grad_(False)
