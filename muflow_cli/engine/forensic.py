"""The encoder that needs no weights: fixed high-pass filters and block DCTs, summarised in windows of three octaves.

Every number comes from arithmetic written here, so a detector on top needs no download. The filters are linear ones of
the spatial rich model (Fridrich & Kodovský 2012, doi 10.1109/TIFS.2012.2190402): differences of neighbours of order 1
to 3, their products along both axes (of which EDGE 3x3 and SQUARE 3x3 are made) and the 5x5 KV kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program gives it
from torch import Tensor, nn

# Side of a window, in pixels of its octave: 64 samples for each local statistic, and the block of the DCT.
WINDOW: Final = 8

# Planes of so many pixels stay in a core's cache from one operation to the next, which is worth a factor of two.
CPU_PIXELS: Final = 2 * 256 * 256

# Magnitude (grey levels of 255) that every logarithm is taken above. Rounding to 8 bits leaves 0.3 levels, JPEG more:
# what lies far below the floor tells the container, not the scene. Chosen on real pictures alone: a higher one lets
# re-encoding move the channels less, but makes them more alike.
FLOOR: Final = 2.0

# Grey levels at which residuals are cut before neighbours are compared, so that a few strong edges do not decide.
TRUNCATION: Final = 2.0

# Highest order of difference along a column, for each order along a row: the rich model's 1st, 2nd, 3rd, EDGE 3x3 and
# SQUARE 3x3 families, named d<order along a row><order along a column>.
_HIGHEST: Final = (3, 2, 2, 0)

# Squared L2 norm of [1, -1] applied n times (central binomial coefficients) and of KV 5x5 in whole numbers.
_SQUARED_NORM: Final = (1.0, 2.0, 6.0, 20.0)
_KV_SQUARED_NORM: Final = 596.0

# Residual -> factor to unit noise gain: white noise of deviation s leaves each with deviation s, so that all compare.
GAINS: Final[Mapping[str, float]] = {
    f"d{row}{column}": (_SQUARED_NORM[row] * _SQUARED_NORM[column]) ** -0.5
    for row, highest in enumerate(_HIGHEST)
    for column in range(highest + 1)
    if row or column
} | {"kv": _KV_SQUARED_NORM**-0.5}

# ITU-R BT.601, the luma and chroma that JPEG and video store, as weights of red, green and blue.
_LUMA: Final = (0.299, 0.587, 0.114)
_CHROMA: Final = ((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_PAIRS: Final = ((0, 1), (1, 2), (0, 2))

# First and last of the block DCT's zig-zag diagonals that are taken together: single ones vary more between windows
# than between pictures.
_ZONES: Final = ((1, 1), (2, 2), (3, 4), (5, 7), (8, 10), (11, 14))

# Both directions of an isotropic family of residuals.
_FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "d1": ("d10", "d01"),
    "d2": ("d20", "d02"),
    "d3": ("d30", "d03"),
    "d11": ("d11",),
    "d21": ("d21", "d12"),
    "d22": ("d22",),
    "kv": ("kv",),
}
_STEPS: Final = (("d2", "d1"), ("d3", "d2"), ("d11", "d1"), ("d21", "d11"), ("d22", "d21"), ("kv", "d22"))


def _contrasts() -> dict[str, dict[str, float]]:
    """Channel -> weights of the residuals' log-means ("mean_d10") and log-deviations in it.

    Log-means of all residuals rise and fall together with texture and contrast. One channel (`level`) says how strong;
    the others are differences, which say of what kind: steps in order (the slope of the spectrum), directions, and
    deviation over mean (how heavy the tails).
    """

    def family(statistic: str, name: str, sign: float) -> dict[str, float]:
        members = _FAMILIES[name]
        return {f"{statistic}_{member}": sign / len(members) for member in members}

    table = {"level": family("mean", "d1", 1)}
    table |= {f"slope_{b}": family("mean", b, 1) | family("mean", a, -1) for b, a in _STEPS}
    table |= {f"spread_{name}": family("deviation", name, 1) | family("mean", name, -1) for name in _FAMILIES}
    table |= {
        f"direction_{name}": {f"mean_{_FAMILIES[name][0]}": 1.0, f"mean_{_FAMILIES[name][1]}": -1.0}
        for name in ("d1", "d2", "d21")
    }
    return table


_CONTRASTS: Final = _contrasts()

# What a map's channels hold, in order. JPEG's own grid and its halved chroma rule the full-size picture: block DCT,
# neighbours and colours are taken from the half on, where re-encoding moves them less than pictures differ.
CHANNELS: Final = (*_CONTRASTS, "mean_log_kv", "deviation_log_kv")
HALVED_CHANNELS: Final = (
    *CHANNELS,
    *("row_kv", "column_kv"),
    *("level_cb", "level_cr", "red_green", "green_blue", "red_blue"),
    *(f"dct{first}" for first, _ in _ZONES),
)


class Constants(NamedTuple):
    """The fixed matrices, on the device and in the type of the picture."""

    transform: Tensor
    zones: Tensor
    contrasts: Tensor


class Forensic(nn.Module):
    """Local statistics of high-pass residuals and block DCTs of a picture at full, half and quarter size.

    It holds no parameter and no buffer: constants are made where the picture lies, so that casting the module cannot
    blunt them. All arithmetic is float32, whatever the input's type and autocast say; only the maps are cast back.
    """

    CUTS: Final = (
        ("full", len(CHANNELS), WINDOW),
        ("half", len(HALVED_CHANNELS), 2 * WINDOW),
        ("quarter", len(HALVED_CHANNELS), 4 * WINDOW),
    )

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Map every window of each size to `CHANNELS`, from the half on to `HALVED_CHANNELS`.

        Args:
            pictures: (B, 3, H, W) RGB in 0..1, H and W at least 32; what a window does not fill at the right and lower
                edge is left out. A bfloat16 picture is taken for an 8-bit one, whose grey levels are recovered exactly.

        Returns:
            One (B, C, H // stride, W // stride) map per row of `CUTS`, in the type of `pictures`.
        """
        with torch.autocast(pictures.device.type, enabled=False):
            levels = _grey_levels(pictures)
            constants = constants_like(levels)
            maps = [_in_parts(_residual_statistics, levels, constants)]
            for _ in self.CUTS[1:]:
                levels = _halve(levels)
                maps.append(_in_parts(_all_statistics, levels, constants))
        return tuple(found.to(pictures.dtype) for found in maps)


