"""Reports read back: a JSON-lines file that a run was killed in, and any report that is to be verified."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from muflow_cli.environment import TIME_FORMAT
from muflow_cli.errors import BadReport, MuflowError
from muflow_cli.output.digests import ResultsDigest, head_digest, report_digest
from muflow_cli.output.encode import (
    SCHEMA,
    checked_line,
    detector_from_json,
    line,
    line_key,
    result_from_json,
    run_from_json,
    run_to_json,
    summary_from_json,
)
from muflow_cli.records import NoFace, Result, Scored, Unjudged, Unreadable
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary

_COUNTED: Final = {Unreadable: "unreadable", Scored: "scored", Unjudged: "unjudged", NoFace: "no_face"}
_EARLIER: Final = "muflow.scan/1"
# No line that is written here comes near: a command line has at most 6 MiB, and a name in ASCII six times its bytes.
_LONGEST_LINE: Final = 64 * 2**20
_LARGEST_DOCUMENT: Final = 2 * 2**30


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
            first = file.readline(_LONGEST_LINE)
    except FileNotFoundError:
        return None
    if not first.endswith(b"\n"):
        # Only a head that this program began may be written over.
        start = line({"type": "run", "schema": SCHEMA})[:-2]
        if not (first.startswith(start) or start.startswith(first)):
            raise _foreign(path, "JSON-lines report")
        return None
    value = _check_schema(path, _object(first), "JSON-lines report")
    if value.get("type") != "run" or value.keys() != {"type", "schema", "run", "detector"}:
        raise _foreign(path, "JSON-lines report")
    head = Head(run_from_json(value.get("run")), detector_from_json(value.get("detector")))
    if head.run.finished is not None:  # the last line says when a run ended, and the digests are over that
        raise _foreign(path, "JSON-lines report")
    return head


def read_results(file: BinaryIO, key: bytes | None) -> Iterator[tuple[int, Result]]:
    """(offset after its line, result) of every whole result after the head; ends at the first line that is none.

    Args:
        file: the JSON-lines report.
        key: `line_key` of its head; None = lines need not have their check.
    """
    file.seek(0)
    offset = len(file.readline())
    for raw in _lines(file):
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
        for raw in _lines(file):
            result = _checked(raw, key)
            if result is not None:
                results.append(result)
            elif raw.endswith(b"\n") and not raw.startswith(b'{"type":"summary"'):
                bad += 1
    return results, bad


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines from here on; what is longer than any line of a report comes in pieces, which are no results."""
    return iter(lambda: file.readline(_LONGEST_LINE), b"")


def _checked(raw: bytes, key: bytes | None) -> Result | None:
    """The result on a line, if it is what this program writes."""
    result = _result(raw)
    return result if result is None or key is None or checked_line(result, key) == raw else None


def _result(raw: bytes) -> Result | None:
    """The result on a line, whatever its check."""
    value = _object(raw) if raw.endswith(b"\n") else None
    if value is None or value.get("type") != "result":
        return None
    try:
        return result_from_json(value)
    except BadReport:
        return None


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


def _is_time(value: object) -> bool:
    """Whether a value is a time as reports give it, UTC to the second."""
    try:
        return isinstance(value, str) and value == datetime.strptime(value, TIME_FORMAT).strftime(TIME_FORMAT)
    except ValueError:
        return False


