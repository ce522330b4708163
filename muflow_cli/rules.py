"""From scores of held-out reals to a verdict: conformal, alpha-Gaussian, Fisher over scales, LOF, one-class SVM.

Every rule is made once from the (n, S) scores of reals that the flow never saw, and judges (B, S) scores. A picture's
score is the mean over its scales; p-values are conformal: (1 + # of reals at least as extreme) / (n + 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from statistics import NormalDist
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from muflow_cli.errors import BadCalibration, TooFewScores
from muflow_cli.specs import Method, RuleSpec, Tail

Scores = NDArray[np.float64]

# LOF and the one-class SVM compare pictures with each other: time and memory grow with n or its square.
NOVELTY_METHODS: Final = frozenset({Method.LOF, Method.OCSVM})
NOVELTY_CAP: Final = 10_000
NOVELTY_SEED: Final = 0
TIE_BREAK: Final = 1e-6
LOF_NEIGHBOURS: Final = 20  # scikit-learn's default, fewer where fewer reals are there


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule says of B pictures.

    Attributes:
        p_value: (B,) conformal, in (0, 1]; of the mean score, or of Fisher's statistic under `fisher`.
        flagged: (B,) whether the rule calls the picture synthetic.
        tail: (B,) "high" (unlike the reals) or "low" (more typical than the reals).
        heaviest: (B,) index of the scale that weighs most; None for rules that do not look at single scales.
    """

    p_value: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    tail: NDArray[np.str_]
    heaviest: NDArray[np.int64] | None = None


class Rule(Protocol):
    """Anything that can judge (B, S) scores in nats per dimension."""

    def judge(self, scores: Scores) -> Judgement:
        """Judge B pictures by their (B, S) per-scale scores."""
        ...


def picture_scores(scores: Scores) -> Scores:
    """One score per picture, (B,): the mean of its (B, S) per-scale scores."""
    means: Scores = np.ascontiguousarray(scores).mean(axis=1)
    return means


def tails_of(spec: RuleSpec) -> int:
    """How many tails share alpha."""
    return 2 if spec.tail is Tail.BOTH else 1


def exact(alpha: float) -> Fraction:
    """The decimal number that was asked for: 0.07 * 100 is 7, not 7.000000000000001."""
    return Fraction(repr(float(alpha)))


def pictures_needed(spec: RuleSpec) -> int:
    """Fewest reals with which the rule can flag anything at its alpha.

    Conformal: alpha >= 1 / (n + 1), each tail at alpha / 2. Fisher: the same, one tail, for the half that calibrates
    the statistic. LOF and one-class SVM: alpha * n >= 1. Gaussian: 2, for a deviation; it extrapolates.
    """
    alpha = exact(spec.alpha)
    if spec.method is Method.GAUSSIAN:
        return 2
    if spec.method is Method.FISHER:
        return max(2, 2 * (ceil(1 / alpha) - 1) - 1)
    if spec.method is Method.CONFORMAL:
        return ceil(tails_of(spec) / alpha) - 1
    return max(2, ceil(1 / alpha))


def stratum_minimum(spec: RuleSpec) -> int:
    """Fewest reals for a stratum to have a rule of its own: enough for the rule and for its p-value to reach alpha."""
    return max(pictures_needed(spec), ceil(tails_of(spec) / exact(spec.alpha)) - 1)


def require_pictures(spec: RuleSpec, n: int) -> None:
    """Raise TooFewScores where n reals cannot reach the rule's alpha."""
    needed = pictures_needed(spec)
    if n < needed:
        raise TooFewScores(f"method {spec.method} at alpha {spec.alpha:g}, tail {spec.tail},", n, needed)


def tail_p_values(reals: Scores, scores: Scores) -> tuple[Scores, Scores]:
    """Conformal p-values of the upper and the lower tail, two of (B,); ties count as extreme.

    Args:
        reals: (n,) ascending.
        scores: (B,) to be judged.
    """
    n = len(reals)
    at_least = n - np.searchsorted(reals, scores, side="left")
    at_most = np.searchsorted(reals, scores, side="right")
    return (1 + at_least) / (n + 1), (1 + at_most) / (n + 1)


