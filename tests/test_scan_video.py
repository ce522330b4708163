"""Clips through calibrate and scan: what a verdict on a clip is by, and what reports say of it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_samples import filmed, plain, write_clip
from conftest import FP32, write_faces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from output_samples import DETECTOR, FINISHED, RUN, SUMMARY, scored, write_all
from PIL import Image

from muflow_cli.bundle import load, save
from muflow_cli.calibrate.workflow import CalibrateRequest, calibrate
from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.clips import Sampling, aggregated, clip_columns
from muflow_cli.calibration.judge import Judge
from muflow_cli.cli.clip_options import clip_spec
from muflow_cli.clip_records import CalibratedOn, Clip, ClipFacts, JudgedBy
from muflow_cli.clip_results import FrameUnit, ScoredClip, clip_result, clip_row
from muflow_cli.detector import Detector
from muflow_cli.engine.scoring import ScoredUnit
from muflow_cli.errors import BadData, IncompatibleOptions
from muflow_cli.fit.split import with_clips_whole
from muflow_cli.fit.workflow import FitRequest, fit
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.find import find
from muflow_cli.images.tracks import LoadedFrame
from muflow_cli.output.encode import result_from_json, result_to_json
from muflow_cli.output.report import ReportData, render_report
from muflow_cli.output.report_writer import Exhibits
from muflow_cli.output.tabular import CsvWriter, Per
from muflow_cli.output.writers import OutputFormat
from muflow_cli.records import Face, Facts, Result, Scored, Unjudged, Unreadable, Verdict
from muflow_cli.run_specs import Atypical, ClipSpec, InputSpec
from muflow_cli.scan.tally import Tally
from muflow_cli.scan.workflow import Scan, ScanRequest
from muflow_cli.specs import DetectorSpec, RuleSpec

CLIPS = 24
WANTED = InputSpec(clips=ClipSpec(frames=4))


@pytest.fixture(scope="module")
def real_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips to calibrate on."""
    folder = tmp_path_factory.mktemp("real clips")
    for number in range(CLIPS):
        write_clip(folder / f"{number:02}.mp4", filmed(number))
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, and one of them again."""
    folder = tmp_path_factory.mktemp("other clips")
    write_clip(folder / "a.mp4", filmed(500))
    write_clip(folder / "b.webm", plain(6))
    (folder / "c.mp4").write_bytes((folder / "a.mp4").read_bytes())
    return folder


@pytest.fixture(scope="module")
def on_clips(tiny_bundle: Path, real_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector, calibrated on clips."""
    output = tmp_path_factory.mktemp("calibrated") / "clips.safetensors"
    request = CalibrateRequest(
        detector=tiny_bundle, reals=(str(real_clips),), output=output, inputs=WANTED, runtime=FP32
    )
    summary = calibrate(request)
    assert summary.calibrated_on is CalibratedOn.CLIPS
    assert summary.description.images == CLIPS
    return output


def page_rows(detector: Detector, clips: Path, page: Path, *, per_frame: bool = False) -> list[dict[str, Any]]:
    """Rows of the page of a scan, which is written to `page`."""
    gallery = Exhibits()
    request = ScanRequest(
        detector=detector, runtime=FP32, inputs=WANTED, atypical=Atypical.REPORT, per_frame=per_frame, thumbnail=128
    )
    results = list(Scan(request, gallery=gallery).results(find([str(clips)], WANTED)))
    tally = Tally()
    for result in results:
        tally.add(result)
    data = ReportData(
        run=FINISHED,
        detector=replace(DETECTOR, calibrated_on=detector.calibration.calibrated_on),
        summary=tally.summary(),
        results=results,
        calibration_scores=detector.calibration.mean_scores.tolist(),
        exhibits=gallery.of(results),
        thresholds=Judge(detector.calibration).thresholds(),
    )
    page.write_text(render_report(data), encoding="utf-8")
    (embedded,) = re.findall('<script type="application/json" id="data">(.*?)</script>', page.read_text())
    rows: list[dict[str, Any]] = json.loads(embedded)["rows"]
    return rows


