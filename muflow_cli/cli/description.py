"""What may be said of a calibration, for people: rows of a name and a text, for `calibrate` and `info`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muflow_cli.calibration.coverage import Description, RateBounds
    from muflow_cli.calibration.features import FeatureInfo
    from muflow_cli.detector import Selected


def description_rows(description: Description) -> Iterator[tuple[str, str]]:
    """Rule, smallest p-value, bounds of the true rate, strata, and what is typical of the calibration images."""
    rule, images = description.rule, description.images
    band = f"p from {rule.band[0]:g} to {rule.band[1]:g} inconclusive" if rule.band else "no band"
    by = f"by {', '.join(rule.by)}" if rule.by else "one stratum"
    yield "rule", f"{rule.method}, alpha {rule.alpha:g}, tail {rule.tail}; {band}; {by}"
    yield "p-values", f"{images} real images can give p-values down to {description.smallest_p_value:.3g}"
    if description.true_rate is None:
        yield "true rate", f"method {rule.method} promises none"
    else:
        bounds = _bounds(description.true_rate)
        yield "true rate", f"{bounds} at alpha {rule.alpha:g}, for images of the same kind as these {images}"
    for sentence in description.details:
        yield "fit", sentence
    for stratum in description.strata:
        text = f"{stratum.name}: {stratum.images} real images"
        if not stratum.calibrated:
            text += f", fewer than {description.stratum_minimum}, so all {images} judge it"
        elif stratum.true_rate is not None:
            text += f", true rate {_bounds(stratum.true_rate)}"
        yield "stratum", text
    limits = description.ranges.limits.items()
    spans = [f"{name.replace('_', ' ')} {span[0]:.4g} to {span[1]:.4g}" for name, span in limits if span]
    formats = ", ".join(description.ranges.formats)
    yield "typical", f"{'; '.join([formats, *spans])}; a scan marks images outside these ranges as atypical"


def selection_rows(selected: Selected | None) -> Iterator[tuple[str, str]]:
    """What left-out sources say of each number of steps; nothing where none were left out."""
    if selected is None or not selected.left_out:
        return
    rounds = "; ".join(f"{' and '.join(left.sources)} ({left.images})" for left in selected.left_out)
    yield "  left out", f"in turn {rounds}"
    for candidate in selected.candidates:
        chosen = ", chosen" if candidate.steps == selected.steps else ""
        yield (
            "  tried",
            f"{candidate.steps} steps and {candidate.epochs} epochs: {100 * candidate.rate:.1f} % of left-out reals "
            f"flagged at a nominal 20 %, their NLL {candidate.nll:.4f}{chosen}",
        )


def features_text(features: FeatureInfo | None) -> str:
    """What is stored for a comparison of batches."""
    if features is None:
        return "none, so a scan cannot compare a batch (--adaptive, --groups)"
    size = f"{features.bytes / 2**20:.1f} MiB"
    return f"{features.count} numbers for each image, {size}, computed on {features.device} in {features.precision}"


def _bounds(rate: RateBounds) -> str:
    return f"at most {rate.at_most:.3g} with 95 % confidence (95 % interval {rate.low:.3g} to {rate.high:.3g})"
