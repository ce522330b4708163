"""The JSON that leaves muflow: its schema, and the exact way back."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_samples import make_report
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from output_samples import DETECTOR, FINISHED, HOSTILE_NAMES, RESULTS, RUN, SUMMARY, scored, unreadable, write_all

from muflow_cli.ablate.schema import ablation_schema
from muflow_cli.bench.records import Throughput
from muflow_cli.bench.schema import bench_schema
from muflow_cli.canonical import from_json
from muflow_cli.errors import BadReport, MuflowError, NotFinite
from muflow_cli.output import encode
from muflow_cli.output.aliases import ALIASES, layers
from muflow_cli.output.schemas import FOLDER, SCHEMAS, scan_line_schema, scan_schema, schema_bytes
from muflow_cli.output.writers import OutputFormat
from muflow_cli.records import CalibrationMatch, Facts, Judgement, Result, Scored, Side, Unreadable, Verdict

SCAN, SCAN_LINE = scan_schema(), scan_line_schema()
DOCUMENT = Draft202012Validator(SCAN)
LINE = Draft202012Validator(SCAN_LINE)
SELECTED_LINE = Draft202012Validator({"$ref": "#/$defs/SelectedLine", "$defs": SCAN_LINE["$defs"]})
BENCH = Draft202012Validator(bench_schema())

names = st.binary(max_size=40).map(os.fsdecode)
numbers = st.floats(allow_nan=False, allow_infinity=False)
probabilities = st.floats(0, 1)
words = st.text(max_size=20).filter(lambda text: not any(0xD800 <= ord(c) <= 0xDFFF for c in text))
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
facts = st.builds(
    Facts, sha256=digests, bytes=st.integers(0, 2**40), format=words, width=st.integers(1, 10**6),
    height=st.integers(1, 10**6), jpeg_quality=st.none() | st.integers(1, 100), sharpness=st.none() | st.floats(0, 255),
)  # fmt: skip  # one argument a line would hide the shape
results: st.SearchStrategy[Result] = st.one_of(
    st.builds(
        Scored, path=names, facts=facts, score=numbers, column_scores=st.lists(numbers, min_size=1).map(tuple),
        duplicate_of=st.none() | names,
        judgement=st.builds(
            Judgement, p_value=probabilities, tail=st.sampled_from(Side), verdict=st.sampled_from(Verdict),
            calibration=st.sampled_from(CalibrationMatch), stratum=st.none() | words,
            atypical_input=st.lists(words).map(tuple), heaviest=st.none() | words, q_value=st.none() | probabilities,
        ),
    ),
    st.builds(Unreadable, path=names, code=words, message=words, sha256=st.none() | digests,
              bytes=st.none() | st.integers(0, 2**40)),
)  # fmt: skip  # the same


def every_object(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if value.get("type") == "object":
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from every_object(item)


@given(result=results)
def test_a_result_survives_its_line_exactly(result: Result) -> None:
    written = encode.result_line(result)
    back = encode.result_from_json(json.loads(written))
    assert back == result
    assert os.fsencode(back.path) == os.fsencode(result.path)
    assert encode.result_line(back) == written


@given(result=results)
def test_a_line_is_one_line_of_ascii_that_its_schema_accepts(result: Result) -> None:
    written = encode.checked_line(result, b"")
    assert written.isascii()
    assert written.count(b"\n") == 1
    assert written.endswith(b"\n")
    LINE.validate(json.loads(written))


def test_run_detector_and_summary_survive_json() -> None:
    for record, there, back in [
        (FINISHED, encode.run_to_json, encode.run_from_json),
        (DETECTOR, encode.detector_to_json, encode.detector_from_json),
        (SUMMARY, encode.summary_to_json, encode.summary_from_json),
    ]:
        assert back(json.loads(json.dumps(there(record)))) == record  # type: ignore[operator]  # each pair fits its record


def test_case_and_examiner_stand_in_a_report_where_they_were_given_and_nowhere_else() -> None:
    assert not {"case", "examiner"} & encode.run_to_json(FINISHED).keys()
    named = dataclasses.replace(FINISHED, case="2026/17", examiner="N. N.")
    document = json.loads(write_all(OutputFormat.JSON, RESULTS))
    document["run"] = encode.run_to_json(named)
    assert (document["run"]["case"], document["run"]["examiner"]) == ("2026/17", "N. N.")
    DOCUMENT.validate(document)
    assert encode.run_from_json(document["run"]) == named
    with pytest.raises(BadReport):
        encode.run_from_json({**encode.run_to_json(FINISHED), "case": None})


def test_every_schema_is_a_schema_and_strict_everywhere() -> None:
    for schema in (SCAN, SCAN_LINE, bench_schema()):
        Draft202012Validator.check_schema(schema)
        for part in every_object(schema):
            assert "additionalProperties" in part, part


def test_every_field_is_described_in_the_schema_and_no_other() -> None:
    definitions = SCAN["$defs"]
    assert tuple(definitions["Selected"]["properties"]) == encode.FIELDS
    assert definitions["Scored"]["required"] == [*encode.SCORED_FIELDS, "scale_scores"]


def test_a_whole_document_is_valid_and_in_the_order_of_the_inputs() -> None:
    document = json.loads(write_all(OutputFormat.JSON, RESULTS))
    DOCUMENT.validate(document)
    assert document["schema"] == encode.SCHEMA
    assert [encode.result_from_json(item) for item in document["results"]] == RESULTS
    assert encode.run_from_json(document["run"]) == FINISHED
    assert encode.summary_from_json(document["summary"]) == SUMMARY


def test_an_empty_document_is_valid() -> None:
    document = json.loads(write_all(OutputFormat.JSON, []))
    DOCUMENT.validate(document)
    assert document["results"] == []


def test_every_jsonl_line_is_valid() -> None:
    lines = [json.loads(line) for line in write_all(OutputFormat.JSONL, RESULTS).splitlines()]
    for line in lines:
        LINE.validate(line)
    assert [line["type"] for line in lines] == ["run", *["result"] * len(RESULTS), "summary"]
    assert encode.run_from_json(lines[0]["run"]) == RUN
    assert lines[-1]["finished"] == FINISHED.finished


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_only_data(name: str) -> None:
    document = json.loads(write_all(OutputFormat.JSON, [scored(name), unreadable(name)]))
    DOCUMENT.validate(document)
    assert [item["path"] for item in document["results"]] == [name, name]


def test_a_selection_is_valid_names_itself_and_holds_exactly_its_fields() -> None:
    selection = ("score", "path", "error")
    document = json.loads(write_all(OutputFormat.JSON, RESULTS, selection))
    DOCUMENT.validate(document)
    assert document["fields"] == list(selection)
    assert all(tuple(item) == selection for item in document["results"])
    run, *lines, _ = map(json.loads, write_all(OutputFormat.JSONL, RESULTS, selection).splitlines())
    LINE.validate(run)
    assert run["fields"] == list(selection)
    for line in lines:
        SELECTED_LINE.validate(line)


def test_a_document_without_its_selection_must_be_whole() -> None:
    document = json.loads(write_all(OutputFormat.JSON, RESULTS, ("path", "score")))
    del document["fields"]
    assert not DOCUMENT.is_valid(document)


@pytest.mark.parametrize("place", ["top", "run", "detector", "summary", "result"])
def test_a_key_that_the_schema_does_not_know_is_refused(place: str) -> None:
    document = json.loads(write_all(OutputFormat.JSON, RESULTS))
    part = {"top": document, "result": document["results"][0]}.get(place) or document[place]
    part["surprise"] = 1
    assert not DOCUMENT.is_valid(document)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
# A table of groups and JUnit hold no score.
@pytest.mark.parametrize("format_", [f for f in OutputFormat if f not in (OutputFormat.GROUPS, OutputFormat.JUNIT)])
def test_no_format_writes_a_number_that_is_none(format_: OutputFormat, value: float) -> None:
    with pytest.raises(NotFinite, match=r"score of 'x\\udcff.jpg'"):
        write_all(format_, [scored("x\udcff.jpg", score=value, verdict=Verdict.FLAGGED)])
    with pytest.raises(NotFinite, match="column_scores"):
        write_all(format_, [scored(column_scores=(0.0, value), verdict=Verdict.FLAGGED)])


def test_a_summary_with_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(NotFinite, match="images_per_second of the summary"):
        encode.summary_to_json(dataclasses.replace(SUMMARY, images_per_second=math.inf))


@pytest.mark.parametrize(
    "damage",
    [
        lambda item: item.pop("path"),
        lambda item: item.pop("sha256"),
        lambda item: item.pop("score"),
        lambda item: item.pop("column_scores"),
        lambda item: item.update(surprise=1),
        lambda item: item.update(error={"code": "x"}),
        lambda item: item.update(error="x"),
        lambda item: item.update(path=5),
        lambda item: item.update(score="high"),
        lambda item: item.update(flagged=0),
        lambda item: item.update(flagged=True),
        lambda item: item.update(scale_scores=[1.0]),
        lambda item: item.pop("scale_scores"),
        lambda item: item.update(score=1e999),
    ],
)
def test_a_result_that_is_not_whole_is_refused_in_one_sentence(damage: Any) -> None:
    item = encode.result_to_json(RESULTS[0])
    damage(item)
    with pytest.raises(MuflowError):
        encode.result_from_json(item)


def test_a_foreign_run_is_refused() -> None:
    with pytest.raises(BadReport, match="a whole run"):
        encode.run_from_json({"tool": "muflow"})
    with pytest.raises(BadReport, match="a whole summary"):
        encode.summary_from_json({**encode.summary_to_json(SUMMARY), "surprise": 1})


@pytest.mark.parametrize("name", [*SCHEMAS, "bench-2.json"])
def test_a_shipped_schema_is_the_generated_one(name: str) -> None:
    make, module = (SCHEMAS[name], "output.schemas") if name in SCHEMAS else (bench_schema, "bench.schema")
    assert (FOLDER / name).read_bytes() == schema_bytes(make()), f"run: python -m muflow_cli.{module}"


def test_no_other_schema_is_shipped() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*SCHEMAS, "bench-2.json", "ablation-1.json"}


GOLDEN = Path(__file__).parent / "golden"


def test_a_reader_of_schema_1_finds_every_name_of_a_scan() -> None:
    document = json.loads(write_all(OutputFormat.JSON, RESULTS))
    assert document.keys() == {"schema", "detector", "results", "run", "summary"}
    parts = {**document, "result": document["results"][0], "unreadable": document["results"][2]}
    names = [name.split(".") for name in (GOLDEN / "scan-1-names.txt").read_text().split()]
    assert [(part, name) for part, name in names if name not in parts[part]] == []
    first = document["results"][0]
    assert first["scale_scores"] == first["column_scores"]
    assert document["detector"]["scales"] == ["layer2", "layer3"]
    assert document["detector"]["calibration_pictures"] == DETECTOR.calibration_images


def test_columns_of_several_branches_keep_their_branch_in_the_old_name() -> None:
    assert layers(["main/layer2", "main/layer3"]) == ["layer2", "layer3"]
    assert layers(["main/layer3", "forensic/residual"]) == ["main/layer3", "forensic/residual"]
    assert layers(["layer2"]) == ["layer2"]


# Every path of schema /1 of a benchmark; * stands for a name in the data or an element of a list.
BENCH_1 = (GOLDEN / "bench-1-names.txt").read_text().split()


def test_a_reader_of_schema_1_finds_every_name_of_a_benchmark() -> None:
    there = set(paths(bench_schema(), bench_schema()["$defs"]))
    # Ablations have moved to a document of their own, which keeps their names.
    there |= {"ablation"} | {f"ablation.{name}" for name in paths(ablation_schema(), ablation_schema()["$defs"])}
    assert [name for name in BENCH_1 if name not in there] == []


def paths(part: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Path of every property that a schema describes."""
    if "$ref" in part:
        yield from paths(definitions[part["$ref"].rpartition("/")[2]], definitions, prefix)
    for choice in part.get("anyOf", []):
        yield from paths(choice, definitions, prefix)
    for name, child in part.get("properties", {}).items():
        yield prefix + name
        yield from paths(child, definitions, f"{prefix}{name}.")
    for child in (part.get("items"), part.get("additionalProperties")):
        if isinstance(child, dict):
            yield from paths(child, definitions, f"{prefix}*.")


