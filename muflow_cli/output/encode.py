"""Records <-> JSON (schema "muflow.scan/2"): field names, order and the canonical line that a digest is taken over."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from muflow_cli.canonical import canonical_json, from_json
from muflow_cli.errors import BadReport, BadSpec, NotFinite
from muflow_cli.output.aliases import ALIASES, aliases_of
from muflow_cli.records import (
    NO_FACE,
    NOT_JUDGED,
    Facts,
    Judgement,
    NoFace,
    Result,
    Scored,
    Unjudged,
    Unreadable,
)
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary

SCHEMA: Final = "muflow.scan/2"

_FACTS: Final = tuple(field.name for field in fields(Facts))
_JUDGEMENT: Final = tuple(field.name for field in fields(Judgement))
# The verdict first, in the order in which people read it; the rest of the judgement as the record has it.
_VERDICT: Final = tuple(dict.fromkeys(("p_value", "flagged", "tail", "verdict", *_JUDGEMENT)))

# Fields of a scored result, and the stable names that `--fields` chooses from, in the order of every format.
SCORED_FIELDS: Final[tuple[str, ...]] = (
    *("path", *_FACTS, "score", "column_scores"),
    *(*_VERDICT, "declared", "duplicate_of", "group", "faces", "faces_left_out", "clip"),
)
# Those of an image without a face.
NO_FACE_FIELDS: Final[tuple[str, ...]] = (
    *("path", *_FACTS, "flagged", "verdict", "declared", "duplicate_of", "faces", "faces_left_out"),
)
# Those of an input that was scored and not judged.
UNJUDGED_FIELDS: Final[tuple[str, ...]] = (
    *("path", *_FACTS, "score", "column_scores", "flagged", "verdict", "calibration"),
    *("declared", "duplicate_of", "clip"),
)
FIELDS: Final[tuple[str, ...]] = (*SCORED_FIELDS, "error")

# Fields that are several columns of a CSV, named field_key.
CSV_PARTS: Final[Mapping[str, tuple[str, ...]]] = {"declared": ("origin", "marks"), "error": ("code", "message")}

_PLAIN: Final = frozenset((str, int, bool, type(None)))

_Record = TypeVar("_Record", RunInfo, DetectorInfo, Summary)


def check_fields(selection: Sequence[str] | None) -> None:
    """Refuse a `--fields` selection that is empty, names a field twice, or names one that is not in FIELDS.

    Raises:
        BadSpec: naming the legal fields.
    """
    if selection is None:
        return
    unknown = [name for name in selection if name not in FIELDS]
    if unknown or not selection:
        raise BadSpec("--fields", ",".join(unknown) or "empty", f"one or several of {', '.join(FIELDS)}")
    if len(set(selection)) < len(selection):
        raise BadSpec("--fields", ",".join(selection), "each field once")


def fields_of(text: str | None) -> tuple[str, ...] | None:
    """The value of `--fields`, in which a column of the CSV stands for its field; None = all.

    Raises:
        BadSpec: as `check_fields`.
    """
    if text is None:
        return None
    owner = {f"{name}_{part}": name for name, parts in CSV_PARTS.items() for part in parts}
    given = text.split(",")
    owner |= {name: "column_scores" for name in given if name.startswith("score_")}
    if len(set(given)) < len(given):
        raise BadSpec("--fields", text, "each field once")
    names = tuple(dict.fromkeys(owner.get(name, name) for name in given))
    check_fields(names)
    return names


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


@cache
def _added_defaults(kind: type) -> Mapping[str, object]:
    """Fields that a later version added (`canonical.ADDED`) -> the default at which they are not written."""
    added = fields(kind) if is_dataclass(kind) else ()
    return {field.name: field.default for field in added if field.metadata.get("added")}


def to_object(value: object, owner: str, name: str = "") -> Any:
    """JSON value of a record or of a part of one; names of schema /1 stand beside those that replaced them.

    Args:
        value: a record, or what a field of one holds.
        owner: whose record it is, for the error.
        name: of the field that holds `value`, for the error.

    Raises:
        NotFinite: where a number is NaN or infinite.
    """
    kind: type[Any] = type(value)
    if kind in _PLAIN or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, float):
        raise NotFinite(f"{name} of {owner} is {value}", "fit the detector again")
    if isinstance(value, tuple | list):
        return [to_object(item, owner, name) for item in value]
    if isinstance(value, Enum):
        return value.value
    if names := _field_names(kind):  # type: ignore[arg-type]  # mypy doubts that a class is hashable
        added = _added_defaults(kind)  # type: ignore[arg-type]  # as above
        written = {name: getattr(value, name) for name in names}
        record = {
            name: to_object(part, owner, name)
            for name, part in written.items()
            if name not in added or part != added[name]
        }
        return record | aliases_of(kind.__name__, record)
    if isinstance(value, Mapping):
        return {str(key): to_object(item, owner, name) for key, item in value.items()}
    return value


def run_to_json(run: RunInfo) -> dict[str, Any]:
    """The head of a run; `finished` is null until it has ended."""
    return dict(to_object(run, "the run"))


def detector_to_json(detector: DetectorInfo) -> dict[str, Any]:
    """The detector as a report names it."""
    return dict(to_object(detector, "the detector"))


def summary_to_json(summary: Summary) -> dict[str, Any]:
    """The counts of a run; NotFinite where a rate is NaN or infinite."""
    return dict(to_object(summary, "the summary"))


def result_to_json(result: Result) -> dict[str, Any]:
    """One result as a flat object that holds every field of its kind, null where there is no value.

    An image without a face has no score, no p-value and nothing else that comes of them.

    Raises:
        NotFinite: where a score or p-value is NaN or infinite; the sentence names the image.
    """
    # Not `escape`: the name stands in a sentence, where ascii() marks its ends and keeps it inert.
    value = to_object(result, ascii(result.path))
    if isinstance(result, Unreadable):
        error = {"code": result.code, "message": result.message}
        return {**{name: value[name] for name in ("path", "sha256", "bytes", "declared")}, "error": error}
    if isinstance(result, Unjudged):
        own = {**value, **value["facts"], "flagged": False, "verdict": NOT_JUDGED}
        return {name: own[name] for name in UNJUDGED_FIELDS}
    if isinstance(result, NoFace):
        own = {**value, **value["facts"], "flagged": False, "verdict": NO_FACE, "faces": []}
        return {name: own[name] for name in NO_FACE_FIELDS}
    flat = {**value, **value["facts"], **value["judgement"], "flagged": result.flagged}
    return {name: flat[name] for name in (*SCORED_FIELDS, *ALIASES["Scored"])}


def select(value: Mapping[str, Any], selection: Sequence[str] | None) -> dict[str, Any]:
    """The chosen fields of a result's object in the chosen order, null where it has none; None = the whole object."""
    return dict(value) if selection is None else {name: value.get(name) for name in selection}


