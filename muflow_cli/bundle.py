"""Detector <-> one .safetensors file. No pickle; written whole or not at all; checked against its fingerprints."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from muflow_cli.calibration import Calibration
from muflow_cli.canonical import canonical_json, from_json, to_json
from muflow_cli.detector import Detector, Provenance, fingerprint
from muflow_cli.engine.encoders import chosen_cuts
from muflow_cli.engine.features import Space
from muflow_cli.engine.flow import PlainFlow
from muflow_cli.engine.mixture import Mixture
from muflow_cli.engine.scoring import Model
from muflow_cli.errors import BadBundle, BadWeights, CannotWrite, MuflowError, OutputExists
from muflow_cli.specs import DetectorSpec

FORMAT: Final = 1
_KEY: Final = "muflow"


def save(detector: Detector, path: Path, *, force: bool = False) -> None:
    """Write `detector` to `path`: a temporary file in the same folder, fsynced, renamed.

    Raises:
        OutputExists: where `path` is there and `force` is not given.
        CannotWrite: with the system's reason; nothing is left behind.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in detector.tensors().items()}
    head: dict[str, Any] = {
        "format": FORMAT,
        "fingerprint": fingerprint(tensors, detector.spec),
        "spec": to_json(detector.spec),
        "provenance": to_json(detector.provenance),
        "calibration": None,
    }
    if detector.calibration is not None:
        head["calibration"] = detector.calibration.meta()
        head["calibration_fingerprint"] = detector.calibration.fingerprint()
        arrays = detector.calibration.arrays()
        tensors |= {f"calibration.{name}": torch.from_numpy(array) for name, array in arrays.items()}
    write_atomically(path, to_safetensors(tensors, {_KEY: canonical_json(head).decode()}), force=force)


def check_writable(path: Path, *, force: bool) -> None:
    """Refuse early what `save` would refuse after hours: an existing file, a folder that cannot be written."""
    if path.is_dir():
        raise CannotWrite(str(path), "it is a folder")
    if path.exists() and not force:
        raise OutputExists(str(path))
    with _writing(path), tempfile.TemporaryFile(dir=path.parent):
        pass


def write_atomically(path: Path, data: bytes, *, force: bool) -> None:
    """Write `data` to `path` whole or not at all."""
    if path.exists() and not force:
        raise OutputExists(str(path))
    temporary: Path | None = None
    with _writing(path):
        try:
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
            temporary = Path(name)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise


def _umask() -> int:
    # The only way to read the umask is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWrite(str(path), error.strerror or str(error)) from None


def load(path: Path | str) -> Detector:
    """The detector in the bundle at `path`.

    Raises:
        BadBundle: one sentence that says whether it is missing, foreign, damaged, newer or inconsistent.
    """
    name = str(path)
    head, tensors = _read(name)
    try:
        spec = from_json(DetectorSpec, head["spec"])
        own = {k: v for k, v in tensors.items() if not k.startswith("calibration.")}
        detector = _assemble(spec, own, from_json(Provenance, head["provenance"]))
        calibration = _calibration(head, tensors)
    except BadWeights as error:
        raise BadBundle(name, f"is inconsistent ({error})", "get the file again") from None
    except KeyError as error:
        missing = str(error.args[0]) if error.args else "a part"
        raise BadBundle(name, f"lacks {missing}", "get the file again, or fit a new detector") from None
    except (ValueError, TypeError, RuntimeError, MuflowError) as error:
        raise BadBundle(name, f"is inconsistent ({error})", "get the file again, or fit a new detector") from None
    _check_fingerprints(name, head, detector, calibration)
    return Detector(
        spec=spec,
        model=detector.model,
        provenance=detector.provenance,
        fitted_on=detector.fitted_on,
        calibration=calibration,
    )


def _check_fingerprints(
    name: str, head: Mapping[str, Any], detector: Detector, calibration: Calibration | None
) -> None:
    same = detector.fingerprint == head.get("fingerprint")
    if calibration is not None:
        same = same and calibration.fingerprint() == head.get("calibration_fingerprint")
    if not same:
        raise BadBundle(name, "is damaged: its content does not match its fingerprint", "get the file again")


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
        head = json.loads(text)
        version = int(head["format"])
    except (ValueError, KeyError, TypeError):
        raise BadBundle(name, "has a damaged header", "get the file again") from None
    if version > FORMAT:
        raise BadBundle(name, f"has format {version}, this muflow reads up to {FORMAT}", "upgrade muflow-cli")
    return dict(head)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _assemble(spec: DetectorSpec, tensors: Mapping[str, Tensor], provenance: Provenance) -> Detector:
    scales = [cut.name for cut in chosen_cuts(spec.feature.encoder, spec.feature.cuts)]
    model = Model(
        feature=spec.feature,
        score_kind=spec.target.score_kind,
        weights=_part(tensors, "encoder."),
        spaces=[Space.from_tensors(_part(tensors, f"space.{scale}.")) for scale in scales],
        flows=[PlainFlow.from_tensors(_part(tensors, f"flow.{scale}."), spec.flow) for scale in scales],
        targets=[Mixture.from_tensors(_part(tensors, f"target.{scale}.")) for scale in scales],
    )
    return Detector(spec=spec, model=model, provenance=provenance, fitted_on=tensors["fitted_on"].numpy())


def _calibration(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Calibration | None:
    if head["calibration"] is None:
        return None
    arrays = {k: v.numpy() for k, v in _part(tensors, "calibration.").items()}
    return Calibration.load(arrays, head["calibration"])
