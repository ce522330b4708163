"""Is everything here that muflow needs: each part tried, and in words what to do about a problem."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import numpy as np

from muflow_cli.errors import MuflowError

# What a scan or a fit imports, by the name of its distribution.
_PACKAGES: Final = (
    "torch",
    "torchvision",
    "FrEIA",
    "scikit-learn",
    "scipy",
    "numpy",
    "pillow",
    "imagehash",
    "safetensors",
    "typer",
    "rich",
    "jinja2",
)

# Pillow's name of the feature, and whether every Pillow wheel has it.
_DECODERS: Final = {"JPEG": ("jpg", True), "PNG": ("zlib", True), "WebP": ("webp", False), "AVIF": ("avif", False)}


class State(StrEnum):
    """`optional` = missing, but no scan of common pictures needs it."""

    OK = "ok"
    OPTIONAL = "optional"
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One part of the installation.

    Attributes:
        name: of the part.
        state: whether it works.
        found: what is there, or what went wrong.
        remedy: what to do; empty where it works.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


def _ok(name: str, found: str) -> Finding:
    return Finding(name=name, state=State.OK, found=found)


def _problem(name: str, found: str, remedy: str) -> Finding:
    return Finding(name=name, state=State.PROBLEM, found=found, remedy=remedy)


def _optional(name: str, found: str, remedy: str) -> Finding:
    return Finding(name=name, state=State.OPTIONAL, found=found, remedy=remedy)


def examine(find_detector: Callable[[], Path]) -> Iterator[Finding]:
    """Every finding in turn; nothing is downloaded, changed or raised.

    Args:
        find_detector: names the detector that a scan would use; may raise MuflowError.
    """
    yield _packages()
    torch = _torch()
    yield torch
    if torch.state is State.OK:
        yield from (_device(), _precision(), _torchvision())
    yield from _decoders()
    yield _heic()
    if torch.state is State.OK:
        yield _cache()
        yield _detector(find_detector)


def _packages() -> Finding:
    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return _problem("packages", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return _ok("packages", ", ".join(found))


def _reason(error: Exception) -> str:
    """The error in one line: its text may go on for pages."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _imported(name: str, remedy: str) -> Finding:
    """Whether `name` can be imported; a broken binary fails in any way it likes."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever an import raises is the finding
        return _problem(name, f"cannot be imported ({_reason(error)})", remedy)
    return _ok(name, str(getattr(module, "__version__", "imported")))


def _torch() -> Finding:
    return _imported("torch", "install it again: pip install --force-reinstall torch torchvision")


def _torchvision() -> Finding:
    remedy = (
        "torch and torchvision must be of one release and from one place: pip install --upgrade --force-reinstall "
        "torch torchvision; the encoder forensic works without it"
    )
    return _imported("torchvision", remedy)


def _device() -> Finding:
    import torch

    from muflow_cli.engine.scoring import choose_device

    device = choose_device("auto")
    if device.type != "cpu":
        return _ok("device", f"{device}: {torch.cuda.get_device_name(device)}")
    cores = f"cpu, {torch.get_num_threads()} threads"
    if torch.version.cuda is None:
        return _ok("device", cores)
    return _ok("device", f"{cores} (torch is built for CUDA {torch.version.cuda} and finds no device it can use)")


def _precision() -> Finding:
    from muflow_cli.engine.scoring import choose_device, has_native_bf16

    native = has_native_bf16(choose_device("auto"))
    return _ok("precision", "bf16 is native" if native else "no native bf16: --precision auto takes fp32")


def _decoders() -> Iterator[Finding]:
    from PIL import features

    for name, (feature, needed) in _DECODERS.items():
        if features.check(feature):
            yield _ok(name, f"{feature} {features.version(feature) or ''}".strip())
            continue
        report = _problem if needed else _optional
        yield report(name, "this Pillow cannot read it", "pip install --upgrade --force-reinstall pillow")


def _heic() -> Finding:
    found = _imported("pillow_heif", "pip install 'muflow-cli[heif]'")
    if found.state is State.OK:
        return _ok("HEIC", f"pillow-heif {found.found}")
    return _optional("HEIC", found.found, found.remedy)


def _cache() -> Finding:
    """Whether encoder weights that are downloaded can be kept; only `fit` with a network downloads any."""
    import torch

    folder = Path(torch.hub.get_dir())
    try:
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "set TORCH_HOME to a folder that can be written, or give `muflow fit` its --encoder-weights"
        return _optional("cache", f"{folder} cannot be written ({reason})", remedy)
    return _ok("cache", os.fspath(folder))


def _detector(find_detector: Callable[[], Path]) -> Finding:
    """Whether the detector of a plain `muflow scan` loads and scores a picture."""
    path = Path()
    try:
        path = find_detector()
        return _ok("detector", f"{path}, {_tried(path)}")
    except MuflowError as error:
        what, _, remedy = str(error).rpartition(": ")
        return _problem("detector", what or remedy, remedy)
    except Exception as error:  # noqa: BLE001 - a part that is broken above breaks here in its own way
        return _problem("detector", f"{path} cannot be used ({_reason(error)})", "put right the problems above first")


def _tried(path: Path) -> str:
    from muflow_cli.bundle import load
    from muflow_cli.calibration import Judge
    from muflow_cli.engine.scoring import place

    detector = load(path)
    side = detector.spec.view.size
    # Grain of a fixed seed: the score means nothing, but every part of the engine has worked for it.
    grain = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    detector.scorer(place()).scale_scores([grain])
    described = f"encoder {detector.spec.feature.encoder}, fingerprint {detector.fingerprint}"
    if detector.calibration is None:
        return f"{described}, not calibrated"
    reals = Judge(detector.calibration).describe().pictures
    return f"{described}, calibrated on {reals} reals"
