"""Reports read back: a JSON-lines file that a run was killed in, and any report that is to be verified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from muflow_cli.errors import BadReport, MuflowError
from muflow_cli.output.encode import (
    SCHEMA,
    checked_line,
    detector_from_json,
    line,
    result_from_json,
    result_line,
    run_from_json,
    summary_from_json,
)
from muflow_cli.records import DetectorInfo, Result, RunInfo, Summary

_EARLIER: Final = "muflow.scan/1"


class UnusableReport(BadReport):
    """A file that is not a whole report of this schema.

    Attributes:
        why: completes "it ...", as in "is not a whole report".
    """

    def __init__(self, path: Path, why: str, remedy: str) -> None:
        # Not BadReport's own: its remedy does not help with a report of another version.
        MuflowError.__init__(self, f"{path} {why}", remedy)
        self.why = why


def _check_schema(path: Path, value: Mapping[str, Any] | None, kind: str) -> Mapping[str, Any]:
    """`value` where it is a whole object of this schema."""
    if value is not None and value.get("schema") == _EARLIER:
        why = f"was written by an earlier muflow (schema {_EARLIER})"
        raise UnusableReport(path, why, "read it with the muflow that wrote it, or scan the files again")
    if value is None or value.get("schema") != SCHEMA or "fields" in value:
        raise _foreign(path, kind)
    return value


def _foreign(path: Path, kind: str) -> UnusableReport:
    remedy = "give a json or jsonl report as muflow wrote it, without --fields"
    return UnusableReport(path, f"is not a whole {SCHEMA} {kind}", remedy)


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a JSON-lines report."""

    run: RunInfo
    detector: DetectorInfo


def read_head(path: Path) -> Head | None:
    """The head of the JSON-lines report at `path`; None where the file is missing, empty or torn in its first line.

    Raises:
        BadReport: where the file is something else, or holds a selection of fields.
    """
    try:
        with path.open("rb") as file:
            first = file.readline()
    except FileNotFoundError:
        return None
    if not first.endswith(b"\n"):
        # Only a head that this program began may be written over.
        start = line({"type": "run", "schema": SCHEMA})[:-2]
        if not (first.startswith(start) or start.startswith(first)):
            raise _foreign(path, "JSON-lines report")
        return None
    value = _check_schema(path, _object(first), "JSON-lines report")
    if value.get("type") != "run":
        raise _foreign(path, "JSON-lines report")
    return Head(run_from_json(value.get("run")), detector_from_json(value.get("detector")))


def read_results(file: BinaryIO, key: bytes | None) -> Iterator[tuple[int, Result]]:
    """(offset after its line, result) of every whole result after the head; ends at the first line that is none.

    Args:
        file: the JSON-lines report.
        key: `line_key` of its head; None = lines need not have their check.
    """
    file.seek(0)
    offset = len(file.readline())
    for raw in file:
        offset += len(raw)
        result = _checked(raw, key)
        if result is None:
            return
        yield offset, result


def read_good_results(path: Path, key: bytes) -> tuple[list[Result], int]:
    """Every result whose line is whole and has its check, and the number of the other lines that say they are results.

    Arguments as `read_results`.
    """
    results, bad = [], 0
    with path.open("rb") as file:
        file.readline()
        for raw in file:
            result = _checked(raw, key)
            if result is not None:
                results.append(result)
            elif raw.endswith(b"\n") and not raw.startswith(b'{"type":"summary"'):
                bad += 1
    return results, bad


def _checked(raw: bytes, key: bytes | None) -> Result | None:
    """The result on a line, if it is what this program writes."""
    value = _object(raw) if raw.endswith(b"\n") else None
    if value is None or value.get("type") != "result":
        return None
    try:
        result = result_from_json(value)
    except BadReport:
        return None
    return result if key is None or checked_line(result, key) == raw else None


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different; of two equal ones, programs disagree on which counts."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError
    return value


@dataclass(frozen=True, slots=True)
class Report:
    """A report read back whole; `summary` is None where the run did not end."""

    run: RunInfo
    detector: DetectorInfo
    results: tuple[Result, ...]
    summary: Summary | None


def read_report(path: Path) -> Report:
    """The JSON or JSON-lines report at `path`.

    Raises:
        BadReport: where it is not a report of this schema, or was written with `--fields`.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise BadReport(f"{path} is not a file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadReport(f"cannot read {path} ({error.strerror})") from None
    whole = _object(data)
    if whole is not None and "results" in whole:
        _check_schema(path, whole, "report")
        if not isinstance(whole["results"], list):
            raise _foreign(path, "report")
        return Report(
            run_from_json(whole.get("run")),
            detector_from_json(whole.get("detector")),
            tuple(map(result_from_json, whole["results"])),
            summary_from_json(whole.get("summary")),
        )
    head = read_head(path)
    if head is None:
        raise BadReport(f"{path} does not hold a report")
    with path.open("rb") as file:
        results = list(read_results(file, None))  # what was edited is named by the digest over all results
        file.seek(results[-1][0] if results else len(data.split(b"\n", 1)[0]) + 1)
        rest = file.read()
    last = _object(rest)
    if rest and (last is None or last.get("type") != "summary"):
        raise BadReport(f"{path} is damaged after its result number {len(results)} and cannot be trusted")
    summary = None if last is None else summary_from_json(last.get("summary"))
    return Report(head.run, head.detector, tuple(result for _, result in results), summary)


class ResultsDigest:
    """SHA-256 over the canonical lines of all results of a run, in order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, result: Result) -> None:
        """Take in one result."""
        self._digest.update(result_line(result))

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._digest.hexdigest()
