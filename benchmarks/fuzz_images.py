"""Fuzz of images: each gives a finite score, or one error record, under the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fuzz_bundles import RUNTIME, is_sentence, make_small
from mutations import mutate
from PIL import Image
from tiny import image, make_detector

from muflow_cli.bundle import load
from muflow_cli.records import Unreadable

# Container -> modes, suffix. HEIC where pillow-heif is installed.
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "P", "RGBA", "1"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("RGB", "L", "CMYK", "1"),
    "GIF": ("P",),
    "BMP": ("RGB", "P"),
    "PPM": ("RGB", "L", "1"),
    "JPEG2000": ("RGB", "L"),
    "AVIF": ("RGB",),
    "HEIF": ("RGB",),
}
_OPTIONS = {
    "JPEG": ({"quality": 90}, {"quality": 60, "progressive": True}, {"quality": 95, "subsampling": 0}),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}),
    "WEBP": ({"quality": 90}, {"lossless": True}),
    "JPEG2000": ({}, {"irreversible": True, "quality_layers": [40]}),
}


def whole_files(generator: np.random.Generator, containers: Sequence[str] = tuple(MODES)) -> dict[str, list[bytes]]:
    """Whole files of each container that can be written here, in several modes, sizes and compressions."""
    if "HEIF" in containers:
        try:
            import pillow_heif
        except ImportError:
            containers = [name for name in containers if name != "HEIF"]
        else:
            pillow_heif.register_heif_opener()
    files = {}
    for container in containers:
        files[container] = [
            _encoded(image(generator, side).convert(mode), container, number)
            for mode in MODES[container]
            for number, side in enumerate((40, 96, 200))
        ]
    return files


def _encoded(drawn: Image.Image, container: str, number: int) -> bytes:
    options = _OPTIONS.get(container, ({"quality": 90} if container in ("AVIF", "HEIF") else {},))
    buffer = io.BytesIO()
    drawn.save(buffer, container, **options[number % len(options)])
    return buffer.getvalue()


class Images:
    """Mutated images of every container, scored by a detector that crops them and by one that resizes them."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self._files = whole_files(np.random.default_rng(11))
        self._all = [data for files in self._files.values() for data in files]
        self._detectors = [load(make_small(folder)), load(make_detector(folder))]
        self._folder = folder

    def make(self, number: int, generator: np.random.Generator) -> tuple[str, Path]:
        """Write one image; its container and where it lies."""
        container = list(self._files)[number % len(self._files)]
        files = self._files[container]
        self._data = mutate(files[int(generator.integers(0, len(files)))], self._all, generator)
        self._detector = self._detectors[int(generator.integers(0, len(self._detectors)))]
        self._path = self._folder / f"mutated.{container.lower()}"
        self._path.write_bytes(self._data)
        return container, self._path

    def outcome(self) -> str:
        """What became of it."""
        (result,) = self._detector.score([self._path], RUNTIME)
        digest = hashlib.sha256(self._data).hexdigest()
        if isinstance(result, Unreadable):
            # What is refused before it is read has no hash.
            if result.sha256 not in (digest, None):
                return "FAILED: unseen, an error record with another SHA-256"
            if not is_sentence(result.message):
                return f"FAILED: not one sentence: {result.message[:300]!r}"
            return f"error record, {result.code}"
        if result.facts.sha256 != digest:
            return "FAILED: unseen, a score under another SHA-256"
        return "scored" if math.isfinite(result.score) else "FAILED: a score that is not finite"
