"""Promises of --resume and of reading back: a resumed report equals an unbroken one, whatever was cut off."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from output_samples import DETECTOR, FINISHED, RUN, SUMMARY, scored, unreadable

from muflow_cli.environment import deciding
from muflow_cli.errors import BadReport, CannotResume, CannotWrite
from muflow_cli.files import OutputFile, growing
from muflow_cli.output.digests import ResultsDigest, sealed
from muflow_cli.output.documents import JsonlWriter, JsonWriter
from muflow_cli.output.encode import checked_line, line, line_key
from muflow_cli.output.report_reader import read_report
from muflow_cli.records import Facts, Result, Scored
from muflow_cli.run_records import DetectorInfo, RunInfo
from muflow_cli.run_specs import Damaged, InputSpec
from muflow_cli.scan.resume import ResumedWriter, prior_path, resumable


def image(number: int, path: str | None = None) -> Result:
    """Every seventh cannot be read."""
    if number % 7 == 6:
        return unreadable(path or f"{number}.jpg")
    facts = Facts(sha256=f"{number:064x}", bytes=number, format="PNG", width=1, height=1)
    return replace(scored(path or f"{number}.jpg"), facts=facts)


RESULTS = [image(number) for number in range(12)]
SEALED = sealed(SUMMARY, FINISHED, DETECTOR)


def whole(results: Sequence[Result]) -> bytes:
    stream = io.BytesIO()
    writer = JsonlWriter(stream, None)
    writer.begin(RUN, DETECTOR)
    for result in results:
        writer.write(result)
    writer.end(FINISHED, SEALED)
    return stream.getvalue()


def go_on(path: Path, results: Sequence[Result], stop_after: int | None = None) -> int:
    """A resumed run, killed after so many results; returns how many it would have had to score."""
    with growing(path) as stream:
        kept = resumable(path, RUN, DETECTOR)
        writer = ResumedWriter(stream, path)
        writer.begin(RUN, DETECTOR)
        for result in results[:stop_after]:
            writer.write(result)
        if stop_after is None:
            writer.end(FINISHED, SEALED)
    return sum(isinstance(r, Scored) and r.facts.sha256 not in kept for r in results)


@settings(deadline=None, max_examples=150)
@given(cut=st.integers(0, len(whole(RESULTS))))
def test_a_report_cut_anywhere_is_completed_to_that_of_an_unbroken_run(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    path.write_bytes(whole(RESULTS)[:cut])
    go_on(path, RESULTS)
    assert path.read_bytes() == whole(RESULTS)
    assert [p.name for p in path.parent.iterdir()] == ["a.jsonl"]


@settings(deadline=None, max_examples=60)
@given(
    runs=st.lists(st.tuples(st.permutations(range(12)), st.integers(0, 12), st.integers(0, 400)), max_size=4),
    last=st.permutations(range(12)),
)
def test_killed_runs_over_other_orders_lose_no_result_that_was_ever_whole(
    runs: list[tuple[list[int], int, int]], last: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("orders") / "a.jsonl"
    ever: set[str] = set()
    for order, stop_after, torn in runs:
        results = [RESULTS[number] for number in order]
        go_on(path, results, stop_after)
        ever |= {r.facts.sha256 for r in results[:stop_after] if isinstance(r, Scored)}
        if torn:  # the kill came within a line
            with path.open("ab") as file:
                file.write(b'{"type":"result","path":"torn' + b"x" * torn)
    results = [RESULTS[number] for number in last]
    scored_again = go_on(path, results)
    assert scored_again == sum(isinstance(r, Scored) for r in RESULTS) - len(ever)
    assert path.read_bytes() == whole(results)
    assert not prior_path(path).exists()


@pytest.mark.parametrize(
    ("run", "detector", "named"),
    [
        (RUN, replace(DETECTOR, fingerprint="0" * 64), "detector"),
        (RUN, replace(DETECTOR, calibration_fingerprint="0" * 64), "calibration"),
        (replace(RUN, precision="bf16"), DETECTOR, "precision"),
        (replace(RUN, device="cuda"), DETECTOR, "device"),
        (replace(RUN, versions={**RUN.versions, "torch": "9"}), DETECTOR, "torch"),
        # A library that one of the two runs did not use, or that an earlier muflow did not record.
        (replace(RUN, versions={**RUN.versions, "simplejpeg": "1"}), DETECTOR, "simplejpeg"),
        (replace(RUN, versions={"torch": RUN.versions["torch"]}), DETECTOR, "set of libraries"),
        (replace(RUN, options=RUN.options | deciding(InputSpec(max_bytes=1))), DETECTOR, "--max-bytes"),
        (replace(RUN, options=RUN.options | deciding(InputSpec(damaged=Damaged.SCORE))), DETECTOR, "--damaged"),
        (replace(RUN, options=RUN.options | {"atypical": "flag"}), DETECTOR, "--atypical"),
        (replace(RUN, options=RUN.options | deciding(InputSpec(c2pa_anchors="-"))), DETECTOR, "--c2pa-trust"),
        (
            replace(RUN, options=RUN.options | deciding(InputSpec(archives=False, max_pixels=9))),
            DETECTOR,
            "--max-pixels, --no-archives",
        ),
    ],
)
def test_results_that_came_about_otherwise_are_refused(
    run: RunInfo, detector: DetectorInfo, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(whole(RESULTS))
    with pytest.raises(CannotResume, match=f"another {named}: choose another output"):
        resumable(path, run, detector)


@pytest.mark.parametrize("cut", [0, 3, 13, 14])
def test_the_digests_of_a_resumed_report_are_those_of_what_stands_in_it(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    stream = io.BytesIO()
    writer = JsonlWriter(stream, None)
    writer.begin(replace(RUN, started="2026-02-01T09:00:00Z", argv=("muflow", "scan", "first")), DETECTOR)
    for result in RESULTS:
        writer.write(result)
    writer.end(FINISHED, SEALED)
    path.write_bytes(b"".join(stream.getvalue().splitlines(keepends=True)[:cut]))
    go_on(path, RESULTS)
    report = read_report(path)
    assert report.run.argv == (RUN.argv if cut == 0 else ("muflow", "scan", "first"))
    assert report.summary == sealed(SUMMARY, report.run, report.detector)


def test_a_report_without_the_options_that_decided_its_results_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    report = whole(RESULTS).splitlines(keepends=True)
    head = json.loads(report[0])
    del head["run"]["options"]
    path.write_bytes(b"".join([line(head), *report[1:]]))
    with pytest.raises(CannotResume, match="the report does not hold a whole run"):
        resumable(path, RUN, DETECTOR)


def test_a_line_of_other_input_options_is_scored_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    other = checked_line(
        RESULTS[0], line_key(replace(RUN, options=RUN.options | deciding(InputSpec(max_bytes=1))), DETECTOR)
    )
    path.write_bytes(b"".join([whole(RESULTS).splitlines(keepends=True)[0], other]))
    assert resumable(path, RUN, DETECTOR) == {}


@pytest.mark.parametrize(
    "content", [b"a line of something else\n", b"no newline", b'{"type":"run","schema":"muflow.scan/9"}\n', b"\n"]
)
def test_a_file_that_is_no_report_is_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(CannotResume, match="JSON-lines report: choose another output"):
        go_on(path, RESULTS)
    assert path.read_bytes() == content


def test_a_prior_copy_of_another_detector_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(whole(RESULTS[:2]))
    other = whole(RESULTS).replace(DETECTOR.fingerprint.encode(), b"0" * 64)
    prior_path(path).write_bytes(other)
    assert len(resumable(path, RUN, DETECTOR)) == 2


def test_json_and_json_lines_read_back_alike(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(whole(RESULTS))
    stream = io.BytesIO()
    writer = JsonWriter(stream, None)
    writer.begin(RUN, DETECTOR)
    for result in RESULTS:
        writer.write(result)
    writer.end(FINISHED, SEALED)
    (tmp_path / "a.json").write_bytes(stream.getvalue())
    from_lines, from_document = read_report(tmp_path / "a.jsonl"), read_report(tmp_path / "a.json")
    assert list(from_lines.results) == list(from_document.results) == RESULTS
    assert from_lines.run == from_document.run == FINISHED
    assert from_lines.summary == from_document.summary == SEALED


def test_an_unfinished_report_has_no_summary_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = whole(RESULTS).splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]))
    assert (len(list(read_report(path).results)), read_report(path).summary) == (4, None)
    path.write_bytes(b"".join([*lines[:5], b"{}\n", *lines[5:]]))
    with pytest.raises(BadReport, match="damaged after its result number 4"):
        read_report(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\n", json.dumps({"results": []}).encode()])
def test_what_is_no_report_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(BadReport, match=r"a\.json"):
        read_report(path)


EARLIER = b'{"type":"run","schema":"muflow.scan/1","run":{},"detector":{}}\n'


def test_a_report_of_schema_1_gets_a_sentence_of_its_own(tmp_path: Path) -> None:
    path, document = tmp_path / "a.jsonl", tmp_path / "a.json"
    path.write_bytes(EARLIER)
    document.write_bytes(json.dumps({"schema": "muflow.scan/1", "results": []}).encode())
    sentence = r"was written by an earlier muflow \(schema muflow.scan/1\)"
    with pytest.raises(CannotResume, match=f"because it {sentence}: choose another output"):
        resumable(path, RUN, DETECTOR)
    for report in (path, document):
        with pytest.raises(BadReport, match=f"{report.name} {sentence}: read it with the muflow that wrote it"):
            read_report(report)


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b'"flagged":false', b'"flagged":true'),
        lambda line: line.replace(b'"scale_scores":[-1.5', b'"scale_scores":[-2.5'),
        lambda line: line.replace(b'"verdict":"not_flagged"', b'"verdict":"flagged"'),
    ],
)
def test_a_derived_field_or_alias_cannot_be_changed_unseen(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    changed = damage(whole(RESULTS))
    assert changed != whole(RESULTS)
    path.write_bytes(changed)
    with pytest.raises(BadReport, match="damaged after its result number 0"):
        read_report(path)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        EARLIER.replace(b"scan/1", b"scan/2"),
        b'{"schema":"muflow.scan/2","results":5}',
        b'{"schema":"muflow.scan/2","results":[5]}',
        b'{"schema":"muflow.scan/2","results":[{"path":"a","error":5}]}',
    ],
)
def test_a_hostile_report_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadReport) as error:
        read_report(path)
    assert str(error.value).count(": ") == 1


def test_the_digest_depends_on_every_result_and_their_order() -> None:
    def digest(results: Sequence[Result]) -> str:
        found = ResultsDigest()
        for result in results:
            found.add(result)
        return found.hexdigest()

    changed = [*RESULTS[:3], image(3, "other.jpg"), *RESULTS[4:]]
    assert len({digest(RESULTS), digest(RESULTS[::-1]), digest(RESULTS[1:]), digest(changed)}) == 4


def test_a_rotten_line_and_one_of_another_detector_are_scored_again_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = whole(RESULTS).splitlines(keepends=True)
    foreign = io.BytesIO()
    writer = JsonlWriter(foreign, None)
    writer.begin(RUN, replace(DETECTOR, fingerprint="0" * 64))
    writer.write(RESULTS[3])
    rotten = good[2].replace(b'"width":1,', b'"width":2,')
    assert rotten != good[2]
    path.write_bytes(b"".join([*good[:2], rotten, good[3], foreign.getvalue().splitlines(keepends=True)[1], *good[5:]]))
    said: list[str] = []
    kept = resumable(path, RUN, DETECTOR, said.append)
    expected = [r for n, r in enumerate(RESULTS) if isinstance(r, Scored) and n not in (1, 3)]
    assert list(kept.values()) == expected
    assert said == [f"2 results do not match the check in {path}, so their inputs are scored again"]
    go_on(path, RESULTS)
    assert path.read_bytes() == whole(RESULTS)


def test_an_object_with_two_equal_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(whole(RESULTS).replace(b'"summary":{', b'"summary":{"flagged":0,', 1))
    with pytest.raises(BadReport, match="damaged after its result number 12"):
        read_report(path)


def test_a_write_that_finds_no_room_leaves_no_part_of_it(tmp_path: Path) -> None:
    import resource
    import signal

    path = tmp_path / "a"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with OutputFile(path, "wb") as file:
            file.write(b"a" * 700)
            with pytest.raises(CannotWrite, match="too large"):
                file.write(b"b" * 700)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b"a" * 700
