"""One container for all: its text, what it does to images, and what `fit`, `scan` and `bench` do with it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import FP32, draw_face, write_faces
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import muflow_cli as muflow
from muflow_cli.bench.detects import make_claims
from muflow_cli.bench.evaluate import Against, Evaluation, Figure, Generator
from muflow_cli.bench.nulls import NullAgainst
from muflow_cli.bundle import load
from muflow_cli.errors import BadExpression, BadSpec
from muflow_cli.fit import FitRequest, fit
from muflow_cli.images.container import contained, parse_container
from muflow_cli.images.decode import decode
from muflow_cli.records import Facts, Scored
from muflow_cli.settings import override
from muflow_cli.specs import ContainerSpec, DetectorSpec

ONE = ContainerSpec(square=True, resize=64, jpeg=75)

container_specs = st.builds(
    ContainerSpec,
    square=st.booleans(),
    resize=st.one_of(st.just(0), st.integers(16, 4096)),
    jpeg=st.integers(0, 100),
)


# ---- the text


@given(container_specs.filter(str))
def test_a_container_is_read_as_it_is_written(spec: ContainerSpec) -> None:
    assert parse_container(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "column 1, '' is not a step"),
        ("squared", "column 1, 'squared' is not a step"),
        ("square,size=256", "column 8, 'size=256' is not a step"),
        ("resize", "column 1, 'resize' is not a step"),
        ("square=3", "column 1, 'square=3' is not a step"),
        ("resize=25.5", "column 1, 'resize=25.5' is not a step"),
        ("jpeg=90,resize=256", "column 9, resize stands after jpeg"),
        ("square,square", "column 8, square stands after square"),
        ("square,jpeg=0", "column 8, 'jpeg=0' does nothing"),
    ],
)
def test_a_wrong_step_is_named_with_its_column(text: str, where: str) -> None:
    with pytest.raises(BadExpression) as error:
        parse_container(text)
    assert where in error.value.problem


@pytest.mark.parametrize("text", ["resize=15", "resize=5000", "jpeg=101"])
def test_a_number_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(BadSpec):
        parse_container(text)


# ---- one image


def file_of(image: Image.Image, kind: str, **how: int) -> tuple[Image.Image, Facts]:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    decoded = decode(stream.getvalue(), 10**8)
    return decoded.image, decoded.facts


def test_one_image_in_several_lossless_files_is_one_stored_image() -> None:
    image = draw_face(np.random.default_rng(3), 300)
    results = [contained(*file_of(image, kind), ONE) for kind in ("PNG", "BMP", "TIFF")]
    assert len({stored.tobytes() for stored, _ in results}) == 1
    assert len({replace(facts, sha256="") for _, facts in results}) == 1
    assert len({facts.sha256 for _, facts in results}) == 3  # still the files'


def test_the_facts_are_those_of_a_file_with_the_stored_image() -> None:
    image, facts = file_of(draw_face(np.random.default_rng(4), 300), "PNG")
    stored, told = contained(image, facts, ONE)
    stream = io.BytesIO()
    image.resize((64, 64), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=75, subsampling="4:2:0")
    real = decode(stream.getvalue(), 10**8)
    assert stored.tobytes() == real.image.tobytes()
    assert replace(told, sha256="") == replace(real.facts, sha256="")


@given(st.integers(20, 200), st.integers(20, 200))
def test_the_shorter_side_is_the_one_that_was_asked_for(width: int, height: int) -> None:
    image = Image.new("RGB", (width, height))
    facts = Facts(sha256="0" * 64, bytes=1, format="PNG", width=width, height=height)
    whole, told = contained(image, facts, ContainerSpec(resize=32))
    assert min(whole.size) == 32
    assert (told.width, told.height) == whole.size
    assert max(whole.size) == round(32 * max(width, height) / min(width, height))
    square, _ = contained(image, facts, ContainerSpec(square=True))
    assert square.size == (min(width, height),) * 2


def test_the_square_is_the_centre() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    facts = Facts(sha256="0" * 64, bytes=1, format="PNG", width=30, height=10)
    square, _ = contained(Image.fromarray(pixels), facts, ContainerSpec(square=True))
    assert np.asarray(square).min() == 255


# ---- a detector


@pytest.fixture(scope="module")
def contained_bundle(
    tmp_path_factory: pytest.TempPathFactory, reals: Path, tiny_weights: Path, tiny_spec: DetectorSpec
) -> Path:
    """As `tiny_bundle`, in one container."""
    output = tmp_path_factory.mktemp("contained") / "tiny.safetensors"
    spec = replace(override(tiny_spec, ["train.epochs=1"]), container=ONE)
    fit(FitRequest(reals=(str(reals),), output=output, spec=spec, weights={"main": tiny_weights}, runtime=FP32))
    return output


def test_a_detector_keeps_its_container(contained_bundle: Path, tiny_bundle: Path) -> None:
    assert load(contained_bundle).spec.container == ONE
    assert load(tiny_bundle).spec.container is None


def test_a_scan_sees_no_container_but_the_detectors_own(contained_bundle: Path, tmp_path: Path) -> None:
    image = draw_face(np.random.default_rng(5), 300)
    for kind in ("png", "bmp", "tiff"):
        image.save(tmp_path / f"a.{kind}")
    results = list(muflow.scan(tmp_path, contained_bundle, runtime=FP32))
    assert all(isinstance(result, Scored) for result in results)
    assert len({result.score for result in results if isinstance(result, Scored)}) == 1
    assert {result.facts.format for result in results if isinstance(result, Scored)} == {"PNG", "BMP", "TIFF"}


# ---- a benchmark


@pytest.fixture(scope="module")
def other_container(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two folders of equal origin, one of large PNGs and one of small JPEGs."""
    folder = tmp_path_factory.mktemp("labelled")
    write_faces(folder / "small", 30, seed=6)
    (folder / "large").mkdir()
    generator = np.random.default_rng(7)
    for index in range(30):
        draw_face(generator).resize((200, 200)).save(folder / "large" / f"{index:03}.png")
    return str(folder / "small"), str(folder / "large")


