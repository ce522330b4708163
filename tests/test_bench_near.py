"""Near copies in a benchmark: one photograph counts once in every figure, and the detector must not know it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_samples import SPEC, make_rows
from conftest import write_faces

from muflow_cli.bench.data import HashedSample, Known, OverlapPolicy, Selection, known_to
from muflow_cli.bench.datasets import Sample
from muflow_cli.bench.evaluate import evaluate
from muflow_cli.bench.near import without_near_copies
from muflow_cli.bench.scores import Row
from muflow_cli.bundle import load
from muflow_cli.errors import BadData, BadScores
from muflow_cli.images.inputs import Input

Run = Callable[..., Any]


def hashed_rows() -> list[Row]:
    """Rows of different photographs: random hashes of 64 bits are about 32 bits apart."""
    generator = np.random.default_rng(5)
    return [replace(row, near_hash=int(generator.integers(2**64, dtype=np.uint64))) for row in make_rows()]


def selected(rows: list[Row], **more: Any) -> Selection:
    return Selection(
        images=tuple(
            HashedSample(Sample(input=Input(row.path), label=row.label, group=row.group, source=row.source), row.sha256)
            for row in rows
        ),
        **more,
    )


def near(row: Row, number: int) -> Row:
    """A near copy: another file, two bits of the hash away, and a score of its own; its content hash is larger."""
    own = {"path": f"{row.path}.{number}", "score": row.score + 0.001 * number, "near_hash": row.near_hash ^ 0b11}
    return replace(row, sha256=f"f{number:063x}", **own)


def counted(rows: list[Row], known: Known | None = None, policy: OverlapPolicy = OverlapPolicy.REFUSE) -> Any:
    return without_near_copies(selected(rows), rows, known or Known(), policy)


def test_a_portrait_300_times_changes_no_figure_and_narrows_no_interval() -> None:
    rows = hashed_rows()
    many = [*rows, *(near(rows[0], number) for number in range(300))]
    selection, left = counted(many)
    assert selection.near_copies == 300
    assert left == rows
    assert [image.sha256 for image in selection.images] == [row.sha256 for row in rows]
    assert evaluate(left, SPEC) == evaluate(rows, SPEC)
    assert counted([*many[::-1]])[1] == rows[::-1]


def test_copies_in_two_groups_count_once_and_a_real_beside_a_fake_twice() -> None:
    rows = hashed_rows()
    moved = replace(near(rows[0], 1), group="other", source="other")
    edited = replace(near(rows[0], 2), label=rows[-1].label, group=rows[-1].group, source=rows[-1].source)
    selection, left = counted([*rows, moved, edited])
    assert selection.near_copies == 1
    assert left == [*rows, edited]


def test_near_copies_of_known_images_are_refused_dropped_or_kept_and_counted() -> None:
    rows = hashed_rows()
    known = Known(
        calibrated=frozenset({rows[3].sha256 or ""}),
        fitted_near=(rows[0].near_hash ^ 0b1111, rows[1].near_hash),
        calibrated_near=(rows[2].near_hash, rows[3].near_hash),
    )
    with pytest.raises(
        BadData, match=r"2 of celebahq that are near copies of those it was fitted on, 1 of .* calibrated"
    ):
        counted(rows, known)
    selection, left = counted(rows, known, OverlapPolicy.ALLOW)
    assert left == rows
    assert selection.overlap == {"celebahq": {"calibrated": 1, "near_calibrated": 1, "near_fitted": 2}}
    # Those of equal bytes are gone before anything is scored, and stay counted.
    gone = {"celebahq": {"calibrated": 1}}
    fewer = rows[:3] + rows[4:]
    selection, left = without_near_copies(selected(fewer, overlap=gone), fewer, known, OverlapPolicy.DROP)
    assert left == rows[4:]
    assert selection.overlap == {"celebahq": {"calibrated": 1, "near_calibrated": 1, "near_fitted": 2}}
    assert selection.near_copies == 0
    every = Known(fitted_near=tuple(row.near_hash for row in rows if row.fake))
    with pytest.raises(BadScores, match="70 real and 0 fake"):
        counted(rows, every, OverlapPolicy.DROP)


def copied(source: Path, target: Path) -> None:
    """Every image of a folder with a byte after its end."""
    target.mkdir(parents=True)
    for path in source.glob("*.jpg"):
        (target / path.name).write_bytes(path.read_bytes() + b"\0")


def test_the_report_says_how_many_near_copies_were_left_out_and_which_are_known(
    muflow: Run, tiny_bundle: Path, reals: Path, tmp_path: Path
) -> None:
    write_faces(tmp_path / "own", 6, seed=31)
    write_faces(tmp_path / "fakes", 6, seed=32)
    copied(tmp_path / "own", tmp_path / "own" / "again")
    words = ["bench", tiny_bundle, "--fake", tmp_path / "fakes", "--resamples", "20", "--workers", "1"]
    files = ["-o", tmp_path / "a.json", "-o", tmp_path / "a.html", "-o", tmp_path / "a.md"]
    done = muflow(*words, "--real", tmp_path / "own", *files)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "a.json").read_bytes())["data"]
    assert (data["near_copies"], data["duplicates"], data["reals"], data["fakes"]) == (6, 0, 6, 6)
    for said in (done.stdout.decode(), (tmp_path / "a.html").read_text(), (tmp_path / "a.md").read_text()):
        assert "6 near copies of other images left out" in " ".join(said.split())

    copied(reals, tmp_path / "known")
    mixed = ["--real", tmp_path / "own", "--real", tmp_path / "known"]
    refused = muflow(*words, *mixed)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"of known that are near copies of those it was fitted on" in refused.stderr
    dropped = json.loads(muflow(*words, *mixed, "--overlap", "drop", "--json").stdout)["data"]
    assert set(dropped["overlap"]["groups"]["known"]) == {"near_calibrated", "near_fitted"}
    assert {group["group"] for group in dropped["groups"]} <= {"own", "again", "fakes"}


def test_a_detector_knows_the_hashes_of_what_it_was_fitted_and_calibrated_on(tiny_bundle: Path) -> None:
    known = known_to(load(tiny_bundle))
    assert (len(known.fitted_near), len(known.calibrated_near)) == (len(known.fitted), len(known.calibrated))
    assert len(known.fitted_near) + len(known.calibrated_near) == 80
