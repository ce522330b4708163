"""How much each calibration image counts for a batch of another kind: likelihood ratios of what files are like.

Weighted conformal p-values: Tibshirani, Foygel Barber, Candes and Ramdas 2019, "Conformal prediction under covariate
shift" (NeurIPS). The ratios come from a classifier between the calibration's images and the batch, as there. It sees
facts of the files alone (format, size, JPEG quality, sharpness): a batch of synthetic images differs from the
calibration by what they show, too, and weights that knew of it would explain it away.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration.components import one_thread
from muflow_cli.calibration.strata import longer_side, shorter_side
from muflow_cli.records import Facts

Floats = NDArray[np.float64]

# No image counts for more than this or for less than its inverse, before and after.
BOUND: Final = 20.0
FOLDS: Final = 5
# Fewest images of the batch, and of the calibration, that a classifier learns from.
FEWEST_IMAGES: Final = 20
# Inverse regularisation of the logistic regression, on facts, their squares and products.
_STRENGTH: Final = 0.1
_LEAST_SHARPNESS: Final = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Likelihood ratios, batch to calibration, up to a common factor.

    Attributes:
        reals: (n,) of the calibration's images, positive.
        batch: (B,) of the images to judge, positive.
    """

    reals: Floats
    batch: Floats

    def of(self, reals: Sequence[int], batch: Sequence[int]) -> Weights:
        """Those of some of the images."""
        return Weights(self.reals[list(reals)], self.batch[list(batch)])


def effective_count(weights: Floats) -> float:
    """How many equally weighted images say as much. Source: Kish 1965."""
    return float(weights.sum() ** 2 / np.square(weights).sum())


def likelihood_ratios(reals: Sequence[Facts], batch: Sequence[Facts]) -> Weights:
    """Weights between 1 / BOUND and BOUND; all are 1 where either side has fewer than FEWEST_IMAGES.

    Each weight comes from a classifier that did not learn from its image (cross-fitting). Neither the order of the
    reals nor that of the batch matters.

    Args:
        reals: of the calibration.
        batch: of photographs that differ.
    """
    if min(len(reals), len(batch)) < FEWEST_IMAGES:
        return Weights(np.ones(len(reals)), np.ones(len(batch)))
    from sklearn.linear_model import LogisticRegression  # a second to import, which other scans need not pay
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    facts = _numbers([*reals, *batch])
    classes = np.repeat([0, 1], [len(reals), len(batch)])
    folds = np.concatenate([_folds(reals), _folds(batch)])
    # The same sums in the same order, whatever the order of the images.
    order = np.lexsort((np.array([image.sha256 for image in (*reals, *batch)]), classes))
    log_ratios = np.empty(len(classes))
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an iteration that ends early, which is legal here and no user's concern
        for fold in range(FOLDS):
            learned, left = order[folds[order] != fold], folds == fold
            regression = LogisticRegression(C=_STRENGTH, max_iter=500)
            squares = PolynomialFeatures(2, include_bias=False)
            classifier = make_pipeline(StandardScaler(), squares, StandardScaler(), regression)
            classifier.fit(facts[learned], classes[learned])
            odds = classes[learned].mean() / (1 - classes[learned].mean())
            log_ratios[left] = classifier.decision_function(facts[left]) - math.log(odds)
    ratios = np.exp(np.clip(log_ratios, -math.log(BOUND), math.log(BOUND)))
    return Weights(ratios[: len(reals)], ratios[len(reals) :])


def _folds(images: Sequence[Facts]) -> NDArray[np.int64]:
    """The fold of each image, by the rank of its content hash."""
    ranks = np.empty(len(images), dtype=np.int64)
    ranks[np.argsort(np.array([image.sha256 for image in images]), kind="stable")] = np.arange(len(images))
    return ranks % FOLDS


def _numbers(images: Sequence[Facts]) -> Floats:
    """(n, k) the facts as numbers: sizes and sharpness as logarithms, one column for each format."""
    formats = sorted({image.format for image in images})
    rows = [
        [
            math.log2(shorter_side(image)),
            math.log2(longer_side(image) / shorter_side(image)),
            image.jpeg_quality or 0,
            image.jpeg_quality is None,
            math.log(max(image.sharpness or 0, _LEAST_SHARPNESS)),
            image.sharpness is None,
            *(image.format == name for name in formats),
        ]
        for image in images
    ]
    return np.array(rows, dtype=np.float64)