def constants_like(like: Tensor) -> Constants:
    """The constants on the device and in the type of `like`.

    Returns:
        transform: (8, 8) orthonormal type-II DCT, one frequency a row. zones: (6, 64) means over the coefficients of
        each zone of a block written row by row. contrasts: (C, 2 R) from the R residuals' log-means and log-deviations.
    """
    index = torch.arange(WINDOW, device=like.device)
    cosines = torch.cos(torch.pi / WINDOW * (index + 0.5).double() * index[:, None]) * (2 / WINDOW) ** 0.5
    cosines[0] *= 0.5**0.5
    diagonal = (index + index[:, None]).flatten()
    zones = torch.stack([((diagonal >= first) & (diagonal <= last)).to(like.dtype) for first, last in _ZONES])
    names = [f"{statistic}_{name}" for statistic in ("mean", "deviation") for name in GAINS]
    contrasts = [[weights.get(name, 0.0) for name in names] for weights in _CONTRASTS.values()]
    return Constants(cosines.to(like.dtype), zones / zones.sum(dim=1, keepdim=True), like.new_tensor(contrasts))


def _in_parts(statistics: Callable[[Tensor, Constants], Tensor], levels: Tensor, constants: Constants) -> Tensor:
    """`statistics` of all pictures: on a CPU of as many at once as its cache holds, elsewhere of all."""
    count = max(1, CPU_PIXELS // (levels.shape[-2] * levels.shape[-1]))
    parts = torch.split(levels, count if levels.device.type == "cpu" else len(levels))
    return torch.cat([statistics(part, constants) for part in parts])


def _grey_levels(pictures: Tensor) -> Tensor:
    """The picture in 0..255; near 1 bfloat16 knows only steps of 1/256, and rounding gives an 8-bit picture back."""
    levels = pictures.float() * 255
    return (levels.round() if pictures.dtype is torch.bfloat16 else levels).contiguous()


def _halve(levels: Tensor) -> Tensor:
    """Mean of 2 x 2 pixels."""
    height, width = levels.shape[-2] // 2 * 2, levels.shape[-1] // 2 * 2
    rows = levels[..., 0:height:2, :width] + levels[..., 1:height:2, :width]
    return (rows[..., 0::2] + rows[..., 1::2]) * 0.25


def _residual_statistics(levels: Tensor, constants: Constants) -> Tensor:
    """(B, C, H // 8, W // 8) of `CHANNELS`."""
    return _of_luma(luma_of(levels), constants)[0]


def _all_statistics(levels: Tensor, constants: Constants) -> Tensor:
    """(B, C, H // 8, W // 8) of `HALVED_CHANNELS`."""
    luma = luma_of(levels)
    found, kv = _of_luma(luma, constants)
    zones = _zones(luma, constants)
    # Relative to the residuals' level, and each zone to the one before: the shape of the spectrum, not its strength.
    zones = zones - torch.cat((found[:, :1], zones[:, :-1]), dim=1)
    size = (levels.shape[-2], levels.shape[-1])
    return torch.cat((found, *_neighbours(kv, size), *_colours(levels, size), zones), dim=1)


def _of_luma(luma: Tensor, constants: Constants) -> tuple[Tensor, Tensor]:
    """`CHANNELS` of a plane, and its KV residual at unit noise gain."""
    size = (luma.shape[-2], luma.shape[-1])
    means, powers = [], []
    for name, residual in residuals_of(luma):
        magnitude = residual.abs()
        means.append(_windows(magnitude, size, GAINS[name]))
        powers.append(_windows(magnitude.square_(), size, GAINS[name] ** 2))
    mean = torch.cat(means, dim=1)
    logs = torch.cat((_log(mean), _log_root(torch.cat(powers, dim=1) - mean.square())), dim=1)
    contrasts = torch.matmul(constants.contrasts, logs.flatten(2)).unflatten(2, logs.shape[2:])
    kv = residual * GAINS["kv"]
    logarithm = kv.abs().div_(FLOOR).log1p_()
    mean_log = _windows(logarithm, size)
    variance_log = _windows(logarithm.square_(), size) - mean_log.square()
    # Relative to the logarithm of the mean: how far the magnitudes lie apart inside the window (Jensen's gap).
    return torch.cat((contrasts, mean_log - _log(means[-1]), variance_log.clamp_min(0).sqrt()), dim=1), kv


def luma_of(levels: Tensor) -> Tensor:
    """(B, 1, H, W) BT.601 luma of (B, 3, H, W) RGB, in the same unit."""
    return _mixed(torch.split(levels, 1, dim=1), _LUMA)


def _mixed(channels: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    red, green, blue = channels
    return (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2])


def _centre(plane: Tensor, rows: int, columns: int) -> Tensor:
    """The middle `rows` x `columns` of a plane."""
    top, left = (plane.shape[-2] - rows) // 2, (plane.shape[-1] - columns) // 2
    return plane[..., top : top + rows, left : left + columns]


def residuals_of(luma: Tensor) -> Iterator[tuple[str, Tensor]]:
    """High-pass residuals of a plane by name, in the order of `GAINS`, their kernels in whole numbers.

    One at a time, so that each is still in the cache when it is summarised.

    Args:
        luma: (B, 1, H, W) in grey levels.

    Returns:
        (B, 1, H + h, W + w) each: h (w) is 1 where the order along columns (rows) is odd, so that every pair of
        neighbours that touches a window is in it and a mirrored picture gives mirrored windows; else 0.
    """
    height, width = luma.shape[-2:]
    along_row = F.pad(luma, (2, 2, 2, 2), mode="reflect")
    square = along_row
    for row, highest in enumerate(_HIGHEST):
        both = along_row
        for column in range(highest + 1):
            if row or column:
                yield f"d{row}{column}", _centre(both, height + column % 2, width + row % 2)
            square = both if (row, column) == (2, 2) else square
            both = torch.diff(both, dim=-2)
        along_row = torch.diff(along_row, dim=-1)
    yield "kv", _kv(square)


def _kv(square: Tensor) -> Tensor:
    """KV 5x5 from SQUARE 3x3: its kernel is that one convolved with twice the centre plus the diagonal neighbours."""
    rows = square[..., :-2, :] + square[..., 2:, :]
    corners = rows[..., :-2] + rows[..., 2:]
    return corners.add_(square[..., 1:-1, 1:-1], alpha=2)


def _windows(plane: Tensor, size: tuple[int, int], gain: float = 1.0) -> Tensor:
    """Mean x `gain` over each window of an octave of `size`.

    The windows of a plane that is longer or shorter than the octave by one are so too.
    """
    high, wide = (WINDOW + plane.shape[-2] - size[0], WINDOW + plane.shape[-1] - size[1])
    # Rows first, as a sum that runs along memory: pooling the whole plane at once takes twice as long.
    rows = plane.unfold(-2, high, WINDOW).sum(dim=-1)
    return F.avg_pool2d(rows, (1, wide), stride=(1, WINDOW)).mul_(gain / high)


def _log(magnitude: Tensor) -> Tensor:
    """Logarithm above the floor: 0 where nothing stands out."""
    return (magnitude / FLOOR).log1p()


def _log_root(power: Tensor) -> Tensor:
    """The same of a squared magnitude, whatever sign its rounding errors left it."""
    return 0.5 * (power.clamp_min(0) / FLOOR**2).log1p()


def _neighbours(kv: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Correlation of a residual's neighbours along rows and along columns after truncation.

    The rich model's co-occurrences, reduced to their second moment.
    """
    cut = kv.clamp(-TRUNCATION, TRUNCATION)
    power = _windows(cut.square(), size) + FLOOR**2
    row = _windows(cut[..., 1:] * cut[..., :-1], size) / power
    column = _windows(cut[..., 1:, :] * cut[..., :-1, :], size) / power
    return row, column


def _colours(levels: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Log-mean of the first differences of each chroma plane, and correlations of the channels' mixed differences."""
    channels = torch.split(levels, 1, dim=1)
    chroma = [_log(_first_differences(_mixed(channels, weights), size)) for weights in _CHROMA]
    gain = GAINS["d11"] ** 2
    residuals = [torch.diff(torch.diff(channel, dim=-1), dim=-2) for channel in channels]
    own = [_windows(residual.square(), size, gain) + FLOOR**2 for residual in residuals]
    shared = [_windows(residuals[a] * residuals[b], size, gain) for a, b in _PAIRS]
    correlations = [s * (own[a] * own[b]).rsqrt() for s, (a, b) in zip(shared, _PAIRS, strict=True)]
    return *chroma, *correlations


def _first_differences(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Local mean magnitude of the differences along rows and along columns."""
    row, column = (_windows(torch.diff(plane, dim=axis).abs(), size, 0.5 * GAINS["d10"]) for axis in (-1, -2))
    return row + column


def block_dct(blocks: Tensor, transform: Tensor) -> Tensor:
    """Coefficients of 8 x 8 blocks, as JPEG computes them.

    Args:
        blocks: (B, h, 8, w, 8): row of blocks, row in the block, column of blocks, column in the block.
        transform: (8, 8), of `constants_like`.

    Returns:
        The same shape, with vertical and horizontal frequencies in the places of rows and columns.
    """
    rows = torch.matmul(blocks, transform.T)
    return torch.matmul(transform, rows.flatten(3)).view(blocks.shape)


def _zones(luma: Tensor, constants: Constants) -> Tensor:
    """(B, 6, h, w) log-magnitude of the block DCT in each zone: root mean square of its coefficients."""
    height, width = luma.shape[-2] // WINDOW, luma.shape[-1] // WINDOW
    whole = luma[:, 0, : height * WINDOW, : width * WINDOW]
    blocks = whole.reshape(len(luma), height, WINDOW, width, WINDOW)
    # Without its mean a block has no large number that products of reduced precision (TF32) would spill into the rest.
    power = block_dct(blocks - blocks.mean(dim=(2, 4), keepdim=True), constants.transform).square_()
    power = power.permute(0, 2, 4, 1, 3).reshape(len(luma), WINDOW**2, height * width)
    return _log_root(torch.matmul(constants.zones, power)).view(len(luma), -1, height, width)
