"""Promises of verify.py: what was changed since a report was written is named, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from output_samples import DETECTOR, FINISHED, RUN

from muflow_cli.errors import BadReport
from muflow_cli.output import report_reader
from muflow_cli.output.digests import ResultsDigest, sealed
from muflow_cli.output.writers import WRITERS, WriterContext, format_of
from muflow_cli.records import Facts, Judgement, Result, Scored, Side, Unreadable, Verdict
from muflow_cli.run_specs import InputSpec
from muflow_cli.scan.tally import Tally
from muflow_cli.verify import verify


def result(path: str, data: bytes) -> Scored:
    facts = Facts(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), format="PNG", width=1, height=1)
    judgement = Judgement(p_value=0.5, verdict=Verdict.NOT_FLAGGED, tail=Side.HIGH)
    return Scored(path=path, facts=facts, score=0.0, column_scores=(0.0,), judgement=judgement)


def write(report: Path, results: list[Result]) -> None:
    digest, tally = ResultsDigest(), Tally()
    with report.open("wb") as stream:
        writer = WRITERS[format_of(report)].make(stream, WriterContext())
        writer.begin(RUN, DETECTOR)
        for one in results:
            writer.write(one)
            digest.add(one)
            tally.add(one)
        summary = tally.summary(results_sha256=digest.hexdigest(), seconds=1.0, images_per_second=1.0)
        writer.end(FINISHED, sealed(summary, FINISHED, DETECTOR))


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
    write(tmp_path / "r.json", results)
    return tmp_path / "r.jsonl"


def differing(report: Path) -> list[str]:
    return [one.path for one in verify(report).differences]


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
    assert set(differing(report)) == {str(report)}


def test_a_run_that_did_not_end_is_said_to_be_so(report: Path) -> None:
    report.write_bytes(b"".join(report.read_bytes().splitlines(keepends=True)[:-1]))
    (difference,) = verify(report).differences
    assert "did not finish" in difference.message


def said(report: Path) -> list[str]:
    """What `--verify` says of the report itself."""
    return [one.message for one in verify(report).differences if one.path == str(report)]


def edited(report: Path, part: str, changed: object) -> None:
    """Put `changed` in the place of the value at a path of keys, as an editor does, and change no other byte."""
    data = report.read_bytes()
    documents = [json.loads(data)] if report.suffix == ".json" else [json.loads(one) for one in data.splitlines()]
    group, name = part.split(".")
    value = next(found[name] for document in documents if name in (found := document.get(group, {})))
    before, after = (f'"{name}":{json.dumps(one, separators=(",", ":"))}'.encode() for one in (value, changed))
    start, found, rest = data.rpartition(before)  # options of the run and its summary share a name
    assert found
    report.write_bytes(start + after + rest)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("part", "changed"),
    [
        *[("run.argv", ["muflow", "scan", "other"]), ("run.started", "2026-03-02T09:00:00Z"), ("run.device", "cuda")],
        *[("run.versions", {}), ("run.version", "9"), ("run.tool", "x"), ("run.precision", "bf16")],
        ("run.options", {}),
        *[("detector.path", "x"), ("detector.fingerprint", "0" * 64), ("detector.alpha", 0.5)],
        *[("detector.rule", "gaussian"), ("detector.calibration_images", 9), ("detector.file_sha256", None)],
        *[("summary.seconds", 9.0), ("summary.fdr", 0.5), ("summary.interrupted", True), ("summary.damaged", 7)],
        *[("summary.stages", {"x": 1.0}), ("summary.declared_by_origin", {"camera": 1})],
        *[("summary.report_sha256", "0" * 64), ("summary.report_sha256", None)],
    ],
)
def test_every_value_of_head_and_summary_is_covered_and_its_part_is_named(
    part: str, changed: object, suffix: str, report: Path
) -> None:
    path = report.with_suffix(f".{suffix}")
    old = {"detector.calibration_images": [("detector.calibration_pictures", changed)]}.get(part, [])
    for name, value in [(part, changed), *old]:
        edited(path, name, value)
    where = "summary" if part.startswith("summary") else "head (run and detector)"
    assert said(path) == [f"the {where} was changed, since the SHA-256 differs"]


def test_the_end_of_a_run_is_covered_wherever_a_format_writes_it(report: Path) -> None:
    for path in (report, report.with_suffix(".json")):
        finished = FINISHED.finished
        path.write_bytes(
            path.read_bytes().replace(f'"finished":"{finished}"'.encode(), b'"finished":"2027-01-01T00:00:00Z"')
        )
        assert said(path) == ["the head (run and detector) was changed, since the SHA-256 differs"]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("end", [b"null", b"true", b"0", b'""', b'"2026"', b'"2026-3-1T09:00:02Z"', b'"yesterday"'])
def test_a_run_ends_at_a_time_or_the_report_is_refused(end: bytes, suffix: str, report: Path) -> None:
    path = report.with_suffix(f".{suffix}")
    path.write_bytes(path.read_bytes().replace(f'"finished":"{FINISHED.finished}"'.encode(), b'"finished":' + end))
    with pytest.raises(BadReport):
        verify(path)


def test_the_first_line_says_nothing_of_the_end(report: Path) -> None:
    head, *rest = report.read_bytes().splitlines(keepends=True)
    for end in (b'"2020-01-01T00:00:00Z"', f'"{FINISHED.finished}"'.encode()):
        report.write_bytes(b"".join([head.replace(b'"finished":null', b'"finished":' + end), *rest]))
        with pytest.raises(BadReport, match="is not a whole"):
            verify(report)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"scale_scores":[0.0]', b'"scale_scores":[0]'),
        (b'"scale_scores":[0.0]', b'"scale_scores":[false]'),
        (b'"score":0.0', b'"score":0'),
        (b'"flagged":false', b'"flagged":0'),
        (b'"calibration_pictures":300', b'"calibration_pictures":300.0'),
        (b'"seconds":1.0', b'"seconds":1'),
        (b'"max_bytes":%d' % InputSpec().max_bytes, b'"max_bytes":%d.0' % InputSpec().max_bytes),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_number_in_another_spelling_is_not_what_was_written(
    before: bytes, after: bytes, suffix: str, report: Path
) -> None:
    path = report.with_suffix(f".{suffix}")
    assert before in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(before, after, 1))
    with contextlib.suppress(BadReport):
        assert str(path) in differing(path)


def test_lines_that_do_not_match_their_check_are_counted_and_the_first_is_named(report: Path) -> None:
    head, *results, last = report.read_bytes().splitlines(keepends=True)

    def forged(line: bytes) -> bytes:
        at = line.index(b'"check":"') + 9
        return line[:at] + (b"0" if line[at : at + 1] != b"0" else b"1") + line[at + 1 :]

    sentences = {1: "", 2: ", nor does one after it", 4: ", nor do 3 after it"}
    for count, more in sentences.items():
        report.write_bytes(
            b"".join([head, results[0], *map(forged, results[1 : count + 1]), *results[count + 1 :], last])
        )
        assert said(report) == [f"result number 2 ('.hidden.jpg') does not match the check on its line{more}"]
    report.write_bytes(b"".join([head, forged(results[0]), *results[1:]]))  # a run that did not end has its checks too
    assert [sentence.split(" (")[0] for sentence in said(report)][1:] == ["result number 1"]


def test_of_an_edited_result_its_line_is_named_and_of_one_without_check_too(report: Path) -> None:
    whole = report.read_bytes()
    report.write_bytes(whole.replace(b'"p_value":0.5', b'"p_value":0.6', 1))
    edited_line = "result number 1 ('a.jpg') does not match the check on its line"
    assert said(report) == ["the results were changed, since the SHA-256 differs", edited_line]
    report.write_bytes(re.sub(rb',"check":"[0-9a-f]{16}"', b"", whole, count=1))
    assert said(report) == [edited_line]


def test_what_an_edited_report_gives_for_a_digest_is_not_repeated(report: Path) -> None:
    digest = hashlib.sha256(b"a.jpg").hexdigest().encode()
    report.write_bytes(report.read_bytes().replace(digest, b"\\u001b" + b"0" * 10_000))
    of_file = [one.message for one in verify(report).differences if one.path == "a.jpg"]
    assert of_file == [f"has other content (SHA-256 is {digest.decode()}, and what the report says is none)"]


def test_digests_that_were_written_anew_for_an_edited_part_change_the_summary(report: Path) -> None:
    edited(report, "summary.head_sha256", "0" * 64)
    assert said(report) == [
        f"the {part} was changed, since the SHA-256 differs" for part in ("head (run and detector)", "summary")
    ]


def test_reports_of_one_run_have_the_same_digest_in_json_and_json_lines(report: Path) -> None:
    lines, document = (report_reader.read_report(report.with_suffix(s)).summary for s in (".jsonl", ".json"))
    assert lines is not None
    assert lines == document
    assert lines.report_sha256


def test_a_report_whose_digests_were_taken_out_does_not_pass_for_an_earlier_one(report: Path) -> None:
    first, *results, last = map(json.loads, report.read_bytes().splitlines())
    first["run"]["argv"] = ["something else"]
    last["summary"] |= {"head_sha256": None, "report_sha256": None}
    report.write_bytes(b"".join(report_reader.line(one) for one in (first, *results, last)))
    assert said(report) == [
        f"the {part} was changed, since the SHA-256 differs" for part in ("head (run and detector)", "summary")
    ]
    del last["summary"]["head_sha256"], last["summary"]["report_sha256"]
    report.write_bytes(b"".join(report_reader.line(one) for one in (first, *results, last)))
    with pytest.raises(BadReport):
        verify(report)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_key_that_no_digest_covers_is_refused(suffix: str, report: Path) -> None:
    path = report.with_suffix(f".{suffix}")
    whole = path.read_bytes()
    for name in (b'"detector":', b'"summary":'):
        path.write_bytes(whole.replace(name, b'"note":"x",' + name))
        with pytest.raises(BadReport):
            verify(path)


def test_json_lines_are_verified_in_memory_that_does_not_grow_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    peaks = []
    for number in (1000, 100, 1000):  # the first fills the interpreter's lists of freed objects
        write(Path("r.jsonl"), [Unreadable(path=f"{n}", code="empty", message="-") for n in range(number)])
        tracemalloc.start()
        assert differing(Path("r.jsonl")) == []
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.5 * peaks[1]


def test_json_too_large_to_be_read_at_once_is_refused_in_a_sentence_and_lines_without_end_are_no_results(
    report: Path,
) -> None:
    document = report.with_suffix(".json")
    for path in (document, report):
        with path.open("r+b") as file:
            file.truncate(2**31 + 1)  # sparse
    with pytest.raises(
        BadReport, match=r"larger than 2 GiB, and JSON is read as one piece: give the JSON-lines report"
    ):
        verify(document)
    with pytest.raises(BadReport, match="damaged after its result number 6"):
        verify(report)


def test_a_report_that_loses_results_while_it_is_read_is_not_verified(report: Path) -> None:
    found = verify(report)
    report.write_bytes(b"".join(report.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(BadReport, match="was changed while it was read: read it again"):
        list(found.differences)


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