def test_aliases_repeat_fields_of_records_that_exist() -> None:
    definitions = {**SCAN["$defs"], **bench_schema()["$defs"], **ablation_schema()["$defs"]}
    for record, aliases in ALIASES.items():
        for old, alias in aliases.items():
            assert {old, alias.field} <= definitions[record]["properties"].keys()


def test_a_whole_benchmark_is_valid_and_survives_its_records() -> None:
    report = make_report()
    BENCH.validate(report)
    speed = encode.to_object(from_json(Throughput, THROUGHPUT), "the benchmark")
    report["run"] = {**report["run"], "throughput": speed}
    BENCH.validate(report)
    assert report["run"]["throughput"]["pictures"] == 64


THROUGHPUT: dict[str, Any] = {
    "images": 64, "views": 64, "rounds": 5, "device": "cpu", "precision": "fp32", "threads": 2, "workers": 2,
    "end_to_end_per_second": 10.0, "read_decode_cut_per_second": 20.0, "encode_per_second": 15.0,
    "encode_flow_target_per_second": 12.0, "first_result_seconds": 0.5, "peak_memory_bytes": 10**9,
    "bundle_bytes": 10**7, "flops_per_view": 10**9,
}  # fmt: skip  # a fixed block


def test_no_sentence_of_the_output_room_has_two_colons() -> None:
    room = Path(encode.__file__).parent
    for module in (*room.glob("*.py"), room.parent / "scan" / "resume.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                for argument in node.exc.args:
                    text = "".join(
                        part.value
                        for part in ast.walk(argument)
                        if isinstance(part, ast.Constant) and isinstance(part.value, str)
                    )
                    assert ": " not in text, (module.name, text)
