"""Reals that are disturbed before they go into the container, for `encoder_judge.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from build_encoder import SIDE, jpeg
from PIL import Image, ImageFilter

PATCH: Final = 8
COMPONENTS: Final = 32  # of 192 that a patch of 8 x 8 colours has


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
