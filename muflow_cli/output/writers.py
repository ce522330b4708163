"""WRITERS: a format -> how a scan's results are written to one binary stream.

Every writer but the HTML page holds a bounded part of the results in memory, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from muflow_cli.output.documents import JsonlWriter, JsonWriter
from muflow_cli.output.sarif import SarifWriter
from muflow_cli.output.scan_junit import JunitWriter
from muflow_cli.output.suffixes import longest_match
from muflow_cli.output.tabular import CsvWriter, GroupsWriter, Per, TableWriter
from muflow_cli.records import Result
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary

if TYPE_CHECKING:
    from muflow_cli.output.report_writer import Exhibits

__all__ = ["WRITERS", "Format", "OutputFormat", "Per", "Printed", "Writer", "WriterContext", "format_of"]


class OutputFormat(StrEnum):
    """Formats in which `muflow scan` writes its results."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    GROUPS = "groups"
    SARIF = "sarif"
    JUNIT = "junit"
    HTML = "html"


class Printed(StrEnum):
    """Which rows an HTML page prints."""

    ALL = "all"
    FLAGGED = "flagged"


class Writer(Protocol):
    """Receives the head of a run, then each result in order, then its end. Raises OSError where the stream does."""

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:
        """Called once, before the first result."""

    def write(self, result: Result) -> None:
        """Called once per result, in the order of the inputs; NotFinite for NaN or infinite values."""

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Called once, after the last result; `run.finished` is set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WriterContext:
    """What writers may need beside the results.

    Attributes:
        fields: the `--fields` selection; None = all.
        per: what a row of a CSV is.
        csv_mark: a CSV begins with a byte order mark.
        q_values: whether the verdicts are by q-values, which a table then shows.
        calibration_scores: of the calibration reals, nats per dimension; for the HTML page.
        exhibits: images of the HTML page, filled while the results come; None = a page without images.
        thresholds: mean scores below and above which the rule flags, for the HTML page; None where there is none.
        printed: rows that the HTML page prints.
        file: path of the output, as given; None = stdout.
    """

    fields: tuple[str, ...] | None = None
    per: Per = Per.IMAGE
    csv_mark: bool = False
    q_values: bool = False
    calibration_scores: Sequence[float] = ()
    exhibits: Exhibits | None = None
    thresholds: tuple[float | None, float | None] = (None, None)
    printed: Printed = Printed.ALL
    file: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """How one format is written.

    Attributes:
        suffixes: of its files, lower case; none for a format that `-o` never picks.
        make: the writer over an open stream; BadSpec for a field that does not exist.
        grows: the file is useful line by line, and is written in place.
        shows_images: the writer wants thumbnails and heat maps in `WriterContext.exhibits`.
    """

    suffixes: tuple[str, ...]
    make: Callable[[BinaryIO, WriterContext], Writer]
    grows: bool = False
    shows_images: bool = False


def _html(stream: BinaryIO, context: WriterContext) -> Writer:
    from muflow_cli.output.report_writer import ReportWriter  # NumPy and Jinja load only for a page

    return ReportWriter(stream, context)


# A new format is a row here.
WRITERS: Final[Mapping[OutputFormat, Format]] = {
    OutputFormat.TABLE: Format(
        suffixes=(".txt",),
        make=lambda stream, context: TableWriter(stream, context.fields, q_values=context.q_values),
    ),
    OutputFormat.JSON: Format(suffixes=(".json",), make=lambda stream, context: JsonWriter(stream, context.fields)),
    OutputFormat.JSONL: Format(
        suffixes=(".jsonl", ".ndjson"),
        make=lambda stream, context: JsonlWriter(stream, context.fields),
        grows=True,
    ),
    OutputFormat.CSV: Format(
        suffixes=(".csv",),
        make=lambda stream, context: CsvWriter(stream, context.fields, per=context.per, mark=context.csv_mark),
    ),
    OutputFormat.GROUPS: Format(
        suffixes=(".groups.csv",), make=lambda stream, context: GroupsWriter(stream, mark=context.csv_mark)
    ),
    OutputFormat.SARIF: Format(
        suffixes=(".sarif", ".sarif.json"), make=lambda stream, context: SarifWriter(stream, context.fields)
    ),
    OutputFormat.JUNIT: Format(suffixes=(".xml",), make=lambda stream, context: JunitWriter(stream, context.fields)),
    OutputFormat.HTML: Format(suffixes=(".html", ".htm"), make=_html, shows_images=True),
}


def format_of(path: Path) -> OutputFormat:
    """The format that the suffix of a file's name stands for, in any case; BadSpec if no row has it."""
    return longest_match(path, {format_: row.suffixes for format_, row in WRITERS.items()})
