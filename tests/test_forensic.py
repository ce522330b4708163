"""Laws of the fixed filters: what they must not see, what they must see exactly, and where."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.signal import convolve2d
from torch import Tensor

from muflow_cli.engine.forensic import (
    CHANNELS,
    FLOOR,
    GAINS,
    HALVED_CHANNELS,
    Forensic,
    block_dct,
    constants_like,
    luma_of,
    residuals_of,
)


@pytest.fixture
def images() -> Tensor:
    """Four images of 8-bit grey levels: noise of a different strength over a slope each."""
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(4, 3, 96, 64, generator=generator) * torch.tensor([2.0, 5, 12, 30]).view(4, 1, 1, 1)
    slope = torch.linspace(60, 180, 64) + torch.linspace(-20, 20, 96)[:, None]
    return (slope + noise).round().clamp(0, 255) / 255


def at(maps: Tensor, *names: str) -> Tensor:
    return maps[:, [HALVED_CHANNELS.index(name) for name in names]]


def test_the_table_of_layers_tells_every_map_s_shape() -> None:
    for height, width in ((32, 32), (256, 256), (48, 80), (99, 133)):
        maps = Forensic()(torch.rand(2, 3, height, width))
        shapes = [(2, channels, height // stride, width // stride) for _, channels, stride in Forensic.LAYERS]
        assert [tuple(m.shape) for m in maps] == shapes


def test_a_constant_image_has_no_residual_at_all() -> None:
    for found in Forensic()(torch.full((1, 3, 64, 64), 0.4)):
        assert found.abs().max() < 1e-3


def test_a_constant_grey_level_more_changes_nothing(images: Tensor) -> None:
    kept = images.clamp(0, 0.8)
    for one, other in zip(Forensic()(kept), Forensic()(kept + 40 / 255), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("axes", [(-1,), (-2,), (-2, -1)])
def test_a_mirrored_image_gives_mirrored_maps(images: Tensor, axes: tuple[int, ...]) -> None:
    for one, other in zip(Forensic()(images.flip(axes)), Forensic()(images), strict=True):
        torch.testing.assert_close(one, other.flip(axes), atol=1e-3, rtol=1e-3)


def test_an_image_on_its_side_swaps_rows_and_columns(images: Tensor) -> None:
    swapped = [HALVED_CHANNELS.index({"row_kv": "column_kv", "column_kv": "row_kv"}.get(n, n)) for n in HALVED_CHANNELS]
    sign = torch.tensor([-1.0 if name.startswith("direction") else 1.0 for name in HALVED_CHANNELS]).view(1, -1, 1, 1)
    for one, other in zip(Forensic()(images.mT), Forensic()(images), strict=True):
        channels = other.shape[1]
        turned = other[:, swapped[:channels]].mT * sign[:, :channels]
        torch.testing.assert_close(one, turned, atol=1e-3, rtol=1e-3)


def test_a_batch_gives_what_its_images_give_alone(images: Tensor) -> None:
    together = Forensic()(images)
    alone = [Forensic()(image[None]) for image in images]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts), atol=1e-5, rtol=1e-5)


def test_twice_the_same_image_is_twice_the_same_map(images: Tensor) -> None:
    for one, other in zip(Forensic()(images), Forensic()(images), strict=True):
        assert torch.equal(one, other)


def test_memory_format_of_the_image_does_not_matter(images: Tensor) -> None:
    for one, other in zip(
        Forensic()(images), Forensic()(images.contiguous(memory_format=torch.channels_last)), strict=True
    ):
        assert torch.equal(one, other)


def test_bfloat16_differs_from_float32_only_by_the_rounding_of_the_maps(images: Tensor) -> None:
    for exact, half in zip(Forensic()(images), Forensic().bfloat16()(images.bfloat16()), strict=True):
        assert half.dtype is torch.bfloat16
        torch.testing.assert_close(half, exact.bfloat16(), atol=1e-2, rtol=1e-2)


def test_autocast_does_not_blunt_the_filters(images: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = Forensic()(images)
    for one, other in zip(cast, Forensic()(images), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("extreme", [0.0, 1.0])
def test_maps_stay_finite_on_extreme_images(extreme: float) -> None:
    checkers = (torch.arange(64) + torch.arange(64)[:, None]).remainder(2).float()
    for image in (torch.full((64, 64), extreme), checkers, (torch.arange(64) < 32).float().expand(64, 64)):
        for dtype in (torch.float32, torch.bfloat16):
            for found in Forensic()(image.expand(1, 3, 64, 64).to(dtype)):
                assert found.isfinite().all()


def test_every_residual_is_its_kernel_s_convolution() -> None:
    plane = torch.rand(1, 1, 40, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 255
    padded = np.pad(plane[0, 0].numpy(), 2, mode="reflect")
    kv = [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]
    kernels = {"kv": -np.array(kv, dtype=float)}
    steps = ([1.0], [1.0, -1.0], [1.0, -2.0, 1.0], [1.0, -3.0, 3.0, -1.0])
    kernels |= {name: np.outer(steps[int(name[2])], steps[int(name[1])]) for name in GAINS if name != "kv"}
    found = dict(residuals_of(plane))
    assert list(found) == list(GAINS)
    for name, kernel in kernels.items():
        full = torch.from_numpy(convolve2d(padded, kernel, mode="valid"))
        rows, columns = found[name].shape[-2:]
        top, left = (full.shape[0] - rows) // 2, (full.shape[1] - columns) // 2
        torch.testing.assert_close(found[name][0, 0], full[top : top + rows, left : left + columns])
        assert GAINS[name] == pytest.approx((kernel**2).sum() ** -0.5)


def test_white_noise_is_equally_strong_in_every_residual() -> None:
    spread = 20.0
    grey = torch.randn(1, 1, 512, 512, generator=torch.Generator().manual_seed(5)) * spread + 128
    finest = Forensic()(grey.expand(1, 3, -1, -1) / 255)[0].mean(dim=(2, 3))[0]
    value = dict(zip(CHANNELS, finest.tolist(), strict=True))
    logarithm = torch.randn(10**6, generator=torch.Generator().manual_seed(6)).mul(spread / FLOOR).abs().log1p()
    mean = spread * (2 / torch.pi) ** 0.5
    deviation = (spread**2 - mean**2) ** 0.5
    assert value["level"] == pytest.approx(math.log1p(mean / FLOOR), abs=0.05)
    gap = logarithm.mean().item() - math.log1p(mean / FLOOR)
    assert value["mean_log_kv"] == pytest.approx(gap, abs=0.03)
    assert value["deviation_log_kv"] == pytest.approx(logarithm.std().item(), abs=0.08)
    for name, found in value.items():
        if name.startswith(("slope", "direction")):
            assert found == pytest.approx(0, abs=0.05)
        if name.startswith("spread"):
            expected = 0.5 * math.log1p((deviation / FLOOR) ** 2) - math.log1p(mean / FLOOR)
            assert found == pytest.approx(expected, abs=0.08)


def test_stripes_show_in_the_direction_channels_by_their_sign() -> None:
    stripes = (0.5 + 0.2 * torch.rand(64, generator=torch.Generator().manual_seed(4))).expand(1, 3, 64, 64)
    across = at(Forensic()(stripes)[0], "direction_d1", "direction_d2")
    along = at(Forensic()(stripes.mT)[0], "direction_d1", "direction_d2")
    assert (across > 0.5).all()
    assert (along < -0.5).all()


def test_channels_that_move_together_correlate_fully_and_independent_ones_not() -> None:
    generator = torch.Generator().manual_seed(9)
    grey = torch.randn(1, 1, 512, 512, generator=generator).mul(40).expand(1, 3, -1, -1)
    free = torch.randn(1, 3, 512, 512, generator=generator).mul(40)
    names = ("red_green", "green_blue", "red_blue")
    half = Forensic()(0.5 + grey / 255)[1]
    faint_blue = grey * torch.tensor([1.0, 1.0, 0.5]).view(3, 1, 1)
    assert (at(Forensic()(0.5 + faint_blue / 255)[1], *names) > 0.9).all()
    assert (at(half, *names) > 0.95).all()
    assert at(half, "level_cb", "level_cr").abs().max() < 1e-3
    of_free = Forensic()(0.5 + free / 255)[1].mean(dim=(2, 3), keepdim=True)
    assert at(of_free, *names).abs().max() < 0.02
    spread = 40 / 2 * (0.5**2 + 0.418688**2 + 0.081312**2) ** 0.5  # of Cr, halved by the mean of four pixels
    assert at(of_free, "level_cr").item() == pytest.approx(math.log1p(spread * (2 / math.pi) ** 0.5 / FLOOR), abs=0.02)


def test_white_noise_has_no_correlated_neighbours_but_those_of_the_filter() -> None:
    generator = torch.Generator().manual_seed(2)
    fine = torch.randn(1, 1, 64, 64, generator=generator)
    smooth = torch.nn.functional.interpolate(fine, scale_factor=4, mode="bilinear")
    rough = torch.randn(1, 1, 256, 256, generator=generator)
    names = ("row_kv", "column_kv")
    of_smooth = at(Forensic()((0.5 + 0.2 * smooth).expand(1, 3, -1, -1))[1], *names).mean(dim=(2, 3))
    of_rough = at(Forensic()((0.5 + 0.2 * rough).expand(1, 3, -1, -1))[1], *names).mean(dim=(2, 3))
    assert (of_rough < -0.1).all()  # KV's own lag-one correlation is negative
    assert (of_smooth > of_rough + 0.1).all()


def test_the_half_of_an_image_drawn_twice_as_large_is_that_image(images: Tensor) -> None:
    large = images.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    full, half, _ = Forensic()(images)
    _, of_large, quarter = Forensic()(large)
    torch.testing.assert_close(of_large[:, : len(CHANNELS)], full, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(quarter, half, atol=1e-3, rtol=1e-3)


def test_a_local_disturbance_shows_only_in_the_windows_that_hold_it() -> None:
    image = torch.full((1, 3, 128, 128), 0.5)
    image[..., 74:76, 42:44] += 0.2  # at least two pixels of every octave inside its window
    for found, (_, _, stride) in zip(Forensic()(image), Forensic.LAYERS, strict=True):
        touched = (found.abs() > 1e-2).any(dim=1)[0].nonzero().tolist()
        assert touched == [[74 // stride, 42 // stride]]


def test_block_transform_is_the_dct_of_scipy() -> None:
    blocks = torch.rand(2, 3, 8, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 255
    found = block_dct(blocks, constants_like(blocks).transform)
    for image, row, column in ((0, 0, 0), (1, 2, 4)):
        expected = torch.from_numpy(dctn(blocks[image, row, :, column].numpy(), norm="ortho"))
        torch.testing.assert_close(found[image, row, :, column], expected)


@pytest.mark.parametrize(("vertical", "horizontal", "zone"), [(0, 1, 0), (1, 1, 1), (3, 0, 2), (2, 5, 3), (7, 7, 5)])
def test_a_pure_frequency_lands_in_its_zone(vertical: int, horizontal: int, zone: int) -> None:
    cosine = [torch.cos(torch.pi / 8 * (torch.arange(64) // 2 % 8 + 0.5) * f) for f in (vertical, horizontal)]
    wave = (0.5 + 0.1 * cosine[0][:, None] * cosine[1]).expand(1, 3, 64, 64)
    half = Forensic()(wave)[1]
    steps = at(half, "level", "dct1", "dct2", "dct3", "dct5", "dct8", "dct11")
    magnitudes = steps.cumsum(dim=1)[:, 1:]
    assert (magnitudes.argmax(dim=1) == zone).all()
    others = [k for k in range(6) if k != zone]
    assert magnitudes[:, others].abs().max() < 1e-3


def test_every_coefficient_but_the_mean_is_in_one_zone() -> None:
    zones = constants_like(torch.zeros(())).zones
    torch.testing.assert_close(zones.sum(dim=1), torch.ones(len(zones)))
    assert (zones > 0).sum(dim=0).tolist() == [0] + [1] * 63


def test_luma_of_grey_is_that_grey() -> None:
    grey = torch.rand(1, 1, 8, 8).expand(1, 3, 8, 8)
    torch.testing.assert_close(luma_of(grey), grey[:, :1])


def test_nothing_is_learned_and_nothing_is_kept() -> None:
    assert Forensic().state_dict() == {}
