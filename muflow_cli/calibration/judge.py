"""The judge that a calibration makes: scores of images -> verdicts, and what may be said of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.coverage import Description, Stratum
from muflow_cli.calibration.pvalues import Scores, over_tests
from muflow_cli.calibration.rule import Rule, WeightedPValues
from muflow_cli.calibration.rules import rule_class
from muflow_cli.calibration.strata import ranges_of, rows_by_stratum
from muflow_cli.calibration.weights import Weights
from muflow_cli.errors import NotFinite
from muflow_cli.records import CalibrationMatch, Facts, Judgement, Side, Verdict
from muflow_cli.run_specs import Atypical


class Judge:
    """Turns scores into judgements; the rules are fitted once, when made.

    A stratum with fewer reals than the rule's `stratum_minimum` has no rule of its own.

    Args:
        calibration: whose reals and rule judge.
        atypical: what becomes of images outside the ranges of these reals; only their verdicts depend on it.

    Raises:
        BadSpec: for a rule that does not exist or cannot use its settings.
        TooFewScores: when the rule's alpha needs more reals than there are.
        BadCalibration: where the rule cannot use these scores.
    """

    def __init__(self, calibration: Calibration, atypical: Atypical = Atypical.REPORT) -> None:
        spec = calibration.rule
        self._calibration, self._spec, self._atypical = calibration, spec, atypical
        self._class = rule_class(spec.method)
        self._ranges = ranges_of(calibration.facts)
        self._pooled = self._class.fit(calibration.scores, spec)
        self._members = rows_by_stratum(calibration.facts, spec.by) if spec.by else {}
        self._rules = {
            name: self._class.fit(calibration.scores[rows], spec)
            for name, rows in self._members.items()
            if len(rows) >= self._class.stratum_minimum(spec)
        }

    def judge(self, scores: Scores, facts: Sequence[Facts], *, tests: int = 1) -> list[Judgement]:
        """One judgement for each of B images.

        Args:
            scores: (B, S) one score per column, nats per dimension.
            facts: (B,) what was read of each image.
            tests: that belong together, such as the faces of one image; verdicts are by the p-value times their number
                (Bonferroni), while the p-value given is that of the image alone.

        Raises:
            NotFinite: for a score that is NaN or infinite.
        """
        scores = _finite(scores)
        judgements: dict[int, Judgement] = {}
        band = self._spec.band
        for name, rows in rows_by_stratum(facts, self._spec.by).items():
            rule, match = self._rule_for(name)
            judged = rule.judge(scores[rows])
            for index, row in enumerate(rows):
                p_value, heaviest = float(judged.p_value[index]), judged.heaviest
                together = over_tests(p_value, tests)
                # Rules whose flags do not come from p-values have no other way to keep the rate of an image.
                flagged = judged.flagged[index] and (tests == 1 or together <= self._spec.alpha)
                verdict = Verdict.FLAGGED if flagged else Verdict.NOT_FLAGGED
                if band is not None and band[0] <= together <= band[1]:
                    verdict = Verdict.INCONCLUSIVE
                outside = self._ranges.atypical(facts[row])
                judgements[row] = Judgement(
                    p_value=p_value,
                    verdict=self._atypical.verdict(verdict, outside),
                    tail=Side.HIGH if judged.high[index] else Side.LOW,
                    calibration=match,
                    stratum=name if name in self._rules else None,
                    atypical_input=outside,
                    heaviest=None if heaviest is None else self._calibration.columns[heaviest[index]],
                )
        return [judgements[row] for row in range(len(facts))]

    def ranking(self, scores: Scores, facts: Sequence[Facts]) -> Scores:
        """How suspicious each of B images is, (B,), by the rule of its stratum; higher = more.

        Images of different strata are comparable only where the rule ranks by p-values.

        Args:
            scores: (B, S) one score per column, nats per dimension.
            facts: (B,) what was read of each image.

        Raises:
            NotFinite: for a score that is NaN or infinite.
        """
        scores = _finite(scores)
        ranking = np.empty(len(scores))
        for name, rows in rows_by_stratum(facts, self._spec.by).items():
            rule, _ = self._rule_for(name)
            ranking[rows] = rule.ranking(scores[rows])
        return ranking

    def weighted(self, scores: Scores, facts: Sequence[Facts], weights: Weights) -> WeightedPValues:
        """P-values of B images, where the calibration's images count by their weights, by the rule of their stratum.

        Args:
            scores: (B, S) one score per column, nats per dimension.
            facts: (B,) what was read of each image.
            weights: of all calibration images, in their order, and of the B images.

        Raises:
            BadSpec: for a rule that is not `weighable`.
            NotFinite: for a score that is NaN or infinite.
        """
        scores = _finite(scores)
        p_value, least, effective = np.empty(len(scores)), np.empty(len(scores)), 0.0
        for name, rows in rows_by_stratum(facts, self._spec.by).items():
            rule, _ = self._rule_for(name)
            members = self._members[name] if name in self._rules else range(len(self._calibration))
            judged = rule.weighted(scores[rows], weights.of(members, rows))
            p_value[rows], least[rows] = judged.p_value, judged.least
            effective += judged.effective * len(rows) / len(scores)
        return WeightedPValues(p_value, least, effective)

    def thresholds(self) -> tuple[float | None, float | None]:
        """Mean scores below and above which images are flagged; None where no single one decides, as with strata."""
        return (None, None) if self._spec.by else self._pooled.thresholds()

    def describe(self) -> Description:
        """What may be said of these reals and this rule, for a summary."""
        calibration, spec = self._calibration, self._spec
        strata = []
        for name in sorted(self._members):
            images, calibrated = len(self._members[name]), name in self._rules
            true_rate = self._class.rate_bounds(spec, images) if calibrated else None
            strata.append(Stratum(name=name, images=images, calibrated=calibrated, true_rate=true_rate))
        return Description(
            images=len(calibration),
            rule=spec,
            created=calibration.created,
            source_digest=calibration.source_digest,
            smallest_p_value=calibration.smallest_p_value,
            true_rate=self._class.rate_bounds(spec, len(calibration)),
            details=self._pooled.details(),
            stratum_minimum=self._class.stratum_minimum(spec),
            strata=tuple(strata),
            ranges=self._ranges,
        )

    def _rule_for(self, stratum: str) -> tuple[Rule, CalibrationMatch]:
        if not self._spec.by:
            return self._pooled, CalibrationMatch.MATCHED
        if stratum in self._rules:
            return self._rules[stratum], CalibrationMatch.MATCHED
        known = stratum in self._members
        return self._pooled, CalibrationMatch.FALLBACK if known else CalibrationMatch.EXTRAPOLATED


def _finite(scores: Scores) -> Scores:
    scores = np.ascontiguousarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise NotFinite("a score is NaN or infinite, so the image cannot be judged")
    return scores
