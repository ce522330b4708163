"""Novelty detectors of scikit-learn on standardised columns: Local Outlier Factor and one-class SVM."""

from __future__ import annotations

from abc import abstractmethod
from math import ceil
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration.pvalues import Scores, conformal_p_values, exact, mean_scores
from muflow_cli.calibration.rule import Rule, RuleJudgement
from muflow_cli.errors import BadSpec
from muflow_cli.specs import RuleSpec, Tail

# Both compare images with each other: time and memory grow with n or its square.
NOVELTY_CAP: Final = 10_000
NOVELTY_SEED: Final = 0
LOF_NEIGHBOURS: Final = 20  # scikit-learn's default, fewer where there are fewer reals


def novelty_subsample(n: int) -> NDArray[np.int64]:
    """Ascending indices of the reals that the detectors are fitted to: all n, or a seeded NOVELTY_CAP of them."""
    if n <= NOVELTY_CAP:
        return np.arange(n)
    return np.sort(np.random.default_rng(NOVELTY_SEED).choice(n, NOVELTY_CAP, replace=False))


class Novelty(Rule):
    """Flags what a scikit-learn novelty detector calls an outlier.

    These detectors know no tails and promise no rate. With tail `upper`, outliers on the lower side are not flagged.

    Attributes:
        reals: (n,) mean scores, ascending, for the p-value.
        fitted_on: number of reals that the detector was fitted to.
        pipeline: scaler and detector; scikit-learn ships no types.
    """

    def __init__(self, scores: Scores, spec: RuleSpec) -> None:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.reals, self.spec = np.sort(mean_scores(scores)), spec
        rows = novelty_subsample(len(scores))
        self.fitted_on = len(rows)
        self.pipeline: Any = make_pipeline(StandardScaler(), self.detector(spec, len(scores))).fit(scores[rows])

    @staticmethod
    @abstractmethod
    def detector(spec: RuleSpec, n: int) -> Any:
        """The scikit-learn estimator for n reals, not fitted."""

    @classmethod
    def minimum_images(cls, spec: RuleSpec) -> int:
        """As many as make alpha * n at least one image."""
        return max(2, ceil(1 / exact(spec.alpha)))

    @classmethod
    def rate_bounds(cls, spec: RuleSpec, n: int) -> None:
        """None: the flags come from no p-value."""
        cls.require_images(spec, n)

    def judge(self, scores: Scores) -> RuleJudgement:
        """Judge (B, S) scores; p-value and side are the mean score's, the flag is scikit-learn's."""
        p_value, high = conformal_p_values(self.reals, mean_scores(scores), self.spec.tail)
        outlier = self.pipeline.predict(scores) == -1
        return RuleJudgement(p_value, outlier & high if self.spec.tail is Tail.UPPER else outlier, high)

    def ranking(self, scores: Scores) -> Scores:
        """Minus scikit-learn's decision function; with tail `upper`, nothing on the lower side ranks above 0."""
        outlyingness = -np.asarray(self.pipeline.decision_function(scores), np.float64)
        if self.spec.tail is Tail.BOTH:
            return outlyingness
        _, high = conformal_p_values(self.reals, mean_scores(scores), self.spec.tail)
        return np.where(high, outlyingness, -np.abs(outlyingness))

    def details(self) -> tuple[str, ...]:
        """How many of the reals the detector was fitted to."""
        subsample = " (a seeded subsample)" if self.fitted_on < len(self.reals) else ""
        return (f"fitted to {self.fitted_on} of {len(self.reals)} reals{subsample}",)


class LocalOutlierFactor(Novelty):
    """Local Outlier Factor, contamination = alpha. Source: Breunig et al. 2000."""

    name: ClassVar[str] = "lof"

    @classmethod
    def check(cls, spec: RuleSpec) -> None:
        """Refuse an alpha above 0.5, scikit-learn's bound on its contamination."""
        if spec.alpha > 0.5:
            raise BadSpec("alpha", spec.alpha, "at most 0.5 with method lof")

    @staticmethod
    def detector(spec: RuleSpec, n: int) -> Any:
        """The scikit-learn estimator for n reals, not fitted."""
        from sklearn import neighbors

        count = max(1, min(LOF_NEIGHBOURS, n - 1))
        return neighbors.LocalOutlierFactor(n_neighbors=count, novelty=True, contamination=spec.alpha)


class OneClassSvm(Novelty):
    """One-class SVM, nu = alpha, radial kernel, gamma "scale". Source: Schölkopf et al. 2001."""

    name: ClassVar[str] = "ocsvm"

    @staticmethod
    def detector(spec: RuleSpec, n: int) -> Any:  # noqa: ARG004 - its settings are the same for any n
        """The scikit-learn estimator, not fitted."""
        from sklearn import svm

        return svm.OneClassSVM(nu=spec.alpha)
