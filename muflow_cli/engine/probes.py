"""Images that a formula makes, the same on every machine, on which two ways to compute are compared."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

PROBES: Final = 8

# Grey levels of the noise in each octave of each probe, from cells of 64 pixels to single ones: from smooth to grainy,
# as photographs are. Two of them clip.
_CELLS: Final = (64, 16, 4, 1)
_AMPLITUDES: Final = (
    (120, 40, 12, 3),
    (160, 60, 20, 6),
    (60, 60, 60, 20),
    (200, 20, 4, 0),
    (20, 12, 8, 4),
    (100, 100, 60, 60),
    (220, 160, 80, 20),
    (40, 30, 60, 120),
)
_BASES: Final = (128, 110, 140, 90, 200, 128, 128, 70)


def probe_images(side: int) -> NDArray[np.uint8]:
    """(8, side, side, 3) grey levels: noise in four octaves, in whole numbers alone, so that no machine rounds."""
    return np.stack([_probe(index, side) for index in range(PROBES)])


def _probe(index: int, side: int) -> NDArray[np.uint8]:
    levels = np.full((side, side, 3), _BASES[index], np.int64)
    for octave, (cell, amplitude) in enumerate(zip(_CELLS, _AMPLITUDES[index], strict=True)):
        levels += (_noise(side, cell, 16 * index + octave) - 512) * amplitude // 1024
    return levels.clip(0, 255).astype(np.uint8)


def _noise(side: int, cell: int, seed: int) -> NDArray[np.int64]:
    """(side, side, 3) numbers from 0 to 1023: random at the corners of cells, linear between them.

    The colours share most of it, as in photographs.
    """
    count = side // cell + 2
    rows, columns, colours = np.ogrid[:count, :count, :4]
    corners = _hash(((rows * 1021 + columns) * 4 + colours) * 4096 + seed) & 1023
    corners = (3 * corners[..., :1] + corners[..., 1:]) // 4
    at, between = np.divmod(np.arange(side), cell)
    down, right = between[:, None, None], between[None, :, None]
    upper = corners[at] * (cell - down) + corners[at + 1] * down
    noise: NDArray[np.int64] = (upper[:, at] * (cell - right) + upper[:, at + 1] * right) // cell**2
    return noise


def _hash(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers from 0 to 2**32 - 1 that look random.

    Source: the finaliser of MurmurHash3 (Appleby 2011, public domain).
    """
    mixed = numbers.astype(np.uint64) & np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        mixed ^= mixed >> np.uint64(shift)
        mixed = mixed * np.uint64(factor) & np.uint64(0xFFFFFFFF)
    return mixed.astype(np.int64)