def scan(detector: Detector, *paths: Path, per_frame: bool = False, inputs: InputSpec = WANTED) -> list[Result]:
    request = ScanRequest(detector=detector, runtime=FP32, inputs=inputs, atypical=Atypical.REPORT, per_frame=per_frame)
    return list(Scan(request).results(find(map(str, paths), inputs)))


def test_a_detector_of_stills_scores_frames_and_gives_no_verdict(tiny_bundle: Path, others: Path) -> None:
    first, second, copy = scan(load(tiny_bundle), others)
    for result in (first, second):
        assert isinstance(result, Unjudged)
        assert result.calibration is CalibratedOn.STILLS
        assert not result.flagged
        assert result.clip is not None
        assert result.clip.judged_by is None
        assert len(result.clip.frames) == 4
        assert all(frame.p_value is None for frame in result.clip.frames)
        columns = [frame.column_scores for frame in result.clip.frames]
        np.testing.assert_allclose(result.column_scores, np.mean(columns, axis=0))
    assert copy == replace(first, path=copy.path, duplicate_of=first.path)


def test_per_frame_judges_each_frame_as_a_still_and_the_clip_by_bonferroni(tiny_bundle: Path, others: Path) -> None:
    detector = load(tiny_bundle)
    result, *_ = scan(detector, others / "a.mp4", per_frame=True)
    assert isinstance(result, Scored)
    assert result.clip is not None
    assert result.clip.judged_by is JudgedBy.FRAME
    judge = Judge(detector.calibration)
    for frame in result.clip.frames:
        (own,) = judge.judge(np.array([frame.column_scores]), [result.facts])
        assert (own.p_value, own.tail) == (frame.p_value, frame.tail)
    least = min(frame.p_value or 2.0 for frame in result.clip.frames)
    assert result.judgement.p_value == pytest.approx(min(1.0, 4 * least))


def test_a_detector_of_clips_judges_a_clip_by_mean_and_upper_quantile(on_clips: Path, others: Path) -> None:
    detector = load(on_clips)
    assert detector.calibration.clips == Sampling(frames=4)
    assert len(detector.calibration) == CLIPS
    result, odd, _ = scan(detector, others)
    assert isinstance(result, Scored)
    assert isinstance(odd, Scored)
    assert result.clip is not None
    assert result.clip.judged_by is JudgedBy.CLIP
    frames = np.array([frame.column_scores for frame in result.clip.frames])
    np.testing.assert_allclose(result.column_scores, aggregated(frames))
    (own,) = Judge(detector.calibration).judge(np.array([result.column_scores]), [result.facts])
    assert own.p_value == result.judgement.p_value
    assert odd.judgement.verdict is Verdict.FLAGGED
    assert "format" in odd.judgement.atypical_input  # VP8, where the real_clips are H.264


def test_the_reals_of_a_calibration_on_clips_get_the_scores_that_they_calibrated_with(
    on_clips: Path, real_clips: Path
) -> None:
    detector = load(on_clips)
    stored = dict(zip((facts.sha256 for facts in detector.calibration.facts), detector.calibration.scores, strict=True))
    for result in scan(detector, real_clips / "03.mp4", real_clips / "07.mp4"):
        assert isinstance(result, Scored)
        np.testing.assert_allclose(result.column_scores, stored[result.facts.sha256], rtol=1e-5)


def test_a_still_gets_no_verdict_by_clips(on_clips: Path, tmp_path: Path) -> None:
    (result,) = scan(load(on_clips), *write_faces(tmp_path / "stills", 1, seed=77))
    assert isinstance(result, Unjudged)
    assert result.calibration is CalibratedOn.CLIPS
    assert result.clip is None


def test_a_calibration_on_clips_survives_its_bundle(on_clips: Path, tmp_path: Path) -> None:
    detector = load(on_clips)
    again = tmp_path / "again.safetensors"
    save(detector, again)
    assert again.read_bytes() == on_clips.read_bytes()
    assert detector.calibration.columns == clip_columns(detector.columns)


