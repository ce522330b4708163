"""WRITERS: a format -> the streaming writer of its results over one binary stream.

Every writer holds a bounded part of the results in memory, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import BinaryIO, Final, Protocol

from muflow_cli.output.documents import JsonlWriter, JsonWriter
from muflow_cli.output.sarif import SarifWriter
from muflow_cli.output.tabular import CsvWriter, TableWriter
from muflow_cli.records import DetectorInfo, Result, RunInfo, Summary


class OutputFormat(StrEnum):
    """Formats in which `muflow scan` writes its results."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    SARIF = "sarif"


class Writer(Protocol):
    """Receives a run's head, then each result in order, then its end. Raises OSError where the stream does."""

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:
        """Called once, before the first result."""

    def write(self, result: Result) -> None:
        """Called once per result, in the order of the inputs; NotFinite where a number is none."""

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Called once, after the last result; `run.finished` is set."""


# The second argument is the `--fields` selection (None = all); BadSpec where a name in it is unknown.
WRITERS: Final[Mapping[OutputFormat, Callable[[BinaryIO, tuple[str, ...] | None], Writer]]] = {
    OutputFormat.TABLE: TableWriter,
    OutputFormat.JSON: JsonWriter,
    OutputFormat.JSONL: JsonlWriter,
    OutputFormat.CSV: CsvWriter,
    OutputFormat.SARIF: SarifWriter,
}
