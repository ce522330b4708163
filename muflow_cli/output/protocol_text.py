"""What a benchmark by protocol says, as sentences, tables and CSV lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from muflow_cli.output import detects_text
from muflow_cli.output.figures import figure_text, rate_text, source_figures
from muflow_cli.output.inert import escape
from muflow_cli.output.sections import Section

Report = Mapping[str, Any]

_FITTED_TO: Final[Mapping[str, str]] = {
    "seen": "the other folds of the same source",
    "pooled": "the other folds of all sources",
    "unseen": "the other sources",
}
# Null baselines that stand beside the detector in its table; JSON and CSV hold all.
_NULLS: Final = ("metadata only", "sharpness only")
_HEADINGS: Final = ("reals, fakes", "n", "AUC", "folded", "rule", "flagged", "metadata", "sharpness")


def claims(report: Report) -> Iterator[str]:
    """The headline of every protocol and what the figures are, as sentences without their full stops."""
    protocols = report["protocols"]
    for figures in protocols["figures"]:
        yield _headline(figures)
        for name, source in figures["sources"].items():
            if source["note"]:
                yield f"{figures['protocol']} has no figures of {escape(name)} ({escape(source['note'])})"
        yield from detects_text.claims(figures["claims"], f"Under protocol {figures['protocol']} it")
    fits = protocols["fits"]
    if fits:
        number = "1 fit of them was" if len(fits) == 1 else f"{len(fits)} fits of them were"
        yield f"The detector lends its settings alone, and {number} measured"
        used = [fit["train"] + fit["validation"] + fit["calibration"] for fit in fits]
        epochs = [count for fit in fits for count in fit["epochs"].values()]
        yield (
            f"Each fit used {_range(used)} real images, of which it scored none and no near copy, and trained for "
            f"{_range(epochs)} epochs"
        )
    further = protocols["fit_only"]
    if further:
        counts = ", ".join(f"{escape(name)} {count}" for name, count in further.items())
        yield f"Reals that were fitted to and not measured are {counts}"


def _headline(figures: Report) -> str:
    protocol, headline = figures["protocol"], figures["headline"]
    if headline is None:
        return f"{protocol} has no figures"
    rates = {name: source["figures"]["flagged"] for name, source in figures["sources"].items() if source["figures"]}
    highest = max(rates, key=lambda name: float(rates[name]["value"]))
    return (
        f"{protocol}, fitted to {_FITTED_TO[protocol]}, has macro AUC {figure_text(headline)} at the worst real source "
        f"({escape(headline['source'])}) and flags at most {rate_text(rates[highest])} of a source ({escape(highest)})"
    )


def _range(counts: list[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def sections(report: Report) -> Iterator[Section]:
    """One table for each protocol: a row for each source, with means over generators, then one for each generator."""
    for figures in report["protocols"]["figures"]:
        title = f"Protocol {figures['protocol']}, fitted to {_FITTED_TO[figures['protocol']]}"
        yield title, list(_HEADINGS), list(_rows(report, figures))


def _rows(report: Report, figures: Report) -> Iterator[list[str]]:
    for name, source in figures["sources"].items():
        nulls = [report["nulls"].get(baseline, {}).get(name) for baseline in _NULLS]
        against = source["figures"]
        if against is None:
            yield [escape(name), str(source["reals"]), *["-"] * 6]
            continue
        worst = " (worst)" if name == figures["headline"]["source"] else ""
        macros = ["-" if null is None else f"{null['macro']:.3f}" for null in nulls]
        yield [
            escape(name) + worst,
            str(against["reals"]),
            *_aucs(against["macro"]),
            f"FPR {rate_text(against['flagged'])}",
            *macros,
        ]
        for generator, own in against["generators"].items():
            aucs = [None if null is None else null["generators"].get(generator) for null in nulls]
            yield [
                f"· {escape(generator)}",
                str(own["fakes"]),
                *_aucs(own["figures"]),
                rate_text(own["caught"]),
                *("-" if auc is None else f"{auc:.3f}" for auc in aucs),
            ]


def _aucs(figures: Report) -> list[str]:
    return [figure_text(figures["auc"]), *(f"{figures[name]['value']:.3f}" for name in ("folded_auc", "rule_auc"))]


def figures(report: Report) -> Iterator[list[Any]]:
    """Every figure as a line of the CSV, whose columns are those of `bench_text`."""
    for measured in (report["protocols"] or {"figures": ()})["figures"]:
        for name, source in measured["sources"].items():
            if source["figures"]:
                yield from source_figures([f"protocol {measured['protocol']}", "", ""], name, source["figures"])