def test_images_and_videos_do_not_calibrate_together(
    tiny_bundle: Path, on_clips: Path, real_clips: Path, tmp_path
) -> None:
    stills = tmp_path / "stills"
    write_faces(stills, 24, seed=78)
    request = CalibrateRequest(
        detector=tiny_bundle,
        reals=(str(stills), str(real_clips)),
        output=tmp_path / "out.safetensors",
        inputs=WANTED,
        runtime=FP32,
    )
    with pytest.raises(BadData, match="images and videos"):
        calibrate(request)
    with pytest.raises(BadData, match="without --append"):
        calibrate(replace(request, detector=on_clips, reals=(str(stills),), append=True))
    assert not request.output.exists()  # type: ignore[union-attr] # it was given


def test_worst_frames_are_those_farthest_from_the_calibration(tiny_bundle: Path, others: Path) -> None:
    detector = load(tiny_bundle)
    result, *_ = scan(detector, others / "a.mp4", inputs=InputSpec(clips=ClipSpec(frames=6)))
    assert isinstance(result, Unjudged)
    assert result.clip is not None
    away = {frame.time: abs(frame.score - detector.calibration.median_score) for frame in result.clip.frames}
    assert list(result.clip.worst) == sorted(away, key=lambda time: -away[time])[:5]


def test_results_on_clips_survive_json_and_resume_by_file(tiny_bundle: Path, on_clips: Path, others: Path) -> None:
    for bundle, per_frame in ((tiny_bundle, False), (tiny_bundle, True), (on_clips, False)):
        detector = load(bundle)
        results = scan(detector, others, per_frame=per_frame)
        for result in results:
            assert not isinstance(result, Unreadable)
            assert result_from_json(json.loads(json.dumps(result_to_json(result)))) == result
        request = ScanRequest(
            detector=detector, runtime=FP32, inputs=WANTED, atypical=Atypical.REPORT, per_frame=per_frame
        )
        earlier = {r.facts.sha256: r for r in results if isinstance(r, Scored | Unjudged)}
        resumed = Scan(request, earlier=earlier)
        assert list(resumed.results(find([str(others)], WANTED))) == results
        assert resumed.taken_over == 2


def test_a_csv_has_a_row_for_each_frame_where_that_is_asked_for(tiny_bundle: Path, others: Path) -> None:
    results = scan(load(tiny_bundle), others / "a.mp4", per_frame=True)
    stream = io.BytesIO()
    writer = CsvWriter(stream, None, per=Per.FRAME)
    writer.begin(RUN, DETECTOR)
    writer.write(results[0])
    writer.end(FINISHED, SUMMARY)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue().decode())))
    (result,) = results
    assert isinstance(result, Scored)
    assert result.clip is not None
    assert [float(row["time"]) for row in rows] == [frame.time for frame in result.clip.frames]
    assert [float(row["p_value"]) for row in rows] == [frame.p_value for frame in result.clip.frames]


@pytest.mark.parametrize("format_", OutputFormat)
def test_every_format_takes_clips(format_: OutputFormat, tiny_bundle: Path, others: Path) -> None:
    results = [*scan(load(tiny_bundle), others), *scan(load(tiny_bundle), others / "a.mp4", per_frame=True)]
    text = write_all(format_, results)
    if format_ in (OutputFormat.TABLE, OutputFormat.CSV, OutputFormat.JSON, OutputFormat.JSONL, OutputFormat.HTML):
        assert b"not_judged" in text
        assert b"a.mp4" in text