def conformal_p_values(reals: Scores, scores: Scores, tail: Tail) -> tuple[Scores, NDArray[np.bool_]]:
    """Conformal p-values (B,) for the asked tail, and whether each score lies in the upper half.

    Two-sided: min(1, 2 min(upper, lower)), valid because each tail takes half.
    """
    upper, lower = tail_p_values(reals, scores)
    p_value = upper if tail is Tail.UPPER else np.minimum(1.0, 2 * np.minimum(upper, lower))
    return p_value, upper <= lower


def _tail_names(high: NDArray[np.bool_]) -> NDArray[np.str_]:
    return np.where(high, "high", "low")


@dataclass(frozen=True, slots=True)
class Conformal:
    """Flags a p-value of at most alpha: on fresh reals with probability at most alpha, whatever their distribution."""

    reals: Scores
    spec: RuleSpec

    def judge(self, scores: Scores) -> Judgement:
        """Judge (B, S) scores; p_value is that of the mean score and decides the flag."""
        p_value, high = conformal_p_values(self.reals, picture_scores(scores), self.spec.tail)
        return Judgement(p_value, p_value <= self.spec.alpha, _tail_names(high))


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Flags beyond mean + z(1 - alpha) deviations of the reals; both tails take alpha / 2 each.

    Source: Pontorno et al. 2026, Eq. 14 (the published code gives each of two tails the whole alpha).
    """

    reals: Scores
    spec: RuleSpec
    mean: float
    deviation: float

    def judge(self, scores: Scores) -> Judgement:
        """Judge (B, S) scores; p_value is conformal and stands beside the flag, which the Gaussian alone decides."""
        score = picture_scores(scores)
        p_value, high = conformal_p_values(self.reals, score, self.spec.tail)
        away = score - self.mean
        if self.spec.tail is Tail.BOTH:
            # The tail on record is the one that was exceeded: the median's side can differ when scores are skew.
            high, away = away > 0, np.abs(away)
        limit = NormalDist().inv_cdf(1 - self.spec.alpha / tails_of(self.spec)) * self.deviation
        return Judgement(p_value, away > limit, _tail_names(high))


@dataclass(frozen=True, slots=True)
class Fisher:
    """Flags by Fisher's statistic over scales, itself calibrated, so that dependent scales do not spoil the p-value.

    Attributes:
        reference: (h, S) each column ascending: first half of the reals, gives each scale's p-value.
        statistics: (m,) ascending: the statistic of the second half of the reals, ties broken by distance.
    """

    reference: Scores
    statistics: Scores
    spec: RuleSpec

    def judge(self, scores: Scores) -> Judgement:
        """Judge (B, S) scores; p_value is that of the statistic and decides the flag; tail is the heaviest scale's."""
        p_values, high = _scale_p_values(self.reference, scores, self.spec.tail)
        statistics = fisher_statistic(p_values) + _tie_break(self.reference, scores, self.spec.tail)
        p_value, _ = tail_p_values(self.statistics, statistics)
        heaviest = p_values.argmin(axis=1)
        tail = _tail_names(high[np.arange(len(high)), heaviest])
        return Judgement(p_value, p_value <= self.spec.alpha, tail, heaviest)


def _scale_p_values(reference: Scores, scores: Scores, tail: Tail) -> tuple[Scores, NDArray[np.bool_]]:
    columns = [conformal_p_values(reals, column, tail) for reals, column in zip(reference.T, scores.T, strict=True)]
    return np.stack([p for p, _ in columns], axis=1), np.stack([high for _, high in columns], axis=1)


def fisher_statistic(p_values: Scores) -> Scores:
    """Fisher's combination (B,) of (B, S) p-values: -2 times the sum of their logarithms."""
    statistic: Scores = -2 * np.log(p_values).sum(axis=1)
    return statistic


@dataclass(frozen=True, slots=True)
class Novelty:
    """Flags what a scikit-learn novelty detector on standardised per-scale scores calls an outlier.

    These detectors know no tails and promise no rate. With `upper`, an outlier in the low tail is not flagged.
    """

    reals: Scores
    spec: RuleSpec
    model: Any  # a scikit-learn pipeline, which ships no types

    def judge(self, scores: Scores) -> Judgement:
        """Judge (B, S) scores; p_value and tail are the mean score's and stand beside scikit-learn's flag."""
        p_value, high = conformal_p_values(self.reals, picture_scores(scores), self.spec.tail)
        outlier = self.model.predict(scores) == -1
        flagged = outlier & high if self.spec.tail is Tail.UPPER else outlier
        return Judgement(p_value, flagged, _tail_names(high))


