"""Detector <-> one .safetensors file, without pickle, written atomically and checked in every byte.

The header must be spelt as `save` spells it. Its head, and with it the provenance, is covered by `head_sha256`; the
tensors are covered by the two fingerprints, and a tensor that belongs to neither is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from muflow_cli.bundle_format_1 import is_intact_format_1, upgraded
from muflow_cli.calibration.calibration import Calibration, source_digest
from muflow_cli.canonical import canonical_json, from_json, to_json
from muflow_cli.detector import BundleFile, Detector, Provenance, fingerprint
from muflow_cli.engine.branch import Branch
from muflow_cli.engine.encoders import layers_of
from muflow_cli.engine.flow import PlainFlow
from muflow_cli.errors import BadBundle, MissingExtra, MuflowError
from muflow_cli.files import NotAFile, open_regular, replacing
from muflow_cli.images.faces import detector_row
from muflow_cli.output.inert import inert
from muflow_cli.specs import BranchSpec, DetectorSpec
from muflow_cli.tensor_file import BadTensorFile, Entry, read_header, write

FORMAT: Final = 2
_KEY: Final = "muflow"
_CALIBRATION: Final = "calibration."
_FITTED_ON: Final = "fitted_on"
_FITTED_NEAR: Final = "fitted_near"
_ADAPTED_TO: Final = "adapted_to"
_ADAPTED_NEAR: Final = "adapted_near"
_MOST_COMPONENTS: Final = 1024


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
    with replacing(path, force=force) as stream:
        write(stream, tensors | arrays, {_KEY: canonical_json(head).decode()})


def _head_digest(head: Mapping[str, Any]) -> str:
    """SHA-256 over the whole head; the fingerprints in it cover the tensors, this also covers the provenance."""
    return hashlib.sha256(canonical_json({k: v for k, v in head.items() if k != "head_sha256"})).hexdigest()


def load(path: Path | str) -> Detector:
    """The detector in the bundle at `path`, in FORMAT 2 or 1; it does not change if the file does.

    Raises:
        BadBundle: if it is missing, foreign, damaged, newer or inconsistent, each with its own sentence.
    """
    name = str(path)
    try:
        with open_regular(name) as file:
            return _read(name, file)
    except (FileNotFoundError, NotADirectoryError, NotAFile):
        raise BadBundle(name, "is not a file", "check the name of the detector") from None
    except OSError as error:
        raise BadBundle(name, f"cannot be read ({error.strerror})", "check its name and permissions") from None
    except BadTensorFile:
        raise BadBundle(name, "is truncated, damaged or not a safetensors file", "get the file again") from None
    except KeyError as error:
        what = f"lacks {error.args[0]}" if error.args else "lacks a part"
        raise BadBundle(name, _on_one_line(what), "get the file again, or fit a new detector") from None
    except BadBundle:
        raise
    except MissingExtra as error:
        raise BadBundle(name, f"cannot be used here ({error.problem})", error.remedy) from None
    except (MuflowError, ValueError, TypeError, RuntimeError, AttributeError, LookupError, OverflowError) as error:
        reason = _on_one_line(error.problem if isinstance(error, MuflowError) else str(error))
        raise BadBundle(name, f"is inconsistent ({reason})", "get the file again, or fit a new detector") from None


def _on_one_line(text: str) -> str:
    """Text of a file or a library for an error, which has one colon and no line break."""
    return inert(" ".join(text.replace(": ", ", ").split())[:200])


def _read(name: str, file: FileIO) -> Detector:
    """The detector; every number is checked against its bounds, and every shape against the head, before it is read."""
    header = read_header(file)
    if _KEY not in header.metadata:
        raise BadBundle(name, "is a safetensors file but not a muflow detector", "make one with `muflow fit`")
    stored = _head(name, header.metadata[_KEY])
    entries = header.entries
    if stored["format"] > 1 and stored["head_sha256"] != _head_digest(stored):
        raise _damaged(name)
    outline = _outline(stored, entries)
    content = header.read(file)
    if stored["format"] == 1 and not is_intact_format_1(stored, content.tensors):
        raise _damaged(name)
    detector = _assemble(outline, {outline.names[key]: tensor for key, tensor in content.tensors.items()})
    if stored["format"] > 1:
        fingerprints = detector.fingerprint, detector.calibration.fingerprint()
        if fingerprints != (stored["fingerprint"], stored["calibration_fingerprint"]):
            raise _damaged(name)
    _check_provenance(detector)
    # Not an argument of the class: a copy with another calibration is not what the file holds.
    object.__setattr__(detector, "file", BundleFile(content, stored["format"]))
    return detector


def _damaged(name: str) -> BadBundle:
    return BadBundle(name, "is damaged, since its content does not match its fingerprint", "get the file again")


def _head(name: str, text: object) -> dict[str, Any]:
    """The head, which describes everything but the values of the tensors."""
    damaged = BadBundle(name, "has a damaged header", "get the file again")
    try:
        head = dict(json.loads(str(text)))
        version = head["format"]
        if type(version) is not int or version < 1:
            raise damaged
        if version > FORMAT:
            remedy = "upgrade muflow-cli"
            raise BadBundle(name, f"has format {version:.6g}, but this muflow reads up to {FORMAT}", remedy)
        # One spelling: no other white space, order or repetition of keys, and no number that is not finite.
        if canonical_json(head).decode() != text:
            raise damaged
        json.dumps(head, ensure_ascii=False).encode()  # no half of a surrogate pair, which nothing can print
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise damaged from None
    return head


@dataclass(frozen=True, slots=True)
class _Outline:
    """What a head describes, before the tensors are read.

    Attributes:
        head: in FORMAT 2.
        spec: of the detector.
        branches: by name, on the meta device, with the shapes of the stored tensors.
        names: stored name of each tensor -> its name in FORMAT 2.
    """

    head: Mapping[str, Any]
    spec: DetectorSpec
    branches: dict[str, Branch]
    names: dict[str, str]


def _outline(stored: Mapping[str, Any], entries: Mapping[str, Entry]) -> _Outline:
    """The outline of a stored head.

    Raises:
        KeyError: if a part or a tensor is missing.
        MuflowError, ValueError, TypeError, AttributeError: for numbers out of bounds, or where tensors do not fit.
    """
    head, names = upgraded(stored, entries) if stored["format"] == 1 else (stored, {name: name for name in entries})
    # The rule is stored once, with the calibration.
    spec = from_json(DetectorSpec, {**head["spec"], "rule": head["calibration"]["rule"]})
    if spec.faces is not None:
        detector_row(spec.faces.detector)
    renamed = {names[name]: entry for name, entry in entries.items()}
    known = {_FITTED_ON, _FITTED_NEAR, *(name for name in renamed if name.startswith(_CALIBRATION))}
    known |= {_ADAPTED_TO, _ADAPTED_NEAR} if _ADAPTED_TO in renamed else set()
    branches = {}
    for branch in spec.branches:
        branches[branch.name] = _empty(branch, renamed)
        known |= {f"branches.{branch.name}.{key}" for key in branches[branch.name].state_dict()}
    if len(renamed) < len(names):
        raise ValueError("it holds a tensor twice")
    if renamed.keys() - known:
        raise ValueError(f"it holds the unknown tensor {min(renamed.keys() - known)}")
    fitted_near = renamed.get(_FITTED_NEAR)
    _check_hashes(_FITTED_ON, renamed[_FITTED_ON], _FITTED_NEAR, fitted_near)
    if _ADAPTED_TO in renamed:
        _check_hashes(_ADAPTED_TO, renamed[_ADAPTED_TO], _ADAPTED_NEAR, renamed[_ADAPTED_NEAR])
    return _Outline(head, spec, branches, names)


def _check_hashes(name: str, entry: Entry, near_name: str, near: Entry | None) -> None:
    """ValueError where a tensor holds no content hashes, or the other no perceptual hashes of as many images."""
    if entry.dtype != "U8" or entry.shape[1:] != (32,):
        raise ValueError(f"{name} holds no content hashes")
    if near is not None and near != Entry("U8", (entry.shape[0], 8)):
        raise ValueError(f"{near_name} holds no perceptual hashes of the images in {name}")


def _empty(spec: BranchSpec, entries: Mapping[str, Entry]) -> Branch:
    """The branch of `spec` without values, whose tensors have the types and shapes of `entries`."""
    prefix = f"branches.{spec.name}."
    layers = layers_of(spec.feature, spec.view.size)
    components = [entries[f"{prefix}heads.{index}.density.weights"].count for index in range(len(layers))]
    if not all(1 <= count <= _MOST_COMPONENTS for count in components):
        raise ValueError(f"a density has {max(components)} components, which is not from 1 to {_MOST_COMPONENTS}")
    # Bundles of earlier versions hold no moments, and a detector is adapted in all of its layers or in none.
    moments = f"{prefix}heads.0.projection.moments.mean" in entries
    adapted = f"{prefix}heads.0.projection.adaptation.matrix" in entries
    branch = Branch.empty(spec, components, moments=moments, adapted=adapted)
    for key, empty in branch.state_dict().items():
        entry, needed = entries[prefix + key], Entry.of(empty)
        if entry != needed:
            raise ValueError(
                f"{key} has type {entry.dtype} and shape {entry.shape}, but needs {needed.dtype} and {needed.shape}"
            )
    return branch


def _assemble(outline: _Outline, tensors: Mapping[str, Tensor]) -> Detector:
    for name, branch in outline.branches.items():
        _fill(branch, {key: tensors[f"branches.{name}.{key}"] for key in branch.state_dict()})
    arrays = {
        name.removeprefix(_CALIBRATION): tensor.numpy()
        for name, tensor in tensors.items()
        if name.startswith(_CALIBRATION)
    }
    return Detector(
        spec=outline.spec,
        branches=outline.branches,
        provenance=from_json(Provenance, outline.head["provenance"]),
        fitted_on=tensors[_FITTED_ON].numpy(),
        calibration=Calibration.load(arrays, outline.head["calibration"]),
        fitted_near=tensors[_FITTED_NEAR].numpy() if _FITTED_NEAR in tensors else None,
        adapted_to=tensors[_ADAPTED_TO].numpy() if _ADAPTED_TO in tensors else None,
        adapted_near=tensors[_ADAPTED_NEAR].numpy() if _ADAPTED_NEAR in tensors else None,
    )


def _fill(branch: Branch, tensors: Mapping[str, Tensor]) -> None:
    """Give a branch its tensors; ValueError for values that no fit writes."""
    state = branch.state_dict()
    for key, tensor in tensors.items():
        # The extremes are NaN where any value is; finding them takes a tenth of the time of `isfinite`.
        if tensor.is_floating_point() and tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):
            raise ValueError(f"{key} holds NaN or infinite values")
        state[key] = tensor
    branch.load_state_dict(state, assign=True)
    for head in branch.layer_heads():
        if isinstance(head.flow, PlainFlow):
            head.flow.check()
    branch.requires_grad_(False)


def _check_provenance(detector: Detector) -> None:
    """ValueError where the provenance contradicts the rest, which in FORMAT 1 is the only check of it."""
    origin, fitted_on = detector.provenance, detector.fitted_on
    datetime.fromisoformat(origin.created)
    if min(origin.train, origin.validation) < 0 or origin.train + origin.validation != len(fitted_on):
        raise ValueError("its provenance counts other images than it holds")
    if origin.train_digest != source_digest([bytes(row).hex() for row in fitted_on]):
        raise ValueError("its provenance names another set of images than it holds")
    _check_adaptation(detector)
    if origin.branches.keys() != detector.branches.keys():
        raise ValueError("its provenance names other branches than it holds")
    for name, branch in detector.branches.items():
        heads, made = branch.layer_heads(), origin.branches[name]
        if made.components != tuple(len(head.density.weights) for head in heads) or len(made.reg_covar) != len(heads):
            raise ValueError("its provenance describes other densities than it holds")


def _check_adaptation(detector: Detector) -> None:
    """ValueError where the adaptation that the provenance names is not the one that the bundle holds."""
    named, held = detector.provenance.adaptation, detector.adapted_to
    changed = {
        head.projection.adaptation is not None for branch in detector.branches.values() for head in branch.layer_heads()
    }
    if changed != {named is not None} or (held is None) != (named is None):
        raise ValueError("its provenance names an adaptation that it does not hold, or lacks the one that it holds")
    if named is not None and held is not None:
        datetime.fromisoformat(named.created)
        if (named.images, named.digest) != (len(held), source_digest([bytes(row).hex() for row in held])):
            raise ValueError("its provenance names other images than it was adapted to")