def test_the_page_shows_the_worst_frames_of_videos_judged_or_not(
    tiny_bundle: Path, on_clips: Path, others: Path, tmp_path: Path
) -> None:
    for name, bundle, per_frame in (
        ("stills", tiny_bundle, False),
        ("frames", tiny_bundle, True),
        ("clips", on_clips, False),
    ):
        rows = page_rows(load(bundle), others, tmp_path / f"{name}.html", per_frame=per_frame)
        first, second, copy = (row["clip"] for row in rows)
        results = scan(load(bundle), others, per_frame=per_frame)
        for shown, result in zip((first, second), results, strict=False):
            assert isinstance(result, Scored | Unjudged)
            assert result.clip is not None
            assert [frame["time"] for frame in shown["worst"]] == list(result.clip.worst)
            assert all(frame["thumbnail"].startswith("data:image/jpeg;base64,") for frame in shown["worst"])
            assert [frame[:3] for frame in shown["frames"]] == [[f.time, f.score, f.track] for f in result.clip.frames]
        # Each has the picture of its own frame: those of the second differ in brightness alone.
        levels = [
            level_of(frame["thumbnail"]) for frame in sorted(second["worst"], key=lambda frame: float(frame["time"]))
        ]
        assert levels == sorted(levels)
        assert levels[0] < levels[-1]
        assert rows[0]["thumbnail"] == first["worst"][0]["thumbnail"]
        assert not any("thumbnail" in frame for frame in copy["worst"])  # it names the video that it repeats
        page = (tmp_path / f"{name}.html").read_text()
        assert ('value="not_judged"' in page) == (name == "stills")
        assert "No image could be scored" not in page


def level_of(address: str) -> float:
    """Mean grey level of an image in a data address."""
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        return float(np.asarray(image.convert("L")).mean())


def test_the_frames_of_a_clip_count_as_so_many_images_of_a_page() -> None:
    clip = Clip(facts=ClipFacts(container="mov", seconds=1.0), frames=(), worst=(0.0, 1.0, 2.0))
    gallery = Exhibits(shown=4)
    video, other = scored(number=1, clip=clip, p_value=0.5), scored(number=2, clip=clip, p_value=0.2)
    image, last = scored(number=3, p_value=0.3), scored(number=4, p_value=0.6)
    for result, count in ((video, 3), (image, 0), (other, 3)):
        assert gallery.wants(result)
        gallery.add(result, b"x", None, [(b"x", None)] * count)
    # The first video had to go, and with the other one and the image the page is full.
    assert sorted(gallery.of([video, image, other])) == [1, 2]
    assert not gallery.wants(last)


@given(arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.floats(-1e3, 1e3)))
def test_a_clip_has_twice_the_columns_whatever_the_number_of_its_frames(frames: np.ndarray) -> None:
    row = aggregated(frames)
    count = frames.shape[1]
    assert row.shape == (2 * count,)
    np.testing.assert_allclose(row[:count], frames.mean(axis=0))
    assert (row[count:] <= frames.max(axis=0) + 1e-9).all()
    np.testing.assert_allclose(aggregated(frames[::-1]), row)


@pytest.mark.parametrize(
    ("given_", "calibrated", "frames"),
    [
        ((None, None), None, 16),
        ((5, None), None, 5),
        ((None, None), Sampling(frames=4), 4),
        ((4, None), Sampling(frames=4), 4),
    ],
)
def test_clips_are_sampled_as_those_of_the_calibration(
    given_: Sequence[int | None], calibrated: Sampling | None, frames: int
) -> None:
    assert clip_spec(given_[0], given_[1], False, 10, calibrated).frames == frames


def test_another_sampling_than_that_of_the_calibration_is_refused() -> None:
    for frames, every in ((5, None), (None, 1.0)):
        with pytest.raises(IncompatibleOptions, match="made with --frames 4"):
            clip_spec(frames, every, False, 10, Sampling(frames=4))
    with pytest.raises(IncompatibleOptions, match="cannot be combined"):
        clip_spec(4, 1.0, False, 10)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "a", "b", "c"])), min_size=1, max_size=20))
