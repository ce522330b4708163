"""The streaming writers: nothing is lost, nothing is executed, nothing is held back."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tracemalloc
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft4Validator
from output_samples import DETECTOR, FINISHED, HOSTILE_NAMES, RESULTS, RUN, SUMMARY, scored, unreadable, write_all

from muflow_cli.errors import BadSpec
from muflow_cli.output.encode import FIELDS, result_from_json, result_line
from muflow_cli.output.inert import cell, escape, uncell, unescape
from muflow_cli.output.sarif import artifact_uri
from muflow_cli.output.writers import WRITERS, OutputFormat

GOLDEN = Path(__file__).parent / "golden"

# sarif-2.1.0-rtm.5.json of SchemaStore, as the npm package @microsoft/jest-sarif (MIT) ships it.
SARIF = Draft4Validator(json.loads((Path(__file__).parent / "schemas/sarif-2.1.0-rtm.5.json").read_text("utf-8")))

TEXT = st.one_of(st.text(), st.binary().map(os.fsdecode), st.sampled_from(HOSTILE_NAMES))


class Hose(io.RawIOBase):
    """A stream that forgets what it is given."""

    def write(self, data: object) -> int:
        return len(cast(bytes, data))


def read_csv(written: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(written.decode("utf-8"), newline="")))


@pytest.mark.parametrize("format_", list(OutputFormat))
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


def test_csv_columns_are_the_fields_with_the_error_in_two() -> None:
    header = write_all(OutputFormat.CSV, []).decode().removesuffix("\r\n").split(",")
    assert header == [*FIELDS[:-1], "error_code", "error_message"]


def test_csv_numbers_keep_every_bit_and_lists_are_arrays() -> None:
    result = scored(score=0.1 + 0.2, scale_scores=(-1 / 3, 1e-17), p_value=1 / 301)
    (row,) = read_csv(write_all(OutputFormat.CSV, [result]))
    assert float(row["score"]) == result.score
    assert tuple(json.loads(row["scale_scores"])) == result.scale_scores
    assert float(row["p_value"]) == result.p_value
    assert row["q_value"] == ""


def test_csv_rows_end_as_rfc_4180_says_whatever_the_names_hold() -> None:
    written = write_all(OutputFormat.CSV, [scored(name) for name in HOSTILE_NAMES])
    assert written.count(b"\r\n") == written.count(b"\n") == 1 + len(HOSTILE_NAMES)


def test_the_digest_of_a_jsonl_report_can_be_taken_with_grep_and_sha256sum() -> None:
    lines = write_all(OutputFormat.JSONL, RESULTS).splitlines(keepends=True)
    kept = b"".join(line for line in lines if line.startswith(b'{"type":"result"'))
    assert hashlib.sha256(kept).digest() == hashlib.sha256(b"".join(map(result_line, RESULTS))).digest()


@pytest.mark.parametrize("format_", [OutputFormat.JSONL, OutputFormat.JSON, OutputFormat.CSV])
def test_a_result_is_on_the_disk_as_soon_as_it_is_written(format_: OutputFormat, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as stream:
        writer = WRITERS[format_](stream, None)
        writer.begin(RUN, DETECTOR)
        writer.write(scored("faces/early.jpg"))
        assert b"faces/early.jpg" in path.read_bytes()


def test_every_result_of_a_killed_json_run_can_be_read_line_by_line() -> None:
    stream = io.BytesIO()
    writer = WRITERS[OutputFormat.JSON](stream, None)
    writer.begin(RUN, DETECTOR)
    for result in RESULTS:
        writer.write(result)
    _, _, *lines = stream.getvalue().splitlines()
    assert [result_from_json(json.loads(line.rstrip(b","))) for line in lines] == RESULTS


@pytest.mark.parametrize("format_", list(OutputFormat))
def test_memory_does_not_grow_with_the_number_of_results(format_: OutputFormat) -> None:
    writer = WRITERS[format_](cast(BinaryIO, Hose()), None)
    writer.begin(RUN, DETECTOR)
    results = [scored(flagged=True), unreadable()]
    tracemalloc.start()
    for number in range(4_000):
        writer.write(results[number % 2])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    writer.end(FINISHED, SUMMARY)
    assert peak < 2 * 2**20


@pytest.mark.parametrize("format_", list(OutputFormat))
def test_a_writer_leaves_its_stream_open(format_: OutputFormat) -> None:
    stream = io.BytesIO()
    writer = WRITERS[format_](stream, None)
    writer.begin(RUN, DETECTOR)
    del writer
    assert not stream.closed


@pytest.mark.parametrize("format_", [OutputFormat.TABLE, OutputFormat.JSON, OutputFormat.JSONL, OutputFormat.CSV])
def test_an_unknown_field_is_refused_with_the_legal_ones(format_: OutputFormat) -> None:
    with pytest.raises(BadSpec, match=r"--fields is colour: it must be among path, sha256, .*, error"):
        WRITERS[format_](io.BytesIO(), ("path", "colour"))
    with pytest.raises(BadSpec, match="once"):
        WRITERS[format_](io.BytesIO(), ("path", "path"))
    with pytest.raises(BadSpec, match="empty"):
        WRITERS[format_](io.BytesIO(), ())


def test_sarif_takes_no_fields() -> None:
    with pytest.raises(BadSpec, match="sarif"):
        WRITERS[OutputFormat.SARIF](io.BytesIO(), ("path",))


def test_fields_choose_columns_and_their_order() -> None:
    table = write_all(OutputFormat.TABLE, RESULTS, ("path", "error")).decode().splitlines()
    assert table[0].split() == ["PATH", "ERROR"]
    assert table[3].split()[:2] == ["faces/broken.jpg", "truncated:"]
    assert write_all(OutputFormat.CSV, RESULTS, ("error", "path")).splitlines()[0] == b"error_code,error_message,path"


def test_a_table_says_why_an_input_could_not_be_read() -> None:
    line = write_all(OutputFormat.TABLE, [unreadable()]).decode().splitlines()[1]
    assert line.split(maxsplit=1)[0] == "unreadable"
    assert line.endswith("faces/broken.jpg  (truncated: the file ends inside the picture)")


def test_a_table_that_is_no_terminal_has_no_colours() -> None:
    assert b"\x1b" not in write_all(OutputFormat.TABLE, RESULTS)


def test_sarif_is_valid_with_hostile_names_and_without_results() -> None:
    for results in ([], RESULTS, [scored(name, flagged=True) for name in HOSTILE_NAMES if name]):
        SARIF.validate(json.loads(write_all(OutputFormat.SARIF, results)))


def test_sarif_lists_the_flagged_as_results_and_the_unreadable_as_notifications() -> None:
    (run,) = json.loads(write_all(OutputFormat.SARIF, RESULTS))["runs"]
    assert [item["ruleId"] for item in run["results"]] == ["synthetic-face-high", "synthetic-face-low"]
    rules = run["tool"]["driver"]["rules"]
    assert all(rules[item["ruleIndex"]]["id"] == item["ruleId"] for item in run["results"])
    (notice,) = run["invocations"][0]["toolExecutionNotifications"]
    assert notice["descriptor"]["id"] == "truncated"
    assert run["properties"]["summary"]["inputs"] == SUMMARY.inputs


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
