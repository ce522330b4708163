"""Whether an AUC is better than chance, in words; by chance half of all pairs of a fake and a real are ranked right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

from muflow_cli.output.inert import escape

CHANCE: Final = 0.5


class Standing(StrEnum):
    """Where the interval of an AUC lies."""

    ABOVE = "above chance"
    AT = "at chance"
    BELOW = "below chance"


def standing(figure: Mapping[str, float]) -> Standing:
    """By the interval: it lies above one half, holds it, or lies below it."""
    if figure["low"] > CHANCE:
        return Standing.ABOVE
    return Standing.BELOW if figure["high"] < CHANCE else Standing.AT


def aside(figure: Mapping[str, float]) -> str:
    """A clause on an AUC that shows nothing; empty where it is above chance."""
    return {
        Standing.ABOVE: "",
        Standing.AT: ", no better than chance",
        Standing.BELOW: ", below chance (fakes look more real than reals)",
    }[standing(figure)]


def sentences(results: Mapping[str, Any]) -> Iterator[str]:
    """Which generators are not told from the worst real source, by the score and as the rule ranks; no full stops."""
    source = results["worst_source"]
    generators = results["sources"][source]["generators"]
    for metric, how in (("auc", "by the score"), ("rule_auc", "as the rule ranks")):
        standings = {
            escape(name): standing(generator["figures"][metric])
            for name, generator in generators.items()
            if metric in generator["figures"]
        }
        for kind in (Standing.AT, Standing.BELOW):
            names = [name for name, own in standings.items() if own is kind]
            if names:
                which = "every generator is" if len(names) == len(standings) > 1 else _listed(names)
                yield f"against {escape(source)}, {how}, {which} {kind}"


def _listed(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
