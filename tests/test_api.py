from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_SETTINGS, draw_face, write_faces
from PIL import ExifTags, Image
from scan_runs import run

import muflow_cli as muflow
from muflow_cli.errors import BadSpec, CannotWrite


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images, a copy of one of them, and one that is cut short."""
    folder = tmp_path_factory.mktemp("photos")
    first, *_ = write_faces(folder, 8, seed=11)
    (folder / "copy.jpg").write_bytes(first.read_bytes())
    (folder / "cut.jpg").write_bytes(first.read_bytes()[:700])
    return folder


def test_importing_the_package_loads_neither_torch_nor_scikit_learn_nor_numpy() -> None:
    code = "import sys, muflow_cli; print({'torch', 'sklearn', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_exists_and_an_unknown_one_is_an_attribute_error() -> None:
    for name in muflow.__all__:
        assert getattr(muflow, name) is not None, name
    with pytest.raises(AttributeError, match="colour"):
        _ = muflow.colour


def test_an_array_an_image_and_a_lossless_file_score_alike(tiny_bundle: Path, tmp_path: Path) -> None:
    detector = muflow.load(tiny_bundle)
    image = draw_face(np.random.default_rng(5))
    path = tmp_path / "face.png"
    image.save(path)
    from_path, from_image, from_array = detector.score([path, image, np.asarray(image)])
    assert isinstance(from_path, muflow.Scored)
    assert isinstance(from_image, muflow.Scored)
    assert isinstance(from_array, muflow.Scored)
    assert from_path.column_scores == from_image.column_scores == from_array.column_scores
    assert [from_path.path, from_image.path, from_array.path] == [str(path), "[1]", "[2]"]
    assert from_image.facts == from_array.facts


def test_what_cannot_be_scored_is_a_record_and_a_wrong_array_an_error(tiny_bundle: Path, photos: Path) -> None:
    detector = muflow.load(tiny_bundle)
    cut, floats = detector.score([photos / "cut.jpg", Image.new("F", (80, 80))])
    assert isinstance(cut, muflow.Unreadable)
    assert cut.code == "truncated"
    assert isinstance(floats, muflow.Unreadable)
    with pytest.raises(muflow.MuflowError, match="uint8") as error:
        detector.score([np.zeros((80, 80, 3))])
    assert error.value.problem
    assert error.value.remedy


def test_a_detector_prepares_its_branches_once_for_each_placement(tiny_bundle: Path) -> None:
    from muflow_cli.engine.devices import place

    detector = muflow.load(tiny_bundle)
    runtime = muflow.Runtime(precision=muflow.Precision.FP32)
    assert detector.scorer(place(runtime)) is detector.scorer(place(runtime))
    other = muflow.Runtime(precision=muflow.Precision.FP32, batch_size=3)
    assert detector.scorer(place(runtime)) is not detector.scorer(place(other))


def test_a_lying_photo_scores_alike_by_its_path_and_opened(tiny_bundle: Path, tmp_path: Path) -> None:
    path, exif = tmp_path / "lying.png", Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    draw_face(np.random.default_rng(6)).save(path, exif=exif)
    with Image.open(path) as opened:
        by_path, by_image = muflow.load(tiny_bundle).score([path, opened])
    assert isinstance(by_path, muflow.Scored)
    assert isinstance(by_image, muflow.Scored)
    assert by_path.column_scores == by_image.column_scores


def test_an_opened_image_that_cannot_be_read_is_a_record(tiny_bundle: Path, photos: Path) -> None:
    with Image.open(photos / "cut.jpg") as opened:
        (cut,) = muflow.load(tiny_bundle).score([opened])
    assert isinstance(cut, muflow.Unreadable)
    assert (cut.path, cut.code) == ("[0]", "corrupt")


def test_a_name_that_no_file_can_have_is_a_record(tiny_bundle: Path) -> None:
    results = muflow.load(tiny_bundle).score(["a\0b.jpg", "\ud800.jpg"])
    assert [isinstance(result, muflow.Unreadable) and result.code for result in results] == ["not_found"] * 2


@pytest.mark.parametrize(
    "image",
    [[[1, 2, 3]], 5, None, b"a.jpg", Image.new("RGB", (0, 5)), np.zeros((0, 5, 3), np.uint8)],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_image_is_a_bad_argument(tiny_bundle: Path, image: object) -> None:
    with pytest.raises(BadSpec, match=r"\[0\]"):
        muflow.load(tiny_bundle).score([image])  # type: ignore[list-item]  # what a program may give


@pytest.mark.parametrize(
    "images", ["a.jpg", b"a.jpg", Path("a.jpg"), Image.new("RGB", (9, 9))], ids=lambda value: type(value).__name__
)
def test_one_image_in_place_of_several_is_a_bad_argument(tiny_bundle: Path, images: object) -> None:
    with pytest.raises(BadSpec, match="images is a single"):
        muflow.load(tiny_bundle).score(images)  # type: ignore[arg-type]  # what a program may give


def test_errors_survive_a_copy_and_so_a_pool_of_processes() -> None:
    for error in (BadSpec("a", 1, "b"), CannotWrite("a", "b"), muflow.MuflowError("a")):
        twin = copy.copy(error)
        assert type(twin) is type(error)
        assert (str(twin), twin.problem, twin.remedy) == (str(error), error.problem, error.remedy)


def test_scan_yields_one_result_per_input_as_score_does(tiny_bundle: Path, photos: Path) -> None:
    results = list(muflow.scan(photos, tiny_bundle))
    assert [Path(result.path).name for result in results] == sorted(path.name for path in photos.iterdir())
    scored = [result for result in results if isinstance(result, muflow.Scored)]
    again = muflow.load(tiny_bundle).score([result.path for result in scored])
    assert [r.judgement for r in again if isinstance(r, muflow.Scored)] == [r.judgement for r in scored]
    (again_first,) = [result for result in scored if result.path.endswith("copy.jpg")]
    assert again_first.duplicate_of is not None
    assert Path(again_first.duplicate_of).name == "0000.jpg"  # the first of both by name
    assert sum(result.duplicate_of is not None for result in scored) == 1


def test_scan_begins_before_its_inputs_end(tiny_bundle: Path, photos: Path) -> None:
    results = muflow.scan(iter([photos / "0001.jpg", photos / "0002.jpg"]), tiny_bundle)
    assert isinstance(next(results), muflow.Scored)
    assert isinstance(next(results), muflow.Scored)
    assert next(results, None) is None


def test_a_false_discovery_rate_gives_q_values_and_refuses_to_resume(tiny_bundle: Path, photos: Path) -> None:
    results = list(muflow.scan(photos, tiny_bundle, fdr=0.2))
    for result in results:
        if isinstance(result, muflow.Scored):
            assert result.judgement.q_value is not None
            assert result.flagged == (result.judgement.q_value <= 0.2)
    with pytest.raises(muflow.MuflowError, match="cannot be combined"):
        muflow.scan(photos, tiny_bundle, fdr=0.2, resume="r.jsonl")


def test_a_resumed_scan_takes_results_from_the_report(tiny_bundle: Path, photos: Path) -> None:
    report = photos.parent / "earlier.jsonl"
    run("scan", photos, "--detector", tiny_bundle, "-o", report, "--force")
    fresh = list(muflow.scan(photos, tiny_bundle))
    assert list(muflow.scan(photos, tiny_bundle, resume=report)) == fresh
    changed = report.read_bytes().replace(b'"tail":"high"', b'"tail":"low"').replace(b'"score":', b'"score":1')
    report.write_bytes(changed)
    assert list(muflow.scan(photos, tiny_bundle, resume=report)) == fresh  # a line that was edited is scored again


def test_fit_calibrate_and_scan_as_functions(reals: Path, tiny_weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "faces.safetensors"
    settings = [setting for setting in TINY_SETTINGS if not setting.startswith("feature.encoder")]
    runtime = muflow.Runtime(precision=muflow.Precision.FP32, workers=1)
    summary = muflow.fit(
        reals,
        output,
        branches=["whole=resnet18", "crops=resnet18,view.kind=crops,view.size=32,view.count=4"],
        settings=[*settings, "rule.method=harmonic"],
        weights={"whole": tiny_weights, "crops": tiny_weights},
        runtime=runtime,
    )
    assert summary.columns == ("whole/layer1", "whole/layer2", "crops/layer1", "crops/layer2")
    own = write_faces(tmp_path / "own", 30, seed=77)
    calibrated = muflow.calibrate(
        output, own[0].parent, output=tmp_path / "mine.safetensors", runtime=runtime, alpha=0.2
    )
    assert calibrated.scored == 30
    detector = muflow.load(tmp_path / "mine.safetensors")
    assert (detector.calibration.rule.method, detector.calibration.rule.alpha) == ("harmonic", 0.2)
    (result,) = detector.score([draw_face(np.random.default_rng(3))], runtime)
    assert isinstance(result, muflow.Scored)
    assert result.judgement.heaviest in summary.columns


def test_errors_carry_problem_and_remedy(tmp_path: Path) -> None:
    for call in (
        lambda: muflow.load(tmp_path / "missing.safetensors"),
        lambda: muflow.fit(tmp_path, tmp_path / "out.safetensors", preset="heavy"),
        lambda: muflow.calibrate(tmp_path / "missing.safetensors"),
        lambda: muflow.scan(tmp_path, fdr=2.0),
    ):
        with pytest.raises(muflow.MuflowError) as error:
            call()
        assert str(error.value) == f"{error.value.problem}: {error.value.remedy}"
