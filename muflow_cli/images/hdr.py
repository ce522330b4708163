"""Frames of HDR video (ITU-R BT.2100: PQ and HLG) -> 8-bit sRGB, by published formulas: arrays in, arrays out.

Light is in cd/m2, as a reference display shows it. 203 cd/m2, which HDR gives a white sheet (ITU-R BT.2408, table 1),
becomes the white of the photograph; the tone curve is the EETF of ITU-R BT.2390, section 5.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Light = NDArray[np.float64]

PEAK: Final = 1000.0  # cd/m2: of the display for which HLG and most of PQ is made; what is brighter is white
WHITE: Final = 203.0  # cd/m2
_PQ_PEAK: Final = 10_000.0
# SMPTE ST 2084 and BT.2100-2, table 4.
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
# BT.2100-2, table 5; the gamma of the system is that for a peak of 1,000 cd/m2.
_A: Final = 0.17883277
_B: Final = 1 - 4 * _A
_C: Final = 0.5 - _A * np.log(4 * _A)
_GAMMA: Final = 1.2
_LUMINANCE: Final = np.array((0.2627, 0.6780, 0.0593), np.float32)  # of BT.2020

# x and y of red, green and blue by their number in H.273; all have the white D65.
BT709, BT2020, P3 = 1, 9, 12
_PRIMARIES: Final = {
    BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    P3: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_D65: Final = (0.3127, 0.3290)

_LEVELS: Final = 2**16
_BAND: Final = 2**17  # pixels that are converted at a time, so that what lies between fits a cache


class Transfer(StrEnum):
    """The transfer functions of HDR."""

    PQ = "PQ"
    HLG = "HLG"


def pq_to_light(codes: Light) -> Light:
    """Light of code values 0..1 of PQ (its EOTF)."""
    powered = np.maximum(codes, 0.0) ** (1 / _M2)
    light: Light = _PQ_PEAK * (np.maximum(powered - _C1, 0.0) / (_C2 - _C3 * powered)) ** (1 / _M1)
    return light


def light_to_pq(light: Light) -> Light:
    """Code values 0..1 of PQ for light of 0 to 10,000 cd/m2 (its inverse EOTF)."""
    powered = (np.maximum(light, 0.0) / _PQ_PEAK) ** _M1
    codes: Light = ((_C1 + _C2 * powered) / (1 + _C3 * powered)) ** _M2
    return codes


def hlg_to_scene(codes: Light) -> Light:
    """Light of the scene, 0..1, of code values 0..1 of HLG (its inverse OETF)."""
    return np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - _C) / _A) + _B) / 12)


def toned(light: Light) -> Light:
    """Light of 0 to WHITE for light of any brightness: unchanged in the dark, compressed towards the peak.

    The EETF of BT.2390 from a display of PEAK to one of WHITE, both with a black of 0.
    """
    peak = light_to_pq(np.array(PEAK))
    most = light_to_pq(np.array(WHITE)) / peak
    knee = 1.5 * most - 0.5
    given = np.minimum(light_to_pq(light) / peak, 1.0)
    t = np.maximum(given - knee, 0.0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    return pq_to_light(np.where(given < knee, given, spline) * peak)


def srgb_codes(linear: Light) -> NDArray[np.uint8]:
    """Grey levels of linear light 0..1 (IEC 61966-2-1)."""
    codes = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)
    levels: NDArray[np.uint8] = np.rint(255 * codes).astype(np.uint8)
    return levels


def to_bt709(primaries: int) -> NDArray[np.float64]:
    """(3, 3) from linear RGB of these primaries to linear RGB of BT.709; from BT.2020 it is that of ITU-R BT.2087."""
    return np.linalg.inv(_to_xyz(BT709)) @ _to_xyz(primaries)


def _to_xyz(primaries: int) -> NDArray[np.float64]:
    """(3, 3) from linear RGB to CIE XYZ (SMPTE RP 177)."""

    def xyz(x: float, y: float) -> tuple[float, float, float]:
        return x / y, 1.0, (1 - x - y) / y

    columns = np.array([xyz(*place) for place in _PRIMARIES.get(primaries, _PRIMARIES[BT2020])]).T
    scaled: NDArray[np.float64] = columns * np.linalg.solve(columns, np.array(xyz(*_D65)))
    return scaled


def to_sdr(codes: NDArray[np.uint16], transfer: Transfer, primaries: int = BT2020) -> NDArray[np.uint8]:
    """The frame as a photograph of the same scene would be stored.

    Every pixel is scaled as the tone curve scales the largest of its red, green and blue, which keeps hues. Colours
    beyond BT.709 are cut off at its border.

    Args:
        codes: (H, W, 3) code values of R'G'B', full range.
        transfer: by which they were coded.
        primaries: by their number in H.273; unknown ones are taken for those of BT.2020.

    Returns:
        (H, W, 3) sRGB.
    """
    flat = codes.reshape(-1, 3)
    result = np.empty(flat.shape, np.uint8)
    tables, matrix = _tables(transfer), to_bt709(primaries).astype(np.float32)
    for start in range(0, len(flat), _BAND):
        light = _DISPLAYED[transfer](np.take(tables.light, flat[start : start + _BAND].T, mode="clip"))
        most = light.max(axis=0)
        light *= np.take(tables.gain, _index(np.sqrt(most)), mode="clip")
        for channel, weights in enumerate(matrix):
            own = _weighted(light, weights)
            result[start : start + _BAND, channel] = np.take(tables.grey, _index(own), mode="clip")
    return result.reshape(codes.shape)


def _weighted(light: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) a mean of the rows of (3, N); of so few rows a sum is quicker than a product of matrices."""
    red, green, blue = light
    mean: NDArray[np.float32] = weights[0] * red + weights[1] * green + weights[2] * blue
    return mean


def _index(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Places of values 0..1 in a table of _LEVELS rows."""
    return (values.clip(0, 1) * np.float32(_LEVELS - 1) + np.float32(0.5)).astype(np.uint16)


def _hlg_displayed(scene: NDArray[np.float32]) -> NDArray[np.float32]:
    """Light that a display of PEAK shows, as a share of PEAK (the OOTF of BT.2100)."""
    return scene * _weighted(scene, _LUMINANCE) ** np.float32(_GAMMA - 1)


_DISPLAYED: Final[Mapping[Transfer, Callable[[NDArray[np.float32]], NDArray[np.float32]]]] = {
    Transfer.PQ: lambda light: light,
    Transfer.HLG: _hlg_displayed,
}


@dataclass(frozen=True, slots=True)
class _Tables:
    """The formulas, computed once for every value that there is.

    Attributes:
        light: code value -> light as a share of PEAK: of the scene for HLG.
        gain: square root of a share of PEAK -> by what the tone curve scales it, to shares of WHITE.
        grey: linear light 0..1 -> grey level.
    """

    light: NDArray[np.float32]
    gain: NDArray[np.float32]
    grey: NDArray[np.uint8]


@cache
def _tables(transfer: Transfer) -> _Tables:
    steps = np.linspace(0, 1, _LEVELS)
    light = np.minimum(pq_to_light(steps) / PEAK, 1.0) if transfer is Transfer.PQ else hlg_to_scene(steps)
    shown = np.maximum(steps**2, 1e-12) * PEAK
    return _Tables(
        light.astype(np.float32), (toned(shown) / shown * PEAK / WHITE).astype(np.float32), srgb_codes(steps)
    )
