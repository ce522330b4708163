"""The sentences on a run whose images are unlike the calibration as a group."""

from __future__ import annotations

from muflow_cli.output.inert import escape
from muflow_cli.run_records import Shift


def shift_text(shift: Shift, alpha: float) -> str:
    """What was found, what it can mean and what to do; `alpha` is that of the detector's rule."""
    within = "" if shift.stratum is None else f" in the stratum {escape(shift.stratum)}"
    share = f"{shift.share:.1%} of them{within} have a p-value of at most {alpha:g}"
    column = f"their scores in column {escape(shift.column)} differ by {shift.distance:.2f} (Kolmogorov-Smirnov)"
    found = (
        f"these {shift.images} images are unlike the calibration as a group (p = {shift.p_value:.2g}; {share}, and "
        f"{column})"
    )
    if shift.share_at_least > shift.rate_at_most:
        return (
            f"{found}. Either many of them are synthetic or they come from other sources. If they do, the stated "
            "false-positive rate does not hold; calibrate on real images of the same origin (muflow calibrate)"
        )
    return (
        f"{found}. Either some of them are synthetic or they come from other sources, or from a part of the "
        "calibration's. No more have small p-values than the stated rate allows, but it is not the rate of these "
        "images; calibrate on real images of the same origin (muflow calibrate)"
    )
