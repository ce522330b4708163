"""How well scores separate fakes from reals: ranking metrics and metrics of verdicts. Pure.

Conventions: a higher score is more fake; `fake` is True for a synthetic image. U is the number of distinct scores.
Every ranking metric is a function of `ScoreCounts` with any leading axes, so that the value and its bootstrap
resamples come from the same lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from muflow_cli.errors import BadScores, NotFinite

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

PARTIAL_MAX_FPR: Final = 0.05


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """How many images of each kind share each distinct score.

    Attributes:
        reals: (..., U) reals at each distinct score, scores ascending.
        fakes: (..., U) fakes at the same scores.
    """

    reals: Counts
    fakes: Counts


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where each image stands among the distinct scores of a comparison.

    Attributes:
        scores: (U,) distinct scores, ascending.
        reals: (R,) index into `scores` of each real.
        fakes: (F,) index into `scores` of each fake.
    """

    scores: Floats
    reals: NDArray[np.intp]
    fakes: NDArray[np.intp]

    def counts(self) -> ScoreCounts:
        """(U,) counts of the images themselves."""
        distinct = len(self.scores)
        return ScoreCounts(np.bincount(self.reals, minlength=distinct), np.bincount(self.fakes, minlength=distinct))


RankingMetric = Callable[[ScoreCounts], Floats]


def rank(reals: ArrayLike, fakes: ArrayLike) -> Ranks:
    """Distinct scores of (R,) reals and (F,) fakes together, and each image's place among them.

    Raises:
        BadScores: if one kind is missing.
        NotFinite: if a score is NaN or infinite.
    """
    real_scores, fake_scores = np.asarray(reals, np.float64), np.asarray(fakes, np.float64)
    if not len(real_scores) or not len(fake_scores):
        raise BadScores("a ranking metric", len(real_scores), len(fake_scores))
    both = np.concatenate([real_scores, fake_scores])
    if not np.isfinite(both).all():
        raise NotFinite(f"{np.sum(~np.isfinite(both))} of {len(both)} scores are NaN or infinite", "leave them out")
    scores, places = np.unique(both, return_inverse=True)
    return Ranks(scores, places[: len(real_scores)], places[len(real_scores) :])


def count(scores: ArrayLike, fake: ArrayLike) -> ScoreCounts:
    """(U,) counts of (B,) scores with (B,) labels; raises as `rank` does."""
    values, labels = np.asarray(scores, np.float64), np.asarray(fake, bool)
    return rank(values[~labels], values[labels]).counts()


def count_flags(flags: ArrayLike, fake: ArrayLike) -> ScoreCounts:
    """(2,) counts of (B,) verdicts: not flagged, flagged; for `accuracy` and `balanced_accuracy`.

    Raises:
        BadScores: if one kind is missing.
    """
    flagged, labels = np.asarray(flags, bool), np.asarray(fake, bool)
    fakes = int(labels.sum())
    if fakes in {0, len(labels)}:
        raise BadScores("accuracy", len(labels) - fakes, fakes)
    return ScoreCounts(np.bincount(flagged[~labels], minlength=2), np.bincount(flagged[labels], minlength=2))


def auc(counts: ScoreCounts) -> Floats:
    """(...,) probability that a fake outscores a real, ties counting one half; exact up to one division.

    Source: Mann-Whitney U / (R F).
    """
    below = np.cumsum(counts.reals, axis=-1) - counts.reals
    doubled = np.sum(counts.fakes * (2 * below + counts.reals), axis=-1)
    return np.asarray(doubled / (2 * _total(counts.reals) * _total(counts.fakes)), np.float64)


def signed_auc(scores: ArrayLike, fake: ArrayLike) -> float:
    """AUC of the score itself, in [0, 1]: fakes are expected above reals."""
    return float(auc(count(scores, fake)))


