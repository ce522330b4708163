"""The streaming writers: nothing is lost, nothing is executed, nothing is held back."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft4Validator
from junitparser import JUnitXml
from output_samples import (
    DETECTOR,
    FINISHED,
    GROUPS,
    HOSTILE_NAMES,
    RESULTS,
    RUN,
    SUMMARY,
    SYNTHETIC,
    scored,
    unreadable,
    write_all,
)
from scan_runs import without_check

from muflow_cli.errors import BadSpec, IncompatibleOptions
from muflow_cli.output.bench_writers import BENCH_WRITERS, BenchContext, BenchFormat, bench_format_of
from muflow_cli.output.encode import FIELDS, result_from_json, result_line
from muflow_cli.output.inert import cell, escape, uncell, unescape
from muflow_cli.output.sarif import artifact_uri
from muflow_cli.output.writers import WRITERS, OutputFormat, Per, WriterContext, format_of
from muflow_cli.records import Declared, Origin, Verdict

GOLDEN = Path(__file__).parent / "golden"

# sarif-2.1.0-rtm.5.json of SchemaStore, as the npm package @microsoft/jest-sarif (MIT) ships it.
SARIF = Draft4Validator(json.loads((Path(__file__).parent / "schemas/sarif-2.1.0-rtm.5.json").read_text("utf-8")))

# An HTML page is one piece: its rows are its script's data, and it has tests of its own.
STREAMED = [format_ for format_ in OutputFormat if format_ is not OutputFormat.HTML]

TEXT = st.one_of(st.text(), st.binary().map(os.fsdecode), st.sampled_from(HOSTILE_NAMES))


class Hose(io.RawIOBase):
    """A stream that forgets what it is given."""

    def write(self, data: object) -> int:
        return len(cast(bytes, data))


def read_csv(written: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(written.decode("utf-8"), newline="")))


@pytest.mark.parametrize("format_", STREAMED)
def test_the_bytes_of_a_format_change_only_on_purpose(format_: OutputFormat) -> None:
    assert write_all(format_, RESULTS) == (GOLDEN / f"scan.{format_}").read_bytes()


@given(text=TEXT)
def test_an_escaped_text_is_printable_and_comes_back(text: str) -> None:
    assert escape(text).isprintable()
    assert unescape(escape(text)) == text


@given(text=TEXT)
def test_a_cell_starts_no_formula_and_comes_back(text: str) -> None:
    shown = cell(text)
    assert not shown.lstrip().startswith(tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20"))
    assert uncell(shown) == text


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_takes_one_printable_line_of_the_table(name: str) -> None:
    lines = write_all(OutputFormat.TABLE, [scored(name), unreadable(name)]).decode("utf-8").splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert lines[1].endswith(escape(name).rstrip())


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_one_inert_cell_of_the_csv(name: str) -> None:
    first, second = read_csv(write_all(OutputFormat.CSV, [scored(name, duplicate_of=name), unreadable(name)]))
    assert uncell(first["path"]) == uncell(first["duplicate_of"]) == uncell(second["path"]) == name


def test_the_table_of_groups_has_a_row_for_each_group_and_no_result() -> None:
    rows = read_csv(write_all(OutputFormat.GROUPS, RESULTS, fields=("path",)))
    assert [uncell(row["name"]) for row in rows] == [group.name for group in GROUPS]
    shop, faces, single = rows
    assert (shop["images"], shop["flagged"], shop["share_flagged"]) == ("40", "12", "0.3")
    assert (shop["unlike_calibration"], faces["unlike_calibration"]) == ("true", "false")
    assert (single["p_value"], single["q_value"]) == ("", "")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_the_hostile_name_of_a_group_is_one_inert_cell(name: str) -> None:
    stream = io.BytesIO()
    writer = WRITERS[OutputFormat.GROUPS].make(stream, WriterContext())
    writer.begin(RUN, DETECTOR)
    writer.end(FINISHED, replace(SUMMARY, groups=(replace(GROUPS[0], name=name),)))
    (row,) = read_csv(stream.getvalue())
    assert uncell(row["name"]) == name
    assert not row["name"].lstrip().startswith(("=", "+", "-", "@"))


def test_csv_columns_are_the_fields_with_the_declaration_and_the_error_in_two() -> None:
    header = write_all(OutputFormat.CSV, []).decode().removesuffix("\r\n").split(",")
    parts = {"declared": ["declared_origin", "declared_marks"], "error": ["error_code", "error_message"]}
    parts["column_scores"] = ["score_main/layer2", "score_main/layer3"]
    assert header == [column for field in FIELDS for column in parts.get(field, [field])]


@pytest.mark.parametrize("format_", [OutputFormat.CSV, OutputFormat.JSONL, OutputFormat.SARIF])
def test_what_a_file_declares_is_told_of_unreadable_ones_too(format_: OutputFormat) -> None:
    declared = replace(unreadable(), declared=SYNTHETIC)
    assert write_all(format_, [declared]).count(b"GPT-4o") == 1
    assert b"GPT-4o" not in write_all(format_, [unreadable()])


def test_csv_marks_start_no_formula_and_are_told_in_words() -> None:
    (row,) = read_csv(write_all(OutputFormat.CSV, [scored(declared=SYNTHETIC)]))
    assert row["declared_origin"] == "synthetic"
    assert uncell(row["declared_marks"]).split(" | ") == [
        "c2pa (synthetic, untrusted): generator GPT-4o, source trainedAlgorithmicMedia",
        'a1111 (synthetic, unsigned): prompt <b>=1+1</b> \\ "face", seed 12345',
        "exif (camera, unsigned): make Canon",
    ]


def test_no_cell_of_a_csv_holds_json_and_a_mark_of_utf_8_is_there_on_request() -> None:
    for row in read_csv(write_all(OutputFormat.CSV, RESULTS)):
        assert not [value for value in row.values() if value.startswith(("[", "{"))]
    for format_ in (OutputFormat.CSV, OutputFormat.GROUPS):
        stream = io.BytesIO()
        writer = WRITERS[format_].make(stream, WriterContext(csv_mark=True))
        writer.begin(RUN, DETECTOR)
        writer.end(FINISHED, SUMMARY)
        assert stream.getvalue() == codecs.BOM_UTF8 + write_all(format_, [])


def test_a_finding_has_what_github_needs_to_show_it_once() -> None:
    first, again = (
        json.loads(write_all(OutputFormat.SARIF, results))["runs"][0]["results"] for results in (RESULTS, RESULTS[::-1])
    )
    for finding in first:
        (location,) = finding["locations"]
        assert location["physicalLocation"]["region"]["startLine"] == 1
        assert finding["partialFingerprints"]["primaryLocationLineHash"].endswith(":1")

    def identities(findings: list[dict[str, Any]]) -> set[tuple[str, str]]:
        return {(each["ruleId"], each["partialFingerprints"]["primaryLocationLineHash"]) for each in findings}

    assert identities(first) == identities(again)
    assert len(identities(first)) == len(first)


def test_sarif_has_a_rule_of_its_own_for_images_that_declare_themselves_synthetic() -> None:
    (run,) = json.loads(write_all(OutputFormat.SARIF, [scored(declared=SYNTHETIC), scored(number=1)]))["runs"]
    (finding,) = run["results"]
    assert run["tool"]["driver"]["rules"][finding["ruleIndex"]]["id"] == finding["ruleId"] == "declared-synthetic"
    assert "c2pa, a1111" in finding["message"]["text"]
    camera = Declared(origin=Origin.CAMERA, marks=SYNTHETIC.marks[2:])
    assert json.loads(write_all(OutputFormat.SARIF, [scored(declared=camera)]))["runs"][0]["results"] == []


def test_csv_numbers_keep_every_bit_and_each_score_has_its_column() -> None:
    result = scored(score=0.1 + 0.2, column_scores=(-1 / 3, 1e-17), p_value=1 / 301)
    (row,) = read_csv(write_all(OutputFormat.CSV, [result]))
    assert float(row["score"]) == result.score
    assert (float(row["score_main/layer2"]), float(row["score_main/layer3"])) == result.column_scores
    assert float(row["p_value"]) == result.judgement.p_value
    assert row["q_value"] == ""


def test_csv_rows_end_as_rfc_4180_says_whatever_the_names_hold() -> None:
    written = write_all(OutputFormat.CSV, [scored(name) for name in HOSTILE_NAMES])
    assert written.count(b"\r\n") == written.count(b"\n") == 1 + len(HOSTILE_NAMES)


def test_the_digest_of_a_jsonl_report_can_be_taken_with_grep_sed_and_sha256sum() -> None:
    lines = write_all(OutputFormat.JSONL, RESULTS).splitlines(keepends=True)
    kept = b"".join(without_check(line.rstrip()) + b"\n" for line in lines if line.startswith(b'{"type":"result"'))
    assert hashlib.sha256(kept).digest() == hashlib.sha256(b"".join(map(result_line, RESULTS))).digest()


@pytest.mark.parametrize("format_", [OutputFormat.JSONL, OutputFormat.JSON, OutputFormat.CSV])
def test_a_result_is_on_the_disk_as_soon_as_it_is_written(format_: OutputFormat, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as stream:
        writer = WRITERS[format_].make(stream, WriterContext())
        writer.begin(RUN, DETECTOR)
        writer.write(scored("faces/early.jpg"))
        assert b"faces/early.jpg" in path.read_bytes()


def test_every_result_of_a_killed_json_run_can_be_read_line_by_line() -> None:
    stream = io.BytesIO()
    writer = WRITERS[OutputFormat.JSON].make(stream, WriterContext())
    writer.begin(RUN, DETECTOR)
    for result in RESULTS:
        writer.write(result)
    _, _, *lines = stream.getvalue().splitlines()
    assert [result_from_json(json.loads(line.rstrip(b","))) for line in lines] == RESULTS


@pytest.mark.parametrize("format_", STREAMED)
def test_memory_does_not_grow_with_the_number_of_results(format_: OutputFormat) -> None:
    writer = WRITERS[format_].make(cast(BinaryIO, Hose()), WriterContext())
    writer.begin(RUN, DETECTOR)
    results = [scored(verdict=Verdict.FLAGGED), unreadable()]
    tracemalloc.start()
    for number in range(2_000):
        writer.write(results[number % 2])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    writer.end(FINISHED, SUMMARY)
    assert peak < 2**20


@pytest.mark.parametrize("format_", list(OutputFormat))
def test_a_writer_leaves_its_stream_open(format_: OutputFormat) -> None:
    stream = io.BytesIO()
    writer = WRITERS[format_].make(stream, WriterContext())
    writer.begin(RUN, DETECTOR)
    del writer
    assert not stream.closed


@pytest.mark.parametrize("format_", [OutputFormat.TABLE, OutputFormat.JSON, OutputFormat.JSONL, OutputFormat.CSV])
def test_an_unknown_field_is_refused_with_the_legal_ones(format_: OutputFormat) -> None:
    with pytest.raises(BadSpec, match=r"--fields is colour: use one or several of path, sha256, .*, error"):
        WRITERS[format_].make(io.BytesIO(), WriterContext(fields=("path", "colour")))
    with pytest.raises(BadSpec, match="once"):
        WRITERS[format_].make(io.BytesIO(), WriterContext(fields=("path", "path")))
    with pytest.raises(BadSpec, match="empty"):
        WRITERS[format_].make(io.BytesIO(), WriterContext(fields=()))


def test_sarif_takes_no_fields() -> None:
    with pytest.raises(IncompatibleOptions, match="--fields cannot be combined with sarif"):
        WRITERS[OutputFormat.SARIF].make(io.BytesIO(), WriterContext(fields=("path",)))


def test_fields_choose_columns_and_their_order() -> None:
    table = write_all(OutputFormat.TABLE, RESULTS, ("path", "error")).decode().splitlines()
    assert table[0].split() == ["PATH", "ERROR"]
    assert table[3].split()[:2] == ["faces/broken.jpg", "truncated,"]
    assert write_all(OutputFormat.CSV, RESULTS, ("error", "path")).splitlines()[0] == b"error_code,error_message,path"


def test_a_table_says_why_an_input_could_not_be_read() -> None:
    line = write_all(OutputFormat.TABLE, [unreadable()]).decode().splitlines()[1]
    assert line.split(maxsplit=1)[0] == "unreadable"
    assert line.endswith("faces/broken.jpg  (truncated, the file ends inside the image)")


def test_a_table_marks_a_damaged_image() -> None:
    damaged = dataclasses.replace(scored(), facts=dataclasses.replace(scored().facts, damaged=True))
    plain, marked = write_all(OutputFormat.TABLE, [scored(), damaged]).decode().splitlines()[1:]
    assert marked == f"{plain}  (damaged)"


def test_a_table_that_is_no_terminal_has_no_colours() -> None:
    assert b"\x1b" not in write_all(OutputFormat.TABLE, RESULTS)


def test_sarif_is_valid_with_hostile_names_and_without_results() -> None:
    for results in ([], RESULTS, [scored(name, verdict=Verdict.FLAGGED) for name in HOSTILE_NAMES if name]):
        SARIF.validate(json.loads(write_all(OutputFormat.SARIF, results)))


def test_sarif_lists_the_flagged_and_declared_as_results_and_the_unreadable_as_notifications() -> None:
    (run,) = json.loads(write_all(OutputFormat.SARIF, RESULTS))["runs"]
    named = ["declared-synthetic", "synthetic-face-high", "synthetic-face-low", "synthetic-face-low"]
    assert [item["ruleId"] for item in run["results"]] == named
    rules = run["tool"]["driver"]["rules"]
    assert all(rules[item["ruleIndex"]]["id"] == item["ruleId"] for item in run["results"])
    notice, shifted = run["invocations"][0]["toolExecutionNotifications"]
    assert notice["descriptor"]["id"] == "truncated"
    assert (shifted["descriptor"]["id"], shifted["level"]) == ("unlike-the-calibration", "warning")
    assert run["properties"]["summary"]["inputs"] == SUMMARY.inputs


def test_sarif_leaves_open_what_is_outside_the_calibration_and_says_so_of_what_is_flagged() -> None:
    results = [
        scored(number=1, atypical_input=("format",), verdict=Verdict.INCONCLUSIVE),
        scored(number=2, verdict=Verdict.INCONCLUSIVE),  # by the band of the rule
        scored(number=3, atypical_input=("format",)),
        scored(number=4, atypical_input=("format", "size"), verdict=Verdict.FLAGGED),
    ]
    document = json.loads(write_all(OutputFormat.SARIF, results))
    SARIF.validate(document)
    undecided, flagged = document["runs"][0]["results"]
    assert (undecided["ruleId"], undecided["kind"], undecided["level"]) == ("outside-the-calibration", "open", "none")
    assert "outside the calibration's ranges by format, size" in flagged["message"]["text"]


def test_sarif_marks_the_flagged_faces_of_an_image() -> None:
    (run,) = json.loads(write_all(OutputFormat.SARIF, RESULTS))["runs"]
    (attachment,) = run["results"][-1]["attachments"]
    (rectangle,) = attachment["rectangles"]
    assert [rectangle[edge] for edge in ("left", "top", "right", "bottom")] == [400, 50, 500, 170.5]
    assert attachment["artifactLocation"]["uri"] == "faces/group.jpg"


def test_a_csv_per_face_has_a_row_for_each_face_and_one_for_each_other_input() -> None:
    stream = io.BytesIO()
    context = WriterContext(per=Per.FACE)
    writer = WRITERS[OutputFormat.CSV].make(stream, context)
    writer.begin(RUN, DETECTOR)
    for result in RESULTS:
        writer.write(result)
    rows = read_csv(stream.getvalue())
    first, second = (row for row in rows if row["path"] == "faces/group.jpg")
    assert (first["face"], first["left"], first["p_value"], first["flagged"]) == ("1", "10.5", "0.4", "false")
    assert (second["face"], second["right"], second["p_value"], second["verdict"]) == ("2", "500.0", "0.01", "flagged")
    assert len(rows) == len(RESULTS) + 1
    assert {row["face"] for row in rows if row["path"] != "faces/group.jpg"} == {""}


@given(name=st.binary(min_size=1).filter(lambda name: b"\0" not in name and not name.startswith(b"/")))
def test_a_uri_gives_back_the_bytes_of_a_local_name(name: bytes) -> None:
    path = f"./{os.fsdecode(name)}"
    assert unquote_to_bytes(artifact_uri(path)) == os.fsencode(path)
    assert artifact_uri(path).isascii()


def test_absolute_and_remote_paths_become_absolute_uris() -> None:
    assert artifact_uri("/data/my face.jpg") == "file:///data/my%20face.jpg"
    assert artifact_uri("https://example.org/a%20b.jpg?x=1") == "https://example.org/a%20b.jpg?x=1"
    assert artifact_uri("s3://bucket/key.jpg") == "s3://bucket/key.jpg"
    assert artifact_uri("a:b.jpg") == "a%3Ab.jpg"
    assert artifact_uri("100%41.jpg") == "100%2541.jpg"


def test_every_field_can_be_a_column_of_the_table() -> None:
    for name in FIELDS:
        table = write_all(OutputFormat.TABLE, RESULTS, (name, "path") if name != "path" else (name,))
        assert len(table.splitlines()) == 1 + len(RESULTS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.json", "json"), ("A.JSONL", "jsonl"), ("a.ndjson", "jsonl"), ("a.csv", "csv"), ("a.sarif", "sarif"),
     ("a.sarif.json", "sarif"), ("dir.csv/a.html", "html"), ("a.htm", "html"), ("a.txt", "table"),
     ("a.xml", "junit"), ("a.groups.csv", "groups"), ("A.Groups.CSV", "groups"), ("groups.csv", "csv")],
)  # fmt: skip  # a table
def test_a_file_name_picks_its_format(name: str, expected: str) -> None:
    assert format_of(Path(name)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.json", "json"), ("a.csv", "csv"), ("a.scores.csv", "scores"), ("scores.csv", "csv"), ("a.MD", "markdown"),
     ("a.xml", "junit"), ("a.html", "html")],
)  # fmt: skip  # a table
def test_a_file_name_picks_its_bench_format(name: str, expected: str) -> None:
    assert bench_format_of(Path(name)) == expected


@pytest.mark.parametrize(
    ("name", "pick", "suffixes"),
    [
        ("a.pdf", format_of, r"\.html or \.htm"),
        ("json", format_of, r"\.html or \.htm"),
        ("a.sarif", bench_format_of, r"\.htm or \.scores\.csv"),
    ],
)
def test_a_name_without_a_format_is_refused_with_all_suffixes(
    name: str, pick: Callable[[Path], StrEnum], suffixes: str
) -> None:
    with pytest.raises(BadSpec, match=suffixes):
        pick(Path(name))


def test_every_format_is_one_row_and_no_suffix_stands_twice() -> None:
    assert set(WRITERS) == set(OutputFormat)
    assert set(BENCH_WRITERS) == set(BenchFormat)
    for rows in (WRITERS.values(), BENCH_WRITERS.values()):
        suffixes = [suffix for row in rows for suffix in row.suffixes]
        assert len(set(suffixes)) == len(suffixes)


def test_the_html_row_writes_a_page_with_its_calibration_scores() -> None:
    page = write_all(OutputFormat.HTML, RESULTS).decode()
    assert page.startswith("<!doctype html>")
    assert "calibration reals, n = 3" in page


def gate(name: str, *, held: bool) -> dict[str, Any]:
    return {"gate": name, "where": "<b>\x1b", "value": 0.75, "needed": ">= 0.8", "held": held}


def bench_context(gates: list[dict[str, Any]]) -> BenchContext:
    report = {
        "gates": gates,
        "protocols": None,
        "headline": {"source": "reals", "value": 0.9, "low": 0.8, "high": 1.0, "rule": None},
    }
    return BenchContext(report=report, page=lambda: pytest.fail("no page wanted"), scores=lambda: b"path,label\r\n")


def test_junit_has_a_case_for_every_gate_and_counts_the_failures() -> None:
    gates = [gate("macro_auc>=0.8", held=False), gate("fpr<=0.1", held=True)]
    suite = JUnitXml.fromstring(BENCH_WRITERS[BenchFormat.JUNIT].write(bench_context(gates)))
    assert (suite.tests, suite.failures) == (2, 1)
    (cases,) = ([*part] for part in suite)
    assert [case.name for case in cases] == ["macro_auc>=0.8", "fpr<=0.1"]
    assert [[result.message for result in case.result] for case in cases] == [["<b>\\u001b: 0.7500, needed >= 0.8"], []]


def test_junit_without_gates_is_one_case_that_passes() -> None:
    suite = JUnitXml.fromstring(BENCH_WRITERS[BenchFormat.JUNIT].write(bench_context([])))
    assert (suite.tests, suite.failures) == (1, 0)
    ((case,),) = ([*part] for part in suite)
    assert case.system_out == "macro AUC at the worst real source (reals) is 0.900 [0.80, 1.00]"


def test_scores_are_made_only_for_their_format() -> None:
    assert BENCH_WRITERS[BenchFormat.SCORES].write(bench_context([])) == b"path,label\r\n"


def test_a_small_library_loads_only_where_its_format_is_written() -> None:
    code = "import sys, muflow_cli.output.writers, muflow_cli.output.bench_writers; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"junitparser", "jinja2", "numpy", "torch"} & set(loaded)
