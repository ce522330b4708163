"""What may be said of a calibration: smallest p-value, bounds of the true false-positive rate, fit of the Gaussian."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Final

from scipy.special import betaincinv

from muflow_cli.rules import Scores, exact, fit_gaussian, picture_scores, require_pictures, tails_of
from muflow_cli.specs import Method, RuleSpec
from muflow_cli.strata import Ranges

_PROMISING: Final = frozenset({Method.CONFORMAL, Method.FISHER})


@dataclass(frozen=True, slots=True)
class RateBounds:
    """What n reals allow to be said of the true false-positive rate, a probability.

    Attributes:
        low: 2.5 % quantile.
        high: 97.5 % quantile.
        at_most: 95 % quantile, the one-sided statement.
    """

    low: float
    high: float
    at_most: float


def _conformal_rank(spec: RuleSpec, n: int) -> tuple[int, int]:
    """How many ranks (k, of m + 1) a conformal threshold flags: the realised rate is Beta(k, m + 1 - k)."""
    if spec.method is Method.FISHER:
        calibrating = n - n // 2
        return floor(exact(spec.alpha) * (calibrating + 1)), calibrating
    return tails_of(spec) * floor(exact(spec.alpha) / tails_of(spec) * (n + 1)), n


def smallest_p_value(spec: RuleSpec, n: int) -> float:
    """Smallest p-value that n reals can give: 1 / (n + 1), 2 / (n + 1) with both tails, by its half with Fisher."""
    if spec.method is Method.FISHER:
        return 1 / (n - n // 2 + 1)
    return min(1.0, tails_of(spec) / (n + 1))


def true_rate_bounds(spec: RuleSpec, n: int) -> RateBounds:
    """Where the true false-positive rate of a conformal or Fisher threshold lies, given that it was set on n reals.

    The threshold is an order statistic, so over draws of the n reals the rate follows Beta(k, n + 1 - k) with
    k = floor(alpha (n + 1)) (two tails: the sum of two such rates, k = 2 floor(alpha (n + 1) / 2)) when scores have no
    ties, and is smaller with ties. Under Fisher n is the half that calibrates the statistic.
    Example: alpha 0.01 from 1,000 reals, at most 0.0157 with 95 % confidence.

    Source: Vovk 2012, "Conditional validity of inductive conformal predictors", section 3.

    Raises:
        TooFewScores: with fewer reals than alpha needs.
    """
    require_pictures(spec, n)
    k, m = _conformal_rank(spec, n)
    low, high, at_most = betaincinv(k, m + 1 - k, [0.025, 0.975, 0.95])
    return RateBounds(float(low), float(high), float(at_most))


def promised_rate(spec: RuleSpec, n: int) -> RateBounds | None:
    """Bounds of the true false-positive rate, or None for a method that promises none."""
    return true_rate_bounds(spec, n) if spec.method in _PROMISING else None


@dataclass(frozen=True, slots=True)
class Normality:
    """Whether a Gaussian describes the scores of reals, and what its threshold does to them.

    Attributes:
        skew: third standardised moment; 0 for a Gaussian.
        anderson_darling: A squared, mean and deviation estimated.
        p_value: of that statistic, interpolated in a table that ends at 0.01 and 0.15.
        flagged_share: share of the calibration reals themselves that the rule flags (in sample).
        low: lower end of that share's exact 95 % interval.
        high: upper end of it.
    """

    skew: float
    anderson_darling: float
    p_value: float
    flagged_share: float
    low: float
    high: float

    @property
    def poor_fit(self) -> bool:
        """Whether Anderson-Darling rejects the Gaussian at 1 %."""
        return self.p_value <= 0.01


def check_normality(scores: Scores, spec: RuleSpec) -> Normality:
    """Skew, Anderson-Darling test and the share flagged, of (n, S) scores of reals under the Gaussian rule.

    Raises:
        TooFewScores, BadCalibration: as `fit_gaussian`.

    Source: Stephens 1974; Clopper and Pearson 1934.
    """
    from scipy import stats  # half of the import time of a scan that needs none of it

    flagged = fit_gaussian(scores, spec).judge(scores).flagged
    interval = stats.binomtest(int(flagged.sum()), len(flagged)).proportion_ci(method="exact")
    reals = picture_scores(scores)
    fit = stats.anderson(reals, "norm", method="interpolate")
    return Normality(
        skew=float(stats.skew(reals)),
        anderson_darling=float(fit.statistic),
        p_value=float(fit.pvalue),
        flagged_share=float(flagged.mean()),
        low=float(interval.low),
        high=float(interval.high),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stratum:
    """Calibration reals that share the facts named by the rule.

    Attributes:
        name: as `strata.stratum_name` writes it.
        pictures: how many.
        calibrated: whether they are enough for a rule of their own; if not, all reals judge its pictures.
        true_rate: as in Description, for this stratum alone.
    """

    name: str
    pictures: int
    calibrated: bool
    true_rate: RateBounds | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What a summary says of a calibration.

    Attributes:
        pictures: n, distinct reals.
        rule: how scores become verdicts.
        created: UTC, ISO 8601.
        source_digest: names the set of reals.
        smallest_p_value: that n reals can give.
        true_rate: bounds of the true false-positive rate; None for rules that promise none.
        normality: fit of the Gaussian; None for other rules.
        fitted_on: how many reals LOF or the one-class SVM saw (a seeded subsample of large sets); None for other rules.
        stratum_minimum: reals that a stratum needs for a rule of its own.
        strata: sorted by name; empty without strata.
        ranges: formats, sizes, qualities and sharpness that the reals span.
    """

    pictures: int
    rule: RuleSpec
    created: str
    source_digest: str
    smallest_p_value: float
    true_rate: RateBounds | None
    normality: Normality | None
    fitted_on: int | None
    stratum_minimum: int
    strata: tuple[Stratum, ...]
    ranges: Ranges