def partial_auc(counts: ScoreCounts, max_fpr: float = PARTIAL_MAX_FPR) -> Floats:
    """(...,) area under the ROC for FPR <= `max_fpr` in McClish's normalisation: chance 0.5, perfect 1.

    Source: McClish 1989; the same as scikit-learn's `roc_auc_score(max_fpr=...)`.
    """
    fpr, tpr = _rates(counts)
    start, end = np.minimum(fpr[..., :-1], max_fpr), np.minimum(fpr[..., 1:], max_fpr)
    width, full = end - start, np.diff(fpr, axis=-1)
    rise = np.diff(tpr, axis=-1) * np.divide(width, full, out=np.zeros_like(width), where=full > 0)
    area = np.sum(width * (tpr[..., :-1] + rise / 2), axis=-1)
    least = max_fpr**2 / 2
    return np.asarray(0.5 * (1 + (area - least) / (max_fpr - least)), np.float64)


def average_precision(counts: ScoreCounts) -> Floats:
    """(...,) mean precision over the recall steps, no interpolation; chance is the `prevalence`."""
    caught = _from_top(counts.fakes)
    flagged = caught + _from_top(counts.reals)
    precision = np.divide(caught, flagged, out=np.zeros(caught.shape), where=flagged > 0)
    gained = np.flip(counts.fakes, axis=-1)
    return np.asarray(np.sum(gained * precision, axis=-1) / _total(counts.fakes), np.float64)


def prevalence(counts: ScoreCounts) -> Floats:
    """(...,) share of fakes among the images: the average precision of chance."""
    fakes = _total(counts.fakes)
    return np.asarray(fakes / (fakes + _total(counts.reals)), np.float64)


def tpr_at_fpr(counts: ScoreCounts, max_fpr: float) -> Floats:
    """(...,) share of fakes caught by the lowest threshold whose FPR on these reals is at most `max_fpr`."""
    fpr, tpr = _rates(counts)
    return np.asarray(np.max(np.where(fpr <= max_fpr, tpr, 0.0), axis=-1), np.float64)


def accuracy(counts: ScoreCounts) -> Floats:
    """(...,) share of right verdicts, from `count_flags`; depends on the prevalence."""
    right = counts.reals[..., 0] + counts.fakes[..., 1]
    return np.asarray(right / (_total(counts.reals) + _total(counts.fakes)), np.float64)


def balanced_accuracy(counts: ScoreCounts) -> Floats:
    """(...,) mean of the right shares of reals and of fakes, from `count_flags`."""
    passed, caught = counts.reals[..., 0] / _total(counts.reals), counts.fakes[..., 1] / _total(counts.fakes)
    return np.asarray((passed + caught) / 2, np.float64)


# A new ranking metric is a row here; the bootstrap and every report take it from this table.
RANKING_METRICS: Final[Mapping[str, RankingMetric]] = {
    "auc": auc,
    "pauc": partial_auc,
    "ap": average_precision,
    "tpr_at_fpr_0.01": partial(tpr_at_fpr, max_fpr=0.01),
    "tpr_at_fpr_0.05": partial(tpr_at_fpr, max_fpr=0.05),
}

FLAG_METRICS: Final[Mapping[str, RankingMetric]] = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy}


def macro(values: Mapping[str, ArrayLike]) -> Floats:
    """Unweighted mean over groups of figures or of (resamples,) arrays: a large generator counts no more."""
    return np.asarray(np.mean([np.asarray(value, np.float64) for value in values.values()], axis=0), np.float64)


def worst(values: Mapping[str, float]) -> tuple[str, float]:
    """Group with the least value; of equals the first in the mapping's order."""
    name = min(values, key=lambda group: values[group])
    return name, values[name]


def _total(counts: Counts) -> Counts:
    return np.asarray(np.sum(counts, axis=-1))


def _from_top(counts: Counts) -> Counts:
    return np.asarray(np.cumsum(np.flip(counts, axis=-1), axis=-1))


def _rates(counts: ScoreCounts) -> tuple[Floats, Floats]:
    return _rate(counts.reals), _rate(counts.fakes)


def _rate(counts: Counts) -> Floats:
    above = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1))
    np.divide(_from_top(counts), _total(counts)[..., None], out=above[..., 1:])
    return above
