"""Figures of a report with their intervals, as text."""

from __future__ import annotations

from collections.abc import Mapping


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
