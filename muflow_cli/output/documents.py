"""JSON for programs: one streamed document, or one line per result."""

from __future__ import annotations

from typing import BinaryIO

from muflow_cli.output.encode import (
    SCHEMA,
    check_fields,
    checked_line,
    detector_to_json,
    line,
    line_key,
    result_line,
    result_to_json,
    run_line,
    run_to_json,
    select,
    summary_line,
    summary_to_json,
)
from muflow_cli.records import Result
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary


class JsonlWriter:
    """The run, then one result per line, each flushed, then the summary (schema scan-line-2)."""

    def __init__(self, stream: BinaryIO, fields: tuple[str, ...] | None) -> None:
        check_fields(fields)
        self._stream, self._fields = stream, fields
        self._key = b""

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:
        """Write the first line."""
        self._key = line_key(run, detector)
        self._put(run_line(run, detector, self._fields))

    def write(self, result: Result) -> None:
        """Write one result's line; a reader of the file sees it at once."""
        whole = self._fields is None
        self._put(checked_line(result, self._key) if whole else result_line(result, self._fields))

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Write the last line."""
        self._put(summary_line(run, summary))

    def _put(self, written: bytes) -> None:
        self._stream.write(written)
        self._stream.flush()


class JsonWriter:
    """One document (schema scan-2), its keys in the order in which they become known.

    `results` stand before `run` and `summary`, which are known only after the last result. So nothing is held back,
    and every result of a killed run is in the file, one per line.
    """

    def __init__(self, stream: BinaryIO, fields: tuple[str, ...] | None) -> None:
        check_fields(fields)
        self._stream, self._fields = stream, fields
        self._separator = b""

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:  # noqa: ARG002 - the run is written when it ended
        """Open the document up to its results."""
        chosen = {} if self._fields is None else {"fields": list(self._fields)}
        head = line({"schema": SCHEMA, **chosen, "detector": detector_to_json(detector)})
        self._stream.write(head.removesuffix(b"}\n") + b',\n"results":[\n')

    def write(self, result: Result) -> None:
        """Add one result, on a line of its own."""
        body = line(select(result_to_json(result), self._fields)).rstrip(b"\n")
        self._stream.write(self._separator + body)
        self._stream.flush()
        self._separator = b",\n"

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Close the results, add run and summary."""
        tail = line({"run": run_to_json(run), "summary": summary_to_json(summary)})
        self._stream.write(b"\n],\n" + tail.removeprefix(b"{"))
        self._stream.flush()
