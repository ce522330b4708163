"""Figures of a report with their intervals, as text and as lines of CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def figure_text(figure: Mapping[str, float] | None) -> str:
    """`0.812 [0.79, 0.83]`, or a dash where there is no figure."""
    return "-" if figure is None else f"{figure['value']:.3f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def rate_text(share: Mapping[str, float] | None) -> str:
    """`7.1 % [4.0, 11.5]`, or a dash."""
    if share is None:
        return "-"
    return f"{100 * share['value']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def ends(figure: Mapping[str, float]) -> list[float]:
    """The value and both ends of its interval."""
    return [figure["value"], figure["low"], figure["high"]]


def source_figures(head: list[Any], source: str, against: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Every figure against one real source as a line of the CSV, whose columns are those of `bench_text`."""
    reals = against["reals"]
    if against["flagged"]:
        yield [*head, source, "reals", "", "", reals, "", "fpr", *ends(against["flagged"])]
    for name, generator in against["generators"].items():
        cells = [*head, source, "generator", name, generator["family"], reals, generator["fakes"]]
        yield [*cells, "prevalence", generator["prevalence"], "", ""]
        if generator["caught"]:
            yield [*cells, "tpr", *ends(generator["caught"])]
        yield from ([*cells, metric, *ends(figure)] for metric, figure in generator["figures"].items())
    means = [*(("family", name, figures) for name, figures in against["families"].items())]
    means += [("macro", "", against["macro"]), ("pooled", "", against["pooled"])]
    for level, name, figures in means:
        cells = [*head, source, level, name, name if level == "family" else "", reals, ""]
        yield from ([*cells, metric, *ends(figure)] for metric, figure in figures.items())
