"""BENCH_WRITERS: a format -> how a benchmark's report is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from muflow_cli.output import bench_text
from muflow_cli.output.junit import junit
from muflow_cli.output.suffixes import longest_match

if TYPE_CHECKING:
    from muflow_cli.output.bench_report import BenchPage


class BenchFormat(StrEnum):
    """Formats in which `muflow bench` writes its report."""

    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"
    JUNIT = "junit"
    HTML = "html"
    SCORES = "scores"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchContext:
    """What the writers draw from; the page and the scores are made only for the formats that hold them.

    Attributes:
        report: schema "muflow.bench/2".
        page: what the HTML page shows.
        scores: the scores of all images as CSV.
    """

    report: Mapping[str, Any]
    page: Callable[[], BenchPage]
    scores: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchWriter:
    """How one format is written.

    Attributes:
        suffixes: of its files, lower case.
        write: the whole file.
        shows_images: it wants the worst and best images, with heat maps, in `BenchContext.page`.
    """

    suffixes: tuple[str, ...]
    write: Callable[[BenchContext], bytes]
    shows_images: bool = False


def _html(context: BenchContext) -> bytes:
    from muflow_cli.output.bench_report import render_bench  # NumPy and Jinja load only for a page

    return render_bench(context.page()).encode()


# A new format is a row here.
BENCH_WRITERS: Final[Mapping[BenchFormat, BenchWriter]] = {
    BenchFormat.JSON: BenchWriter(suffixes=(".json",), write=lambda context: bench_text.to_bytes(context.report)),
    BenchFormat.CSV: BenchWriter(suffixes=(".csv",), write=lambda context: bench_text.csv_bytes(context.report)),
    BenchFormat.MARKDOWN: BenchWriter(
        suffixes=(".md",), write=lambda context: bench_text.markdown(context.report).encode()
    ),
    BenchFormat.JUNIT: BenchWriter(suffixes=(".xml",), write=lambda context: junit(context.report)),
    BenchFormat.HTML: BenchWriter(suffixes=(".html", ".htm"), write=_html, shows_images=True),
    BenchFormat.SCORES: BenchWriter(suffixes=(".scores.csv",), write=lambda context: context.scores()),
}


def bench_format_of(path: Path) -> BenchFormat:
    """The format that the suffix of a file's name stands for, in any case; BadSpec if no row has it."""
    return longest_match(path, {format_: row.suffixes for format_, row in BENCH_WRITERS.items()})
