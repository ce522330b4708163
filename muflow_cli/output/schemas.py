"""JSON schemas of the reports, generated from the records. `python -m muflow_cli.output.schemas` writes the files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import msgspec

from muflow_cli.clip_records import ClipFacts
from muflow_cli.files import write_whole
from muflow_cli.output.aliases import ALIASES
from muflow_cli.output.encode import FIELDS, NO_FACE_FIELDS, SCHEMA, SCORED_FIELDS, UNJUDGED_FIELDS
from muflow_cli.records import NO_FACE, NOT_JUDGED, NoFace, Scored, Unjudged, Unreadable
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary

FOLDER: Final = Path(__file__).parent / "schemas"

Schema = dict[str, Any]

_RESULTS: Final = ("Scored", "Unjudged", "NoFace", "Unreadable")

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_HASH: Final = {"pattern": "^[0-9a-f]{64}$"}
_TIME: Final = {
    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]+)?(Z|\\+00:00)$",
    "description": "UTC, ISO 8601.",
}
_SHARE: Final = {"minimum": 0, "maximum": 1}
_SILHOUETTE: Final = {"minimum": -1, "maximum": 1}

# Record -> fields that a later version added, which are absent where they have no value (`canonical.ADDED`).
_ADDED: Final[Mapping[str, tuple[str, ...]]] = {
    kind.__name__: tuple(field.name for field in fields(kind) if field.metadata.get("added"))
    for kind in (RunInfo, DetectorInfo, Summary, ClipFacts)
}

# What a type does not say: the range of the fields with this name, in every record. Integers are never negative.
_RANGES: Final[Mapping[str, Schema]] = {
    "sha256": _HASH,
    **dict.fromkeys(("head_sha256", "results_sha256", "report_sha256"), _HASH),
    "file_sha256": _HASH,
    "digest": _HASH,
    "started": _TIME,
    "finished": _TIME,
    **dict.fromkeys(("p_value", "q_value", "smallest_p_value", "alpha", "fdr", "level", "prevalence"), _SHARE),
    **dict.fromkeys(("share", "share_at_least", "rate_at_most", "distance"), _SHARE),
    **dict.fromkeys(("value", "low", "high", "overlap"), _SHARE),
    "by_group": _SILHOUETTE,
    "real_against_fake": _SILHOUETTE,
    **{name: {"minimum": 0} for name in ("seconds", "time", "first", "last")},
    "images_per_second": {"minimum": 0},
    "sharpness": {"minimum": 0},
    "missing": _SHARE,
    "width": {"minimum": 1},
    "height": {"minimum": 1},
    "jpeg_quality": {"minimum": 1, "maximum": 100},
    "path": {"description": "As given. A byte that is not UTF-8 is a lone surrogate U+DC80 to U+DCFF (PEP 383)."},
}


def definitions(kinds: Sequence[type]) -> dict[str, Schema]:
    """Class name -> schema of each dataclass or enum that `kinds` consist of: closed, and described.

    Every field is required but those that a later version added.

    Descriptions come from the docstrings; names of schema /1 are added.
    """
    _, components = msgspec.json.schema_components(kinds)
    return {
        name: _closed(name, schema)
        if "properties" in schema
        else {"description": " ".join(schema["description"].split()), "enum": schema["enum"]}
        for name, schema in components.items()
    }


def document_schema(kind: type, title: str) -> Schema:
    """Schema of a document whose JSON is that of one dataclass, nested as the records are."""
    parts = definitions([kind])
    return {"$schema": _DIALECT, "title": title, **parts.pop(kind.__name__), "$defs": parts}


def scan_schema() -> Schema:
    """Schema of the document that `muflow scan --json` writes."""
    properties = {
        "schema": {"const": SCHEMA},
        "fields": _ref("Fields"),
        "detector": _ref("DetectorInfo"),
        "results": {"type": "array"},
        "run": _ref("RunInfo"),
        "summary": _ref("Summary"),
    }
    without_face = {"properties": {"verdict": {"const": NO_FACE}}, "required": ["verdict"]}
    not_judged = {"properties": {"verdict": {"const": NOT_JUDGED}}, "required": ["verdict"]}
    judged = {"if": not_judged, "then": _ref("Unjudged"), "else": _ref("Scored")}
    others = {"if": without_face, "then": _ref("NoFace"), "else": judged}
    result = {"if": {"required": ["error"]}, "then": _ref("Unreadable"), "else": others}
    return {
        "$schema": _DIALECT,
        "title": SCHEMA,
        "description": "Report of one `muflow scan --json`; results are in the order of the inputs.",
        **_object(properties, optional=("fields",)),
        "if": {"required": ["fields"]},
        "then": {"properties": {"results": {"items": _ref("Selected")}}},
        "else": {"properties": {"results": {"items": result}}},
        "$defs": _scan_definitions(),
    }


def scan_line_schema() -> Schema:
    """Schema of one line of a JSON-lines report."""
    parts = _scan_definitions()
    run = {
        "type": {"const": "run"},
        "schema": {"const": SCHEMA},
        "fields": _ref("Fields"),
        "run": _ref("RunInfo"),
        "detector": _ref("DetectorInfo"),
    }
    summary = {
        "type": {"const": "summary"},
        "finished": parts["RunInfo"]["properties"]["finished"],
        "summary": _ref("Summary"),
    }
    lines = {"RunLine": _object(run, optional=("fields",)), "SummaryLine": _object(summary)}
    for name in (*_RESULTS, "Selected"):
        result = parts.pop(name)
        properties = {"type": {"const": "result"}, **result["properties"]}
        required = ["type", *result["required"]]
        if name != "Selected":
            properties["check"] = _CHECK
            required.append("check")
        lines[f"{name}Line"] = {**result, "properties": properties, "required": required}
    return {
        "$schema": _DIALECT,
        "title": f"{SCHEMA}, one line of jsonl",
        "description": (
            "The first line has the type run, the last the type summary, all between the type result. Where the first "
            "line has `fields` (--fields), a result is a SelectedLine."
        ),
        "oneOf": [_ref(name) for name in ("RunLine", *(f"{name}Line" for name in _RESULTS), "SummaryLine")],
        "$defs": {**lines, **parts},
    }


def _scan_definitions() -> dict[str, Schema]:
    parts = definitions([Scored, Unjudged, NoFace, Unreadable, RunInfo, DetectorInfo, Summary])
    scored, unreadable = parts["Scored"]["properties"], parts["Unreadable"]["properties"]
    flagged = {"type": "boolean", "description": "Whether the verdict is `flagged`."}
    facts, without_face = parts.pop("Facts")["properties"], parts["NoFace"]["properties"]
    verdict = {"const": NO_FACE}
    faceless = {**facts, **without_face, "verdict": verdict, "flagged": {"const": False}, "faces": {"maxItems": 0}}
    kept = parts["Unjudged"]["properties"]
    unjudged = {**facts, **kept, "verdict": {"const": NOT_JUDGED}, "flagged": {"const": False}}
    judged = {**facts, **scored, **parts.pop("Judgement")["properties"], "flagged": flagged}
    names = (*SCORED_FIELDS, *ALIASES["Scored"])
    error = _object({name: unreadable.pop(name) for name in ("code", "message")})
    selected = {**{name: judged[name] for name in SCORED_FIELDS}, "error": _ref("Error")}
    selected["calibration"] = {"anyOf": [judged["calibration"], kept["calibration"]]}
    selected["verdict"] = {"anyOf": [judged["verdict"], verdict, unjudged["verdict"]]}
    described = {name: parts[name]["description"] for name in _RESULTS}
    return {
        "Scored": {"description": described["Scored"], **_object({name: judged[name] for name in names})},
        "Unjudged": {
            "description": described["Unjudged"],
            **_object({name: unjudged[name] for name in UNJUDGED_FIELDS}),
        },
        "NoFace": {"description": described["NoFace"], **_object({name: faceless[name] for name in NO_FACE_FIELDS})},
        "Unreadable": {"description": described["Unreadable"], **_object({**unreadable, "error": _ref("Error")})},
        "Selected": {
            "description": "A result with --fields: exactly the selection, null where it has no value.",
            **_object({name: {"anyOf": [part, {"type": "null"}]} for name, part in selected.items()}, FIELDS),
        },
        "Error": {"description": "Why an input could not be scored.", **error},
        "Fields": {
            "description": "The selection of --fields; there only where it was given.",
            "type": "array",
            "items": {"enum": list(FIELDS)},
            "minItems": 1,
            "uniqueItems": True,
        },
        **{name: part for name, part in parts.items() if name not in described},
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _object(properties: Schema, optional: Sequence[str] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _closed(record: str, schema: Schema) -> Schema:
    text, _, attributes = schema.get("description", "").partition("Attributes:")
    described = {
        name: " ".join(description.split()).replace("None", "null")
        for name, description in re.findall(r"^ {8}(\w+): (.*(?:\n {9,}.*)*)", attributes, re.MULTILINE)
    }
    properties: dict[str, Schema] = {}
    for name, part in schema["properties"].items():
        plain = {key: value for key, value in part.items() if key != "default"}
        description = {"description": described[name]} if name in described else {}
        # A range of numbers or a pattern says nothing of other types: null stays allowed where the type allows it.
        properties[name] = {**_counting(plain), **description, **_RANGES.get(name, {})}
    for old, alias in ALIASES.get(record, {}).items():
        note = f"Kept for readers of schema /1; see `{alias.field}`."
        properties[old] = {**properties[alias.field], "description": note}
    return {"description": " ".join(text.split()), **_object(properties, _ADDED.get(record, ()))}


def _counting(part: Any) -> Any:
    """`part` with 0 as the least value of every integer."""
    if isinstance(part, list):
        return [_counting(item) for item in part]
    if not isinstance(part, dict):
        return part
    counted = {key: _counting(value) for key, value in part.items()}
    return {**counted, "minimum": 0} if counted.get("type") == "integer" else counted


def schema_bytes(schema: Schema) -> bytes:
    """A schema as its file holds it."""
    return json.dumps(schema, indent=1, ensure_ascii=True).encode() + b"\n"


_CHECK: Final[Schema] = {
    "type": "string",
    "pattern": "^[0-9a-f]{16}$",
    "description": "Start of a SHA-256 over what decides the run's verdicts and the line without this key.",
}

SCHEMAS: Final = {"scan-2.json": scan_schema, "scan-line-2.json": scan_line_schema}

if __name__ == "__main__":
    for file_name, make in SCHEMAS.items():
        write_whole(FOLDER / file_name, schema_bytes(make()))
