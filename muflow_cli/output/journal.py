"""Reports read back: a JSON-lines file that a run was killed in, and any report that is to be verified."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from muflow_cli.errors import BadReport, CannotResume
from muflow_cli.output.encode import (
    SCHEMA,
    detector_from_json,
    line,
    result_from_json,
    result_line,
    run_from_json,
    run_line,
    summary_from_json,
    summary_line,
)
from muflow_cli.records import DetectorInfo, Result, RunInfo, Scored, Summary


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
        _check_torn_head(path, first)
        return None
    value = _object(first)
    if value is None or value.get("schema") != SCHEMA or value.get("type") != "run" or "fields" in value:
        raise BadReport(f"{path} is not a whole {SCHEMA} JSON-lines report")
    return Head(run_from_json(value["run"]), detector_from_json(value["detector"]))


def _check_torn_head(path: Path, first: bytes) -> None:
    # Only a head that this program began may be written over.
    start = line({"type": "run", "schema": SCHEMA})[:-2]
    if not (first.startswith(start) or start.startswith(first)):
        raise BadReport(f"{path} is not a {SCHEMA} JSON-lines report")


def read_results(file: BinaryIO) -> Iterator[tuple[int, Result]]:
    """(offset after its line, result) of every whole result after the head; ends at a torn or foreign line."""
    file.seek(0)
    offset = len(file.readline())
    for raw in file:
        offset += len(raw)
        value = _object(raw) if raw.endswith(b"\n") else None
        if value is None or value.get("type") != "result":
            return
        try:
            result = result_from_json(value)
        except BadReport:
            return
        yield offset, result


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def resumable(path: Path, run: RunInfo, detector: DetectorInfo) -> dict[str, Scored]:
    """Scored results by content hash that a resumed run need not compute again; none where there is no report.

    Args:
        path: the JSON-lines report that an earlier run began.
        run: of this run.
        detector: of this run.

    Raises:
        CannotResume: where the file is something else, or says that its results came about differently.
    """
    try:
        head = read_head(path)
    except BadReport as error:
        raise CannotResume(str(path), str(error).split(": give")[0]) from None
    if head is None:
        return {}
    differing = _differing(head, run, detector)
    if differing:
        raise CannotResume(str(path), f"it was written with another {', '.join(differing)}")
    return _saved(path, run, detector) | _scored_by_content(path)


def _saved(path: Path, run: RunInfo, detector: DetectorInfo) -> dict[str, Scored]:
    """Results that a resumed run put aside before it was killed."""
    prior = prior_path(path)
    try:
        head = read_head(prior)
    except BadReport:
        return {}
    # The copy may be a leftover of other work under the same name.
    return {} if head is None or _differing(head, run, detector) else _scored_by_content(prior)


def _differing(head: Head, run: RunInfo, detector: DetectorInfo) -> list[str]:
    """Names of what decides a score and is not the same; of versions those of the programs that compute."""
    pairs = {
        "detector": (head.detector.fingerprint, detector.fingerprint),
        "calibration": (head.detector.calibration_fingerprint, detector.calibration_fingerprint),
        "device": (head.run.device, run.device),
        "precision": (head.run.precision, run.precision),
        **{name: (head.run.versions.get(name), number) for name, number in run.versions.items()},
    }
    return [name for name, (before, now) in pairs.items() if before != now]


def _scored_by_content(path: Path) -> dict[str, Scored]:
    with path.open("rb") as file:
        return {r.facts.sha256: r for _, r in read_results(file) if isinstance(r, Scored)}


class ResumedWriter:
    """A JSON-lines writer that leaves alone what an earlier run wrote, as long as it is what this run would write.

    Where a result first differs, the rest of the old file is cut off and this run's lines follow. Before that the
    old results go to `PATH.prior`, so that a second kill loses none of them; that file is removed at the end.

    Args:
        stream: the report, open for reading and writing.
        path: its name.
    """

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self._old: Iterator[tuple[int, Result]] | None = None
        self._end = 0
        self._saved: Callable[[], dict[str, Scored]] = dict

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:
        """Keep the old head where there is a whole one."""
        self._stream.seek(0)
        first = self._stream.readline()
        if first.endswith(b"\n"):
            self._end = len(first)
            self._old = self._lines()
            self._saved = lambda: _saved(self._path, run, detector)
        else:
            self._cut()
            self._put(run_line(run, detector))

    def _lines(self) -> Iterator[tuple[int, Result]]:
        with self._path.open("rb") as file:
            yield from read_results(file)

    def write(self, result: Result) -> None:
        """Write one result, or find it written."""
        if self._old is not None:
            end, old = next(self._old, (0, None))
            if old == result:
                self._end = end
                return
            if old is not None:
                self._save()
            self._cut()
        self._put(result_line(result))

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Write the last line; what was put aside is no longer needed."""
        if self._old is not None:
            self._cut()
        self._put(summary_line(run, summary))
        prior_path(self._path).unlink(missing_ok=True)

    def _save(self) -> None:
        """Put aside every result there is, those put aside before included."""
        prior = prior_path(self._path)
        part = prior.with_name(prior.name + ".part")
        known = self._saved() | _scored_by_content(self._path)
        with part.open("wb") as file, self._path.open("rb") as old:
            file.write(old.readline())
            file.writelines(map(result_line, known.values()))
            file.flush()
            os.fsync(file.fileno())
        part.replace(prior)

    def _cut(self) -> None:
        """From here on the file is this run's."""
        self._old = None
        self._stream.truncate(self._end)
        self._stream.seek(self._end)

    def _put(self, written: bytes) -> None:
        self._stream.write(written)
        self._stream.flush()


def prior_path(path: Path) -> Path:
    """Where a resumed run keeps the results that it found."""
    return path.with_name(path.name + ".prior")


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


@dataclass(frozen=True, slots=True)
class Report:
    """A report read back whole."""

    run: RunInfo
    detector: DetectorInfo
    results: tuple[Result, ...]
    summary: Summary | None


def read_report(path: Path) -> Report:
    """The JSON or JSON-lines report at `path`; `summary` is None where the run did not end.

    Raises:
        BadReport: where it is no report of this schema, or was written with `--fields`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadReport(f"cannot read {path} ({error.strerror})") from None
    whole = _object(data)
    if whole is not None and "results" in whole:
        return _from_document(path, whole)
    head = read_head(path)
    if head is None:
        raise BadReport(f"{path} holds no report")
    with path.open("rb") as file:
        found = list(read_results(file))
        file.seek(found[-1][0] if found else len(data.split(b"\n", 1)[0]) + 1)
        rest = file.read()
    last = _object(rest)
    if rest and (last is None or last.get("type") != "summary"):
        raise BadReport(f"{path} is damaged after its result number {len(found)} and cannot be trusted")
    summary = None if last is None else summary_from_json(last["summary"])
    return Report(head.run, head.detector, tuple(result for _, result in found), summary)


def _from_document(path: Path, whole: dict[str, Any]) -> Report:
    if whole.get("schema") != SCHEMA or "fields" in whole:
        raise BadReport(f"{path} is not a whole {SCHEMA} report")
    try:
        results = tuple(result_from_json(value) for value in whole["results"])
        return Report(
            run_from_json(whole["run"]),
            detector_from_json(whole["detector"]),
            results,
            summary_from_json(whole["summary"]),
        )
    except KeyError as error:
        raise BadReport(f"{path} lacks {error.args[0]} and cannot be trusted") from None
