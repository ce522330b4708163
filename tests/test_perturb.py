"""Perturbations: what each does to an image, their texts, and independence of order."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from muflow_cli.errors import BadExpression, BadSpec
from muflow_cli.images.perturb import OPERATIONS, SUITES, Parameter, Perturbation, parse, perturbation


def image(seed: int = 0, width: int = 60, height: int = 40) -> Image.Image:
    """Smooth colour with some detail, so that codecs have something to lose."""
    noise = np.random.default_rng(seed).normal(128, 60, (height, width, 3))
    return Image.fromarray(np.clip(gaussian_filter(noise, (1, 1, 0)) * 2 - 128, 0, 255).astype(np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float64)


def change(before: Image.Image, after: Image.Image) -> float:
    return float(np.abs(pixels(before) - pixels(after)).mean())


def allowed(parameter: Parameter) -> st.SearchStrategy[float]:
    if parameter.whole or parameter.odd:
        return st.integers(int(parameter.low), int(parameter.high)).filter(parameter.allows).map(float)
    return st.floats(parameter.low, parameter.high)


@st.composite
def perturbations(draw: st.DrawFn) -> Perturbation:
    name = draw(st.sampled_from(sorted(OPERATIONS)))
    return Perturbation(name, tuple((p.name, draw(allowed(p))) for p in OPERATIONS[name].parameters))


@given(perturbations())
def test_the_text_of_a_perturbation_parses_back_to_it(made):
    assert parse(str(made)) == made
    assert str(parse(str(made))) == str(made)


TOKENS = (*OPERATIONS, *("q", "sigma", "kernel", "std", ":", ",", "=", "1", "75", "-", "0.5", "1e999", "nan", " ", "é"))


@given(st.text(max_size=20) | st.lists(st.sampled_from(TOKENS), max_size=8).map("".join))
def test_any_text_parses_to_something_canonical_or_is_refused_with_a_column(text):
    try:
        made = parse(text)
    except BadExpression as error:
        problem, remedy = error.problem, error.remedy
    else:
        assert parse(str(made)) == made
        return
    assert re.search(r", column \d+, .+", problem)
    assert remedy
    assert ": " not in remedy


@pytest.mark.parametrize(
    ("text", "column", "sentence"),
    [
        ("jpg:q=75", 1, "'jpg' is not a perturbation: use one of jpeg, webp"),
        ("jpeg:quality=75", 6, "'quality' is not a parameter: use q"),
        ("blur:q=75", 6, "'q' is not a parameter: use kernel or sigma"),
        ("jpeg:q=0", 8, "'0' is not allowed for q: use a whole number from 1 to 100"),
        ("jpeg:q=7.5", 8, "'7.5' is not allowed for q: use a whole number from 1 to 100"),
        ("jpeg:q=", 8, "'' is not a number: use a whole number from 1 to 100"),
        ("jpeg:", 6, "'' is not a parameter: use q"),
        ("flip:q=1", 6, "'q' is not a parameter: remove it, since this perturbation has no parameters"),
        ("blur:sigma=1,kernel=4", 21, "'4' is not allowed for kernel: use 0 or an odd number from 0 to 401"),
        ("blur:sigma=1,sigma=2", 14, "sigma is given twice: remove one of them"),
        ("noise:std=nan", 11, "'nan' is not allowed for std: use a number from 0 to 1"),
    ],
)
def test_errors_name_the_column(text, column, sentence):
    with pytest.raises(BadExpression) as caught:
        parse(text)
    assert str(caught.value).startswith(f"perturbation {text!r}, column {column}, {sentence}")


def test_what_is_left_out_has_its_default_and_the_order_of_settings_is_free():
    assert str(parse("jpeg")) == "jpeg:q=75"
    assert parse("blur:sigma=2,kernel=5") == perturbation("blur", kernel=5, sigma=2)


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("jpg", (), "perturbation is jpg: use one of jpeg"),
        ("jpeg", (), "the parameter list of jpeg is none: use q"),
        ("jpeg", (("q", 0),), "q of jpeg is 0: use a whole number from 1 to 100"),
        ("flip", (("q", 1),), "the parameter list of flip is q: use none"),
    ],
)
def test_a_perturbation_made_by_hand_refuses_nonsense(name, parameters, sentence):
    with pytest.raises(BadSpec) as caught:
        Perturbation(name, parameters)
    assert str(caught.value).startswith(sentence)


def test_every_perturbation_gives_rgb_of_any_mode_and_leaves_its_input_alone():
    for name, mode in itertools.product(OPERATIONS, ("RGB", "L", "RGBA", "P")):
        before = image().convert(mode)
        original = before.tobytes()
        after = perturbation(name).apply(before)
        assert after.mode == "RGB", name
        assert after is not before, name
        assert before.tobytes() == original, name


def test_every_perturbation_survives_an_image_of_one_pixel():
    for name in OPERATIONS:
        assert min(perturbation(name).apply(Image.new("RGB", (1, 1), (9, 9, 9))).size) >= 1, name


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.random])
def test_random_perturbations_depend_on_the_seed_and_the_image_and_not_on_the_order(name):
    made = perturbation(name)
    first, second = image(1), image(2)
    forwards = [made.apply(first).tobytes(), made.apply(second).tobytes()]
    backwards = [made.apply(second).tobytes(), made.apply(first).tobytes()]
    assert forwards == backwards[::-1]
    assert made.apply(first, seed=1).tobytes() != forwards[0]


def test_two_images_get_different_noise():
    greys = [Image.new("RGB", (30, 30), (level,) * 3) for level in (120, 130)]
    noise = [pixels(perturbation("noise", std=0.02).apply(grey)) - pixels(grey) for grey in greys]
    assert not np.array_equal(*noise)


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_lower_quality_loses_more(codec):
    losses = [change(image(), perturbation(codec, q=q).apply(image())) for q in (95, 60, 20)]
    assert 0 < losses[0] < losses[1] < losses[2]


def test_noise_has_the_asked_deviation_and_no_bias():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    noisy = pixels(perturbation("noise", std=0.05).apply(grey))
    assert noisy.std() == pytest.approx(0.05 * 255, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.15)


def test_salt_and_pepper_changes_the_asked_share_of_pixels_half_to_white_half_to_black():
    grey = Image.new("RGB", (300, 300), (128, 128, 128))
    after = np.asarray(perturbation("salt-pepper", amount=0.1).apply(grey))
    assert np.mean((after == 255).all(axis=2)) == pytest.approx(0.05, abs=0.004)
    assert np.mean((after == 0).all(axis=2)) == pytest.approx(0.05, abs=0.004)
    assert np.mean((after == 128).all(axis=2)) == pytest.approx(0.9, abs=0.006)


def test_blur_of_a_dot_is_the_gaussian_of_its_window():
    dot = np.zeros((9, 9, 3), np.uint8)
    dot[4, 4] = 255
    after = pixels(perturbation("blur", kernel=3, sigma=1).apply(Image.fromarray(dot)))[..., 0]
    weights = np.exp(-(np.array([-1, 0, 1]) ** 2) / 2)
    weights /= weights.sum()
    expected = np.zeros((9, 9))
    expected[3:6, 3:6] = np.rint(255 * np.outer(weights, weights))
    np.testing.assert_array_equal(after, expected)


def test_blur_without_width_changes_nothing_and_more_of_it_changes_more():
    losses = [change(image(), perturbation("blur", sigma=sigma).apply(image())) for sigma in (0, 1, 4)]
    assert losses[0] == 0
    assert 0 < losses[1] < losses[2]


def test_flip_twice_and_half_a_turn_twice_give_back_the_image():
    for made in (perturbation("flip"), perturbation("rotate", angle=180)):
        once = made.apply(image())
        assert once.tobytes() != image().tobytes()
        assert made.apply(once).tobytes() == image().tobytes()


def test_sizes_are_kept_or_changed_as_named():
    size = image().size
    for name in ("resize", "crop", "rotate", "blur", "noise", "jpeg", "webp", "blur-jpeg", "salt-pepper", "flip"):
        assert perturbation(name).apply(image()).size == size, name
    assert perturbation("rescale", side=30).apply(image()).size == (30, 20)
    assert perturbation("corner", keep=0.5).apply(image()).size == (30, 20)
    assert perturbation("letterbox", width=2, height=1).apply(image()).size == (80, 40)
    assert perturbation("letterbox", width=1, height=1).apply(image()).size == (60, 60)
    assert perturbation("screenshot", scale=0.5, margin=0.1).apply(image()).size == (30, 24)


def test_rescale_never_enlarges():
    assert perturbation("rescale", side=512).apply(image()).tobytes() == image().tobytes()


def test_letterbox_and_corner_keep_the_image_itself():
    boxed = perturbation("letterbox", width=2, height=1).apply(image())
    assert boxed.crop((10, 0, 70, 40)).tobytes() == image().tobytes()
    assert not np.asarray(boxed)[:, :10].any()
    assert perturbation("corner", keep=0.5).apply(image()).tobytes() == image().crop((0, 0, 30, 20)).tobytes()


def test_blur_then_jpeg_is_both_in_that_order():
    blurred = perturbation("blur", sigma=2).apply(image())
    both = perturbation("blur-jpeg", sigma=2, q=50).apply(image())
    assert both.tobytes() == perturbation("jpeg", q=50).apply(blurred).tobytes()


def test_suites_hold_what_their_sources_measured_each_once():
    assert [str(p) for p in SUITES["sidbench"][:6]] == [
        *("jpeg:q=95", "jpeg:q=90", "jpeg:q=50", "jpeg:q=30"),
        *("blur:kernel=0,sigma=2", "blur:kernel=0,sigma=4"),
    ]
    assert {"resize:scale=0.5", "flip", "noise:std=0.05", "crop:keep=0.95"} <= {str(p) for p in SUITES["paper"]}
    for name, suite in SUITES.items():
        assert len(set(suite)) == len(suite), name
        assert all(parse(str(made)) == made for made in suite), name
