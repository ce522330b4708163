"""Whole runs over images that no calibration image is like, and what they say of the run as a group."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import FP32, draw_face, write_faces
from output_samples import SHIFT, SUMMARY

import muflow_cli as muflow
from muflow_cli.bundle import load
from muflow_cli.cli.scan_status import FailOn, status_of
from muflow_cli.cli.scan_text import summary_lines
from muflow_cli.detector import Detector
from muflow_cli.errors import BadSpec, CannotResume
from muflow_cli.output.writers import OutputFormat
from muflow_cli.records import Verdict
from muflow_cli.run_records import Summary
from muflow_cli.run_specs import Atypical
from muflow_cli.scan.job import Job
from muflow_cli.scan.outputs import Destination
from muflow_cli.scan.run import run
from muflow_cli.scan.settings import Comparison


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return load(tiny_bundle)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images like the calibration's, and five in another format."""
    folder = tmp_path_factory.mktemp("photos")
    write_faces(folder, 30, seed=21)
    generator = np.random.default_rng(22)
    for index in range(5):
        draw_face(generator).save(folder / f"other {index}.png")
    return folder


def scan(detector: Detector, photos: Path, file: Path, *, resumed: bool = False, **more: object) -> Summary:
    output = Destination(OutputFormat.JSONL, file, resumed=resumed)
    job = Job(
        detector=detector, detector_path="d", arguments=[str(photos)], destinations=[output], runtime=FP32,
        **more,  # type: ignore[arg-type]  # the keys are its fields
    )  # fmt: skip
    return run(job)


def objects(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


@pytest.mark.parametrize("comparison", [Comparison(), Comparison(fdr=0.2)])
def test_only_verdicts_depend_on_what_becomes_of_atypical_images(
    detector: Detector, photos: Path, tmp_path: Path, comparison: Comparison
) -> None:
    verdicts, others, counts, shifts = {}, {}, {}, {}
    for atypical in Atypical:
        file = tmp_path / f"{atypical}.jsonl"
        summary = scan(detector, photos, file, atypical=atypical, comparison=comparison)
        head, *results, _ = objects(file)
        assert head["run"]["options"]["atypical"] == atypical  # type: ignore[index]  # an object of JSON
        outside = [result for result in results if result["atypical_input"]]
        assert len(outside) == summary.atypical >= 5
        assert summary.atypical_by_fact["format"] == 5
        verdicts[atypical] = {result["verdict"] for result in outside}
        changing = {"verdict", "flagged", "check"}
        others[atypical] = [{name: result[name] for name in result.keys() - changing} for result in results]
        counts[atypical] = [result["verdict"] for result in results if not result["atypical_input"]]
        shifts[atypical] = summary.shift
        assert summary.flagged == sum(result["verdict"] == "flagged" for result in results)
        assert status_of(summary, frozenset({FailOn.FLAGGED}), exit_zero=False) == bool(summary.flagged)
    assert verdicts[Atypical.FLAG] == {Verdict.FLAGGED}
    assert verdicts[Atypical.INCONCLUSIVE] == {Verdict.INCONCLUSIVE}
    assert Verdict.INCONCLUSIVE not in verdicts[Atypical.REPORT]
    for kept in (others, counts, shifts):
        assert kept[Atypical.FLAG] == kept[Atypical.INCONCLUSIVE] == kept[Atypical.REPORT]
    assert shifts[Atypical.FLAG] is not None


def test_a_resumed_run_says_the_same_of_its_images_as_a_group_and_refuses_other_verdicts(
    detector: Detector, photos: Path, tmp_path: Path
) -> None:
    whole = scan(detector, photos, tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_bytes(b"".join(lines[:12]))
    with pytest.raises(CannotResume, match="--atypical"):
        scan(detector, photos, tmp_path / "cut.jsonl", resumed=True, atypical=Atypical.FLAG)
    resumed = scan(detector, photos, tmp_path / "cut.jsonl", resumed=True)
    assert (resumed.shift, resumed.atypical_by_fact) == (whole.shift, whole.atypical_by_fact)
    assert resumed.results_sha256 == whole.results_sha256


def test_the_library_gives_the_verdicts_and_the_comparison_of_the_command(
    detector: Detector, photos: Path, tmp_path: Path
) -> None:
    summary = scan(detector, photos, tmp_path / "a.jsonl")
    results = list(muflow.scan(photos, detector, runtime=FP32))
    verdicts = [one.judgement.verdict for one in results if isinstance(one, muflow.Scored)]
    assert verdicts == [result["verdict"] for result in objects(tmp_path / "a.jsonl")[1:-1]]
    assert detector.shift(results) == summary.shift
    report = list(muflow.scan(photos, detector, atypical="report", runtime=FP32))
    assert detector.shift(report) == summary.shift
    with pytest.raises(BadSpec, match="atypical"):
        muflow.scan(photos, detector, atypical="nonsense")


def test_pixels_without_a_container_are_not_held_to_its_format(detector: Detector) -> None:
    (result,) = detector.score([np.asarray(draw_face(np.random.default_rng(3)))])
    assert isinstance(result, muflow.Scored)
    assert "format" not in result.judgement.atypical_input


def test_the_summary_says_what_became_of_atypical_images_and_warns_of_a_shift_once() -> None:
    summary = replace(SUMMARY, groups=(), atypical=116, atypical_by_fact={"format": 90, "face_size": 26})
    said = {atypical: list(summary_lines(summary, 0.05, atypical)) for atypical in Atypical}
    for atypical, word in {Atypical.FLAG: "are flagged", Atypical.INCONCLUSIVE: "are inconclusive"}.items():
        (line,) = [line for line in said[atypical] if line.startswith("116 images")]
        assert line.startswith(f"116 images {word}")
        assert "(90 by format, 26 by face size)" in line
        assert sum(line.startswith("warning") and "as a group" in line for line in said[atypical]) == 1
    kept = replace(SHIFT, share=0.06, share_at_least=0.03)
    (line,) = [one for one in summary_lines(replace(summary, shift=kept), 0.05, Atypical.FLAG) if "as a group" in one]
    assert "No more have small p-values than the stated rate allows" in line
    quiet = replace(summary, atypical=0, atypical_by_fact={}, shift=replace(SHIFT, alike=True))
    assert len(list(summary_lines(quiet, 0.05, Atypical.INCONCLUSIVE))) == 2
