"""What a benchmark shows to be detected, as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from muflow_cli.output.inert import escape


def claims(made: Sequence[Mapping[str, Any]], subject: str) -> Iterator[str]:
    """Which generators are shown to be detected, and what stands against the others; without full stops.

    Args:
        made: one for each generator.
        subject: that every sentence begins with, such as "It".
    """
    shown = [escape(claim["generator"]) for claim in made if claim["detects"]]
    if shown:
        yield f"{subject} detects {', '.join(shown)}"
    reasons: dict[str, list[str]] = {}
    for claim in made:
        if not claim["detects"]:
            reasons.setdefault(escape(claim["why_not"]), []).append(escape(claim["generator"]))
    for reason, generators in reasons.items():
        which = "any generator" if len(generators) == len(made) > 1 else ", ".join(generators)
        yield f"{subject} is not shown to detect {which}: {reason}"
