"""The encoder without weights: fixed high-pass filters and block DCTs, summarised in windows at three image sizes.

Every number comes from arithmetic in this file, so its detectors need no download. The filters are linear ones from
the spatial rich model (Fridrich & Kodovský 2012, doi 10.1109/TIFS.2012.2190402): differences of neighbours of order 1
to 3, their products along both axes (which make up EDGE 3x3 and SQUARE 3x3) and the 5x5 KV kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program gives it
from torch import Tensor, nn

# Side of a window, in pixels of the image at its size: 64 samples for each local statistic, and the DCT's block.
WINDOW: Final = 8

# Planes of this many pixels stay in a core's cache from one operation to the next, which doubles the speed.
CPU_PIXELS: Final = 2 * 256 * 256

# Magnitude (grey levels of 255) below which logarithms flatten out. Rounding to 8 bits leaves 0.3 levels, JPEG more:
# values far below the floor reveal the container, not the scene. Chosen on real images alone: with a higher floor
# re-encoding moves the channels less, but they become more alike.
FLOOR: Final = 2.0

# Grey levels at which residuals are truncated before neighbours are compared, so that a few strong edges do not decide.
TRUNCATION: Final = 2.0

# Highest order of difference along a column, for each order along a row: the rich model's 1st, 2nd, 3rd, EDGE 3x3 and
# SQUARE 3x3 families, named d<order along a row><order along a column>.
_HIGHEST: Final = (3, 2, 2, 0)

# Squared L2 norm of [1, -1] applied n times (central binomial coefficients), and of the integer KV 5x5 kernel.
_SQUARED_NORM: Final = (1.0, 2.0, 6.0, 20.0)
_KV_SQUARED_NORM: Final = 596.0

# Residual -> factor to unit noise gain: white noise of deviation s gives every residual deviation s.
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

# First and last of the block DCT's zig-zag diagonals in each zone: single diagonals vary more between windows than
# between images.
_ZONES: Final = ((1, 1), (2, 2), (3, 4), (5, 7), (8, 10), (11, 14))

# Isotropic family -> its residuals in both directions.
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
    """Channel -> its weights of the residuals' log-means ("mean_d10") and log-deviations.

    The log-means of all residuals rise and fall together with texture and contrast. One channel (`level`) measures
    that strength; the others are differences, which measure the kind of texture: between orders (the slope of the
    spectrum), between directions, and of deviation to mean (how heavy the tails are).
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

# The channels of a map, in order. JPEG's own grid and its halved chroma dominate the full-size image, so block DCT,
# neighbours and colours are measured at half size and below, where re-encoding moves them less than images differ.
CHANNELS: Final = (*_CONTRASTS, "mean_log_kv", "deviation_log_kv")
HALVED_CHANNELS: Final = (
    *CHANNELS,
    *("row_kv", "column_kv"),
    *("level_cb", "level_cr", "red_green", "green_blue", "red_blue"),
    *(f"dct{first}" for first, _ in _ZONES),
)


class Constants(NamedTuple):
    """The fixed matrices, on the image's device and in its type."""

    transform: Tensor
    zones: Tensor
    contrasts: Tensor


