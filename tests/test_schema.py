"""The JSON that leaves muflow: its schema, and the exact way back."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from output_samples import DETECTOR, FINISHED, HOSTILE_NAMES, RESULTS, RUN, SUMMARY, scored, unreadable, write_all
from referencing import Registry, Resource

from muflow_cli.errors import BadReport, MuflowError, NotFinite
from muflow_cli.output import encode
from muflow_cli.output.writers import OutputFormat
from muflow_cli.records import Facts, Result, Scored, Unreadable

SCHEMAS = {
    name: json.loads((files("muflow_cli.output") / "schemas" / name).read_text("utf-8"))
    for name in ("scan-1.json", "scan-line-1.json")
}
REGISTRY: Registry[Any] = Registry().with_resources(
    (name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)
DOCUMENT = Draft202012Validator(SCHEMAS["scan-1.json"], registry=REGISTRY)
LINE = Draft202012Validator(SCHEMAS["scan-line-1.json"], registry=REGISTRY)
SELECTED_LINE = Draft202012Validator({"$ref": "scan-line-1.json#/$defs/selected"}, registry=REGISTRY)

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
        Scored, path=names, facts=facts, score=numbers, scale_scores=st.lists(numbers, min_size=1).map(tuple),
        p_value=probabilities, flagged=st.booleans(), tail=st.sampled_from(["high", "low"]),
        verdict=st.sampled_from(["flagged", "not flagged", "inconclusive"]), q_value=st.none() | probabilities,
        duplicate_of=st.none() | names, calibration=words, atypical_input=st.lists(words).map(tuple),
        heaviest=st.none() | words,
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
    written = encode.result_line(result)
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


def test_both_schemas_are_schemas_and_strict_everywhere() -> None:
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
        for part in every_object(schema):
            assert "additionalProperties" in part or "oneOf" in part, part


def test_every_field_is_described_in_the_schema_and_no_other() -> None:
    definitions = SCHEMAS["scan-1.json"]["$defs"]
    assert tuple(definitions["selected"]["properties"]) == encode.FIELDS
    assert definitions["scored"]["required"] == [name for name in encode.FIELDS if name != "error"]


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
@pytest.mark.parametrize("format_", list(OutputFormat))
def test_no_format_writes_a_number_that_is_none(format_: OutputFormat, value: float) -> None:
    with pytest.raises(NotFinite, match=r"score of 'x\\udcff.jpg'"):
        write_all(format_, [scored("x\udcff.jpg", score=value, flagged=True)])
    with pytest.raises(NotFinite, match="scale_scores"):
        write_all(format_, [scored(scale_scores=(0.0, value), flagged=True)])


def test_a_summary_with_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(NotFinite, match="images_per_second of the summary"):
        encode.summary_to_json(dataclasses.replace(SUMMARY, images_per_second=math.inf))


@pytest.mark.parametrize(
    "damage",
    [
        lambda item: item.pop("path"),
        lambda item: item.pop("sha256"),
        lambda item: item.pop("score"),
        lambda item: item.pop("scale_scores"),
        lambda item: item.update(surprise=1),
        lambda item: item.update(error={"code": "x"}),
        lambda item: item.update(error="x"),
        lambda item: item.update(path=5),
        lambda item: item.update(score="high"),
        lambda item: item.update(flagged=0),
        lambda item: item.update(score=1e999),
    ],
)
def test_a_result_that_is_not_whole_is_refused_in_one_sentence(damage: Any) -> None:
    item = encode.result_to_json(RESULTS[0])
    damage(item)
    with pytest.raises(MuflowError):
        encode.result_from_json(item)


def test_a_foreign_run_is_refused() -> None:
    with pytest.raises(BadReport, match="RunInfo"):
        encode.run_from_json({"tool": "muflow"})
    with pytest.raises(BadReport, match="Summary"):
        encode.summary_from_json({**encode.summary_to_json(SUMMARY), "surprise": 1})
