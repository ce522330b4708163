"""Laws of `--only` and `--sort`: what is written is a part, everything is counted, and no report hides that."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import FP32, draw_face
from hypothesis import given
from hypothesis import strategies as st
from output_samples import RESULTS, SYNTHETIC, scored, unreadable

from muflow_cli.bundle import load
from muflow_cli.cli.scan_outputs import choose_outputs
from muflow_cli.cli.scan_results import selection_of
from muflow_cli.detector import Detector
from muflow_cli.errors import BadSpec, CannotResume, IncompatibleOptions
from muflow_cli.output.report_reader import read_report
from muflow_cli.output.writers import OutputFormat
from muflow_cli.records import Result, Scored
from muflow_cli.run_records import Summary
from muflow_cli.run_specs import Atypical
from muflow_cli.scan.job import Job
from muflow_cli.scan.outputs import Destination
from muflow_cli.scan.run import run
from muflow_cli.scan.selection import Kind, Order, Selection, kinds_of
from muflow_cli.scan.settings import Comparison
from muflow_cli.verify import verify

KINDS = st.frozensets(st.sampled_from(Kind), min_size=1)
ALL = [*RESULTS, replace(unreadable("u.jpg"), declared=SYNTHETIC), scored("s.jpg", declared=SYNTHETIC)]


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Detector:
    return load(tiny_bundle)


@pytest.fixture(scope="module")
def photos(reals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve reals and two files that are no images."""
    folder = tmp_path_factory.mktemp("photos")
    for index, path in enumerate(sorted(reals.iterdir())[:12]):
        (folder / f"{index:02}.jpg").write_bytes(path.read_bytes())
    for name in ("00a.jpg", "x.jpg"):
        (folder / name).write_bytes(b"no image")
    return folder


def scan(detector: Detector, photos: Path, file: Path, **more: object) -> Summary:
    destination = Destination(OutputFormat(file.suffix[1:]), file, resumed=bool(more.pop("resumed", False)))
    return run(
        Job(
            **{"arguments": [str(photos)], **more},
            detector=detector,
            detector_path="d",
            destinations=[destination],
            runtime=FP32,
        )
    )


@given(first=KINDS, second=KINDS)
def test_kinds_that_are_kept_add_up(first: frozenset[Kind], second: frozenset[Kind]) -> None:
    def kept(kinds: frozenset[Kind]) -> set[str]:
        return {result.path for result in ALL if Selection(only=kinds).keeps(result)}

    assert kept(first | second) == kept(first) | kept(second)
    assert kept(frozenset(Kind)) == {result.path for result in ALL}
    assert all(kinds_of(result) for result in ALL)


def test_p_values_ascend_scores_descend_and_what_has_none_comes_last() -> None:
    by_p, by_score = ([*Selection(order=order).ordered(ALL)] for order in (Order.P, Order.SCORE))
    p_values = [r.judgement.p_value if isinstance(r, Scored) else math.inf for r in by_p]
    scores = [r.score if isinstance(r, Scored) else -math.inf for r in by_score]
    assert p_values == sorted(p_values)
    assert scores == sorted(scores, reverse=True)
    paths = [os.fsencode(result.path) for result in Selection(order=Order.PATH).ordered(ALL)]
    assert paths == sorted(paths)
    assert [*Selection().ordered(ALL)] == ALL


