"""`bench --adaptive --groups`: what batches and groups tell, measured on images with known labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from conftest import FP32, write_faces
from numpy.typing import NDArray
from test_bench import SCHEMA

from muflow_cli.bench import BenchRequest, bench
from muflow_cli.bench.batches import Batches, measure_batches
from muflow_cli.bench.datasets import data_arguments
from muflow_cli.bench.groups import measure_groups
from muflow_cli.bench.intervals import BootstrapSpec
from muflow_cli.bench.kept import Kept
from muflow_cli.bench.manifest import Label
from muflow_cli.bench.scores import Row
from muflow_cli.bundle import load, save
from muflow_cli.calibration.components import Sample
from muflow_cli.errors import NoFeatures
from muflow_cli.output import batch_text, bench_text
from muflow_cli.output.encode import to_object

FeaturesOf = dict[str, NDArray[np.float16]]

SPEC = BootstrapSpec(resamples=100)
REPEATS = 5
DIMENSIONS = 12


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def drawn(count: int, seed: int, *, at: float = 0.0, width: float = 1.0) -> NDArray[np.float16]:
    """Features: a cloud around 0, or a tight cluster inside or outside of it."""
    return np.random.default_rng(seed).normal(at, width, (count, DIMENSIONS)).astype(np.float16)


@pytest.fixture(scope="module")
def calibration() -> Sample:
    return Sample([digest(f"calibration {number}") for number in range(300)], drawn(300, 1))


@pytest.fixture(scope="module")
def images() -> tuple[list[Row], FeaturesOf]:
    """Reals of the calibration's kind and of another, and fakes that no image alone shows: they are near the centre."""
    generator = np.random.default_rng(5)
    rows: list[Row] = []
    features: FeaturesOf = {}
    for name, label, values in (
        ("same", Label.REAL, drawn(60, 2)),
        ("other", Label.REAL, drawn(30, 3, at=1.5)),
        ("tight", Label.FAKE, drawn(25, 4, at=0.5, width=0.1)),
        ("few", Label.FAKE, drawn(4, 4, at=0.5, width=0.1)),
    ):
        for number, own in enumerate(values):
            sha256 = digest(f"{name} {number}")
            p_value = float(generator.uniform(0.01, 1))
            rows.append(
                Row(path=sha256, label=label, group=name, source=name, score=0.0, p_value=p_value, sha256=sha256)
            )
            features[sha256] = own
    return rows, features


@pytest.fixture(scope="module")
def batches(images: tuple[list[Row], FeaturesOf], calibration: Sample) -> Batches:
    return measure_batches(*images, calibration, SPEC, repeats=REPEATS)


def test_only_batches_that_the_images_suffice_for_are_drawn(batches: Batches) -> None:
    # 1 % of 50 is no fake, 20 % of `few` are not there, and `other` is too small for 50 unless half are fakes.
    assert {(cell.source, cell.generator, cell.size, cell.fakes) for cell in batches.mixed} == {
        ("same", "tight", 50, 2),
        ("same", "tight", 50, 10),
        ("same", "tight", 50, 25),
        ("other", "tight", 50, 25),
        ("same", "few", 50, 2),
    }
    assert [(cell.source, cell.size) for cell in batches.real] == [("same", 50)]


def test_a_batch_finds_fakes_that_no_image_alone_shows_and_keeps_the_rate(batches: Batches) -> None:
    cell = next(cell for cell in batches.mixed if (cell.source, cell.fakes) == ("same", 25))
    for rate in cell.rates:
        assert rate.one_image_power.value == 0
        assert rate.fdp.value <= rate.fdr
        assert rate.power.low <= rate.power.value <= rate.power.high
    assert cell.auc.value > 0.75
    assert cell.rates[2].power.value > 0.5


def test_batches_of_reals_are_seldom_flagged(batches: Batches) -> None:
    # More than 3 of 5 would be flagged once in 150 times at a rate of 0.2 that holds.
    flagged = batches.real[0].any_flagged
    assert list(flagged) == ["0.05", "0.1", "0.2"]
    assert all(rate.trials == REPEATS for rate in flagged.values())
    assert flagged["0.05"].events <= flagged["0.1"].events <= flagged["0.2"].events <= 3


