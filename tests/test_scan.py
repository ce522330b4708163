"""Promises of scan/: order, one score per content, results kept, prompt stops, counts, q-values."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_faces
from numpy.typing import NDArray
from PIL import Image
from scan_runs import encoded, hostile

from muflow_cli.bundle import load
from muflow_cli.detector import Detector
from muflow_cli.images.find import find
from muflow_cli.images.inputs import Input
from muflow_cli.output.report_writer import Exhibits
from muflow_cli.output.writers import OutputFormat
from muflow_cli.records import Facts, Judgement, Result, Scored, Side, Unjudged, Unreadable, Verdict
from muflow_cli.run_specs import InputSpec, Precision, Runtime
from muflow_cli.scan.fdr import photographs, with_q_values
from muflow_cli.scan.job import Job
from muflow_cli.scan.outputs import Destination
from muflow_cli.scan.run import NoListener, run
from muflow_cli.scan.tally import Tally
from muflow_cli.scan.workflow import Scan, ScanRequest
from muflow_cli.specs import RuleSpec


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return load(tiny_bundle)


RUNTIME = Runtime(device="cpu", precision=Precision.FP32, batch_size=8, workers=2)


@pytest.fixture
def request_(detector: Detector) -> ScanRequest:
    return ScanRequest(detector=detector, runtime=RUNTIME)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_faces(folder, 30, seed=7)
    return folder


def sources(*folders: Path) -> Iterator[Input | Unreadable]:
    return find(map(str, folders), InputSpec())


def scored(p_value: float, content: str = "00", **judged: object) -> Scored:
    facts = Facts(sha256=content * 32, bytes=1, format="PNG", width=1, height=1)
    verdict = Verdict.FLAGGED if p_value < 0.05 else Verdict.NOT_FLAGGED
    judgement = replace(Judgement(p_value=p_value, verdict=verdict, tail=Side.HIGH), **judged)
    return Scored(path="a", facts=facts, score=0.0, column_scores=(0.0,), judgement=judgement)


@pytest.mark.parametrize("workers", [1, 5])
def test_results_are_those_of_each_image_alone_in_the_order_of_the_inputs(
    request_: ScanRequest, tmp_path: Path, workers: int
) -> None:
    hostile(tmp_path / "in")
    inputs = list(sources(tmp_path / "in"))
    together = list(Scan(replace(request_, runtime=replace(RUNTIME, workers=workers))).results(inputs))
    assert [result.path for result in together] == [one.path for one in inputs]
    one_by_one = Scan(request_)
    for source, result in zip(inputs, together, strict=True):
        assert list(one_by_one.results([source])) == [result]


def test_turned_by_exif_scores_as_turned_pixels(request_: ScanRequest, tmp_path: Path, photos: Path) -> None:
    with Image.open(photos / "0000.jpg") as image:
        mark = Image.Exif()
        mark[274] = 6
        (tmp_path / "a.png").write_bytes(encoded(image, "PNG", exif=mark))
        (tmp_path / "b.png").write_bytes(encoded(image.transpose(Image.Transpose.ROTATE_270), "PNG"))
    a, b = Scan(request_).results(sources(tmp_path))
    assert a.column_scores == b.column_scores


def test_each_content_is_decoded_and_scored_once(
    request_: ScanRequest, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        shutil.copy(photos / f"{number % 2:04}.jpg", tmp_path / f"{number:02}.jpg")
    scan = Scan(request_)
    passed: list[int] = []
    scorer = request_.detector.scorer(scan.placement)  # prepared once
    whole = scorer.submit
    monkeypatch.setattr(scorer, "submit", lambda views, *more: passed.append(len(views)) or whole(views, *more))
    results = list(scan.results(sources(tmp_path)))
    assert passed == [2]
    assert [r.duplicate_of for r in results] == [None, None] + [str(tmp_path / f"{n % 2:02}.jpg") for n in range(2, 40)]
    assert len({r.score for r in results}) == 2


def test_earlier_results_are_not_scored_again_and_the_outcome_is_the_same(
    request_: ScanRequest, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile(tmp_path / "in")
    whole = list(Scan(request_).results(sources(photos, tmp_path / "in")))
    earlier = {
        r.facts.sha256: replace(r, path="elsewhere", duplicate_of="other") for r in whole if isinstance(r, Scored)
    }
    monkeypatch.setattr("muflow_cli.engine.scoring.Scorer.submit", None)
    assert list(Scan(request_, earlier=earlier).results(sources(photos, tmp_path / "in"))) == whole


def test_some_earlier_results_do_not_change_the_others(request_: ScanRequest, photos: Path) -> None:
    whole = list(Scan(request_).results(sources(photos)))
    earlier = {r.facts.sha256: r for r in whole[1::3] if isinstance(r, Scored)}
    assert list(Scan(request_, earlier=earlier).results(sources(photos))) == whole


def test_a_stop_ends_the_pass_and_every_result_so_far_is_given(request_: ScanRequest, photos: Path) -> None:
    whole = list(Scan(request_).results(sources(photos)))
    scan = Scan(request_, stop=lambda: True)
    results = list(scan.results(sources(photos)))
    assert 0 < len(results) < len(whole)
    assert results == whole[: len(results)]
    assert scan.interrupted


def test_the_stages_add_up_to_the_time_of_the_scoring_thread(request_: ScanRequest, photos: Path) -> None:
    scan = Scan(request_)
    list(scan.results(sources(photos)))
    assert all(seconds > 0 for seconds in scan.seconds.values())


def test_the_heaviest_column_of_a_combining_rule_reaches_the_result(request_: ScanRequest, photos: Path) -> None:
    detector = request_.detector
    fisher = replace(detector.calibration, rule=RuleSpec(method="fisher", alpha=0.1))
    results = list(Scan(replace(request_, detector=replace(detector, calibration=fisher))).results(sources(photos)))
    assert {r.judgement.heaviest for r in results} == {"main/layer1", "main/layer2"}
    assert {r.judgement.heaviest for r in Scan(request_).results(sources(photos))} == {None}


def test_a_gallery_gets_thumbnails_and_heat_maps_of_what_it_wants(request_: ScanRequest, photos: Path) -> None:
    shown: list[tuple[Scored | Unjudged, bytes | None, NDArray[np.float32] | None]] = []

    class Wanting:
        def wants(self, result: Scored | Unjudged) -> bool:
            return result.path.endswith("3.jpg")

        def add(
            self,
            result: Scored | Unjudged,
            thumbnail: bytes | None,
            heatmap: NDArray[np.float32] | None,
            parts: Sequence[object],
        ) -> None:
            assert not parts
            shown.append((result, thumbnail, heatmap))

    results = list(Scan(replace(request_, thumbnail=32), gallery=Wanting()).results(sources(photos)))
    assert [result for result, _, _ in shown] == [r for r in results if r.path.endswith("3.jpg")]
    for result, thumbnail, heatmap in shown:
        assert thumbnail is not None
        assert thumbnail.startswith(b"\xff\xd8")
        assert heatmap is not None
        assert heatmap.shape == (2, 2)
        # Both layers have one grid here, so the map's mean is the score.
        assert heatmap.mean() == pytest.approx(result.score, rel=1e-4)


def test_a_page_keeps_flagged_images_first_then_the_least_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = Exhibits()
    monkeypatch.setattr(gallery, "_shown", 3)
    results = [scored(p, f"{n:02x}") for n, p in enumerate((0.9, 0.01, 0.5, 0.3, 0.04, 0.2))]
    for result in results:
        if gallery.wants(result):
            gallery.add(result, b"x", np.zeros((2, 2), np.float32))
    assert sorted(gallery.of(results)) == [1, 4, 5]
    assert not gallery.wants(scored(0.21, "ff"))


def test_a_tally_counts_each_kind_once() -> None:
    tally = Tally()
    results: list[Result] = [
        scored(0.01),
        replace(scored(0.01, tail=Side.LOW), duplicate_of="a"),
        scored(0.5, verdict=Verdict.INCONCLUSIVE, atypical_input=("format", "size")),
        Unreadable(path="b", code="empty", message="no bytes"),
    ]
    for result in results:
        tally.add(result)
    summary = tally.summary(fdr=0.1, interrupted=True)
    assert (summary.inputs, summary.scored, summary.flagged, summary.unreadable) == (4, 3, 2, 1)
    assert (summary.duplicates, summary.inconclusive, summary.atypical) == (1, 1, 1)
    assert summary.atypical_by_fact == {"format": 1, "size": 1}
    assert summary.unreadable_by_code == {"empty": 1}
    assert summary.flagged_by_tail == {"high": 1, "low": 1}
    assert (summary.fdr, summary.interrupted) == (0.1, True)


def by_rate(results: Sequence[Result], near: dict[str, int]) -> list[Result]:
    """The results flagged at a false discovery rate of 0.05."""
    photograph_of = photographs(results, near)
    p_values = {r.facts.sha256: r.judgement.p_value for r in results if isinstance(r, Scored)}
    return with_q_values(results, 0.05, photograph_of, {d: p_values[d] for d in sorted(set(photograph_of.values()))})


def test_q_values_are_benjamini_and_hochbergs_over_distinct_contents() -> None:
    # Four tests: q = min over later ranks of p * 4 / rank, by hand.
    given = [scored(p, f"{n:02x}") for n, p in enumerate((0.01, 0.04, 0.03, 0.5))]
    copies = [replace(given[3], path=f"copy {n}", duplicate_of="a") for n in range(50)]
    near = {result.facts.sha256: 0xFF << 16 * n for n, result in enumerate(given)}
    results = by_rate([*given, *copies, Unreadable(path="b", code="empty", message="no bytes")], near)
    assert [r.judgement.q_value for r in results[:4]] == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert [r.flagged for r in results[:4]] == [True, False, False, False]
    assert {r.judgement.q_value for r in results[4:-1]} == {0.5}


def test_near_copies_are_one_test_whose_verdict_none_of_them_exceeds() -> None:
    # One photograph saved 40 times, and three others: four tests, as above.
    given = [scored(p, f"{n:02x}") for n, p in enumerate((0.01, 0.04, 0.03, 0.5))]
    saved = [scored(0.6 if n % 2 else 0.001, f"{n:02x}") for n in range(4, 44)]
    near = {result.facts.sha256: 0xFF << 16 * n for n, result in enumerate(given)}
    near |= {result.facts.sha256: 0xFF ^ 1 << 32 + n for n, result in enumerate(saved) if n < 30}
    near |= {result.facts.sha256: 0xFF ^ 1 << n - 20 for n, result in enumerate(saved) if n >= 30}
    results = by_rate([*given, *saved], near)
    assert [r.judgement.q_value for r in results[:4]] == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    # With the photograph's q-value, or with its own if that is larger: two that look alike may be two photographs.
    assert [r.judgement.q_value for r in results[4:]] == pytest.approx([0.04, 0.6] * 20)


def test_an_inconclusive_result_stays_so_under_a_false_discovery_rate() -> None:
    inconclusive = scored(0.01, verdict=Verdict.INCONCLUSIVE)
    (result,) = by_rate([inconclusive], {inconclusive.facts.sha256: 1})
    assert result.judgement.verdict is Verdict.INCONCLUSIVE


def test_the_detector_is_named_by_both_fingerprints(detector: Detector) -> None:
    info = detector.info("d.safetensors")
    assert info.fingerprint == detector.fingerprint
    assert info.calibration_fingerprint == detector.calibration.fingerprint()
    assert info.columns == ("main/layer1", "main/layer2")
    assert info.calibration_images == len(detector.calibration)


def job(detector: Detector, photos: Path, *files: Path, **more: object) -> Job:
    destinations = [Destination(OutputFormat(path.suffix[1:]), path) for path in files]
    return Job(
        detector=detector,
        detector_path="d.safetensors",
        arguments=[str(photos)],
        destinations=destinations,
        runtime=RUNTIME,
        **more,
    )


class Heard(NoListener):
    def __init__(self) -> None:
        self.flagged: list[int] = []

    def result(self, result: Result, tally: Tally) -> None:  # noqa: ARG002 - a ScanListener is told both
        self.flagged.append(tally.flagged)


def test_the_workflow_writes_files_and_tells_its_listener_without_the_command(
    detector: Detector, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = Heard()
    files = [tmp_path / "a.jsonl", tmp_path / "a.csv", tmp_path / "a.html"]
    summary = run(job(detector, photos, *files), heard)
    assert (summary.inputs, len(heard.flagged), heard.flagged[-1]) == (30, 30, summary.flagged)
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert "data:image/" in files[2].read_text()
    assert capsys.readouterr() == ("", "")


def test_a_run_that_fails_leaves_whole_files_as_they_were_and_keeps_the_lines(
    detector: Detector, photos: Path, tmp_path: Path
) -> None:
    class Failing(NoListener):
        def result(self, result: Result, tally: Tally) -> None:  # noqa: ARG002 - a ScanListener is told both
            if tally.inputs == 9:
                raise KeyboardInterrupt

    (tmp_path / "a.csv").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        run(job(detector, photos, tmp_path / "a.jsonl", tmp_path / "a.csv", tmp_path / "a.json"), Failing())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.jsonl"]
    assert (tmp_path / "a.csv").read_text() == "old"
    assert (tmp_path / "a.jsonl").read_bytes().count(b"\n") == 9
