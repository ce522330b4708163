"""Laws of `muflow diff`: it finds what changed, nothing else, and says so by its exit status."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from output_samples import HOSTILE_NAMES, RESULTS, RUN, SYNTHETIC, scored, unreadable
from report_samples import report
from typer.testing import CliRunner

from muflow_cli.cli.app import app
from muflow_cli.records import Result, Verdict

CHANGED = replace(scored("x.jpg", number=7), declared=SYNTHETIC)


def diff(folder: Path, before: list[Result], after: list[Result], *words: str) -> tuple[int, str]:
    paths = [report(folder / f"{name}.jsonl", results) for name, results in (("a", before), ("b", after))]
    done = CliRunner().invoke(app, ["diff", *map(str, paths), *words, "-q"])
    return done.exit_code, done.stdout


def test_a_report_is_the_same_as_itself_in_any_order(tmp_path: Path) -> None:
    assert diff(tmp_path, RESULTS, RESULTS[::-1]) == (0, "")


def test_each_kind_of_change_is_one_line(tmp_path: Path) -> None:
    before = [scored("a.jpg", number=1), scored("b.jpg", number=2), scored("c.jpg", number=3), unreadable("d.jpg")]
    after = [
        scored("a.jpg", number=1, verdict=Verdict.FLAGGED),
        scored("b.jpg", number=9),
        replace(unreadable("d.jpg"), code="empty"),
        scored("new.jpg", number=4),
    ]
    status, said = diff(tmp_path, before, after)
    assert status == 1
    assert [" ".join(line.split()) for line in said.splitlines()] == [
        "verdict not_flagged -> flagged a.jpg",
        "content not_flagged b.jpg",
        "verdict error (truncated) -> error (empty) d.jpg",
        "new not_flagged new.jpg",
        "gone not_flagged c.jpg",
    ]


def test_a_file_that_was_moved_is_the_same_and_keeps_its_history(tmp_path: Path) -> None:
    assert diff(tmp_path, [scored("a.jpg", number=1)], [scored("z/a.jpg", number=1)]) == (0, "")
    status, said = diff(tmp_path, [scored("x.jpg", number=7)], [replace(CHANGED, path="y.jpg")])
    assert status == 1
    assert "not_flagged -> not_flagged, declared synthetic" in said
    assert said.endswith("y.jpg  (was x.jpg)\n")
    # Two copies, of which one is gone.
    copies = [scored("a.jpg", number=1), scored("b.jpg", number=1)]
    assert diff(tmp_path, copies, [scored("c.jpg", number=1)])[1].split() == ["gone", "not_flagged", "b.jpg"]


def test_json_holds_both_sides_and_the_scores(tmp_path: Path) -> None:
    before, after = scored("a.jpg", p_value=0.5), scored("a.jpg", p_value=0.01, verdict=Verdict.FLAGGED)
    _, said = diff(tmp_path, [before, unreadable()], [after, unreadable()], "--json")
    document = json.loads(said)
    (change,) = document["changes"]
    assert (document["same"], change["change"]) == (1, "verdict")
    assert [change[side]["p_value"] for side in ("before", "after")] == [0.5, 0.01]
    assert document["a"]["detector"] == document["b"]["detector"]


def test_names_are_inert(tmp_path: Path) -> None:
    _, said = diff(tmp_path, [], [scored(name) for name in HOSTILE_NAMES])
    assert len(said.splitlines()) == len(HOSTILE_NAMES)
    assert all(line.isprintable() for line in said.splitlines())


def test_a_part_of_a_report_is_refused(tmp_path: Path) -> None:
    part = replace(RUN, options={**(RUN.options or {}), "only": "flagged"})
    whole, filtered = report(tmp_path / "a.jsonl", []), report(tmp_path / "b.jsonl", [], run_=part)
    done = CliRunner().invoke(app, ["diff", str(whole), str(filtered)])
    assert "holds a part of its results" in str(done.exception)


def test_a_report_that_was_changed_or_has_no_end_is_refused(tmp_path: Path) -> None:
    good = report(tmp_path / "good.jsonl", [scored("a.jpg", p_value=0.5), scored("b.jpg", number=2)])
    text = good.read_text(encoding="utf-8")
    changed, cut = tmp_path / "changed.jsonl", tmp_path / "cut.jsonl"
    changed.write_text(text.replace('"p_value":0.5', '"p_value":0.6', 1), encoding="utf-8")
    cut.write_text("".join(text.splitlines(keepends=True)[:2]), encoding="utf-8")
    for bad, why in ((changed, "was changed since it was written"), (cut, "has no end")):
        assert bad.read_text(encoding="utf-8") != text
        done = CliRunner().invoke(app, ["diff", str(good), str(bad), "-q"])
        assert why in str(done.exception)