def test_a_container_takes_the_metadata_away(tiny_bundle: Path, other_container: tuple[str, str]) -> None:
    real, fake = other_container

    def report(container: ContainerSpec | None) -> dict[str, object]:
        return muflow.bench(
            tiny_bundle,
            real=[f"small={real}"],
            fake=[f"large={fake}"],
            container=container,
            resamples=20,
            runtime=FP32,
        ).document

    found, stored = report(None), report(ONE)
    nulls = [document["nulls"]["metadata only"]["small"]["macro"] for document in (found, stored)]  # type: ignore[index] # a JSON value
    assert nulls[0] > 0.99  # PNG against JPEG
    assert nulls[1] < nulls[0]
    assert [document["data"]["container"] for document in (found, stored)] == [None, str(ONE)]  # type: ignore[index] # a JSON value
    assert found["data"]["digest"] != stored["data"]["digest"]  # type: ignore[index] # a JSON value
    (claim,) = found["claims"]  # type: ignore[misc] # a JSON value
    assert claim["why_not"] == "the images are measured as found, so their containers may differ"


def test_the_detectors_own_container_is_not_applied_twice(
    contained_bundle: Path, other_container: tuple[str, str]
) -> None:
    real, fake = other_container
    scores = []
    for container in (None, ONE):
        found = muflow.bench(
            contained_bundle, real=[real], fake=[fake], container=container, resamples=20, runtime=FP32
        )
        scores.append([row.score for row in found.rows])
    assert scores[0] == scores[1]


def evaluation(low: float, fakes: int = 20) -> Evaluation:
    """Against two sources, of which the second has an interval that begins at `low`."""

    def against(low: float) -> Against:
        figure = Figure(value=0.9, low=low, high=0.95)
        generator = Generator(family="f", fakes=fakes, prevalence=0.5, caught=None, figures={"auc": figure})
        return Against(
            reals=20, flagged=None, generators={"g": generator}, families={}, macro={"auc": figure}, pooled={}
        )

    return Evaluation(sources={"a": against(0.8), "b": against(low)}, all_reals=against(low), worst_source="b")


@pytest.mark.parametrize(
    ("low", "null", "container", "why_not"),
    [
        (0.7, 0.55, ONE, ""),
        (0.7, 0.55, None, "the images are measured as found, so their containers may differ"),
        (0.49, 0.55, ONE, "against b its interval reaches down to 0.49"),
        (0.7, 0.61, ONE, "sharpness only reaches 0.61 against b"),
        (0.7, 0.39, ONE, "sharpness only reaches 0.39 against b"),
    ],
)
def test_detects_needs_one_container_nulls_at_chance_and_every_source(
    low: float, null: float, container: ContainerSpec | None, why_not: str
) -> None:
    nulls = {"sharpness only": {"a": NullAgainst({"g": 0.5}, 0.5), "b": NullAgainst({"g": null}, null)}}
    (claim,) = make_claims(evaluation(low).sources, nulls, container)
    assert (claim.detects, claim.why_not) == (not why_not, why_not)


def test_a_handful_of_images_shows_nothing() -> None:
    nulls = {"sharpness only": {"a": NullAgainst({"g": 0.5}, 0.5), "b": NullAgainst({"g": 0.5}, 0.5)}}
    (claim,) = make_claims(evaluation(0.7, fakes=19).sources, nulls, ONE)
    assert (claim.detects, claim.why_not) == (False, "g has fewer than 20 images")
