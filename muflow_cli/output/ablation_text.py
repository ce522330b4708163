"""A report of an ablation (schema "muflow.ablation/1") as text, and ABLATION_WRITERS: a suffix -> how it is written."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from rich.console import Console

from muflow_cli.output.bench_text import data_text, to_bytes
from muflow_cli.output.figures import figure_text
from muflow_cli.output.inert import cell, escape
from muflow_cli.output.sections import Section, markdown_sections, print_sections

Report = Mapping[str, Any]

_ROW: Final = ("target", "flow", "classifier", "tail", "alpha")
# A table of so many rows is read as a whole.
_FEW: Final = 20
_CSV: Final = (*_ROW, "source", "metric", "value", "low", "high", "note")


def lead(report: Report) -> list[str]:
    """What was fitted and what was measured, two sentences."""
    fit = report["fit"]
    sentence = (
        f"branch {report['branch']} fitted again to {fit['train']} real images; {fit['validation']} decided when to "
        f"stop, {fit['calibration']} calibrated"
    )
    if fit["left_out"]:
        sentence += f"; {fit['left_out']} were left out, because they are measured"
    return [sentence, data_text(report)]


def sections(report: Report) -> Iterator[Section]:
    """Title, headings and rows of every table that the report has."""
    headings = [*_ROW, "macro AUC", "AP", "acc.", "highest FPR", "worst source"]
    yield "Ablation", headings, [_cells(row) for row in report["table"]]
    if report["silhouette"]:
        rows = [
            [
                str(point["images_per_average"]),
                *(f"{point[name]:.3f}" for name in ("by_group", "real_against_fake", "overlap")),
            ]
            for point in report["silhouette"]
        ]
        yield "Silhouette of averaged features", ["N", "by group", "real against fake", "shared images"], rows


def _cells(row: Report) -> list[str]:
    head = [row["target"], row["flow"], row["classifier"], row["tail"], f"{row['alpha']:g}"]
    if row["figures"] is None:
        return [*head, "-", "-", "-", "-", escape(row["note"])]
    figures = row["figures"][row["worst_source"]]
    highest = max(source["fpr"]["value"] for source in row["figures"].values())
    values = [f"{figures[name]['value']:.3f}" for name in ("ap", "accuracy")]
    return [*head, figure_text(figures["auc"]), *values, f"{100 * highest:.1f} %", escape(row["worst_source"])]


def headline_rows(report: Report) -> list[Report]:
    """The rows of the table that a terminal shows: all of few, else the best of each target and flow, and its like.

    Of many rows these are, for each target and flow, the one with the highest AUC and the one of the detector's own
    rule, tail and alpha.
    """
    rows, detector = report["table"], report["detector"]
    if len(rows) <= _FEW:
        return list(rows)
    own = (detector["rule"], detector["tail"], detector["alpha"])
    chosen: dict[int, Report] = {}
    for scorer in dict.fromkeys((row["target"], row["flow"]) for row in rows):
        of_scorer = [(index, row) for index, row in enumerate(rows) if (row["target"], row["flow"]) == scorer]
        measured = [(index, row) for index, row in of_scorer if row["figures"] is not None]
        best = max(measured, key=lambda item: item[1]["figures"][item[1]["worst_source"]]["auc"]["value"], default=None)
        same = [item for item in of_scorer if tuple(item[1][name] for name in ("classifier", "tail", "alpha")) == own]
        chosen |= dict([*([] if best is None else [best]), *same])
    return [chosen[index] for index in sorted(chosen)]


def print_tables(report: Report, console: Console) -> None:
    """The report for people; of a long table the headline rows, and where the others are."""
    rows = headline_rows(report)
    shown = {**report, "table": rows}
    said = lead(report)
    if len(rows) < len(report["table"]):
        said.append(
            f"the table shows {len(rows)} of {len(report['table'])} rows, for each target and flow the highest AUC and "
            "the detector's own rule; -o FILE.html, .csv, .md or .json holds all of them"
        )
    print_sections(said, sections(shown), console)


def csv_bytes(report: Report) -> bytes:
    """Every figure of the table on a line of its own, full precision, CR LF."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(_CSV)
    for row in report["table"]:
        head = [row[name] for name in _ROW]
        if row["figures"] is None:
            writer.writerow([*head, "", "", "", "", "", cell(row["note"])])
            continue
        for source, figures in row["figures"].items():
            for metric, figure in figures.items():
                ends = [figure[end] for end in ("value", "low", "high")]
                writer.writerow([*head, cell(source), metric, *ends, ""])
    return text.getvalue().encode()


def _page(report: Report) -> bytes:
    from muflow_cli.output.ablation_page import render_ablation  # Jinja loads only for a page

    return render_ablation(report, lead(report), sections(report)).encode()


# A new format is a row here.
ABLATION_WRITERS: Final[Mapping[str, Callable[[Report], bytes]]] = {
    ".json": to_bytes,
    ".csv": csv_bytes,
    ".html": _page,
    ".md": lambda report: markdown_sections(lead(report), sections(report)).encode(),
}
