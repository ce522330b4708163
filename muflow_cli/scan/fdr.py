"""Verdicts by a false discovery rate over a whole run instead of the rule's alpha."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from muflow_cli.records import Result, Scored, Verdict


def with_q_values(results: Sequence[Result], fdr: float, near: Mapping[str, int]) -> list[Result]:
    """The same results with Benjamini-Hochberg q-values over the run, flagged where q <= `fdr`.

    Copies and near copies repeat one test: each photograph counts once, with the p-value of its first image, and all
    of its images have one q-value. Inconclusive results stay so.

    Args:
        results: of the whole run.
        fdr: false discovery rate, in (0, 1).
        near: content hash -> perceptual hash of every scored image.

    Source: Benjamini and Hochberg 1995; valid under independence or positive dependence of the p-values.
    """
    p_values = {r.facts.sha256: r.judgement.p_value for r in results if isinstance(r, Scored)}
    if not p_values:
        return list(results)
    # Seconds to import, which most scans need not pay.
    from scipy.stats import false_discovery_control

    from muflow_cli.images.near import near_duplicate_groups

    groups = near_duplicate_groups([near[sha256] for sha256 in p_values]).tolist()
    tests: dict[int, float] = {}
    for group, p_value in zip(groups, p_values.values(), strict=True):
        tests.setdefault(group, p_value)
    controlled = dict(zip(tests, false_discovery_control(list(tests.values())).tolist(), strict=True))
    q_values = {sha256: controlled[group] for sha256, group in zip(p_values, groups, strict=True)}

    def with_q_value(result: Result) -> Result:
        if not isinstance(result, Scored):
            return result
        verdict, q_value = result.judgement.verdict, q_values[result.facts.sha256]
        if verdict is not Verdict.INCONCLUSIVE:
            verdict = Verdict.FLAGGED if q_value <= fdr else Verdict.NOT_FLAGGED
        return replace(result, judgement=replace(result.judgement, q_value=q_value, verdict=verdict))

    return [with_q_value(result) for result in results]