def _from_object(kind: type[_Record], value: object, word: str) -> _Record:
    """The record whose `to_object` is `value`, aliases included."""
    problem = f"the report does not hold a whole {word}"
    if not isinstance(value, Mapping):
        raise BadReport(problem)
    try:
        aliases = ALIASES.get(kind.__name__, {})
        record = from_json(kind, {name: item for name, item in value.items() if name not in aliases})
        if canonical_json(to_object(record, word)) == canonical_json(value):
            return record
    except (TypeError, ValueError, KeyError, NotFinite):
        pass
    raise BadReport(problem)


def run_from_json(value: object) -> RunInfo:
    """Inverse of `run_to_json`; BadReport where `value` is not the head of a run."""
    return _from_object(RunInfo, value, "run")


def detector_from_json(value: object) -> DetectorInfo:
    """Inverse of `detector_to_json`; BadReport where `value` does not describe a detector."""
    return _from_object(DetectorInfo, value, "detector")


def summary_from_json(value: object) -> Summary:
    """Inverse of `summary_to_json`; BadReport where `value` is not a summary."""
    return _from_object(Summary, value, "summary")


def result_from_json(value: object) -> Result:
    """Inverse of `result_to_json`, exact to the last bit; the keys `type` and `check` (jsonl) are allowed.

    Derived fields and aliases must say what the record says, so that nothing in a report can be changed unseen.

    Raises:
        BadReport: where `value` is not a whole result of this schema.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("path"), str):
        raise BadReport("the report holds a result without a path")
    body = {name: item for name, item in value.items() if name not in {"type", "check"}}
    try:
        result: Result
        if "error" in body:
            rest = {name: item for name, item in body.items() if name != "error"}
            result = from_json(Unreadable, {**rest, **body["error"]})
        elif body.get("verdict") == NO_FACE:
            result = from_json(NoFace, _parts(body, _own(NoFace), facts=_FACTS))
        elif body.get("verdict") == NOT_JUDGED:
            result = from_json(Unjudged, _parts(body, _own(Unjudged), facts=_FACTS))
        else:
            result = from_json(Scored, _parts(body, _own(Scored), facts=_FACTS, judgement=_JUDGEMENT))
        # Not by ==, by which 60 is 60.0 and 0 is False: nothing was written here in two ways.
        if canonical_json(result_to_json(result)) == canonical_json(body):
            return result
    except (TypeError, ValueError, KeyError, NotFinite):
        pass
    raise BadReport(f"the report does not hold a whole result for {body['path']!a}")


def _own(kind: type) -> list[str]:
    """Fields of a result that its JSON object holds under their own names."""
    return [name for name in _field_names(kind) if name not in ("facts", "judgement")]


def _parts(body: Mapping[str, Any], own: Sequence[str], **parts: Sequence[str]) -> dict[str, Any]:
    """The nested form of a flat object: the fields in `own`, and each part with its fields."""
    nested = {part: {name: body[name] for name in names} for part, names in parts.items()}
    return {name: body[name] for name in own} | nested


def line(value: Mapping[str, Any]) -> bytes:
    """One object on one line: ASCII, no spaces, a newline at the end.

    A byte of a path that is not UTF-8 is the escape of a lone surrogate (`\\udc80` to `\\udcff`, PEP 383), so
    that `os.fsencode` gives back the name's bytes.
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def result_line(result: Result, selection: Sequence[str] | None = None) -> bytes:
    """The canonical line of a result: what `results_sha256` is taken over (without selection)."""
    return line({"type": "result", **select(result_to_json(result), selection)})


