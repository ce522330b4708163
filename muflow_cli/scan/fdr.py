"""Verdicts by a false discovery rate over a whole run instead of the rule's alpha."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from muflow_cli.calibration.pvalues import over_tests
from muflow_cli.records import FaceScore, Judgement, Result, Scored, Verdict
from muflow_cli.run_specs import Atypical


def photographs(results: Sequence[Result], near: Mapping[str, int]) -> dict[str, str]:
    """Content hash of every scored image -> that of its photograph: of its near copies, the smallest.

    Args:
        results: of the whole run.
        near: content hash -> perceptual hash of every scored image.
    """
    digests = sorted({result.facts.key for result in results if isinstance(result, Scored)})
    if not digests:
        return {}
    from muflow_cli.images.near import near_duplicate_groups  # SciPy takes a second to import

    groups = near_duplicate_groups([near[digest] for digest in digests]).tolist()
    first: dict[int, str] = {}
    return {digest: first.setdefault(group, digest) for digest, group in zip(digests, groups, strict=True)}


@dataclass(frozen=True, slots=True)
class _Rate:
    """Verdicts by a false discovery rate.

    Attributes:
        fdr: the rate.
        steps: (p-value, q-value) of every photograph, ascending.
        atypical: what becomes of images outside the calibration's ranges.
    """

    fdr: float
    steps: Sequence[tuple[float, float]]
    atypical: Atypical

    def faces(self, result: Scored, *, rejected: bool) -> tuple[FaceScore, ...]:
        """The faces of a result with their verdicts: flagged are those whose own p-values would be rejected too.

        An adaptive p-value is that of the largest face.
        """
        adaptive = result.judgement.adaptive_p_value is not None

        def own(index: int, face: FaceScore) -> Verdict:
            above = bisect_left(self.steps, (over_tests(face.p_value, len(result.faces)), 0.0))
            passes = index == 0 if adaptive else above < len(self.steps) and self.steps[above][1] <= self.fdr
            return self.verdict(face, rejected=rejected and passes)

        return tuple(replace(face, verdict=own(index, face)) for index, face in enumerate(result.faces))

    def verdict(self, judged: Judgement | FaceScore, *, rejected: bool) -> Verdict:
        """The verdict on an image without faces, or on a face."""
        verdict = Verdict.FLAGGED if rejected else Verdict.NOT_FLAGGED
        if judged.verdict is Verdict.INCONCLUSIVE:
            verdict = Verdict.INCONCLUSIVE
        return self.atypical.verdict(verdict, judged.atypical_input)


def _of_faces(faces: Sequence[FaceScore], *, adaptive: bool) -> Verdict:
    """The verdict on an image: flagged if one of its faces is, or else that on the face whose p-value it has."""
    if any(face.verdict is Verdict.FLAGGED for face in faces):
        return Verdict.FLAGGED
    return (faces[0] if adaptive else min(faces, key=lambda face: face.p_value)).verdict


def with_q_values(
    results: Sequence[Result],
    fdr: float,
    photograph_of: Mapping[str, str],
    p_values: Mapping[str, float],
    atypical: Atypical = Atypical.REPORT,
) -> list[Result]:
    """The same results with Benjamini-Hochberg q-values over the run, flagged where q <= `fdr`.

    Copies and near copies repeat one test, that of their photograph. Two near copies may yet be two photographs that
    look alike, so an image is flagged only if its own p-value, too, would have been: its q-value is the larger of both.
    Inconclusive results stay so. They and all images outside the calibration's ranges count among the tests, so what
    becomes of them changes no q-value.

    Args:
        results: of the whole run.
        fdr: false discovery rate, in (0, 1).
        photograph_of: as `photographs`.
        p_values: photograph -> p-value, one test each.
        atypical: what becomes of images outside the calibration's ranges.

    Source: Benjamini and Hochberg 1995; valid under independence or positive dependence of the p-values.
    """
    if not p_values:
        return list(results)
    from scipy.stats import false_discovery_control  # a second to import, which most scans need not pay

    q_values = dict(zip(p_values, false_discovery_control(list(p_values.values())).tolist(), strict=True))
    steps = sorted((p_value, q_values[digest]) for digest, p_value in p_values.items())
    rate = _Rate(fdr, steps, atypical)

    def with_q_value(result: Result) -> Result:
        if not isinstance(result, Scored):
            return result
        judgement = result.judgement
        own = judgement.p_value if judgement.adaptive_p_value is None else judgement.adaptive_p_value
        above = bisect_left(steps, (own, 0.0))
        q_value = max(q_values[photograph_of[result.facts.key]], steps[above][1] if above < len(steps) else own)
        faces = rate.faces(result, rejected=q_value <= fdr)
        if faces:
            verdict = _of_faces(faces, adaptive=judgement.adaptive_p_value is not None)
        else:
            verdict = rate.verdict(judgement, rejected=q_value <= fdr)
        return replace(result, judgement=replace(judgement, q_value=q_value, verdict=verdict), faces=faces)

    return [with_q_value(result) for result in results]
