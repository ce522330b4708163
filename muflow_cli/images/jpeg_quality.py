"""The quality of a JPEG, from its quantisation table."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Annex K of ITU-T T.81, Table K.1: the luminance table that the IJG library scales by its quality.
_LUMINANCE: Final = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=np.int64,
).ravel()


def jpeg_quality(luminance: list[int]) -> int:
    """Quality 1..100 whose IJG luminance table is nearest in squared difference; exact for files of the IJG library.

    Args:
        luminance: 64 quantisation steps in natural (not zigzag) order.
    """
    distance = ((_ijg_tables() - np.asarray(luminance, dtype=np.int64)) ** 2).sum(axis=1)
    return int(distance.argmin()) + 1


@cache
def _ijg_tables() -> NDArray[np.int64]:
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.clip((_LUMINANCE[None, :] * scale[:, None] + 50) // 100, 1, 255)
