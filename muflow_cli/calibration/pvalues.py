"""Conformal p-values of scores among those of held-out reals: (1 + # of reals at least as extreme) / (n + 1)."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray

from muflow_cli.specs import RuleSpec, Tail

Scores = NDArray[np.float64]


def mean_scores(scores: Scores) -> Scores:
    """One score per image, (B,): the mean of its (B, S) columns, whatever their memory layout."""
    means: Scores = np.ascontiguousarray(scores).mean(axis=1)
    return means


def tail_count(spec: RuleSpec) -> int:
    """How many tails share alpha: 1 or 2."""
    return 2 if spec.tail is Tail.BOTH else 1


def exact(alpha: float) -> Fraction:
    """The decimal number that the user typed: 0.07 * 100 is 7, not 7.000000000000001."""
    return Fraction(repr(float(alpha)))


def images_to_reach_alpha(spec: RuleSpec) -> int:
    """Fewest reals with which the conformal p-value of a mean score can be as small as alpha."""
    return ceil(tail_count(spec) / exact(spec.alpha)) - 1


def tail_p_values(reals: Scores, scores: Scores) -> tuple[Scores, Scores]:
    """Conformal p-values of the upper and of the lower tail, two of (B,); ties count as extreme.

    Args:
        reals: (n,) ascending.
        scores: (B,) to be judged.
    """
    n = len(reals)
    at_least = n - np.searchsorted(reals, scores, side="left")
    at_most = np.searchsorted(reals, scores, side="right")
    return (1 + at_least) / (n + 1), (1 + at_most) / (n + 1)


def weighted_tail_p_values(
    reals: Scores, real_weights: Scores, scores: Scores, weights: Scores
) -> tuple[Scores, Scores, Scores]:
    """As `tail_p_values`, where every image counts by its weight, and the least that either can be; three of (B,).

    (weight of the reals at least as extreme + own weight) / (weight of all reals + own weight). With weights that are
    all equal these are the p-values of `tail_p_values`.

    Args:
        reals: (n,) ascending.
        real_weights: (n,) of the reals, positive, in their order.
        scores: (B,) to be judged.
        weights: (B,) of their images, positive.

    Source: Tibshirani et al. 2019.
    """
    sums = np.concatenate([[0.0], np.cumsum(real_weights)])
    at_least = sums[-1] - sums[np.searchsorted(reals, scores, side="left")]
    at_most = sums[np.searchsorted(reals, scores, side="right")]
    total = sums[-1] + weights
    return (at_least + weights) / total, (at_most + weights) / total, weights / total


def conformal_p_values(reals: Scores, scores: Scores, tail: Tail) -> tuple[Scores, NDArray[np.bool_]]:
    """Conformal p-values (B,) for `tail`, and whether each score lies in the upper half.

    Two-sided: min(1, 2 min(upper, lower)), valid because each tail takes half.

    Args:
        reals: (n,) ascending.
        scores: (B,) to be judged.
        tail: which side of the reals is suspicious.
    """
    upper, lower = tail_p_values(reals, scores)
    p_value = upper if tail is Tail.UPPER else np.minimum(1.0, 2 * np.minimum(upper, lower))
    return p_value, upper <= lower


def over_tests(p_value: float, tests: int) -> float:
    """P-value of the least of `tests` p-values, at most 1. Source: Bonferroni 1936; valid under any dependence."""
    return min(1.0, tests * p_value)