class Forensic(nn.Module):
    """Local statistics of high-pass residuals and block DCTs of an image at full, half and quarter size.

    The module has no parameters and no buffers: constants are computed on the image's device, so casting the module
    cannot reduce their precision. All arithmetic is float32, whatever the input's type or autocast; only the maps are
    cast back.
    """

    LAYERS: Final = (
        ("full", len(CHANNELS), WINDOW),
        ("half", len(HALVED_CHANNELS), 2 * WINDOW),
        ("quarter", len(HALVED_CHANNELS), 4 * WINDOW),
    )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map every window of the full-size image to `CHANNELS`, of the halved ones to `HALVED_CHANNELS`.

        Args:
            images: (B, 3, H, W) RGB in 0..1, H and W at least 32; incomplete windows at the right and lower edges are
                left out. A bfloat16 image is assumed to have 8-bit grey levels, which are recovered exactly.

        Returns:
            One (B, C, H // stride, W // stride) map per row of `LAYERS`, in the type of `images`.
        """
        with torch.autocast(images.device.type, enabled=False):
            levels = images.float() * 255
            # Near 1 bfloat16 has steps of 1/256, so rounding recovers the levels of an 8-bit image.
            levels = (levels.round() if images.dtype is torch.bfloat16 else levels).contiguous()
            constants = constants_like(levels)
            maps = [_in_parts(lambda part, fixed: _of_luma(luma_of(part), fixed)[0], levels, constants)]
            for _ in self.LAYERS[1:]:
                height, width = levels.shape[-2] // 2 * 2, levels.shape[-1] // 2 * 2
                rows = levels[..., 0:height:2, :width] + levels[..., 1:height:2, :width]
                levels = (rows[..., 0::2] + rows[..., 1::2]) * 0.25
                maps.append(_in_parts(_all_statistics, levels, constants))
        return tuple(map_.to(images.dtype) for map_ in maps)


def constants_like(like: Tensor) -> Constants:
    """The constants on the device and in the type of `like`.

    Returns:
        transform: (8, 8) orthonormal type-II DCT, one frequency per row. zones: (6, 64), means over the coefficients of
        each zone of a block flattened by rows. contrasts: (C, 2 R), from log-means and log-deviations of R residuals.
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
    """`statistics` of all images: on a CPU in parts that fit its cache, elsewhere all at once."""
    count = max(1, CPU_PIXELS // (levels.shape[-2] * levels.shape[-1]))
    if torch.compiler.is_compiling() or levels.device.type != "cpu":  # an exported graph holds no loop
        return statistics(levels, constants)
    return torch.cat([statistics(part, constants) for part in torch.split(levels, count)])


def _all_statistics(levels: Tensor, constants: Constants) -> Tensor:
    """(B, C, H // 8, W // 8) of `HALVED_CHANNELS`."""
    luma = luma_of(levels)
    channels, kv = _of_luma(luma, constants)
    zones = _zones(luma, constants)
    # Each zone relative to the one before, the first to the residuals' level: the spectrum's shape, not its strength.
    zones = zones - torch.cat((channels[:, :1], zones[:, :-1]), dim=1)
    size = (levels.shape[-2], levels.shape[-1])
    return torch.cat((channels, *_neighbours(kv, size), *_colours(levels, size), zones), dim=1)


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
    # Relative to the logarithm of the mean: how much the magnitudes differ inside the window (Jensen's gap).
    return torch.cat((contrasts, mean_log - _log(means[-1]), variance_log.clamp_min(0).sqrt()), dim=1), kv


def luma_of(levels: Tensor) -> Tensor:
    """(B, 1, H, W) BT.601 luma of (B, 3, H, W) RGB, in the same unit."""
    return _mixed(torch.split(levels, 1, dim=1), _LUMA)


def _mixed(channels: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    red, green, blue = channels
    return (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2])


def residuals_of(luma: Tensor) -> Iterator[tuple[str, Tensor]]:
    """High-pass residuals of a plane by name, in the order of `GAINS`, computed with integer kernels.

    They come one at a time, so that each is still in the cache when it is summarised.

    Args:
        luma: (B, 1, H, W) in grey levels.

    Returns:
        (B, 1, H + h, W + w) each: h (w) is 1 where the order along columns (rows) is odd, else 0. A window then holds
        every pair of neighbours that touches it, and a mirrored image gives mirrored windows.
    """
    height, width = luma.shape[-2:]
    along_row = F.pad(luma, (2, 2, 2, 2), mode="reflect")
    square = along_row
    for row, highest in enumerate(_HIGHEST):
        both = along_row
        for column in range(highest + 1):
            if row or column:
                down, across = height + column % 2, width + row % 2
                top, left = (both.shape[-2] - down) // 2, (both.shape[-1] - across) // 2
                yield f"d{row}{column}", both[..., top : top + down, left : left + across]
            square = both if (row, column) == (2, 2) else square
            both = torch.diff(both, dim=-2)
        along_row = torch.diff(along_row, dim=-1)
    # KV 5x5 is SQUARE 3x3 convolved with twice the centre plus the four diagonal neighbours.
    rows = square[..., :-2, :] + square[..., 2:, :]
    corners = rows[..., :-2] + rows[..., 2:]
    yield "kv", corners.add_(square[..., 1:-1, 1:-1], alpha=2)


def _windows(plane: Tensor, size: tuple[int, int], gain: float = 1.0) -> Tensor:
    """Mean x `gain` over each window of an image of `size`.

    Where a plane is longer or shorter than the image by one, so are its windows.
    """
    high, wide = (WINDOW + plane.shape[-2] - size[0], WINDOW + plane.shape[-1] - size[1])
    # Rows first, summed along memory: pooling the whole plane at once takes twice as long.
    rows = plane.unfold(-2, high, WINDOW).sum(dim=-1)
    return F.avg_pool2d(rows, (1, wide), stride=(1, WINDOW)).mul_(gain / high)


def _log(magnitude: Tensor) -> Tensor:
    """Logarithm above the floor: 0 where nothing stands out."""
    return (magnitude / FLOOR).log1p()


def _log_root(power: Tensor) -> Tensor:
    """The same for a squared magnitude, which rounding errors may have made negative."""
    return 0.5 * (power.clamp_min(0) / FLOOR**2).log1p()


def _neighbours(kv: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Correlation of neighbouring values of a truncated residual, along rows and along columns.

    These are the rich model's co-occurrences, reduced to their second moment.
    """
    truncated = kv.clamp(-TRUNCATION, TRUNCATION)
    power = _windows(truncated.square(), size) + FLOOR**2
    row = _windows(truncated[..., 1:] * truncated[..., :-1], size) / power
    column = _windows(truncated[..., 1:, :] * truncated[..., :-1, :], size) / power
    return row, column


def _colours(levels: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Log-mean of the first differences of each chroma plane, and correlations of the channels' mixed differences."""
    channels = torch.split(levels, 1, dim=1)
    chroma = []
    for weights in _CHROMA:
        plane = _mixed(channels, weights)
        row, column = (_windows(torch.diff(plane, dim=axis).abs(), size, 0.5 * GAINS["d10"]) for axis in (-1, -2))
        chroma.append(_log(row + column))
    gain = GAINS["d11"] ** 2
    residuals = [torch.diff(torch.diff(channel, dim=-1), dim=-2) for channel in channels]
    own = [_windows(residual.square(), size, gain) + FLOOR**2 for residual in residuals]
    shared = [_windows(residuals[a] * residuals[b], size, gain) for a, b in _PAIRS]
    correlations = [s * (own[a] * own[b]).rsqrt() for s, (a, b) in zip(shared, _PAIRS, strict=True)]
    return *chroma, *correlations


def block_dct(blocks: Tensor, transform: Tensor) -> Tensor:
    """Coefficients of 8 x 8 blocks, as JPEG computes them.

    Args:
        blocks: (B, h, 8, w, 8): row of blocks, row in the block, column of blocks, column in the block.
        transform: (8, 8), of `constants_like`.

    Returns:
        The same shape, with vertical and horizontal frequencies instead of rows and columns.
    """
    rows = torch.matmul(blocks, transform.T)
    return torch.matmul(transform, rows.flatten(3)).view(blocks.shape)


def _zones(luma: Tensor, constants: Constants) -> Tensor:
    """(B, 6, h, w) log-magnitude of the block DCT in each zone: root mean square of its coefficients."""
    images = luma.shape[0]  # not its len, which an export would take for a constant
    height, width = luma.shape[-2] // WINDOW, luma.shape[-1] // WINDOW
    whole = luma[:, 0, : height * WINDOW, : width * WINDOW]
    blocks = whole.reshape(images, height, WINDOW, width, WINDOW)
    # Without its mean a block has no large value whose rounding in reduced precision (TF32) would disturb the others.
    power = block_dct(blocks - blocks.mean(dim=(2, 4), keepdim=True), constants.transform).square_()
    power = power.permute(0, 2, 4, 1, 3).reshape(images, WINDOW**2, height * width)
    return _log_root(torch.matmul(constants.zones, power)).view(images, -1, height, width)
