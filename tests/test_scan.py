"""Promises of scan.py: order, one score per content, results kept, prompt stops, counts, q-values."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_faces
from PIL import Image
from scan_runs import encoded, hostile

from muflow_cli.bundle import load
from muflow_cli.cli.report_writer import Exhibits
from muflow_cli.detector import Detector
from muflow_cli.engine.scoring import Placement, place
from muflow_cli.errors import BadBundle
from muflow_cli.pictures.find import Source, find
from muflow_cli.records import Facts, Result, Scored, Unreadable
from muflow_cli.scan import Scan, ScanRequest, Shown, Tally, detector_info, with_q_values
from muflow_cli.specs import InputSpec, Precision


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return load(tiny_bundle)


@pytest.fixture(scope="module")
def placement() -> Placement:
    return place("cpu", Precision.FP32, 8)


@pytest.fixture
def request_(detector: Detector, placement: Placement) -> ScanRequest:
    return ScanRequest(detector=detector, placement=placement, inputs=InputSpec(), workers=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_faces(folder, 30, seed=7)
    return folder


def sources(*folders: Path) -> Iterator[Source | Unreadable]:
    return find(map(str, folders), InputSpec())


def scored(p_value: float, content: str = "00", **more: object) -> Scored:
    facts = Facts(sha256=content * 32, bytes=1, format="PNG", width=1, height=1)
    record = Scored(
        path="a", facts=facts, score=0.0, scale_scores=(0.0,), p_value=p_value, flagged=p_value < 0.05, tail="high"
    )
    return replace(record, **more)


@pytest.mark.parametrize("workers", [1, 5])
def test_results_are_those_of_each_picture_alone_in_the_order_of_the_inputs(
    request_: ScanRequest, tmp_path: Path, workers: int
) -> None:
    hostile(tmp_path / "in")
    inputs = list(sources(tmp_path / "in"))
    together = list(Scan(replace(request_, workers=workers)).results(inputs))
    assert [result.path for result in together] == [one.path for one in inputs]
    one_by_one = Scan(request_)
    for source, result in zip(inputs, together, strict=True):
        assert list(one_by_one.results([source])) == [result]


def test_turned_by_exif_scores_as_turned_pixels(request_: ScanRequest, tmp_path: Path, photos: Path) -> None:
    with Image.open(photos / "0000.jpg") as picture:
        mark = Image.Exif()
        mark[274] = 6
        (tmp_path / "a.png").write_bytes(encoded(picture, "PNG", exif=mark))
        (tmp_path / "b.png").write_bytes(encoded(picture.transpose(Image.Transpose.ROTATE_270), "PNG"))
    a, b = Scan(request_).results(sources(tmp_path))
    assert a.scale_scores == b.scale_scores


def test_each_content_is_decoded_and_scored_once(
    request_: ScanRequest, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        shutil.copy(photos / f"{number % 2:04}.jpg", tmp_path / f"{number:02}.jpg")
    scan = Scan(request_)
    passed: list[int] = []
    whole = scan._scorer.submit
    monkeypatch.setattr(scan._scorer, "submit", lambda views: passed.append(len(views)) or whole(views))
    results = list(scan.results(sources(tmp_path)))
    assert passed == [2]
    assert [r.duplicate_of for r in results] == [None, None] + [str(tmp_path / f"{n % 2:02}.jpg") for n in range(2, 40)]
    assert len({r.score for r in results}) == 2


def test_kept_results_are_not_scored_again_and_the_outcome_is_the_same(
    request_: ScanRequest, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile(tmp_path / "in")
    whole = list(Scan(request_).results(sources(photos, tmp_path / "in")))
    kept = {r.facts.sha256: replace(r, path="elsewhere", duplicate_of="other") for r in whole if isinstance(r, Scored)}
    monkeypatch.setattr("muflow_cli.engine.scoring.Scorer.submit", None)
    assert list(Scan(request_, kept=kept).results(sources(photos, tmp_path / "in"))) == whole


def test_some_kept_results_do_not_change_the_others(request_: ScanRequest, photos: Path) -> None:
    whole = list(Scan(request_).results(sources(photos)))
    kept = {r.facts.sha256: r for r in whole[1::3] if isinstance(r, Scored)}
    assert list(Scan(request_, kept=kept).results(sources(photos))) == whole


def test_a_stop_ends_after_the_batch_and_every_result_so_far_is_given(request_: ScanRequest, photos: Path) -> None:
    whole = list(Scan(request_).results(sources(photos)))
    scan = Scan(request_, stop=lambda: True)
    assert list(scan.results(sources(photos))) == whole[:8]
    assert scan.interrupted


def test_the_stages_add_up_to_the_time_of_the_scoring_thread(request_: ScanRequest, photos: Path) -> None:
    scan = Scan(request_)
    list(scan.results(sources(photos)))
    assert all(seconds > 0 for seconds in scan.seconds.values())
    assert scan.bottleneck in scan.seconds


def test_a_detector_without_calibration_is_refused(detector: Detector, placement: Placement) -> None:
    with pytest.raises(BadBundle, match="muflow calibrate"):
        Scan(ScanRequest(detector=replace(detector, calibration=None), placement=placement, inputs=InputSpec()))


def test_the_heaviest_scale_of_a_combining_rule_reaches_the_result(request_: ScanRequest, photos: Path) -> None:
    from muflow_cli.specs import Method, RuleSpec

    detector = request_.detector
    assert detector.calibration is not None
    fisher = replace(detector.calibration, rule=RuleSpec(method=Method.FISHER, alpha=0.1))
    results = list(Scan(replace(request_, detector=replace(detector, calibration=fisher))).results(sources(photos)))
    assert {r.heaviest for r in results} == {"layer1", "layer2"}
    assert {r.heaviest for r in Scan(request_).results(sources(photos))} == {None}


def test_a_gallery_gets_thumbnails_and_heat_maps_of_what_it_wants(request_: ScanRequest, photos: Path) -> None:
    shown: list[Shown] = []

    class Wanting:
        def wants(self, result: Scored) -> bool:
            return result.path.endswith("3.jpg")

        def add(self, one: Shown) -> None:
            shown.append(one)

    results = list(Scan(replace(request_, thumbnail=32), gallery=Wanting()).results(sources(photos)))
    assert [one.result for one in shown] == [r for r in results if r.path.endswith("3.jpg")]
    for one in shown:
        assert one.thumbnail is not None
        assert one.thumbnail.startswith(b"\xff\xd8")
        assert one.heatmap is not None
        assert one.heatmap.shape == (2, 2)
        # Both scales have one grid here, so the map's mean is the score.
        assert one.heatmap.mean() == pytest.approx(one.result.score, rel=1e-4)


def test_a_report_keeps_flagged_pictures_first_then_the_least_likely() -> None:
    exhibits = Exhibits(shown=3)
    results = [scored(p, f"{n:02x}") for n, p in enumerate((0.9, 0.01, 0.5, 0.3, 0.04, 0.2))]
    for result in results:
        if exhibits.wants(result):
            exhibits.add(Shown(result, b"x", np.zeros((2, 2), np.float32)))
    assert sorted(exhibits.of(results)) == [1, 4, 5]
    assert not exhibits.wants(scored(0.21, "ff"))


def test_a_tally_counts_each_kind_once() -> None:
    tally = Tally()
    results: list[Result] = [
        scored(0.01),
        scored(0.01, duplicate_of="a", tail="low"),
        scored(0.5, verdict="inconclusive"),
        Unreadable(path="b", code="empty", message="no bytes"),
    ]
    for result in results:
        tally.add(result)
    found = tally.summary(fdr=0.1, interrupted=True)
    assert (found.inputs, found.scored, found.flagged, found.unreadable) == (4, 3, 2, 1)
    assert (found.duplicates, found.inconclusive) == (1, 1)
    assert found.unreadable_by_code == {"empty": 1}
    assert found.flagged_by_tail == {"high": 1, "low": 1}
    assert (found.fdr, found.interrupted) == (0.1, True)


def test_q_values_are_benjamini_and_hochbergs_over_distinct_contents() -> None:
    # Four tests: q = min over later ranks of p * 4 / rank, by hand.
    given = [scored(p, f"{n:02x}") for n, p in enumerate((0.01, 0.04, 0.03, 0.5))]
    copies = [replace(given[3], path=f"copy {n}", duplicate_of="a") for n in range(50)]
    found = with_q_values([*given, *copies, Unreadable(path="b", code="empty", message="no bytes")], 0.05)
    assert [r.q_value for r in found[:4]] == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert [r.flagged for r in found[:4]] == [True, False, False, False]
    assert {r.q_value for r in found[4:-1]} == {0.5}


def test_an_inconclusive_result_stays_so_under_a_false_discovery_rate() -> None:
    (found,) = with_q_values([scored(0.01, verdict="inconclusive", flagged=False)], 0.05)
    assert (found.flagged, found.verdict) == (False, "inconclusive")


def test_the_detector_is_named_by_both_fingerprints(detector: Detector) -> None:
    info = detector_info("d.safetensors", detector)
    assert info.fingerprint == detector.fingerprint
    assert detector.calibration is not None
    assert info.calibration_fingerprint == detector.calibration.fingerprint()
    assert info.scales == ("layer1", "layer2")
    assert info.calibration_pictures == len(detector.calibration)