class ResultLines:
    """The results of a JSON-lines report, read from the file anew each time; no more than one is held in memory.

    Args:
        path: of the report.
        count: number of its results, which must not change while it is used.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._count = path, count

    def __iter__(self) -> Iterator[Result]:
        number = 0
        with self._path.open("rb") as file:
            for number, (_, result) in enumerate(read_results(file, None), start=1):  # noqa: B007 - compared afterwards
                yield result
        if number != self._count:
            why = "was changed while it was read"
            raise UnusableReport(self._path, why, "read it again when nothing writes it")


class Contents:
    """What the results of a report add up to.

    Attributes:
        counts: of `inputs`, `scored`, `flagged` and `unreadable`, named as in a summary.
        digest: over all results.
        unchecked: number of results whose line does not match its check; JSON has no checks.
        first_unchecked: path of the first of them, and its number among the results, from 1.
    """

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.digest = ResultsDigest()
        self.unchecked = 0
        self.first_unchecked = ("", 0)

    def add(self, result: Result, *, checked: bool = True) -> None:
        """Take in one result, and whether its line matches its check."""
        self.digest.add(result)
        kind = next(name for kind, name in _COUNTED.items() if isinstance(result, kind))
        self.counts.update(["inputs", kind, *(["flagged"] if isinstance(result, Scored) and result.flagged else [])])
        if not checked:
            self.unchecked += 1
            if self.unchecked == 1:
                self.first_unchecked = result.path, self.counts["inputs"]


@dataclass(frozen=True, slots=True)
class Report:
    """A report read back whole.

    Attributes:
        run: finished, where the run ended.
        detector: as the report names it.
        results: can be iterated several times.
        contents: what the results add up to.
        summary: None where the run did not end.
    """

    run: RunInfo
    detector: DetectorInfo
    results: Iterable[Result]
    contents: Contents
    summary: Summary | None

    @property
    def was_changed(self) -> bool:
        """Whether a part of a report with an end differs from its digest."""
        if self.summary is None:
            return False
        head, results = head_digest(self.run, self.detector), self.contents.digest.hexdigest()
        said = (self.summary.head_sha256, self.summary.results_sha256, self.summary.report_sha256)
        return (head, results, report_digest(self.summary)) != said


def read_report(path: Path) -> Report:
    """The JSON or JSON-lines report at `path`; the latter line by line, in little memory.

    Raises:
        BadReport: where it is not a report of this schema, or was written with `--fields`.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise BadReport(f"{path} is not a file")
    try:
        with path.open("rb") as file:
            first = _object(file.readline(_LONGEST_LINE))
            if first is not None and first.get("type") == "run":
                return _read_lines(path)
            if path.stat().st_size > _LARGEST_DOCUMENT:
                why = f"is larger than {_LARGEST_DOCUMENT >> 30} GiB, and JSON is read as one piece"
                raise UnusableReport(
                    path, why, "give the JSON-lines report (.jsonl) of the run, which is read in lines"
                )
            file.seek(0)
            return _document(path, _object(file.read()))
    except OSError as error:
        raise BadReport(f"cannot read {path} ({error.strerror})") from None


def _document(path: Path, value: Mapping[str, Any] | None) -> Report:
    whole = _check_schema(path, value, "report")
    if whole.keys() != {"schema", "detector", "results", "run", "summary"} or not isinstance(whole["results"], list):
        raise _foreign(path, "report")
    results, contents = tuple(map(result_from_json, whole["results"])), Contents()
    for result in results:
        contents.add(result)
    run, detector = run_from_json(whole["run"]), detector_from_json(whole["detector"])
    if not _is_time(run.finished):
        raise _foreign(path, "report")
    return Report(run, detector, results, contents, summary_from_json(whole["summary"]))


def _read_lines(path: Path) -> Report:
    head = read_head(path)
    if head is None:
        raise _foreign(path, "JSON-lines report")
    contents, key = Contents(), line_key(head.run, head.detector)
    with path.open("rb") as file:
        end = len(file.readline())
        for raw in _lines(file):
            result = _result(raw)
            if result is None:
                break
            # What was edited is named by the digest over all results, and its line by its check.
            contents.add(result, checked=checked_line(result, key) == raw)
            end += len(raw)
        file.seek(end)
        # No more than there is: `read` sets aside at once what it is asked for.
        rest = file.read(min(_LONGEST_LINE, os.fstat(file.fileno()).st_size - end))
    results = ResultLines(path, contents.counts["inputs"])
    if not rest:
        return Report(head.run, head.detector, results, contents, None)
    last = _object(rest)
    if (
        last is None
        or last.get("type") != "summary"
        or last.keys() != {"type", "finished", "summary"}
        or not _is_time(last["finished"])
    ):
        number = contents.counts["inputs"]
        raise BadReport(f"{path} is damaged after its result number {number} and cannot be trusted")
    run = run_from_json({**run_to_json(head.run), "finished": last["finished"]})
    return Report(run, head.detector, results, contents, summary_from_json(last["summary"]))
