"""Whether the images of a run, as a group, are like the calibration reals: can the stated rate hold for them?

Two kinds of tests, valid if images and reals are exchangeable. Do more images have a p-value of at most alpha than such
reals would? The rate of a conformal threshold follows Beta(k, n + 1 - k) over draws of the n reals
(`coverage.rate_bounds`), so the number among m images is beta-binomial. And is a column distributed as in the reals?
That is the two-sample test of Kolmogorov and Smirnov, whose asymptotic p-value is conservative. Both need no more than
counts between the reals' scores: any number of images takes the same memory, their order does not matter, and nothing
is drawn at random.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.coverage import rate_bounds
from muflow_cli.calibration.pvalues import Scores
from muflow_cli.calibration.rules import rule_class
from muflow_cli.calibration.strata import rows_by_stratum
from muflow_cli.clip_records import JudgedBy
from muflow_cli.records import FaceScore, Judgement, Result, Scored
from muflow_cli.run_records import Shift

# Fewest images of a run, or of a stratum in it, that are compared.
FEWEST: Final = 20
# At most this share of runs over exchangeable images is called unlike the calibration.
LEVEL: Final = 0.01
# 10,000 images show the smallest distance; one below this moves no rate by more.
LEAST_DISTANCE: Final = 0.1
# Of the bounds of both rates, one-sided.
_CONFIDENCE: Final = 0.95


class ShiftTest:
    """Compares images with a calibration while they pass.

    An image outside the calibration's ranges is not compared, since its result says so already; of an image with
    several faces the largest counts, as in the calibration. Files with the same bytes count once.

    Args:
        calibration: whose reals are compared; with strata, each stratum that has a rule of its own by itself.
    """

    def __init__(self, calibration: Calibration) -> None:
        spec, rule = calibration.rule, rule_class(calibration.rule.method)
        self._alpha, self._columns = spec.alpha, calibration.columns
        self._parts = {
            name or None: _Part(calibration.scores[rows], *rule.flagged_ranks(spec, len(rows)))
            for name, rows in rows_by_stratum(calibration.facts, spec.by).items()
            if not spec.by or len(rows) >= rule.stratum_minimum(spec)
        }

    def add(self, result: Result) -> None:
        """Take in one result of a detector with this calibration."""
        if not isinstance(result, Scored) or result.duplicate_of is not None:
            return
        if result.clip is not None and (result.clip.judged_by is JudgedBy.FRAME or len(result.clip.tracks) > 1):
            return  # one of several frames or faces decided, which no row of the calibration was chosen among
        judged: FaceScore | Judgement = result.faces[0] if result.faces else result.judgement
        columns = result.faces[0].column_scores if result.faces else result.column_scores
        part = self._parts.get(result.judgement.stratum)
        if part is not None and not judged.atypical_input:
            part.add(np.array(columns), suspicious=judged.p_value <= self._alpha)

    def outcome(self) -> Shift | None:
        """What the images so far say; None where fewer than FEWEST can be compared."""
        parts = {name: part for name, part in self._parts.items() if part.images >= FEWEST}
        if not parts:
            return None
        tests = len(parts) * (len(self._columns) + 1)
        found = [part.compared(self._columns, name, tests) for name, part in parts.items()]
        worst = min(found, key=lambda one: (one.alike, one.p_value))
        return replace(worst, images=sum(part.images for part in parts.values()))


class _Part:
    """The images of one stratum beside its reals.

    Args:
        scores: (n, S) of the reals.
        ranks: k, of those that the rule flags.
        nulls: n, among which the rule ranks.
    """

    def __init__(self, scores: Scores, ranks: int, nulls: int) -> None:
        self._steps = [np.unique(column, return_counts=True) for column in scores.T]
        # How many images lie at or below each distinct score, and how many below it, as differences.
        self._at_most = [np.zeros(len(values) + 1, dtype=np.int64) for values, _ in self._steps]
        self._below = [counts.copy() for counts in self._at_most]
        self._reals, self._ranks, self._nulls = len(scores), max(1, ranks), nulls
        self.images = self.suspicious = 0

    def add(self, columns: NDArray[np.float64], *, suspicious: bool) -> None:
        """Count one image with its (S,) columns."""
        self.images += 1
        self.suspicious += suspicious
        for column, (values, _), at_most, below in zip(columns, self._steps, self._at_most, self._below, strict=True):
            at_most[np.searchsorted(values, column, side="left")] += 1
            below[np.searchsorted(values, column, side="right")] += 1

    def compared(self, names: tuple[str, ...], stratum: str | None, tests: int) -> Shift:
        """The tests of this part, each p-value times the number of `tests` (Bonferroni)."""
        from scipy.special import betaincinv, kolmogorov  # a scan of few images needs no SciPy

        distances = self._distances()
        furthest = int(np.argmax(distances))
        distance = float(distances[furthest])
        apart = float(kolmogorov(distance * np.sqrt(self._reals * self.images / (self._reals + self.images))))
        more = more_than(self.suspicious, self.images, self._ranks, self._nulls)
        found, images = self.suspicious, self.images
        share_at_least = float(betaincinv(found, images - found + 1, 1 - _CONFIDENCE)) if found else 0.0
        rate_at_most = rate_bounds(self._ranks, self._nulls).at_most
        unlike = (tests * more <= LEVEL and share_at_least > rate_at_most) or (
            tests * apart <= LEVEL and distance >= LEAST_DISTANCE
        )
        return Shift(
            images=images,
            alike=not unlike,
            p_value=min(1.0, tests * min(more, apart)),
            share=found / images,
            share_at_least=share_at_least,
            rate_at_most=rate_at_most,
            distance=distance,
            column=names[furthest],
            stratum=stratum,
        )

    def _distances(self) -> list[float]:
        """Of each column: the largest difference between the shares of images and of reals up to any score."""
        largest = []
        for (_, counts), at_most, below in zip(self._steps, self._at_most, self._below, strict=True):
            reals = counts.cumsum() / self._reals
            at = np.abs(reals - at_most[:-1].cumsum() / self.images)
            before = np.abs(reals - counts / self._reals - below[:-1].cumsum() / self.images)
            largest.append(float(max(at.max(), before.max())))
        return largest


def more_than(found: int, images: int, ranks: int, nulls: int) -> float:
    """Probability that at least `found` of `images` fresh reals take the `ranks` most extreme ranks among `nulls`.

    Beta-binomial, exact for scores without ties and else too large.
    """
    if found == 0:
        return 1.0
    from scipy.special import betaln, gammaln

    k = np.arange(found, images + 1, dtype=np.float64)
    chosen = gammaln(images + 1) - gammaln(k + 1) - gammaln(images - k + 1)
    logs = chosen + betaln(k + ranks, images - k + nulls + 1 - ranks) - betaln(ranks, nulls + 1 - ranks)
    return min(1.0, float(np.exp(logs).sum()))
