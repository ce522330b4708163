"""What a benchmark says of batches and groups, as sentences, tables and CSV lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from muflow_cli.output.figures import ends, figure_text, rate_text
from muflow_cli.output.inert import escape
from muflow_cli.output.sections import Section

Report = Mapping[str, Any]

# The one rate whose figures stand in the table with their intervals; JSON and CSV have those of all.
_SHOWN_RATE: Final = 0.1


def claims(report: Report) -> Iterator[str]:
    """What adaptive p-values and groups mean, and what they do not, as sentences without their full stops."""
    batches = report["batches"]
    if batches:
        yield (
            "An image that its adaptive p-value flags is unlike the reals of the calibration. The false discovery rate "
            "holds for reals of the calibration's kind; reals of other sources are flagged as well"
        )
        if batches["mixed"]:
            yield (
                "Found is the share of the fakes that are flagged, false the share of reals among the flagged, one by "
                "one what p-values of single images find. The batches of a source are drawn from the same images and "
                "overlap"
            )
        else:
            yield "No real source has enough images for a batch of 50"
    if report["groups"] is not None:
        yield (
            "A group that is told apart is unlike the calibration as a group; groups of reals from other sources are "
            "told apart as well"
        )


def sections(report: Report) -> Iterator[Section]:
    """Title, headings and rows of every table that the report has of them."""
    batches = report["batches"]
    if batches and batches["mixed"]:
        headings = ["reals", "generator", "batch", "fakes", "AUC", "found at FDR 10 %", "false among flagged"]
        headings += [f"{what} at FDR 5 / 10 / 20 %" for what in ("found", "false", "found one by one")]
        yield "Adaptive p-values in batches with fakes", headings, list(_batch_rows(report))
    if batches and batches["real"]:
        headings = ["reals", "batch", *(f"at FDR {100 * float(fdr):g} %" for fdr in batches["real"][0]["any_flagged"])]
        yield "Batches of reals alone in which an image is flagged", headings, list(_real_rows(report))
    if report["groups"]:
        headings = ["source", "label", "images", *(f"groups of {size}" for size in _group_sizes(report))]
        yield "Groups unlike the calibration as a group, p <= 0.05 / 0.01", headings, list(_group_rows(report))


def _batch_rows(report: Report) -> Iterator[list[str]]:
    """One row per real source, generator, size and number of fakes."""
    for kind in report["batches"]["mixed"]:
        head = [escape(kind["source"]), escape(kind["generator"]), str(kind["size"]), str(kind["fakes"])]
        shown = next(rate for rate in kind["rates"] if rate["fdr"] == _SHOWN_RATE)
        yield [
            *head,
            figure_text(kind["auc"]),
            rate_text(shown["power"]),
            rate_text(shown["fdp"]),
            *(_percentages(rate[name] for rate in kind["rates"]) for name in ("power", "fdp", "one_image_power")),
        ]


def _real_rows(report: Report) -> Iterator[list[str]]:
    """One row per real source and size."""
    for kind in report["batches"]["real"]:
        flagged = [f"{rate['events']} of {rate['trials']}" for rate in kind["any_flagged"].values()]
        yield [escape(kind["source"]), str(kind["size"]), *flagged]


def _group_rows(report: Report) -> Iterator[list[str]]:
    """One row per source: the share of its groups at both levels, by size."""
    sizes = _group_sizes(report)
    for source in report["groups"]:
        own = {draws["size"]: draws["unlike"] for draws in source["sizes"]}
        shares = [_percentages(own[size].values()) if size in own else "-" for size in sizes]
        yield [escape(source["source"]), source["label"], str(source["images"]), *shares]


def _percentages(figures: Iterable[Mapping[str, float]]) -> str:
    """`5 / 31 / 50 %`."""
    return " / ".join(f"{100 * figure['value']:.0f}" for figure in figures) + " %"


def _group_sizes(report: Report) -> list[int]:
    return sorted({draws["size"] for source in report["groups"] for draws in source["sizes"]})


def figures(report: Report) -> Iterator[list[Any]]:
    """Every figure as a line of the CSV, whose columns are those of `bench_text`."""
    batches = report["batches"] or {"mixed": (), "real": ()}
    for kind in batches["mixed"]:
        reals = kind["size"] - kind["fakes"]
        head = ["", "", kind["source"], f"batch of {kind['size']}", kind["generator"], "", reals, kind["fakes"]]
        yield ["adaptive", *head, "auc", *ends(kind["auc"])]
        for rate in kind["rates"]:
            for name in ("power", "fdp", "one_image_power", "one_image_fdp"):
                yield ["adaptive", *head, f"{name}_at_fdr_{rate['fdr']:g}", *ends(rate[name])]
    for kind in batches["real"]:
        head = ["adaptive", "", "", kind["source"], f"batch of {kind['size']}", "", "", kind["size"], 0]
        yield from ([*head, f"any_flagged_at_fdr_{fdr}", *ends(rate)] for fdr, rate in kind["any_flagged"].items())
    for source in report["groups"] or ():
        for draws in source["sizes"]:
            counts = ["", draws["size"]] if source["label"] == "fake" else [draws["size"], ""]
            head = ["groups", "", "", source["source"], f"group of {draws['size']}", "", "", *counts]
            yield from ([*head, f"unlike_at_{level}", *ends(rate)] for level, rate in draws["unlike"].items())
