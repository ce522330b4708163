"""What every rule promises; the rules themselves are in `rules`, `novelty` and `combine`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import floor
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration.coverage import RateBounds
from muflow_cli.calibration.pvalues import Scores, exact, images_to_reach_alpha, tail_count
from muflow_cli.calibration.weights import Weights
from muflow_cli.errors import BadSpec, TooFewScores
from muflow_cli.specs import RuleSpec


@dataclass(frozen=True, slots=True)
class RuleJudgement:
    """What a rule says of B images.

    Attributes:
        p_value: (B,) conformal, in (0, 1].
        flagged: (B,) whether the rule calls the image synthetic.
        high: (B,) True on the upper side of the reals (unlike them), False on the lower (more typical than they are).
        heaviest: (B,) index of the column that weighs most; None for rules that do not look at single columns.
    """

    p_value: Scores
    flagged: NDArray[np.bool_]
    high: NDArray[np.bool_]
    heaviest: NDArray[np.intp] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class WeightedPValues:
    """What a rule says of B images when the calibration's images count by their weights.

    Attributes:
        p_value: (B,) in (0, 1].
        least: (B,) smallest p-value that an image of this weight can have, whatever its score.
        effective: how many equally weighted reals say as much as those that the images were ranked among.
    """

    p_value: Scores
    least: Scores
    effective: float


class Rule(ABC):
    """Fitted once to scores of reals, then judges (B, S) scores, nats per dimension.

    A rule is one subclass and one row of `rules.RULES`. It owns all that depends on the method: its name, what it needs
    and promises, and how it judges and ranks. Make one with `fit`, which checks the settings and the number of reals.

    Args:
        scores: (n, S) of reals that the flow never saw, in an order that is independent of the scores.
        spec: alpha and tail.

    Attributes:
        name: as settings, reports and the command line spell it.
        dependence_safe: whether the p-value holds, at least approximately, for columns that depend on each other even
            without a joint calibration. The calibrated p-values of all rules here hold for dependent columns.
        weighable: whether the rule flags by p-values alone and has `weighted`.
    """

    name: ClassVar[str]
    dependence_safe: ClassVar[bool] = True
    weighable: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, scores: Scores, spec: RuleSpec) -> None: ...

    @classmethod
    def fit(cls, scores: Scores, spec: RuleSpec) -> Self:
        """The rule that (n, S) scores of reals define.

        Raises:
            BadSpec: for settings that the method cannot use.
            TooFewScores: where n reals cannot reach alpha.
            BadCalibration: where the method cannot use these scores.
        """
        cls.check(spec)
        cls.require_images(spec, len(scores))
        return cls(scores, spec)

    @classmethod  # noqa: B027 - most methods accept every alpha and tail
    def check(cls, spec: RuleSpec) -> None:
        """Raise BadSpec for settings that the method cannot use."""

    @classmethod
    def require_images(cls, spec: RuleSpec, n: int) -> None:
        """Raise TooFewScores where n reals cannot reach alpha."""
        needed = cls.minimum_images(spec)
        if n < needed:
            least = cls.least_alpha(spec, n)
            raise TooFewScores(f"method {cls.name} at alpha {spec.alpha:g}, tail {spec.tail},", n, needed, least)

    @classmethod
    def least_alpha(cls, spec: RuleSpec, n: int) -> float | None:
        """The least alpha of two digits, not below the rule's own, that n reals can reach; None where none is."""
        rates = (digits / 10**places for places in (6, 5, 4, 3, 2) for digits in range(10, 100))
        higher = (rate for rate in rates if rate >= spec.alpha)
        return next((rate for rate in higher if cls.minimum_images(replace(spec, alpha=rate)) <= n), None)

    @classmethod
    @abstractmethod
    def minimum_images(cls, spec: RuleSpec) -> int:
        """Fewest reals with which the rule can flag anything at its alpha."""

    @classmethod
    def stratum_minimum(cls, spec: RuleSpec) -> int:
        """Fewest reals of a stratum for a rule of its own: enough for the rule, and for a p-value of alpha."""
        return max(cls.minimum_images(spec), images_to_reach_alpha(spec))

    @classmethod
    def smallest_p_value(cls, spec: RuleSpec, n: int) -> float:
        """Smallest p-value that n reals can give, here for a mean score: 1 / (n + 1), or 2 / (n + 1) for two tails."""
        return min(1.0, tail_count(spec) / (n + 1))

    @classmethod
    def flagged_ranks(cls, spec: RuleSpec, n: int) -> tuple[int, int]:
        """How many ranks among how many reals give a p-value of at most alpha; here those of a mean score."""
        tails = tail_count(spec)
        return tails * floor(exact(spec.alpha) / tails * (n + 1)), n

    @classmethod
    @abstractmethod
    def rate_bounds(cls, spec: RuleSpec, n: int) -> RateBounds | None:
        """Bounds of the true false-positive rate when n reals set the threshold; None where the rule promises none.

        Raises:
            TooFewScores: where n reals cannot reach alpha.
        """

    @abstractmethod
    def judge(self, scores: Scores) -> RuleJudgement:
        """Judge B images by their (B, S) scores."""

    def weighted(self, scores: Scores, weights: Weights) -> WeightedPValues:  # noqa: ARG002 - of rules that have it
        """P-values of B images by their (B, S) scores, among reals that count by their weights.

        Args:
            scores: to be judged.
            weights: of the reals, in the order in which the rule was given them, and of the B images.

        Raises:
            BadSpec: for a rule that is not `weighable`.
        """
        raise BadSpec("method", self.name, "one whose flags come from p-values")

    def ranking(self, scores: Scores) -> Scores:
        """How suspicious each of (B, S) scores is, (B,), higher = more; flagged images rank above all others."""
        return -self.judge(scores).p_value

    def thresholds(self) -> tuple[float | None, float | None]:
        """Mean scores below and above which the rule flags, nats per dimension; None where no single one decides."""
        return None, None

    def details(self) -> tuple[str, ...]:
        """What a summary should say about the fit, one sentence each."""
        return ()
