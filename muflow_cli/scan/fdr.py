"""Verdicts by a false discovery rate over a whole run instead of the rule's alpha."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace

from muflow_cli.calibration.pvalues import over_tests
from muflow_cli.records import FaceScore, Result, Scored, Verdict


def photographs(results: Sequence[Result], near: Mapping[str, int]) -> dict[str, str]:
    """Content hash of every scored image -> that of its photograph: of its near copies, the smallest.

    Args:
        results: of the whole run.
        near: content hash -> perceptual hash of every scored image.
    """
    digests = sorted({result.facts.sha256 for result in results if isinstance(result, Scored)})
    if not digests:
        return {}
    from muflow_cli.images.near import near_duplicate_groups  # SciPy takes a second to import

    groups = near_duplicate_groups([near[digest] for digest in digests]).tolist()
    first: dict[int, str] = {}
    return {digest: first.setdefault(group, digest) for digest, group in zip(digests, groups, strict=True)}


def _by_rate(
    result: Scored, verdict: Verdict, steps: Sequence[tuple[float, float]], fdr: float
) -> tuple[FaceScore, ...]:
    """The faces of a result with verdicts that agree with the image's: those whose own p-values would be flagged too.

    An adaptive p-value is that of the largest face.
    """
    adaptive = result.judgement.adaptive_p_value is not None

    def own(index: int, face: FaceScore) -> Verdict:
        if verdict is not Verdict.FLAGGED or face.verdict is Verdict.INCONCLUSIVE:
            return face.verdict if face.verdict is Verdict.INCONCLUSIVE else Verdict.NOT_FLAGGED
        above = bisect_left(steps, (over_tests(face.p_value, len(result.faces)), 0.0))
        flagged = index == 0 if adaptive else above < len(steps) and steps[above][1] <= fdr
        return Verdict.FLAGGED if flagged else Verdict.NOT_FLAGGED

    return tuple(replace(face, verdict=own(index, face)) for index, face in enumerate(result.faces))


def with_q_values(
    results: Sequence[Result], fdr: float, photograph_of: Mapping[str, str], p_values: Mapping[str, float]
) -> list[Result]:
    """The same results with Benjamini-Hochberg q-values over the run, flagged where q <= `fdr`.

    Copies and near copies repeat one test, that of their photograph. Two near copies may yet be two photographs that
    look alike, so an image is flagged only if its own p-value, too, would have been: its q-value is the larger of both.
    Inconclusive results stay so.

    Args:
        results: of the whole run.
        fdr: false discovery rate, in (0, 1).
        photograph_of: as `photographs`.
        p_values: photograph -> p-value, one test each.

    Source: Benjamini and Hochberg 1995; valid under independence or positive dependence of the p-values.
    """
    if not p_values:
        return list(results)
    from scipy.stats import false_discovery_control  # a second to import, which most scans need not pay

    q_values = dict(zip(p_values, false_discovery_control(list(p_values.values())).tolist(), strict=True))
    steps = sorted((p_value, q_values[digest]) for digest, p_value in p_values.items())

    def with_q_value(result: Result) -> Result:
        if not isinstance(result, Scored):
            return result
        judgement = result.judgement
        own = judgement.p_value if judgement.adaptive_p_value is None else judgement.adaptive_p_value
        above = bisect_left(steps, (own, 0.0))
        q_value = max(q_values[photograph_of[result.facts.sha256]], steps[above][1] if above < len(steps) else own)
        verdict = judgement.verdict
        if verdict is not Verdict.INCONCLUSIVE:
            verdict = Verdict.FLAGGED if q_value <= fdr else Verdict.NOT_FLAGGED
        faces = _by_rate(result, verdict, steps, fdr)
        return replace(result, judgement=replace(judgement, q_value=q_value, verdict=verdict), faces=faces)

    return [with_q_value(result) for result in results]
