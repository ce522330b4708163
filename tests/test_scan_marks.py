"""What files declare, in a scan: beside the verdict, never in it; counted, and a reason for status 1."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import marked_files as files
import numpy as np
import pytest
from conftest import FP32, draw_face
from output_samples import SUMMARY
from scan_runs import encoded

from muflow_cli.bundle import load
from muflow_cli.cli.scan_status import FailOn, fail_on_of, status_of
from muflow_cli.errors import BadSpec
from muflow_cli.images.find import find
from muflow_cli.output.encode import result_from_json, result_to_json
from muflow_cli.records import Origin, Result, Scored, Unreadable
from muflow_cli.run_specs import InputSpec
from muflow_cli.scan.tally import Tally
from muflow_cli.scan.workflow import Scan, ScanRequest


@pytest.fixture(scope="module")
def results(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """A face without a mark, the same with one, a copy of that, and a marked file without its end."""
    folder = tmp_path_factory.mktemp("marked")
    plain = encoded(draw_face(np.random.default_rng(3), 80), "JPEG")
    comment = files.with_segment(0xFE, files.A1111.encode())
    segment = comment[2 : comment.index(b"\xff", 4)]
    marked = plain[:2] + segment + plain[2:]
    contents = {"plain": plain, "marked": marked, "marked copy": marked, "cut": marked[: len(marked) * 3 // 4]}
    for name, data in contents.items():
        (folder / f"{name}.jpg").write_bytes(data)
    scan = Scan(ScanRequest(detector=load(tiny_bundle), runtime=FP32))
    return {Path(r.path).stem: r for r in scan.results(find([str(folder)], InputSpec()))}


def test_a_mark_changes_no_score_and_no_p_value(results: dict[str, Result]) -> None:
    plain, marked = results["plain"], results["marked"]
    assert isinstance(plain, Scored)
    assert isinstance(marked, Scored)
    assert (plain.score, plain.judgement) == (marked.score, marked.judgement)
    assert (plain.declared.origin, marked.declared.origin) == (Origin.NONE, Origin.SYNTHETIC)


def test_a_copy_and_an_unreadable_file_declare_the_same(results: dict[str, Result]) -> None:
    assert isinstance(results["cut"], Unreadable)
    assert results["marked copy"].declared == results["cut"].declared == results["marked"].declared


def test_declarations_are_counted_and_survive_a_report(results: dict[str, Result]) -> None:
    tally = Tally()
    for result in results.values():
        tally.add(result)
        assert result_from_json(result_to_json(result)) == result
    assert tally.summary().declared_by_origin == {"synthetic": 3}


NOTHING = replace(SUMMARY, flagged=0, unreadable=0, declared_by_origin={"camera": 3, "edited": 1})
DECLARED = replace(NOTHING, declared_by_origin={"synthetic": 1})
UNREADABLE = replace(NOTHING, unreadable=2)


@pytest.mark.parametrize(
    ("chosen", "flagged", "declared", "unreadable"),
    [("flagged,declared", 1, 1, 3), ("flagged", 1, 0, 3), ("declared", 0, 1, 3), ("flagged,error", 1, 0, 1)],
)
def test_fail_on_says_what_makes_status_1(chosen: str, flagged: int, declared: int, unreadable: int) -> None:
    failing = fail_on_of(chosen)
    summaries = (NOTHING, replace(NOTHING, flagged=1), DECLARED, UNREADABLE)
    assert [status_of(summary, failing, exit_zero=False) for summary in summaries] == [0, flagged, declared, unreadable]
    assert {status_of(summary, failing, exit_zero=True) for summary in summaries} == {0}


@pytest.mark.parametrize("text", ["", "flagged,", "everything"])
def test_an_unknown_reason_is_refused(text: str) -> None:
    with pytest.raises(BadSpec, match=", ".join(FailOn)):
        fail_on_of(text)