def line_key(run: RunInfo, detector: DetectorInfo) -> bytes:
    """What the check of each line is taken with: everything that decides the scores and verdicts of a run."""
    own = detector_to_json(replace(detector, path=""))
    names = ("device", "precision", "versions", "options")
    return line({"schema": SCHEMA, "detector": own, **{name: getattr(run, name) for name in names}})


def checked_line(result: Result, key: bytes) -> bytes:
    """The line of a result in a whole jsonl report: `result_line` with its check."""
    return with_check(result_line(result), key)


def with_check(plain: bytes, key: bytes) -> bytes:
    """A line with `check` at its end: the start of a SHA-256 over `key` and the line.

    It shows a rotten digit, a line that was edited and a line that was computed otherwise; whoever knows this function
    can write it, so it is no signature.

    Args:
        plain: as `line` writes it.
        key: what decides the values on the line.
    """
    check = hashlib.sha256(key + plain).hexdigest()[:16]
    return plain[:-2] + f',"check":"{check}"}}\n'.encode()


def mismatch_note(count: int, kind: str, source: str, path: Path) -> str:
    """The sentence on lines whose check does not match.

    Args:
        count: of the lines, at least 1.
        kind: what a line holds, in the singular.
        source: what that is computed from, in the singular.
        path: of the file.
    """
    what, so = (f"1 {kind} does", f"its {source} is") if count == 1 else (f"{count} {kind}s do", f"their {source}s are")
    return f"{what} not match the check in {path}, so {so} scored again"


def run_line(run: RunInfo, detector: DetectorInfo, selection: Sequence[str] | None = None) -> bytes:
    """The first line of a jsonl report; `fields` is there only with a selection."""
    chosen = {} if selection is None else {"fields": list(selection)}
    head = {"type": "run", "schema": SCHEMA, **chosen}
    return line({**head, "run": run_to_json(run), "detector": detector_to_json(detector)})


def summary_line(run: RunInfo, summary: Summary) -> bytes:
    """The last line of a jsonl report: when the run finished, and its counts."""
    return line({"type": "summary", "finished": run.finished, "summary": summary_to_json(summary)})
