"""Laws of strata and ranges: every image has one stratum, and only what lies outside is called atypical."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muflow_cli.calibration.strata import QUALITY_EDGES, ranges_of, stratum_name
from muflow_cli.records import Facts


def image(**facts: object) -> Facts:
    usual = {"format": "JPEG", "width": 300, "height": 400, "jpeg_quality": 75, "sharpness": 20.0}
    return Facts(sha256="0" * 64, bytes=1, **{**usual, **facts})


IMAGES = st.builds(
    image,
    format=st.sampled_from(["JPEG", "PNG", "WEBP"]),
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    jpeg_quality=st.none() | st.integers(1, 100),
    sharpness=st.none() | st.floats(0, 500),
)


@pytest.mark.parametrize(
    ("facts", "by", "name"),
    [
        ({}, (), ""),
        ({}, ("format",), "JPEG"),
        ({}, ("format", "quality", "size"), "JPEG q70-79 256-511px"),
        ({"jpeg_quality": 49}, ("quality",), "q<50"),
        ({"jpeg_quality": 50}, ("quality",), "q50-69"),
        ({"jpeg_quality": 100}, ("quality",), "q95+"),
        ({"format": "PNG", "jpeg_quality": None}, ("quality", "format"), "q none PNG"),
        ({"width": 127}, ("size",), "<128px"),
        ({"width": 4000, "height": 2048}, ("size",), "2048+px"),
    ],
)
def test_a_stratum_is_named_by_the_facts_asked_for(facts, by, name):
    assert stratum_name(image(**facts), by) == name


@given(st.integers(1, 100), st.integers(1, 100))
def test_qualities_share_a_stratum_exactly_when_no_edge_parts_them(one, other):
    parted = any(min(one, other) < edge <= max(one, other) for edge in QUALITY_EDGES)
    names = {stratum_name(image(jpeg_quality=quality), ("quality",)) for quality in (one, other)}
    assert len(names) == (2 if parted else 1)


@given(IMAGES)
def test_orientation_changes_neither_stratum_nor_ranges(one):
    turned = image(
        **{name: getattr(one, name) for name in ("format", "jpeg_quality", "sharpness")},
        width=one.height,
        height=one.width,
    )
    assert stratum_name(one, ("format", "quality", "size")) == stratum_name(turned, ("format", "quality", "size"))
    assert ranges_of([one]) == ranges_of([turned])


@given(st.lists(IMAGES, min_size=1, max_size=8))
def test_no_calibration_image_is_atypical_of_its_own_set(images):
    ranges = ranges_of(images)
    assert [ranges.atypical(one) for one in images] == [()] * len(images)


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        ({}, ()),
        ({"format": "WEBP"}, ("format",)),
        ({"jpeg_quality": 70}, ("quality",)),
        ({"jpeg_quality": 96}, ("quality",)),
        ({"width": 299}, ("size",)),
        ({"height": 4000}, ("size",)),
        ({"sharpness": 9.9}, ("sharpness",)),
        ({"sharpness": None, "jpeg_quality": None}, ()),
        (
            {"format": "PNG", "width": 10, "sharpness": 90.0, "jpeg_quality": 1},
            ("format", "quality", "sharpness", "size"),
        ),
    ],
)
def test_what_lies_outside_the_calibration_set_is_named(facts, names):
    ranges = ranges_of([image(sharpness=10.0), image(jpeg_quality=95, sharpness=30.0, width=800, height=600)])
    assert ranges.atypical(image(**facts)) == names


def test_a_fact_that_no_calibration_image_had_is_not_judged():
    ranges = ranges_of([image(format="PNG", jpeg_quality=None, sharpness=None)])
    assert ranges.atypical(image()) == ("format",)
