"""Bundles of FORMAT 1 (muflow 0.1): their head and tensors in the names and shapes of FORMAT 2.

A detector had a single unnamed branch, which is named `main` here. Layers were called cuts, the projection space, and
the density target.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from torch import Tensor

from muflow_cli.canonical import canonical_json
from muflow_cli.engine.encoders import chosen_layers
from muflow_cli.tensor_file import hash_tensors

_BRANCH: Final = "main"
_CALIBRATION: Final = "calibration."
_PARTS: Final = {"space": "projection", "flow": "flow", "target": "density"}
_STEP: Final = re.compile(r"step(\d+)\.")
_OF_BRANCH: Final = (
    "weights_origin",
    "weights_sha256",
    "overlap",
    "effective_sample_size",
    "components",
    "reg_covar",
    "epochs",
    "best_epoch",
    "train_nll",
    "validation_nll",
)


def is_intact_format_1(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Whether the stored tensors match the fingerprints in the stored head; no digest covers the provenance."""
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(_CALIBRATION)}
    settings = {name: value for name, value in head["spec"].items() if name != "rule"}
    digests = hash_tensors(own, settings), _calibration_fingerprint(head["calibration"], tensors)
    return digests == (head["fingerprint"], head["calibration_fingerprint"])


def upgraded(head: Mapping[str, Any], names: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The head in FORMAT 2, without fingerprints, and the name in FORMAT 2 of each of the tensors called `names`.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if they do not describe a calibrated detector.
    """
    if head["calibration"] is None:
        raise ValueError("it has no calibration, which only muflow 0.1 can give it")
    feature, target = dict(head["spec"]["feature"]), dict(head["spec"]["target"])
    feature["layers"] = feature.pop("cuts")
    target |= {"images_per_average": target.pop("mean_size"), "n_averages": target.pop("means")}
    layers = [layer.name for layer in chosen_layers(feature["encoder"], feature["layers"])]
    calibration = dict(head["calibration"])
    columns = [f"{_BRANCH}/{layer}" for layer in layers]
    del calibration["scales"]
    calibration |= {"columns": columns, "images": calibration.pop("pictures")}
    provenance = dict(head["provenance"])
    provenance["branches"] = {_BRANCH: {name: provenance.pop(name) for name in _OF_BRANCH}}
    old = head["spec"]
    branch = {"name": _BRANCH, "view": old["view"], "feature": feature, "flow": old["flow"], "target": target}
    spec = {"preset": old["preset"], "branches": [branch], "train": old["train"]}
    renamed = {name: _renamed(name, layers) for name in names}
    return {"spec": spec, "provenance": provenance, "calibration": calibration}, renamed


def _renamed(name: str, layers: list[str]) -> str:
    if name == "fitted_on" or name.startswith(_CALIBRATION):
        return name
    group, rest = name.split(".", 1)
    if group == "encoder":
        return f"branches.{_BRANCH}.encoder.backbone.{rest}"
    index = next((index for index, layer in enumerate(layers) if rest.startswith(f"{layer}.")), None)
    if index is None:
        raise ValueError(f"it holds the unknown tensor {name}")
    key = rest.removeprefix(f"{layers[index]}.")
    key = "axes" if (group, key) == ("space", "projection") else _STEP.sub(r"steps.\1.", key)
    return f"branches.{_BRANCH}.heads.{index}.{_PARTS[group]}.{key}"


def _calibration_fingerprint(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(canonical_json({"rule": meta["rule"], "formats": meta["formats"]}))
    arrays = {
        name.removeprefix(_CALIBRATION): t.numpy() for name, t in tensors.items() if name.startswith(_CALIBRATION)
    }
    for name, array in sorted(arrays.items()):
        digest.update(canonical_json([name, array.dtype.str, list(array.shape)]))
        digest.update(array.tobytes())
    return digest.hexdigest()
