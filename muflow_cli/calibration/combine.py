"""One p-value from several columns: Fisher's, the Cauchy and the harmonic-mean combination, calibrated jointly.

Half of the reals give each column's conformal p-values. The statistic that combines them is itself compared with the
statistics of the other half, so the result is a valid p-value however the columns depend on each other.
"""

from __future__ import annotations

from abc import abstractmethod
from math import ceil, floor
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration.coverage import RateBounds, rate_bounds
from muflow_cli.calibration.pvalues import (
    Scores,
    conformal_p_values,
    exact,
    mean_scores,
    tail_p_values,
    weighted_tail_p_values,
)
from muflow_cli.calibration.rule import Rule, RuleJudgement, WeightedPValues
from muflow_cli.calibration.weights import Weights, effective_count
from muflow_cli.specs import RuleSpec, Tail

TIE_BREAK: Final = 1e-6
# A column without evidence adds nothing; it takes nothing away from the others.
CAUCHY_TRUNCATION: Final = 0.5


class Combined(Rule):
    """Flags a jointly calibrated p-value of at most alpha; a subclass is a statistic.

    Attributes:
        reference: (h, S) each column ascending: the first half of the reals, gives each column's p-values.
        statistics: (m,) ascending: of the second half, m = n - n // 2, ties broken by distance.
    """

    weighable: ClassVar[bool] = True

    def __init__(self, scores: Scores, spec: RuleSpec) -> None:
        half = len(scores) // 2
        self.spec = spec
        self.reference = np.sort(scores[:half], axis=0)
        p_values, _ = self._column_p_values(scores[half:])
        statistics = self.statistic(p_values) + self._tie_break(scores[half:])
        order = np.argsort(statistics, kind="stable")
        self.statistics, self._order = statistics[order], half + order

    @staticmethod
    @abstractmethod
    def statistic(p_values: Scores) -> Scores:
        """Combination (B,) of (B, S) p-values in (0, 1]; higher = more suspicious."""

    @classmethod
    def minimum_images(cls, spec: RuleSpec) -> int:
        """As many as let the half that calibrates the statistic reach alpha; the statistic has one tail."""
        return max(2, 2 * (ceil(1 / exact(spec.alpha)) - 1) - 1)

    @classmethod
    def smallest_p_value(cls, spec: RuleSpec, n: int) -> float:  # noqa: ARG003 - one tail whatever the columns have
        """1 / (m + 1) for the m = n - n // 2 reals that calibrate the statistic."""
        return 1 / (n - n // 2 + 1)

    @classmethod
    def rate_bounds(cls, spec: RuleSpec, n: int) -> RateBounds:
        """Exact bounds, see `coverage.rate_bounds`, from the half that calibrates the statistic."""
        cls.require_images(spec, n)
        return rate_bounds(*cls.flagged_ranks(spec, n))

    @classmethod
    def flagged_ranks(cls, spec: RuleSpec, n: int) -> tuple[int, int]:
        """Those among the half that calibrates the statistic, which has one tail."""
        calibrating = n - n // 2
        return floor(exact(spec.alpha) * (calibrating + 1)), calibrating

    def judge(self, scores: Scores) -> RuleJudgement:
        """Judge (B, S) scores; the p-value of the statistic decides the flag, the side is the heaviest column's."""
        p_values, high = self._column_p_values(scores)
        p_value, _ = tail_p_values(self.statistics, self.statistic(p_values) + self._tie_break(scores))
        heaviest = p_values.argmin(axis=1)
        return RuleJudgement(p_value, p_value <= self.spec.alpha, high[np.arange(len(high)), heaviest], heaviest)

    def weighted(self, scores: Scores, weights: Weights) -> WeightedPValues:
        """P-values of the statistic among the second half, which alone is weighted: the first half defines a statistic,
        and any fixed one may be calibrated."""
        reals = weights.reals[self._order]
        statistics = self.statistic(self._column_p_values(scores)[0]) + self._tie_break(scores)
        p_value, _, least = weighted_tail_p_values(self.statistics, reals, statistics, weights.batch)
        return WeightedPValues(p_value, least, effective_count(reals))

    def _column_p_values(self, scores: Scores) -> tuple[Scores, NDArray[np.bool_]]:
        """Conformal p-values (B, S) of each column among the reference reals, and whether it is in the upper half."""
        columns = [
            conformal_p_values(reals, column, self.spec.tail)
            for reals, column in zip(self.reference.T, scores.T, strict=True)
        ]
        return np.stack([p for p, _ in columns], axis=1), np.stack([high for _, high in columns], axis=1)

    def _tie_break(self, scores: Scores) -> Scores:
        """A small addition to the statistic, (B,) in [0, TIE_BREAK), that grows with the distance from the reference.

        A conformal p-value is the same for all scores beyond the reference reals, and images far out would tie with the
        outermost reals of the second half. Any function of an image and the reference may be calibrated, so the
        p-value stays valid.
        """
        spread = self.reference.std(axis=0)
        away = (scores - self.reference.mean(axis=0)) / np.where(spread > 0, spread, 1)
        distance = mean_scores(np.abs(away) if self.spec.tail is Tail.BOTH else np.maximum(away, 0))
        return TIE_BREAK * distance / (1 + distance)


class Fisher(Combined):
    """Fisher's combination: strong where all columns are a little unusual.

    Without joint calibration it would need independent columns.

    Source: Fisher 1932.
    """

    name: ClassVar[str] = "fisher"
    dependence_safe: ClassVar[bool] = False

    @staticmethod
    def statistic(p_values: Scores) -> Scores:
        """-2 times the sum of the logarithms."""
        statistic: Scores = -2 * np.log(p_values).sum(axis=1)
        return statistic


class Cauchy(Combined):
    """Cauchy combination (ACAT): strong where one column is very unusual.

    Even without joint calibration its small p-values hold approximately for dependent columns. P-values above
    CAUCHY_TRUNCATION count as that: the tangent falls to minus infinity at 1, which conformal p-values reach, and a
    perfectly typical column would outweigh all that few hundred reals can say against another.

    Source: Liu and Xie 2020, "Cauchy combination test".
    """

    name: ClassVar[str] = "cauchy"

    @staticmethod
    def statistic(p_values: Scores) -> Scores:
        """Mean of tan((1/2 - p) pi)."""
        statistic: Scores = np.tan((0.5 - np.minimum(p_values, CAUCHY_TRUNCATION)) * np.pi).mean(axis=1)
        return statistic


class Harmonic(Combined):
    """Harmonic mean p-value: strong where one or a few columns are very unusual.

    Even without joint calibration its small p-values hold approximately for dependent columns.

    Source: Wilson 2019, "The harmonic mean p-value for combining dependent tests".
    """

    name: ClassVar[str] = "harmonic"

    @staticmethod
    def statistic(p_values: Scores) -> Scores:
        """Mean of 1 / p: the inverse of the harmonic mean, so that higher is more suspicious."""
        statistic: Scores = (1 / p_values).mean(axis=1)
        return statistic
