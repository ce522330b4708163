"""Verdicts by weighted p-values: calibration images count by how much they resemble those of the run, as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.rules import RULES, rule_class
from muflow_cli.calibration.weights import BOUND, FEWEST_IMAGES, likelihood_ratios
from muflow_cli.errors import CannotReweight
from muflow_cli.records import Judgement, Result, Scored, Verdict
from muflow_cli.run_records import ReweightInfo
from muflow_cli.specs import RuleSpec


def check_reweighting(calibration: Calibration) -> None:
    """Refuse a calibration whose p-values cannot be weighted.

    Raises:
        CannotReweight: for a rule whose flags do not come from p-values, or a detector of faces.
    """
    if not rule_class(calibration.rule.method).weighable:
        names = ", ".join(name for name, rule in RULES.items() if rule.weighable)
        why = f"the flags of its rule {calibration.rule.method} do not come from p-values"
        raise CannotReweight(why, f"calibrate it with another --method ({names})")
    if any(image.face_side is not None for image in calibration.facts):
        raise CannotReweight("it scores faces, and an image may have several", "scan without --reweight")


def reweighted(
    results: Sequence[Result], photograph_of: Mapping[str, str], calibration: Calibration
) -> tuple[list[Result], ReweightInfo]:
    """The results of a whole run by weighted p-values.

    A photograph of which too few calibration images are alike to reach alpha is inconclusive: with any score, it would
    not be flagged.

    Args:
        results: at least one is scored.
        photograph_of: content hash -> that of its photograph; copies and near copies share one p-value.
        calibration: that `check_reweighting` has let pass.
    """
    first = {result.facts.key: result for result in results if isinstance(result, Scored)}
    distinct = sorted(set(photograph_of.values()))
    facts = [first[digest].facts for digest in distinct]
    scores = np.array([first[digest].column_scores for digest in distinct])
    weights = likelihood_ratios(calibration.facts, facts)
    judged = Judge(calibration).weighted(scores, facts, weights)
    known = dict(zip(distinct, zip(judged.p_value.tolist(), judged.least.tolist(), strict=True), strict=True))
    info = ReweightInfo(
        learned_from=len(distinct) if min(len(distinct), len(calibration)) >= FEWEST_IMAGES else 0,
        bound=BOUND,
        effective=judged.effective,
        undecided=int((judged.least > calibration.rule.alpha).sum()),
    )

    def own(result: Result) -> Result:
        if not isinstance(result, Scored):
            return result
        p_value, least = known[photograph_of[result.facts.key]]
        return replace(result, judgement=_by_weights(result.judgement, p_value, least, calibration.rule))

    return [own(result) for result in results], info


def _by_weights(judgement: Judgement, p_value: float, least: float, rule: RuleSpec) -> Judgement:
    def in_band(value: float) -> bool:
        return rule.band is not None and rule.band[0] <= value <= rule.band[1]

    verdict = Verdict.FLAGGED if p_value <= rule.alpha else Verdict.NOT_FLAGGED
    # What made an image inconclusive beside the band has nothing to do with its p-value.
    otherwise = judgement.verdict is Verdict.INCONCLUSIVE and not in_band(judgement.p_value)
    if least > rule.alpha or in_band(p_value) or otherwise:
        verdict = Verdict.INCONCLUSIVE
    return replace(judgement, verdict=verdict, weighted_p_value=p_value)
