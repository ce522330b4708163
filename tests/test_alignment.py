"""Aligned faces: the same square whatever was done to the image around them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from muflow_cli.images.alignment import aligned, frame_of, upright_square
from muflow_cli.records import Face, Point

# Where FFHQ's own alignment puts eyes, nose and mouth, as shares of the image's side.
FFHQ = ((0.385, 0.48), (0.615, 0.48), (0.5, 0.60), (0.415, 0.72), (0.585, 0.72))


def face(points: list[Point], side: float) -> Face:
    centre = np.mean(points, axis=0)
    low, high = centre - side / 2, centre + side / 2
    return Face(box=(*low.tolist(), *high.tolist()), landmarks=tuple(points), confidence=1.0)  # type: ignore[arg-type]


def face_in(side: int) -> Face:
    return face([(x * side, y * side) for x, y in FFHQ], 0.5 * side)


def photograph(side: int) -> Image.Image:
    """Smooth noise: it has detail at every place, and survives an interpolation."""
    noise = np.random.default_rng(5).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(4 * side / 512))


def moved(place: Face, move: NDArray[np.float64], shift: NDArray[np.float64]) -> Face:
    points = [tuple((move @ np.array(point) + shift).tolist()) for point in place.landmarks]
    return face(points, place.side)  # type: ignore[arg-type]


def difference(first: Image.Image, second: Image.Image, inside: float = 1.0) -> float:
    """Mean difference of the middle, grey levels."""
    cut = round(first.width * (1 - inside) / 2)
    window = slice(cut, first.width - cut)
    pixels = (np.asarray(image, dtype=float)[window, window] for image in (first, second))
    return float(np.abs(np.subtract(*pixels)).mean())


def test_an_image_that_is_aligned_already_keeps_its_frame() -> None:
    frame = frame_of(face_in(512))
    assert (frame.x, frame.y) == pytest.approx((256, 258), abs=2)
    assert 2 * frame.half == pytest.approx(512, rel=0.1)
    assert frame.across == pytest.approx((1, 0))


@pytest.mark.parametrize("size", [64, 256, 448])
def test_an_aligned_face_is_the_image_itself_within_interpolation(size: int) -> None:
    image = photograph(512)
    frame = frame_of(face_in(512))
    box = (frame.x - frame.half, frame.y - frame.half, frame.x + frame.half, frame.y + frame.half)
    expected = image.resize((size, size), Image.Resampling.BICUBIC, box=tuple(max(0, min(512, x)) for x in box))
    assert difference(aligned(image, face_in(512), size), expected) < 1.5


def test_a_padded_image_gives_the_same_square() -> None:
    image, place = photograph(512), face([(x * 512, y * 512) for x, y in FFHQ], 200)
    small = face([(256 + (x - 256) * 0.6, 256 + (y - 256) * 0.6) for x, y in place.landmarks], 120)
    padded = Image.new("RGB", (900, 700), "red")
    padded.paste(image, (210, 90))
    shifted = moved(small, np.eye(2), np.array([210.0, 90.0]))
    assert difference(aligned(image, small, 128), aligned(padded, shifted, 128)) < 0.2


def test_a_mirrored_image_gives_the_mirrored_square() -> None:
    image, place = photograph(512), face_in(512)
    left, right, nose, *mouth = ((512 - x, y) for x, y in place.landmarks)
    mirrored = face([right, left, nose, mouth[1], mouth[0]], place.side)
    square = aligned(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mirrored, 256)
    assert difference(aligned(image, place, 256), square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) < 0.5


@pytest.mark.parametrize("degrees", [-90, -20, 7, 45, 180])
def test_a_turned_image_gives_the_same_square(degrees: float) -> None:
    image, place = photograph(512), face_in(512)
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turned = moved(place, turn, np.array([256, 256]) - turn @ np.array([256, 256]))
    rotated = image.rotate(-degrees, Image.Resampling.BICUBIC)  # Pillow turns anticlockwise
    assert difference(aligned(image, place, 256), aligned(rotated, turned, 256), inside=0.6) < 1.5


@pytest.mark.parametrize("scale", [2, 5])
def test_a_larger_image_gives_the_same_square(scale: int) -> None:
    image, place = photograph(256), face_in(256)
    larger = image.resize((256 * scale, 256 * scale), Image.Resampling.BICUBIC)
    assert difference(aligned(image, place, 128), aligned(larger, face_in(256 * scale), 128)) < 1.5


def test_outside_the_image_lies_its_mirror_image() -> None:
    image = Image.new("RGB", (256, 256), (10, 200, 90))
    corner = moved(face_in(256), np.eye(2), np.array([-120.0, 90.0]))
    assert np.asarray(aligned(image, corner, 64)).reshape(-1, 3).std(axis=0).max() == 0


@settings(deadline=None, max_examples=40)  # mirroring an image of one pixel over and over takes its time
@given(
    points=st.lists(st.tuples(*[st.floats(-2000, 2000)] * 2), min_size=5, max_size=5),
    side=st.floats(8, 500),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
)
def test_any_landmarks_give_a_square(points: list[Point], side: float, width: int, height: int) -> None:
    image, place = Image.new("RGB", (width, height)), face(points, side)
    assert aligned(image, place, 16).size == (16, 16)
    assert min(upright_square(image, place).size) >= 1


def test_a_frame_is_never_smaller_than_the_face() -> None:
    spot = face([(50.0, 50.0)] * 5, 80)
    assert 2 * frame_of(spot).half == pytest.approx(80)


def test_the_upright_square_has_the_images_own_pixels() -> None:
    image, place = photograph(512), moved(face_in(256), np.eye(2), np.array([100.0, 60.0]))
    square = upright_square(image, place)
    frame = frame_of(place)
    left, top = round(frame.x - frame.half), round(frame.y - frame.half)
    assert square.size[0] == square.size[1] == round(2 * frame.half)
    expected = image.crop((left, top, left + square.width, top + square.height))
    assert difference(square, expected) == pytest.approx(0, abs=4)


def test_tilt_and_side_are_those_of_the_eyes_and_the_box() -> None:
    place = face_in(200)
    assert place.tilt == pytest.approx(0)
    assert place.side == pytest.approx(100)
    (left, right, *rest) = place.landmarks
    tilted = dataclasses.replace(place, landmarks=(left, (right[0], right[1] + (right[0] - left[0])), *rest))
    assert tilted.tilt == pytest.approx(45)
