"""Promises of images/views.py: the right squares, each distinct one once."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from muflow_cli.images.decode import decode
from muflow_cli.images.views import cut_views
from muflow_cli.specs import View, ViewSpec

CROPS = ViewSpec(kind=View.CROPS, size=32, count=16, fit_count=4, draft=False)


def numbered(width: int, height: int) -> Image.Image:
    """An image whose every pixel says where it is: (x // 256, x % 256, y)."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x // 256 + 16 * (y // 256), x % 256, y % 256], axis=2).astype(np.uint8))


def corners(views: np.ndarray) -> list[tuple[int, int]]:
    first = views[:, 0, 0].astype(int)
    return [(256 * (a % 16) + b, 256 * (a // 16) + c) for a, b, c in first]


def test_resize_is_one_view_of_the_whole_image() -> None:
    half = Image.new("RGB", (300, 100), "red")
    half.paste((0, 0, 255), (150, 0, 300, 100))
    views = cut_views(half, ViewSpec(size=64))
    assert views.shape == (1, 64, 64, 3)
    assert views.dtype == np.uint8
    assert (views[0, :, :30] == (255, 0, 0)).all()
    assert (views[0, :, 34:] == (0, 0, 255)).all()


def test_reduction_is_antialiased_and_keeps_the_mean() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    for draft in (False, True):
        view = cut_views(Image.fromarray(stripes), ViewSpec(size=64, draft=draft))[0]
        assert np.abs(view.astype(int) - 127).max() <= 6  # the kernel is cut at the border


@pytest.mark.parametrize("side", [512, 700, 1024])
def test_an_image_looks_alike_as_png_and_as_jpeg_decoded_at_reduced_scale(side: int) -> None:
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    texture = (128 + 60 * np.sin(x / 5) * np.cos(y / 7)).astype(np.uint8)
    image = Image.fromarray(np.stack([texture, texture, 255 - texture], axis=2))
    views = []
    for container in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        image.save(buffer, container, **({"quality": 98} if container == "JPEG" else {}))
        views.append(cut_views(decode(buffer.getvalue(), 10**7, draft_side=256).image, ViewSpec())[0].astype(int))
    assert np.sqrt(((views[0] - views[1]) ** 2).mean()) < 1.5


def test_a_large_image_is_averaged_down_only_with_draft() -> None:
    grain = np.random.default_rng(0).integers(0, 256, (256, 300, 3), dtype=np.uint8)
    image = Image.fromarray(grain)
    square = (64, 64)
    averaged = image.reduce(4).resize(square, Image.Resampling.BICUBIC)
    assert (cut_views(image, ViewSpec(size=64))[0] == np.asarray(averaged)).all()
    whole = image.resize(square, Image.Resampling.BICUBIC)
    assert (cut_views(image, ViewSpec(size=64, draft=False))[0] == np.asarray(whole)).all()


@pytest.mark.parametrize("size", [(1, 1), (30_000, 1), (1, 30_000), (31, 400), (400, 31)])
@pytest.mark.parametrize("kind", list(View))
def test_small_and_extreme_images_are_one_whole_view(size: tuple[int, int], kind: View) -> None:
    views = cut_views(Image.new("RGB", size, (9, 99, 199)), ViewSpec(kind=kind, size=32))
    assert views.shape == (1, 32, 32, 3)
    assert (views == (9, 99, 199)).all()


def test_an_image_of_the_view_size_has_one_crop_itself() -> None:
    views = cut_views(numbered(32, 32), CROPS)
    assert views.shape[0] == 1
    assert (views[0] == np.asarray(numbered(32, 32))).all()


def test_grid_spans_the_image_evenly() -> None:
    grid = corners(cut_views(numbered(332, 182), CROPS))
    assert grid == [(x, y) for y in (0, 50, 100, 150) for x in (0, 100, 200, 300)]


def test_a_single_crop_is_the_centre() -> None:
    single = ViewSpec(kind=View.CROPS, size=32, count=1)
    assert corners(cut_views(numbered(132, 82), single)) == [(50, 25)]


@settings(deadline=None)
@given(st.integers(32, 400), st.integers(32, 400), st.integers(1, 20))
def test_scan_crops_are_distinct_native_and_never_too_many(width: int, height: int, count: int) -> None:
    spec = ViewSpec(kind=View.CROPS, size=32, count=count)
    image = np.asarray(numbered(width, height))
    views = cut_views(Image.fromarray(image), spec)
    grid = corners(views)
    assert 1 <= len(set(grid)) == len(grid) <= count
    for view, (x, y) in zip(views, grid, strict=True):
        assert (view == image[y : y + 32, x : x + 32]).all()


@settings(deadline=None)
@given(st.integers(32, 70), st.integers(32, 36), st.integers(0, 2**32))
def test_random_crops_are_distinct_and_follow_the_seed(width: int, height: int, seed: int) -> None:
    draw = [corners(cut_views(numbered(width, height), CROPS, np.random.default_rng(seed))) for _ in range(2)]
    assert draw[0] == draw[1]
    assert len(set(draw[0])) == len(draw[0]) == min(4, (width - 31) * (height - 31))


def test_random_crops_reach_the_whole_image() -> None:
    generator = np.random.default_rng(0)
    drawn = {corner for _ in range(200) for corner in corners(cut_views(numbered(34, 33), CROPS, generator))}
    assert drawn == {(x, y) for x in range(3) for y in range(2)}
