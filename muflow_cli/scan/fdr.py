"""Verdicts by a false discovery rate over a whole run instead of the rule's alpha."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from muflow_cli.records import Result, Scored, Verdict


def with_q_values(results: Sequence[Result], fdr: float) -> list[Result]:
    """The same results with Benjamini-Hochberg q-values over the run, flagged where q <= `fdr`.

    Duplicates repeat one test: each distinct content counts once. Inconclusive results stay so.

    Source: Benjamini and Hochberg 1995; valid under independence or positive dependence of the p-values.
    """
    p_values = {r.facts.sha256: r.judgement.p_value for r in results if isinstance(r, Scored)}
    if not p_values:
        return list(results)
    from scipy.stats import false_discovery_control  # a second to import, which most scans need not pay

    q_values = dict(zip(p_values, false_discovery_control(list(p_values.values())).tolist(), strict=True))

    def with_q_value(result: Result) -> Result:
        if not isinstance(result, Scored):
            return result
        verdict, q_value = result.judgement.verdict, q_values[result.facts.sha256]
        if verdict is not Verdict.INCONCLUSIVE:
            verdict = Verdict.FLAGGED if q_value <= fdr else Verdict.NOT_FLAGGED
        return replace(result, judgement=replace(result.judgement, q_value=q_value, verdict=verdict))

    return [with_q_value(result) for result in results]
