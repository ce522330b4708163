"""What n reals promise: bounds of the true false-positive rate, fit of a Gaussian, and the description of both."""

from __future__ import annotations

from dataclasses import dataclass

from muflow_cli.calibration.pvalues import Scores
from muflow_cli.calibration.strata import Ranges
from muflow_cli.specs import RuleSpec


@dataclass(frozen=True, slots=True)
class RateBounds:
    """Quantiles of the true false-positive rate, a probability, over draws of the calibration reals.

    Attributes:
        low: 2.5 % quantile.
        high: 97.5 % quantile.
        at_most: 95 % quantile, the one-sided statement.
    """

    low: float
    high: float
    at_most: float


def rate_bounds(flagged_ranks: int, n: int) -> RateBounds:
    """Bounds for a conformal threshold that n reals set and that flags `flagged_ranks` of their n + 1 ranks.

    The threshold is an order statistic, so the rate follows Beta(k, n + 1 - k) over draws of the n reals, where k is
    `flagged_ranks`. With two tails the rate is the sum of two such rates, and k the sum of their ranks. Ties between
    scores make it smaller. Example: alpha 0.01 from 1,000 reals gives at most 0.0157 with 95 % confidence.

    Source: Vovk 2012, "Conditional validity of inductive conformal predictors", section 3.
    """
    from scipy.special import betaincinv  # a scan judges without bounds, and scipy is slow to import

    low, high, at_most = betaincinv(flagged_ranks, n + 1 - flagged_ranks, [0.025, 0.975, 0.95])
    return RateBounds(float(low), float(high), float(at_most))


@dataclass(frozen=True, slots=True)
class Normality:
    """Whether a Gaussian describes the mean scores of reals.

    Attributes:
        skew: third standardised moment; 0 for a Gaussian.
        anderson_darling: A squared, mean and deviation estimated.
        p_value: of that statistic, interpolated in a table that ends at 0.01 and 0.15.
    """

    skew: float
    anderson_darling: float
    p_value: float

    @property
    def poor_fit(self) -> bool:
        """Whether Anderson-Darling rejects the Gaussian at 1 %."""
        return self.p_value <= 0.01

    def __str__(self) -> str:
        p_value = (
            "at most 0.01" if self.poor_fit else "at least 0.15" if self.p_value >= 0.15 else f"{self.p_value:.2f}"
        )
        verdict = "warning: the Gaussian fits badly" if self.poor_fit else "the Gaussian fits"
        return f"skew {self.skew:.2f}, Anderson-Darling {self.anderson_darling:.2f} (p {p_value}), {verdict}"


def check_normality(scores: Scores) -> Normality:
    """Skew and Anderson-Darling test of (n,) mean scores of reals, n >= 2 and not all equal.

    Source: Stephens 1974.
    """
    from scipy import stats

    fit = stats.anderson(scores, "norm", method="interpolate")
    return Normality(float(stats.skew(scores)), float(fit.statistic), float(fit.pvalue))


@dataclass(frozen=True, kw_only=True, slots=True)
class Stratum:
    """Calibration reals that share the facts named by the rule.

    Attributes:
        name: as `strata.stratum_name` writes it.
        images: how many.
        calibrated: whether they are enough for a rule of their own; if not, all reals judge its images.
        true_rate: as in Description, for this stratum alone.
    """

    name: str
    images: int
    calibrated: bool
    true_rate: RateBounds | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What a summary says of a calibration.

    Attributes:
        images: n, distinct reals.
        rule: how scores become verdicts.
        created: UTC, ISO 8601.
        source_digest: names the set of reals.
        smallest_p_value: that n reals can give.
        true_rate: bounds of the true false-positive rate; None for rules that promise none.
        details: what the rule reports about its own fit, one sentence each.
        stratum_minimum: reals that a stratum needs for a rule of its own.
        strata: sorted by name; empty without strata.
        ranges: formats, sizes, qualities and sharpness that the reals span.
    """

    images: int
    rule: RuleSpec
    created: str
    source_digest: str
    smallest_p_value: float
    true_rate: RateBounds | None
    details: tuple[str, ...]
    stratum_minimum: int
    strata: tuple[Stratum, ...]
    ranges: Ranges
