"""Records <-> JSON (schema "muflow.scan/1"): field names, order and the canonical line that a digest is taken over."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, TypeVar

from muflow_cli.canonical import from_json
from muflow_cli.errors import BadReport, BadSpec, NotFinite
from muflow_cli.records import DetectorInfo, Facts, Result, RunInfo, Scored, Summary, Unreadable

SCHEMA: Final = "muflow.scan/1"

_FACTS: Final = tuple(f.name for f in fields(Facts))
_VERDICT: Final = tuple(f.name for f in fields(Scored) if f.name not in {"path", "facts"})

# The stable names, in the order in which every format shows them.
FIELDS: Final[tuple[str, ...]] = ("path", *_FACTS, *_VERDICT, "error")

_Record = TypeVar("_Record")


def check_fields(selection: Sequence[str] | None) -> None:
    """Refuse a `--fields` selection with a name that is not in FIELDS, a name twice, or nothing.

    Raises:
        BadSpec: naming the legal fields.
    """
    if selection is None:
        return
    unknown = [name for name in selection if name not in FIELDS]
    if unknown or not selection:
        raise BadSpec("--fields", ",".join(unknown) or "empty", f"among {', '.join(FIELDS)}")
    if len(set(selection)) < len(selection):
        raise BadSpec("--fields", ",".join(selection), "a list that names each field once")


def _plain(value: object, what: str) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise NotFinite(f"{what} is {value}, which no report may hold: the detector is at fault, fit it again")
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key], what) for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [_plain(item, what) for item in value]
    return value


def _record_to_json(record: object, names: Sequence[str], owner: str) -> dict[str, object]:
    return {name: _plain(getattr(record, name), f"{name} of {owner}") for name in names}


def _all_names(record: RunInfo | DetectorInfo | Summary) -> tuple[str, ...]:
    return tuple(f.name for f in fields(record))


def run_to_json(run: RunInfo) -> dict[str, object]:
    """The run's head; `finished` is null until it has ended."""
    return _record_to_json(run, _all_names(run), "the run")


def detector_to_json(detector: DetectorInfo) -> dict[str, object]:
    """The detector as a report names it."""
    return _record_to_json(detector, _all_names(detector), "the detector")


def summary_to_json(summary: Summary) -> dict[str, object]:
    """The counts of a run.

    Raises:
        NotFinite: where a rate is not a number.
    """
    return _record_to_json(summary, _all_names(summary), "the summary")


def result_to_json(result: Result) -> dict[str, object]:
    """One result as an object: every field of its kind is present, null where there is nothing to say.

    Raises:
        NotFinite: where a score or p-value is NaN or infinite; the sentence names the picture.
    """
    # An escape of the name would be wrong here: this is a sentence for a terminal, ascii() keeps it inert.
    owner = ascii(result.path)
    if isinstance(result, Unreadable):
        head = _record_to_json(result, ("path", "sha256", "bytes"), owner)
        return {**head, "error": {"code": result.code, "message": result.message}}
    facts = _record_to_json(result.facts, _FACTS, owner)
    return {"path": result.path, **facts, **_record_to_json(result, _VERDICT, owner)}


def select(value: Mapping[str, object], selection: Sequence[str] | None) -> dict[str, object]:
    """The chosen fields of a result's object in the chosen order, null where the result has none; None = as it is."""
    return dict(value) if selection is None else {name: value.get(name) for name in selection}


def _restore(kind: type[_Record], value: Mapping[str, Any]) -> _Record:
    try:
        return from_json(kind, value)
    except (TypeError, ValueError, KeyError) as error:
        raise BadReport(f"the report holds no whole {kind.__name__} of this version ({error})") from None


def run_from_json(value: Mapping[str, Any]) -> RunInfo:
    """Inverse of `run_to_json`; BadReport where it is none."""
    return _restore(RunInfo, value)


def detector_from_json(value: Mapping[str, Any]) -> DetectorInfo:
    """Inverse of `detector_to_json`; BadReport where it is none."""
    return _restore(DetectorInfo, value)


def summary_from_json(value: Mapping[str, Any]) -> Summary:
    """Inverse of `summary_to_json`; BadReport where it is none."""
    return _restore(Summary, value)


def result_from_json(value: Mapping[str, Any]) -> Result:
    """Inverse of `result_to_json`, exact to the last bit; a `type` key (jsonl) is allowed.

    Raises:
        BadReport: where the object is not a whole result of this schema.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("path"), str):
        raise BadReport("a result without a path")
    body = {key: item for key, item in value.items() if key != "type"}
    return _unreadable_from(body) if "error" in body else _scored_from(body)


def _unreadable_from(body: Mapping[str, Any]) -> Unreadable:
    error = body["error"]
    if not isinstance(error, Mapping) or set(error) != {"code", "message"}:
        raise BadReport(f"the error of {body['path']!a} lacks its code or message")
    rest = {key: item for key, item in body.items() if key != "error"}
    return _restore(Unreadable, {**rest, **error})


def _scored_from(body: Mapping[str, Any]) -> Scored:
    facts = {key: item for key, item in body.items() if key in _FACTS}
    rest = {key: item for key, item in body.items() if key not in _FACTS}
    result = _restore(Scored, {**rest, "facts": facts})
    result_to_json(result)  # raises NotFinite: JSON readers take 1e999 for infinity
    return result


def line(value: Mapping[str, object]) -> bytes:
    """One object on one line: ASCII, no spaces, a newline at the end.

    A byte of a path that is not UTF-8 is the escape of a lone surrogate (`\\udc80` to `\\udcff`, PEP 383), so
    that `os.fsencode` gives back the name's bytes.
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def result_line(result: Result, selection: Sequence[str] | None = None) -> bytes:
    """The canonical line of a result: what jsonl holds and what `results_sha256` is taken over (without selection)."""
    return line({"type": "result", **select(result_to_json(result), selection)})


def run_line(run: RunInfo, detector: DetectorInfo, selection: Sequence[str] | None = None) -> bytes:
    """The first line of a jsonl report; `fields` is there only with a selection."""
    chosen = {} if selection is None else {"fields": list(selection)}
    head = {"type": "run", "schema": SCHEMA, **chosen}
    return line({**head, "run": run_to_json(run), "detector": detector_to_json(detector)})


def summary_line(run: RunInfo, summary: Summary) -> bytes:
    """The last line of a jsonl report: when the run finished, and its counts."""
    return line({"type": "summary", "finished": run.finished, "summary": summary_to_json(summary)})
