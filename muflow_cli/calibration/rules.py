"""From scores of held-out reals to a verdict: the table of rules, and the two rules on the mean score."""

from __future__ import annotations

from statistics import NormalDist
from typing import ClassVar, Final

import numpy as np

from muflow_cli.calibration.combine import Cauchy, Fisher, Harmonic
from muflow_cli.calibration.coverage import Normality, RateBounds, check_normality, rate_bounds
from muflow_cli.calibration.novelty import LocalOutlierFactor, OneClassSvm
from muflow_cli.calibration.pvalues import (
    Scores,
    conformal_p_values,
    images_to_reach_alpha,
    mean_scores,
    tail_count,
    weighted_tail_p_values,
)
from muflow_cli.calibration.rule import Rule, RuleJudgement, WeightedPValues
from muflow_cli.calibration.weights import Weights, effective_count
from muflow_cli.errors import BadCalibration, BadSpec
from muflow_cli.specs import RuleSpec, Tail


class Conformal(Rule):
    """Flags a p-value of at most alpha: on fresh reals with probability at most alpha, whatever their distribution.

    Attributes:
        reals: (n,) mean scores, ascending.
    """

    name: ClassVar[str] = "conformal"
    weighable: ClassVar[bool] = True

    def __init__(self, scores: Scores, spec: RuleSpec) -> None:
        means = mean_scores(scores)
        self._order = np.argsort(means, kind="stable")
        self.reals, self.spec = means[self._order], spec

    @classmethod
    def minimum_images(cls, spec: RuleSpec) -> int:
        """As many as let a p-value reach alpha, or alpha / 2 in each of two tails."""
        return images_to_reach_alpha(spec)

    @classmethod
    def rate_bounds(cls, spec: RuleSpec, n: int) -> RateBounds:
        """Exact bounds, see `coverage.rate_bounds`; each tail flags floor(alpha / tails * (n + 1)) ranks."""
        cls.require_images(spec, n)
        return rate_bounds(*cls.flagged_ranks(spec, n))

    def judge(self, scores: Scores) -> RuleJudgement:
        """Judge (B, S) scores; the p-value of the mean score decides the flag."""
        p_value, high = conformal_p_values(self.reals, mean_scores(scores), self.spec.tail)
        return RuleJudgement(p_value, p_value <= self.spec.alpha, high)

    def weighted(self, scores: Scores, weights: Weights) -> WeightedPValues:
        """P-values of the mean scores; two tails take half each, as without weights."""
        reals = weights.reals[self._order]
        upper, lower, least = weighted_tail_p_values(self.reals, reals, mean_scores(scores), weights.batch)
        tails = tail_count(self.spec)
        p_value = upper if tails == 1 else np.minimum(1.0, 2 * np.minimum(upper, lower))
        return WeightedPValues(p_value, np.minimum(1.0, tails * least), effective_count(reals))

    def thresholds(self) -> tuple[float | None, float | None]:
        """The last reals on either side of which so few lie further out that their p-value exceeds alpha."""
        tails, n = tail_count(self.spec), len(self.reals)
        ranks = self.flagged_ranks(self.spec, n)[0] // tails
        low = float(self.reals[ranks - 1]) if self.spec.tail is Tail.BOTH else None
        return low, float(self.reals[n - ranks])


class Gaussian(Rule):
    """Flags mean scores beyond mean + z(1 - alpha) deviations of the reals; two tails take alpha / 2 each.

    Attributes:
        reals: (n,) mean scores, ascending.
        mean: of the reals.
        limit: distance from the mean, in nats per dimension, beyond which a score is flagged.

    Raises:
        BadCalibration: when all reals score the same.

    Source: Pontorno et al. 2026, Eq. 14 (the published code gives each of two tails the whole alpha).
    """

    name: ClassVar[str] = "gaussian"

    def __init__(self, scores: Scores, spec: RuleSpec) -> None:
        self.reals, self.spec = np.sort(mean_scores(scores)), spec
        if self.reals[0] == self.reals[-1]:
            raise BadCalibration("holds scores that are all equal, to which no Gaussian can be fitted")
        self.mean = float(self.reals.mean())
        self.limit = NormalDist().inv_cdf(1 - spec.alpha / tail_count(spec)) * float(self.reals.std(ddof=1))

    @classmethod
    def minimum_images(cls, spec: RuleSpec) -> int:  # noqa: ARG003 - the Gaussian extrapolates to any alpha
        """Two, the fewest that have a deviation."""
        return 2

    @classmethod
    def rate_bounds(cls, spec: RuleSpec, n: int) -> None:
        """None: the rate is alpha only as far as the scores are Gaussian."""
        cls.require_images(spec, n)

    def judge(self, scores: Scores) -> RuleJudgement:
        """Judge (B, S) scores; the Gaussian alone decides the flag, and the p-value beside it is conformal."""
        score = mean_scores(scores)
        p_value, high = conformal_p_values(self.reals, score, self.spec.tail)
        if self.spec.tail is Tail.BOTH:
            # The side on record is the one that was exceeded: the median's side can differ when scores are skew.
            high = score > self.mean
        return RuleJudgement(p_value, self.ranking(scores) > self.limit, high)

    def ranking(self, scores: Scores) -> Scores:
        """Distance above the mean of the reals, or on either side of it for both tails."""
        away = mean_scores(scores) - self.mean
        return np.abs(away) if self.spec.tail is Tail.BOTH else away

    def thresholds(self) -> tuple[float | None, float | None]:
        """The mean and `limit` on either side, or on the upper one."""
        return self.mean - self.limit if self.spec.tail is Tail.BOTH else None, self.mean + self.limit

    def normality(self) -> Normality:
        """Whether the reals look Gaussian."""
        return check_normality(self.reals)

    def details(self) -> tuple[str, ...]:
        """Fit of the Gaussian, and the share of these same reals that it flags (Clopper and Pearson 1934)."""
        from scipy import stats

        flagged, n = int(self.judge(self.reals[:, None]).flagged.sum()), len(self.reals)
        interval = stats.binomtest(flagged, n).proportion_ci(method="exact")
        share = (
            f"the threshold flags a share of {flagged / n:.3g} of these reals at alpha {self.spec.alpha:g} "
            f"(95 % interval {interval.low:.3g} to {interval.high:.3g})"
        )
        return str(self.normality()), share


# One row per rule. A test or a user of the library may add rows.
RULES: Final[dict[str, type[Rule]]] = {
    rule.name: rule for rule in (Conformal, Gaussian, Fisher, Cauchy, Harmonic, LocalOutlierFactor, OneClassSvm)
}


def rule_class(method: str) -> type[Rule]:
    """The rule of this name; BadSpec lists the names where there is none."""
    if method not in RULES:
        raise BadSpec("method", method, f"one of {', '.join(RULES)}")
    return RULES[method]
