"""Laws of `--shard` and `muflow merge`: shards are disjoint and complete, and a merged report is that of one run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import FP32
from hypothesis import given
from hypothesis import strategies as st
from output_samples import DETECTOR, RUN, scored, unreadable
from report_samples import report
from typer.testing import CliRunner

from muflow_cli.bundle import load
from muflow_cli.cli.app import app
from muflow_cli.cli.scan_outputs import choose_outputs
from muflow_cli.cli.scan_results import result_options
from muflow_cli.detector import Detector
from muflow_cli.errors import BadSpec, CannotResume, IncompatibleOptions, MuflowError
from muflow_cli.output.report_reader import read_report
from muflow_cli.output.writers import OutputFormat
from muflow_cli.records import Result
from muflow_cli.run_records import Summary
from muflow_cli.scan.job import Job
from muflow_cli.scan.merge import read_parts
from muflow_cli.scan.outputs import Destination
from muflow_cli.scan.run import run
from muflow_cli.scan.settings import Comparison
from muflow_cli.scan.shard import Shard, parse_shard
from muflow_cli.verify import verify


@given(paths=st.sets(st.text()), count=st.integers(1, 20))
def test_every_path_is_in_one_shard(paths: set[str], count: int) -> None:
    for path in paths:
        assert sum(Shard(number, count).holds(path) for number in range(1, count + 1)) == 1


def test_shards_are_of_about_the_same_size_and_stable() -> None:
    paths = [f"photos/{index:05}.jpg" for index in range(4000)]
    sizes = [sum(map(Shard(number, 4).holds, paths)) for number in range(1, 5)]
    assert max(sizes) - min(sizes) < 200
    # A later version that chose otherwise would read some inputs twice and others never.
    assert [number for number in range(1, 8) if Shard(number, 7).holds("photos/0000.jpg")] == [6]


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "-1/4", "1/4 ", "01/4", "1/999999", "1/9999999"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(BadSpec, match="use I/N with I from 1 to N"):
        parse_shard(text)


def test_verdicts_that_depend_on_all_images_are_refused_for_a_shard() -> None:
    outputs = choose_outputs([Path("a.jsonl")], {}, None, as_json=False)
    for comparison, option in ((Comparison(fdr=0.1), "--fdr"), (Comparison(groups=True), "--groups")):
        with pytest.raises(IncompatibleOptions, match=f"--shard cannot be combined with {option}"):
            result_options(None, None, None, None, "1/2", outputs, (), comparison, resume=False)


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return load(tiny_bundle)


@pytest.fixture(scope="module")
def photos(reals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight reals, one of them twice, and a file that is no image."""
    folder = tmp_path_factory.mktemp("photos")
    for index, path in enumerate([*sorted(reals.iterdir())[:8], reals / "0000.jpg"]):
        (folder / f"{index:02}.jpg").write_bytes(path.read_bytes())
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def scan(detector: Detector, photos: Path, file: Path, **more: object) -> Summary:
    resumed = bool(more.pop("resumed", False))
    destination = Destination(OutputFormat.JSONL, file, resumed=resumed)
    return run(
        Job(
            **more,
            detector=detector,
            detector_path="d",
            arguments=[str(photos)],
            destinations=[destination],
            runtime=FP32,
        )
    )


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_merged_shards_are_the_report_of_one_run(suffix: str, detector: Detector, photos: Path, tmp_path: Path) -> None:
    scan(detector, photos, tmp_path / "whole.jsonl")
    parts = []
    for number in (1, 2, 3):
        parts.append(str(tmp_path / f"{number}.jsonl"))
        scan(detector, photos, Path(parts[-1]), shard=Shard(number, 3))
    out = tmp_path / f"all.{suffix}"
    done = CliRunner().invoke(app, ["merge", *parts, "-o", str(out), "-q"])
    assert (done.exit_code, done.output) == (0, "")
    merged, whole = read_report(out), read_report(tmp_path / "whole.jsonl")

    def by_path(results: object) -> dict[str, Result]:
        return {r.path: replace(r, duplicate_of=None) if hasattr(r, "duplicate_of") else r for r in results}  # type: ignore[attr-defined] # results

    assert by_path(merged.results) == by_path(whole.results)
    assert [*verify(out).differences] == []
    assert merged.summary is not None
    assert whole.summary is not None
    names = (
        "inputs",
        "scored",
        "flagged",
        "unreadable",
        "duplicates",
        "inconclusive",
        "atypical",
        "unreadable_by_code",
    )
    for name in names:
        assert getattr(merged.summary, name) == getattr(whole.summary, name), name
    assert (merged.run.options or {})["merged"] == "1/3,2/3,3/3"


