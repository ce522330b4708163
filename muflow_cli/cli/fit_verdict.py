"""What the reals of a fit say of the detector, in words: good or bad, what to expect of it, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from muflow_cli.detector import BranchProvenance
    from muflow_cli.fit.records import FitSummary

# Held-out reals that lie further out than training reals, in standard deviations of the calibration's scores.
_CLOSE: Final = 0.5
_FAR: Final = 1.0
# Nats per dimension that no flow reaches after it has learnt what reals look like.
_UNTRAINED: Final = 10.0
# A rate of left-out reals above this multiple of the nominal one says that the detector knows its sources too well.
_TWICE: Final = 2.0
_NOMINAL: Final = 0.2


def verdict_rows(summary: FitSummary) -> Iterator[tuple[str, str]]:
    """Rows of a name and a sentence, the verdict first."""
    for name, origin in summary.provenance.branches.items():
        label = "verdict" if len(summary.provenance.branches) == 1 else f"verdict {name}"
        yield label, _held_out(origin, summary.spread[name])
        yield from _left_out(origin)
    rate = summary.true_rate
    if rate is None:
        yield "expect", f"no promise on false positives, since the rule {summary.rule} makes none"
    else:
        yield (
            "expect",
            f"{100 * rate.low:.1f} to {100 * rate.high:.1f} % of real images like these {summary.calibration} are "
            f"flagged (95 % interval; nominal {100 * summary.alpha:g} %), and more of other sources",
        )
    output = shlex.quote(summary.output)
    yield "not known", "how many synthetic images it finds, since it has seen none"
    yield "next", f"muflow bench {output} --real DIR --fake DIR measures that; muflow scan PHOTOS --detector {output}"


def _held_out(origin: BranchProvenance, spread: float) -> str:
    """How far held-out reals lie from training reals, as a verdict."""
    if origin.validation_nll > _UNTRAINED:
        learnt = f"held-out reals have {origin.validation_nll:.0f} nats per dimension, where a trained flow has 1 to 3"
        return f"poor: the flow has not learnt them; {learnt}; allow more epochs (--epochs N) or give more images"
    away = (origin.validation_nll - origin.train_nll) / spread if spread > 0 else 0.0
    if away <= _CLOSE:
        return "good, so far as reals can tell: those that it was not trained on look to it as those that it was"
    distance = f"reals that it was not trained on lie {away:.1f} standard deviations further out than those that it was"
    if away <= _FAR:
        return f"fair: {distance}; more images would help"
    return f"poor: {distance}; fit to more images, or with fewer steps (--set flow.steps=N)"


def _left_out(origin: BranchProvenance) -> Iterator[tuple[str, str]]:
    """What sources that were left out in turn say of other sources."""
    selected = origin.selected
    if selected is None or not selected.left_out:
        return
    rate = next(candidate.rate for candidate in selected.candidates if candidate.steps == selected.steps)
    share = f"{100 * rate:.0f} % of the reals of sources left out were flagged where {100 * _NOMINAL:.0f} % are nominal"
    if rate > _TWICE * _NOMINAL:
        yield "other sources", f"poor: {share}; calibrate on reals of each source that you scan (muflow calibrate)"
    else:
        yield "other sources", f"{share}"