def test_draws_follow_the_seed_and_the_content_alone(
    images: tuple[list[Row], FeaturesOf], calibration: Sample, batches: Batches
) -> None:
    rows, features = images
    some = [row for row in rows if row.group in {"same", "few"}]
    again = to_object(measure_batches(some[::-1], features, calibration, SPEC, repeats=REPEATS), "batches")
    # Neither the order of the images nor what else is measured changes anything.
    before = to_object(batches, "batches")
    assert again["real"] == before["real"]
    assert again["mixed"] == [cell for cell in before["mixed"] if cell["generator"] == "few"]
    other = measure_batches(some, features, calibration, replace(SPEC, seed=1), repeats=REPEATS)
    assert to_object(other, "batches")["mixed"] != again["mixed"]


def test_groups_of_another_source_are_told_apart_and_those_of_the_same_are_not(
    images: tuple[list[Row], FeaturesOf], calibration: Sample
) -> None:
    fewer = Sample(calibration.digests[:150], calibration.features[:150])
    measured = {source.source: source for source in measure_groups(*images, fewer, SPEC)}
    assert [draws.size for draws in measured["tight"].sizes] == [5, 10, 20]
    assert measured["few"].sizes == ()
    shares = {name: [draws.unlike["0.05"].value for draws in source.sizes] for name, source in measured.items()}
    assert shares["tight"][-1] == shares["other"][-1] == 1
    assert max(shares["same"]) <= 0.25
    # Draws follow the seed and the source alone.
    rows, features = images
    some = [row for row in rows if row.group in {"tight", "few"}]
    assert measure_groups(some[::-1], features, fewer, SPEC) == (measured["few"], measured["tight"])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    write_faces(root / "real", 50, seed=51)
    write_faces(root / "fake", 5, seed=52)
    return root


def test_one_pass_gives_scores_and_features_and_every_output_names_the_claim(
    tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    request = BenchRequest(
        detector=tiny_bundle,
        data=data_arguments([str(photos / "real")], [str(photos / "fake")], []),
        runtime=replace(FP32, workers=1),
        bootstrap=BootstrapSpec(resamples=20),
    )
    kept = tmp_path / "kept"
    with Kept(kept, resume=True) as file:
        plain = bench(request, None, file).document
    assert plain["batches"] is plain["groups"] is None
    asked = replace(request, adaptive=True, groups=True)
    with Kept(kept, resume=True) as file:  # what is kept lacks the features
        document = bench(asked, None, file).document
    with Kept(kept, resume=True) as file:
        resumed = bench(replace(request, groups=True), None, file).document
    assert resumed["groups"] == document["groups"]
    assert document["results"] == plain["results"]
    jsonschema.validate(document, SCHEMA)
    assert {(cell["size"], cell["fakes"]) for cell in document["batches"]["mixed"]} == {(50, 2)}
    assert [cell["size"] for cell in document["batches"]["real"]] == [50]
    assert [[draws["size"] for draws in source["sizes"]] for source in document["groups"]] == [[5, 10, 20, 50], [5]]
    text = bench_text.markdown(document)
    assert "unlike the calibration as a group" in text
    assert "other sources are told apart as well" in text
    assert b"power_at_fdr_0.1" in bench_text.csv_bytes(document)
    assert "synthetic" not in " ".join(spoken(document))


def spoken(document: dict[str, Any]) -> Sequence[str]:
    """Sentences, titles and headings about batches and groups."""
    tables = [" ".join([title, *headings]) for title, headings, _ in batch_text.sections(document)]
    assert len(tables) == 3
    return [*batch_text.claims(document), *tables]


def test_a_detector_without_features_is_refused(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    detector = load(tiny_bundle)
    without = tmp_path / "without.safetensors"
    save(replace(detector, calibration=replace(detector.calibration, features=None)), without)
    data = data_arguments([str(photos / "real")], [str(photos / "fake")], [])
    for asked in ({"adaptive": True}, {"groups": True}):
        with pytest.raises(NoFeatures, match=r"^the detector holds no features of its calibration images, so "):
            bench(BenchRequest(detector=without, data=data, runtime=FP32, **asked))