def test_a_shard_is_continued_as_that_shard_only(detector: Detector, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "1.jsonl"
    first = scan(detector, photos, file, shard=Shard(1, 2))
    assert scan(detector, photos, file, shard=Shard(1, 2), resumed=True).inputs == first.inputs
    for other in (None, Shard(2, 2), Shard(1, 3)):
        with pytest.raises(CannotResume, match="another --shard"):
            scan(detector, photos, file, shard=other, resumed=True)


def test_reports_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first = report(tmp_path / "a.jsonl", [scored("a.jpg")], shard="1/2")

    def refused(sentence: str, other: Path, *, partial: bool = False) -> None:
        with pytest.raises(MuflowError, match=sentence):
            read_parts([first, other], (), partial=partial)

    other = tmp_path / "b.jsonl"
    one = [unreadable("b.jpg")]
    refused("with another detector .fingerprint.", report(other, one, detector=replace(DETECTOR, fingerprint="0" * 64)))
    refused("with another detector .alpha.", report(other, one, shard="2/2", detector=replace(DETECTOR, alpha=0.2)))
    newer = replace(RUN, versions={**RUN.versions, "torch": "9"})
    refused("with another version of torch", report(other, one, shard="2/2", run_=newer))
    score = replace(RUN, options={**(RUN.options or {}), "damaged": "score"})
    refused("with another --damaged", report(other, one, shard="2/2", run_=score))
    refused("also holds 'a.jpg'", report(other, [scored("a.jpg")], shard="2/2"))
    refused("another report is shard 1/2 too", report(other, one, shard="1/2"))
    refused("it is no shard of 2", report(other, one, shard="2/3"))
    refused("it is no shard of 2", report(other, one))
    refused("was interrupted", report(other, one, shard="2/2", change=lambda s: replace(s, interrupted=True)))
    for change in (lambda s: replace(s, fdr=0.1), lambda s: replace(s, written=1)):
        refused(
            "depend on all images|a part of its results", report(other, one, shard="2/2", change=change), partial=True
        )
    text = report(other, one, shard="2/2").read_text()
    other.write_text(text.replace('"truncated"', '"empty"', 1))
    refused("it was changed since it was written", other)
    other.write_text(text[: text.index('{"type":"summary"')])
    refused("its run did not finish", other)


def test_missing_shards_are_refused_or_named(tmp_path: Path) -> None:
    parts = [report(tmp_path / f"{number}.jsonl", [scored(f"{number}.jpg")], shard=f"{number}/4") for number in (1, 3)]
    with pytest.raises(MuflowError, match="these shards are missing, 2/4, 4/4"):
        read_parts(parts, (), partial=False)
    merged = read_parts(parts, (), partial=True)
    assert [*map(str, merged.missing)] == ["2/4", "4/4"]
    out = tmp_path / "all.json"
    done = CliRunner().invoke(app, ["merge", *map(str, parts), "--partial", "-o", str(out)])
    assert done.exit_code == 0
    assert "shards that are missing: 2/4, 4/4" in done.stderr
    assert json.loads(out.read_bytes())["summary"]["interrupted"] is True


def test_a_content_is_a_duplicate_of_its_first_input_in_any_report(tmp_path: Path) -> None:
    parts = [report(tmp_path / f"{name}.jsonl", [scored(f"{name}.jpg")]) for name in "ab"]
    results = [*read_parts(parts, (), partial=False).results()]
    assert [getattr(result, "duplicate_of", "") for result in results] == [None, "a.jpg"]


def test_a_page_cannot_be_merged(tmp_path: Path) -> None:
    part = report(tmp_path / "a.jsonl", [scored()])
    done = CliRunner().invoke(app, ["merge", str(part), "-o", str(tmp_path / "a.html")])
    assert "a page shows images and calibration scores" in str(done.exception)