def test_the_p_value_that_decides_is_the_one_that_sorts() -> None:
    likely = scored("a", p_value=0.9, adaptive_p_value=0.01)
    assert next(iter(Selection(order=Order.P).ordered([scored("b", p_value=0.1), likely]))) is likely


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_filtered_report_counts_all_says_what_it_left_out_and_verifies(
    suffix: str, detector: Detector, photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / f"r.{suffix}"
    summary = scan(detector, photos, file, selection=Selection(only=frozenset({Kind.ERROR})))
    assert (summary.inputs, summary.unreadable, summary.written) == (14, 2, 2)
    report = read_report(file)
    assert [Path(result.path).name for result in report.results] == ["00a.jpg", "x.jpg"]
    assert (report.run.options or {})["only"] == "error"
    verification = verify(file)
    assert [*verification.differences] == []
    assert verification.notes == (
        "the report holds only results of the kinds error; the others (12 of them) were left out of it",
    )
    whole = scan(detector, photos, tmp_path / f"whole.{suffix}")
    assert replace(whole, written=2).inputs == summary.inputs
    assert whole.written is None


def test_a_result_that_is_removed_from_a_filtered_report_is_missed(
    detector: Detector, photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "r.json"
    scan(detector, photos, file, selection=Selection(only=frozenset({Kind.ERROR})))
    document = json.loads(file.read_bytes())
    del document["results"][0]
    file.write_text(json.dumps(document))
    messages = [each.message for each in verify(file).differences]
    assert "the results were changed, since the SHA-256 differs" in messages
    assert "the summary says 2 results, but the report has 1" in messages


def test_neither_a_filtered_nor_a_whole_report_is_continued_as_the_other(
    detector: Detector, photos: Path, tmp_path: Path
) -> None:
    flagged = Selection(only=frozenset({Kind.FLAGGED, Kind.ERROR}))
    for name, before, now in (("a", flagged, Selection()), ("b", Selection(), flagged)):
        file = tmp_path / f"{name}.jsonl"
        scan(detector, photos, file, selection=before)
        with pytest.raises(CannotResume, match="it was written with another --only"):
            scan(detector, photos, file, selection=now, resumed=True)


def test_a_comparison_of_all_images_writes_a_part_in_another_order(
    detector: Detector, photos: Path, tmp_path: Path
) -> None:
    def results(file: Path, **more: object) -> list[Result]:
        scan(detector, photos, file, comparison=Comparison(fdr=0.2), **more)
        return [*read_report(file).results]

    whole = results(tmp_path / "whole.jsonl")
    kept = results(tmp_path / "part.jsonl", selection=Selection(only=frozenset({Kind.ERROR, Kind.FLAGGED})))
    assert kept == [result for result in whole if not kinds_of(result).isdisjoint({Kind.ERROR, Kind.FLAGGED})]
    ordered = results(tmp_path / "sorted.json", selection=Selection(order=Order.SCORE))
    assert ordered == [*Selection(order=Order.SCORE).ordered(whole)]
    assert ordered != whole


def test_a_run_copies_what_it_flags_whatever_it_writes(detector: Detector, photos: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.png"  # of a format that no calibration image has
    draw_face(np.random.default_rng(5)).save(odd)
    summary = scan(
        detector,
        photos,
        tmp_path / "r.json",
        selection=Selection(only=frozenset({Kind.ERROR})),
        copy_flagged=tmp_path / "flagged",
        atypical=Atypical.FLAG,
        arguments=[str(photos), str(odd)],
    )
    assert summary.flagged >= 1
    copies = {path.name.partition("-")[2]: path for path in (tmp_path / "flagged").iterdir() if "-" in path.name}
    assert len(copies) == summary.flagged
    assert copies["odd.png"].read_bytes() == odd.read_bytes()


def test_options_that_make_no_sense_are_refused() -> None:
    lines = choose_outputs([Path("a.jsonl")], {}, None, as_json=False)
    page = choose_outputs([Path("a.html")], {}, None, as_json=False)
    for words in ("", "flagged,", "fake"):
        with pytest.raises(BadSpec, match="use one or several of flagged, inconclusive"):
            selection_of(words, None, page, resume=False)
    for only, order in (("flagged", None), (None, Order.P)):
        with pytest.raises(IncompatibleOptions, match="only a report of all results"):
            selection_of(only, order, lines, resume=True)
    with pytest.raises(IncompatibleOptions, match=r"--sort cannot be combined with -o FILE\.jsonl"):
        selection_of(None, Order.P, lines, resume=False)
    assert selection_of(" flagged , error", Order.P, page, resume=False).options == {
        "only": "flagged,error",
        "sort": "p",
    }
