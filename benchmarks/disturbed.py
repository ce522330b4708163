"""One container for every image, and reals that were disturbed before they went into it (for `density_judge.py`)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

SIDE: Final = 256
PATCH: Final = 8
COMPONENTS: Final = 32  # of 192 that a patch of 8 x 8 colours has


def square(path: Path) -> Image.Image:
    """The centre square of an image at 256 px."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image after JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def files_in(folder: Path, limit: int | None = None) -> list[Path]:
    """By content hash, so that names and order on disk do not matter."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: hashlib.sha256(path.read_bytes()).digest())[:limit]


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """(256, 256, 3) in the container."""
    return np.asarray(jpeg(image, 90))


class PatchModel:
    """An autoencoder of 8 x 8 patches by principal components, averaged over four offsets of the grid."""

    def __init__(self, images: Sequence[Image.Image]) -> None:
        rng = np.random.default_rng(0)
        patches = [
            np.asarray(image, np.float32)[top : top + PATCH, left : left + PATCH].ravel()
            for image in images
            for top, left in rng.integers(SIDE - PATCH + 1, size=(200, 2))
        ]
        self.mean = np.mean(patches, axis=0)
        self.axes = np.linalg.eigh(np.cov(np.transpose(patches)))[1][:, -COMPONENTS:]

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image from the largest components of its patches."""
        half = PATCH // 2
        padded = np.pad(np.asarray(image, np.float32), ((half, half), (half, half), (0, 0)), mode="reflect")
        total, count = np.zeros_like(padded), np.zeros((*padded.shape[:2], 1), np.float32)
        for top in (0, half):
            for left in (0, half):
                rows, columns = (len(padded) - top) // PATCH, (len(padded) - left) // PATCH
                area = np.s_[top : top + rows * PATCH, left : left + columns * PATCH]
                shape = (rows, PATCH, columns, PATCH, 3)
                patches = padded[area].reshape(shape).transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)
                patches = (patches - self.mean) @ self.axes @ self.axes.T + self.mean
                back = patches.reshape(rows, columns, PATCH, PATCH, 3).transpose(0, 2, 1, 3, 4)
                total[area] += back.reshape(rows * PATCH, columns * PATCH, 3)
                count[area] += 1
        whole = (total / count)[half:-half, half:-half]
        return Image.fromarray(whole.round().clip(0, 255).astype(np.uint8))


def disturbances(patch_model: PatchModel) -> dict[str, Callable[[Image.Image], Image.Image]]:
    """What is done to a real before it goes into the container."""

    def resampled(image: Image.Image) -> Image.Image:
        small = image.resize((round(SIDE * 0.7),) * 2, Image.Resampling.LANCZOS)
        return small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)

    return {
        "resampled": resampled,
        "median": lambda image: image.filter(ImageFilter.MedianFilter(3)),
        "JPEG 75": lambda image: jpeg(image, 75),
        "patches": patch_model,
    }
