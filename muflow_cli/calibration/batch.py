"""Adaptive p-values: a score learned between held-out reals and a batch, with a false discovery rate that holds.

AdaDetect (Marandon, Lei, Mary and Roquain 2024, "Adaptive novelty detection with false discovery rate guarantee",
Annals of Statistics 52, arXiv 2208.06685). The calibration reals are dealt into training nulls and calibration nulls.
A classifier learns to tell the training nulls from the mixture of calibration nulls and batch. It never learns which
images of the mixture are which, so the scores of the calibration nulls and of the batch's reals are exchangeable, and
conformal p-values between them are valid, however badly the classifier is chosen. Synthetic images of one generator are
alike; the more of them a batch holds, the better the classifier knows them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration.components import Sample, components, hash_order, one_thread, spread
from muflow_cli.calibration.pvalues import exact, tail_p_values
from muflow_cli.errors import TooFewForRate

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]

# At most one component for five images: with as many as there are images, any classifier learns them by heart.
_COMPONENTS: Final = 100
_IMAGES_EACH: Final = 5
# Training nulls, and images of the mixture, that a classifier learns from; all of the mixture is scored.
_MOST_LEARNED: Final = 4096


class Classifier(Protocol):
    """A classifier of scikit-learn with two classes."""

    def fit(self, vectors: Vectors, classes: NDArray[np.int64]) -> object:
        """Learn to tell class 1 from class 0."""

    def predict_proba(self, vectors: Vectors) -> Floats:
        """(n, 2) probabilities of the classes."""


def _logistic(strength: float) -> Classifier:
    from sklearn.linear_model import LogisticRegression

    return cast("Classifier", LogisticRegression(C=strength, max_iter=300, class_weight="balanced"))


def _kernel(width: float) -> Classifier:
    """Logistic regression on a radial basis, whose `width` counts in typical squared distances of two images."""
    from sklearn.kernel_approximation import Nystroem
    from sklearn.pipeline import make_pipeline

    basis = Nystroem(gamma=1 / (width * 2 * _COMPONENTS), n_components=200, random_state=0)
    return cast("Classifier", make_pipeline(basis, _logistic(1.0)))


# Candidates, the simplest first; the batch chooses among them without a label (`_chosen`).
LEARNERS: Final[Mapping[str, Callable[[], Classifier]]] = {
    "logistic 0.001": lambda: _logistic(0.001),
    "logistic 0.01": lambda: _logistic(0.01),
    "logistic 0.1": lambda: _logistic(0.1),
    "kernel 1": lambda: _kernel(1.0),
    "kernel 0.3": lambda: _kernel(0.3),
}


@dataclass(frozen=True, slots=True, eq=False)
class Adaptive:
    """What was learned between the reals and a batch.

    Attributes:
        p_values: (m,) of the batch, in its order.
        learner: the row of LEARNERS that was chosen.
        training: number of training nulls.
        nulls: number of calibration nulls, l; no p-value is below 1 / (l + 1).
    """

    p_values: Floats
    learner: str
    training: int
    nulls: int


def fewest_reals(fdr: float) -> int:
    """Fewest calibration reals with which any image can be flagged at a false discovery rate of `fdr`."""
    return 2 * (ceil(1 / exact(fdr)) - 1)


def fewest_flagged(batch: int, nulls: int, fdr: float) -> int:
    """Fewest images of a batch that Benjamini-Hochberg can flag at `fdr`, since no p-value is below 1 / (nulls + 1)."""
    return ceil(batch / (exact(fdr) * (nulls + 1)))


def component_count(images: int) -> int:
    """Components for so many reals and images of a batch together."""
    return min(_COMPONENTS, max(2, images // _IMAGES_EACH))


def adaptive_p_values(
    reals: Sample,
    batch: Sample,
    fdr: float,
    *,
    seed: int = 0,
    learners: Mapping[str, Callable[[], Classifier]] = LEARNERS,
) -> Adaptive:
    """P-values of a batch against held-out reals; Benjamini-Hochberg on them keeps the false discovery rate.

    The rate is at most `fdr` times the share of reals in the batch, for any sample size, if the reals of the batch are
    exchangeable with the calibration's. Neither the order of the reals nor that of the batch matters.

    Args:
        reals: of the calibration.
        batch: images to judge, at least one.
        fdr: false discovery rate in (0, 1), at which the learner is chosen.
        seed: of the dealing; decide on it before you look at the batch.
        learners: to choose among.

    Raises:
        TooFewForRate: with fewer reals than `fewest_reals`.
    """
    count, least = len(reals), fewest_reals(fdr)
    if count < least:
        raise TooFewForRate(fdr, count, least)
    order = hash_order(reals, batch)
    vectors = components(reals, batch, component_count(len(order)))[order]
    return learned_p_values(vectors, order, count, fdr, seed=seed, learners=learners)


def learned_p_values(
    vectors: Vectors,
    order: NDArray[np.int64],
    reals: int,
    fdr: float,
    *,
    seed: int = 0,
    learners: Mapping[str, Callable[[], Classifier]] = LEARNERS,
) -> Adaptive:
    """As `adaptive_p_values`, of features that are reduced already.

    Args:
        vectors: (n, k), the reals and the batch in the order of `order`.
        order: (n,) positions in the order of the content hashes, the reals' before the batch's.
        reals: number of calibration reals, at least `fewest_reals`.
        fdr: as in `adaptive_p_values`.
        seed: likewise.
        learners: likewise.
    """
    dealt = np.random.default_rng(seed).permutation(reals)
    trains = np.zeros(len(order), dtype=bool)
    trains[order[order < reals][dealt[: reals // 2]]] = True
    trains = trains[order]
    training, mixture, source = vectors[trains], vectors[~trains], order[~trains]
    learner = _chosen(training, mixture, fdr, learners)
    scores = _mixture_scores(learners[learner](), training, mixture)
    null_scores = np.sort(scores[source < reals])
    p_values = np.empty(len(order) - reals)
    p_values[source[source >= reals] - reals] = tail_p_values(null_scores, scores[source >= reals])[0]
    return Adaptive(p_values, learner, len(training), len(null_scores))


def _chosen(training: Vectors, mixture: Vectors, fdr: float, learners: Mapping[str, Callable[[], Classifier]]) -> str:
    """The learner that would find most of the mixture with half of the training nulls in the place of the calibration.

    The mixture is one set in this, so the choice spends nothing of the guarantee (section 4.4 of the paper). Where two
    find the same number, the one with the smaller p-values (Fisher's sum of their logarithms) is chosen.
    """
    if len(learners) == 1:
        return next(iter(learners))
    from scipy.stats import false_discovery_control

    half = len(training) // 2
    nulls = training[:half]
    best: tuple[tuple[int, float], str] = ((-1, 0.0), "")
    for name, make in learners.items():
        scores = _mixture_scores(make(), training[half:], np.concatenate([nulls, mixture]))
        p_values = tail_p_values(np.sort(scores[:half]), scores[half:])[0]
        found = int((false_discovery_control(p_values) <= fdr).sum())
        best = max(best, ((found, -float(np.log(p_values).sum())), name), key=lambda entry: entry[0])
    return best[1]


def _mixture_scores(classifier: Classifier, training: Vectors, mixture: Vectors) -> Floats:
    """(len(mixture),) scores of the mixture by a classifier between it and the training nulls; higher = less real."""
    nulls, mixed = (rows[spread(len(rows), _MOST_LEARNED)] for rows in (training, mixture))
    classes = np.repeat(np.array([0, 1]), [len(nulls), len(mixed)])
    with one_thread(), warnings.catch_warnings():
        # Fewer images than points of a basis, or an iteration that ends early: legal here, and no user's concern.
        warnings.simplefilter("ignore")
        classifier.fit(np.concatenate([nulls, mixed]), classes)
        starts = range(0, len(mixture), _MOST_LEARNED)
        pieces = [classifier.predict_proba(mixture[start : start + _MOST_LEARNED])[:, 1] for start in starts]
    return np.concatenate(pieces)
