"""The environment of a run: versions of the libraries that compute, and the time in UTC."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from muflow_cli import __version__
from muflow_cli.run_records import RunInfo
from muflow_cli.run_specs import ClipSpec, InputSpec, Precision

TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
_PACKAGES: Final = ("torch", "torchvision", "FrEIA", "scikit-learn", "numpy", "safetensors", "pillow", "simplejpeg")
# Without them HEIC files and clips are unsupported, credentials are not verified and no faces are found, which results
# say.
_EXTRAS: Final = ("pillow-heif", "c2pa-python", "opencv-python-headless", "av")


def versions() -> dict[str, str]:
    """Versions of muflow, Python and every library that a score depends on."""
    numbers = {"muflow": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:  # a vendored or renamed build
            numbers[package] = "unknown"
    for package in _EXTRAS:
        with contextlib.suppress(PackageNotFoundError):
            numbers[package] = version(package)
    return numbers | decoders()


def decoders() -> dict[str, str]:
    """Versions of the C libraries that turn files into pixels, as Pillow was built with them."""
    from PIL import features

    turbo = features.check_feature("libjpeg_turbo")
    jpeg = features.version_feature("libjpeg_turbo") if turbo else features.version_codec("jpg")
    numbers = {
        "libjpeg-turbo" if turbo else "libjpeg": jpeg,
        "zlib": features.version_codec("zlib"),
        "libtiff": features.version_codec("libtiff"),
        "libwebp": features.version_module("webp"),
        "openjpeg": features.version_codec("jpg_2000"),
        "libavif": features.version_module("avif"),
    }
    return {name: str(number) for name, number in numbers.items() if number is not None}


def side_by_side(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[object, object]]:
    """Name -> version before and now, of every library of this run; and whether the earlier run used others.

    Names of others are not repeated, since a file says them, and anything may stand in a file.
    """
    return {
        **{name: (before.get(name), number) for name, number in now.items()},
        "set of libraries": (before.keys() - now.keys(), set()),
    }


def begin_run(
    device: str,
    precision: Precision,
    argv: tuple[str, ...] = (),
    options: Mapping[str, int | float | str | bool | None] | None = None,
) -> RunInfo:
    """The head of a run that starts now; `precision` is decided, not `auto`, and `options` decide its results."""
    return RunInfo(
        tool="muflow",
        version=__version__,
        argv=argv,
        started=utc_now(),
        device=device,
        precision=precision.value,
        versions=versions(),
        options=options,
    )


def deciding(inputs: InputSpec) -> dict[str, int | float | str | bool | None]:
    """What decides the result of an input, by the names of the options; not which names in a folder are inputs.

    `c2pa_trust` is the SHA-256 of the certificates.
    """
    anchors, clips = inputs.c2pa_anchors, inputs.clips or ClipSpec()
    return {
        "max_bytes": inputs.max_bytes,
        "max_pixels": inputs.max_pixels,
        "damaged": inputs.damaged.value,
        "max_seconds": float(inputs.max_seconds),
        "no_archives": not inputs.archives,
        "max_faces": inputs.max_faces,
        "on_no_face": inputs.on_no_face.value,
        "frames": clips.frames,
        "every": float(clips.every),
        "animations": clips.animations,
        "max_clip_bytes": clips.max_bytes,
        "c2pa_trust": None if anchors is None else hashlib.sha256(anchors.encode()).hexdigest(),
    }


def option_of(name: str) -> str:
    """The option that a key of `deciding` names."""
    return f"--{name.replace('_', '-')}"


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime(TIME_FORMAT)
