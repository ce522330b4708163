"""Promises of verify.py: what was changed since a report was written is named, and nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from output_samples import DETECTOR, FINISHED, RUN

from muflow_cli.output.documents import JsonlWriter
from muflow_cli.output.report_reader import ResultsDigest
from muflow_cli.records import Facts, Judgement, Result, Scored, Side, Unreadable, Verdict
from muflow_cli.scan.tally import Tally
from muflow_cli.verify import verify


def result(path: str, data: bytes) -> Scored:
    facts = Facts(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), format="PNG", width=1, height=1)
    judgement = Judgement(p_value=0.5, verdict=Verdict.NOT_FLAGGED, tail=Side.HIGH)
    return Scored(path=path, facts=facts, score=0.0, column_scores=(0.0,), judgement=judgement)


def write(report: Path, results: list[Result]) -> None:
    digest, tally = ResultsDigest(), Tally()
    with report.open("wb") as stream:
        writer = JsonlWriter(stream, None)
        writer.begin(RUN, DETECTOR)
        for one in results:
            writer.write(one)
            digest.add(one)
            tally.add(one)
        writer.end(FINISHED, tally.summary(results_sha256=digest.hexdigest()))


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A report over a file, a hidden one, one that could not be decoded, one that was not there, a zip's member."""
    monkeypatch.chdir(tmp_path)
    names = ["a.jpg", ".hidden.jpg", "odd\udcff[1]*.jpg"]
    for name in names:
        Path(name).write_bytes(os.fsencode(name))
    Path("broken.jpg").write_bytes(b"broken")
    with zipfile.ZipFile("b.zip", "w") as archive:
        archive.writestr("inner.jpg", b"inner")
    results: list[Result] = [result(name, os.fsencode(name)) for name in names]
    digest = hashlib.sha256(b"broken").hexdigest()
    results.append(Unreadable(path="broken.jpg", code="corrupt", message="-", sha256=digest, bytes=6))
    results.append(Unreadable(path="gone.jpg", code="not_found", message="-"))
    results.append(result("b.zip!inner.jpg", b"inner"))
    write(tmp_path / "r.jsonl", results)
    return tmp_path / "r.jsonl"


def differing(report: Path) -> list[str]:
    return [one.path for one in verify(report)[1]]


def test_what_is_unchanged_is_not_named(report: Path) -> None:
    assert differing(report) == []


def test_changed_removed_and_replaced_files_are_named_in_the_order_of_the_report(report: Path) -> None:
    Path("a.jpg").write_bytes(b"a.jpG")
    Path("odd\udcff[1]*.jpg").unlink()
    Path("broken.jpg").unlink()
    # The same content elsewhere is no excuse: in a folder of that name, or in a file that fits the name as a pattern.
    Path("broken.jpg").mkdir()
    Path("broken.jpg", "inside.jpg").write_bytes(b"broken")
    Path("odd\udcff1.jpg").write_bytes(os.fsencode("odd\udcff[1]*.jpg"))
    with zipfile.ZipFile("b.zip", "w") as archive:
        archive.writestr("inner.jpg", b"other")
    assert differing(report) == ["a.jpg", "odd\udcff[1]*.jpg", "broken.jpg", "b.zip!inner.jpg"]


def test_a_result_that_was_edited_removed_or_moved_is_noticed(report: Path) -> None:
    lines = report.read_bytes().splitlines(keepends=True)
    edited = [lines[0], lines[1].replace(b'"p_value":0.5', b'"p_value":0.6'), *lines[2:]]
    for changed in (edited, [lines[0], *lines[2:]], [lines[0], lines[2], lines[1], *lines[3:]]):
        report.write_bytes(b"".join(changed))
        assert str(report) in differing(report)


def test_counts_that_were_edited_are_noticed(report: Path) -> None:
    lines = report.read_bytes().splitlines()
    last = json.loads(lines[-1])
    last["summary"]["flagged"] = 1
    report.write_bytes(b"\n".join([*lines[:-1], json.dumps(last).encode()]) + b"\n")
    assert differing(report) == [str(report)]


def test_a_run_that_did_not_end_is_said_to_be_so(report: Path) -> None:
    report.write_bytes(b"".join(report.read_bytes().splitlines(keepends=True)[:-1]))
    (difference,) = verify(report)[1]
    assert "did not finish" in difference.message


@pytest.mark.parametrize("name", ["c.tar", "c.tar.gz"])
def test_members_of_a_tar_are_compared_in_any_order_and_in_order_on_one_pass(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {f"{number:02}.jpg": b"%d" % number for number in range(40)}

    def pack() -> None:
        with tarfile.open(name, "w:gz" if name.endswith("gz") else "w") as archive:
            for member, data in contents.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    pack()
    results: list[Result] = [result(f"{name}!{member}", data) for member, data in contents.items()]
    write(Path("ordered.jsonl"), results)
    write(Path("backwards.jsonl"), results[::-1])
    opened: list[str] = []
    plain_open = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *args, **more: opened.append(name) or plain_open(*args, **more))
    assert differing(Path("ordered.jsonl")) == []
    assert len(opened) == 1
    assert differing(Path("backwards.jsonl")) == []
    del contents["07.jpg"]
    contents["30.jpg"] = b"changed"
    pack()
    assert differing(Path("ordered.jsonl")) == [f"{name}!07.jpg", f"{name}!30.jpg"]