def _tie_break(reference: Scores, scores: Scores, tail: Tail) -> Scores:
    """Below any step of Fisher's statistic, (B,) in [0, TIE_BREAK): grows with the distance from the reference.

    Beyond all the reference reals a conformal p-value stands still, and pictures far out would tie with the outermost
    reals of the second half. Any function of a picture and the reference may be calibrated, so p stays valid.
    """
    spread = reference.std(axis=0)
    away = (scores - reference.mean(axis=0)) / np.where(spread > 0, spread, 1)
    distance = picture_scores(np.abs(away) if tail is Tail.BOTH else np.maximum(away, 0))
    return TIE_BREAK * distance / (1 + distance)


def fit_conformal(scores: Scores, spec: RuleSpec) -> Conformal:
    """Conformal rule from (n, S) scores of reals; TooFewScores when alpha is below what n can reach."""
    require_pictures(spec, len(scores))
    return Conformal(np.sort(picture_scores(scores)), spec)


def fit_gaussian(scores: Scores, spec: RuleSpec) -> Gaussian:
    """Gaussian rule from (n, S) scores of reals, by their mean and sample deviation; BadCalibration when all equal."""
    require_pictures(spec, len(scores))
    reals = np.sort(picture_scores(scores))
    if reals[0] == reals[-1]:
        raise BadCalibration("holds scores that are all equal, through which no Gaussian goes")
    return Gaussian(reals, spec, float(reals.mean()), float(reals.std(ddof=1)))


def fit_fisher(scores: Scores, spec: RuleSpec) -> Fisher:
    """Fisher rule from (n, S) scores of reals in an order that knows nothing of the scores (by content hash)."""
    require_pictures(spec, len(scores))
    half = len(scores) // 2
    reference = np.sort(scores[:half], axis=0)
    p_values, _ = _scale_p_values(reference, scores[half:], spec.tail)
    statistics = fisher_statistic(p_values) + _tie_break(reference, scores[half:], spec.tail)
    return Fisher(reference, np.sort(statistics), spec)


def novelty_subsample(n: int) -> NDArray[np.int64]:
    """Ascending indices of the reals that LOF and the one-class SVM are fitted on: all, or a seeded NOVELTY_CAP."""
    if n <= NOVELTY_CAP:
        return np.arange(n)
    return np.sort(np.random.default_rng(NOVELTY_SEED).choice(n, NOVELTY_CAP, replace=False))


def _fit_novelty(scores: Scores, spec: RuleSpec, model: Any) -> Novelty:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    require_pictures(spec, len(scores))
    pipeline = make_pipeline(StandardScaler(), model).fit(scores[novelty_subsample(len(scores))])
    return Novelty(np.sort(picture_scores(scores)), spec, pipeline)


def fit_lof(scores: Scores, spec: RuleSpec) -> Novelty:
    """Local Outlier Factor from (n, S) scores of reals, contamination = alpha."""
    from sklearn.neighbors import LocalOutlierFactor

    neighbours = max(1, min(LOF_NEIGHBOURS, len(scores) - 1))
    return _fit_novelty(
        scores, spec, LocalOutlierFactor(n_neighbors=neighbours, novelty=True, contamination=spec.alpha)
    )


def fit_ocsvm(scores: Scores, spec: RuleSpec) -> Novelty:
    """One-class SVM from (n, S) scores of reals, nu = alpha, radial kernel, gamma "scale"."""
    from sklearn.svm import OneClassSVM

    return _fit_novelty(scores, spec, OneClassSVM(nu=spec.alpha))


RULES: Final[Mapping[Method, Callable[[Scores, RuleSpec], Rule]]] = {
    Method.CONFORMAL: fit_conformal,
    Method.GAUSSIAN: fit_gaussian,
    Method.FISHER: fit_fisher,
    Method.LOF: fit_lof,
    Method.OCSVM: fit_ocsvm,
}
