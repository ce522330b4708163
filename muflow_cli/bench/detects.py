"""Whether a benchmark shows that a detector detects a generator, or only that its images differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from muflow_cli.bench.evaluate import Against
from muflow_cli.bench.nulls import NullAgainst
from muflow_cli.specs import ContainerSpec

# A null baseline further than this from 0.5 tells the images apart by what has nothing to do with a face.
ABOUT_CHANCE: Final = 0.1
# Fewer images of a generator or a source show nothing: their bootstrap interval of a perfect AUC has no width.
FEWEST: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What may be said about one generator.

    Attributes:
        generator: its name.
        detects: the detector tells its images from those of every real source, and no null baseline does.
        why_not: what stands against it, as a clause; empty where it detects.
    """

    generator: str
    detects: bool
    why_not: str


def make_claims(
    sources: Mapping[str, Against], nulls: Mapping[str, Mapping[str, NullAgainst]], container: ContainerSpec | None
) -> tuple[Claim, ...]:
    """One claim per generator against real source -> figures, at least one, in the order of the first.

    A detector detects a generator where all images went through one container, every null baseline is within
    ABOUT_CHANCE of 0.5 at every real source, and the interval of the AUC (as the rule ranks, if there is a rule) lies
    above 0.5 at every real source.
    """
    generators = next(iter(sources.values())).generators
    reasons = {name: _against(name, sources, nulls, container) for name in generators}
    return tuple(Claim(generator=name, detects=not why, why_not=why) for name, why in reasons.items())


def _against(
    generator: str,
    measured: Mapping[str, Against],
    nulls: Mapping[str, Mapping[str, NullAgainst]],
    container: ContainerSpec | None,
) -> str:
    if container is None:
        return "the images are measured as found, so their containers may differ"
    counts = {source: against.reals for source, against in measured.items()}
    counts[generator] = next(iter(measured.values())).generators[generator].fakes
    few = min(counts, key=lambda name: counts[name])
    if counts[few] < FEWEST:
        return f"{few} has fewer than {FEWEST} images"
    lows = {}
    for source, against in measured.items():
        figures = against.generators[generator].figures
        lows[source] = figures.get("rule_auc", figures["auc"]).low
    worst = min(lows, key=lambda source: lows[source])
    if lows[worst] <= 0.5:
        return f"against {worst} its interval reaches down to {lows[worst]:.2f}"
    reached = [
        (against.generators[generator], baseline, source)
        for baseline, sources in nulls.items()
        for source, against in sources.items()
        if generator in against.generators
    ]
    if not reached:
        return "no null baseline could be measured"
    auc, baseline, source = max(reached, key=lambda one: abs(one[0] - 0.5))
    if abs(auc - 0.5) > ABOUT_CHANCE:
        return f"{baseline} reaches {auc:.2f} against {source}"
    return ""