def test_all_frames_of_a_clip_share_a_group_and_near_copies_stay_together(images: list[tuple[int, str]]) -> None:
    near, clips = np.array([group for group, _ in images], np.int64), [clip for _, clip in images]
    groups = with_clips_whole(near, clips)
    for i, j in itertools.combinations(range(len(images)), 2):
        if near[i] == near[j] or (clips[i] and clips[i] == clips[j]):
            assert groups[i] == groups[j]
    assert len(set(groups.tolist())) <= len(set(near.tolist()))


def test_a_fit_to_clips_keeps_each_on_one_side_and_calibrates_on_one_frame_of_each(
    real_clips: Path, tiny_weights: Path, tiny_spec: DetectorSpec, tmp_path: Path
) -> None:
    output = tmp_path / "fitted.safetensors"
    request = FitRequest(
        reals=(str(real_clips),),
        output=output,
        spec=replace(tiny_spec, rule=replace(tiny_spec.rule, alpha=0.4)),
        weights={"main": tiny_weights},
        inputs=WANTED,
        runtime=FP32,
    )
    summary = fit(request)
    detector = load(output)
    clips = {hashlib.sha256(path.read_bytes()).hexdigest() for path in real_clips.iterdir()}
    assert summary.used == 4 * CLIPS
    assert summary.calibration == len(detector.calibration) < CLIPS
    assert detector.calibration.clips is None
    trained = clips & {bytes(row).hex() for row in detector.fitted_on}
    # Every clip trains with all of its frames, or calibrates with one.
    assert len(detector.fitted_on) == 4 * len(trained)
    assert len(trained) + len(detector.calibration) == CLIPS


def two_faces(calibration_columns: int, shift: float) -> ScoredClip:
    """A clip that shows one face twice and another one once, whose scores lie `shift` above those of the first."""
    facts = Facts(sha256="1" * 64, bytes=1, format="H264", width=100, height=100, face_side=50.0, face_tilt=0.0)
    points = ((0.0, 0.0),) * 5
    faces = [Face(box=(left, 0.0, left + 20, 20.0), landmarks=points, confidence=1.0) for left in (0.0, 50.0)]  # type: ignore[arg-type]
    frames = tuple(
        LoadedFrame(float(time), facts, {}, track=track, face=faces[track]) for time, track in ((0, 0), (1, 0), (1, 1))
    )
    clip = LoadedClip("faces.mp4", facts, ClipFacts(container="mov", seconds=2.0), frames)
    rows = np.repeat([[0.0], [0.0], [shift]], calibration_columns, axis=1)
    units = [ScoredUnit(FrameUnit(clip, n), row, {}, np.empty(0, np.float16)) for n, row in enumerate(rows)]
    return ScoredClip(clip, units)


def test_each_face_of_a_clip_is_judged_and_the_clip_by_bonferroni() -> None:
    count = 60
    facts = two_faces(1, 0.0).clip.facts
    calibration = Calibration(
        scores=np.random.default_rng(1).normal(size=(count, 2)),
        columns=clip_columns(["main/a"]),
        facts=tuple(replace(facts, sha256=f"{number:064x}") for number in range(count)),
        rule=RuleSpec(alpha=0.1),
        created="2026-01-01T00:00:00Z",
        clips=Sampling(frames=2),
    )
    judge = Judge(calibration)
    result = clip_result(two_faces(1, 50.0), calibration, judge, per_frame=False)
    assert isinstance(result, Scored)
    assert result.clip is not None
    assert [(track.first, track.last, track.frames) for track in result.clip.tracks] == [(0.0, 1.0, 2), (1.0, 1.0, 1)]
    least = min(track.p_value or 2.0 for track in result.clip.tracks)
    assert least == pytest.approx(2 / (count + 1))
    assert result.judgement.p_value == pytest.approx(2 * least)
    assert result.flagged
    assert result.column_scores == (50.0, 50.0)
    row, _ = clip_row(two_faces(1, 50.0))
    np.testing.assert_allclose(row, [0.0, 0.0])
    assert result_from_json(json.loads(json.dumps(result_to_json(result)))) == result
