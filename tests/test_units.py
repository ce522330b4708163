"""Faces of an image: each judged by itself, the image by all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.judge import Judge
from muflow_cli.engine.scoring import ScoredUnit
from muflow_cli.images.loader import Loaded
from muflow_cli.images.prepare import LoadedFace
from muflow_cli.records import Face, Facts, NoFace, Scored, Verdict
from muflow_cli.run_specs import Atypical
from muflow_cli.scan.fdr import with_q_values
from muflow_cli.specs import RuleSpec, Tail
from muflow_cli.units import ScoredImage, Unit, by_image, judged_again, scored_result, units_of

REALS = 199


def facts(number: int, side: float | None = 100.0) -> Facts:
    return Facts(
        sha256=f"{number:064x}", bytes=9, format="JPEG", width=300, height=200, face_side=side, face_tilt=side and 0.0
    )


def judge(atypical: Atypical = Atypical.REPORT, **rule: object) -> Judge:
    """Of reals whose scores are 0, 1, ... 198: a score of 200 - k has the p-value k / 200 in the upper tail."""
    scores = np.arange(REALS, dtype=float)[:, None]
    spec = RuleSpec(**{"alpha": 0.05, "tail": Tail.UPPER, **rule})  # type: ignore[arg-type]  # the keys are its fields
    named = tuple(facts(number) for number in range(REALS))
    return Judge(
        Calibration(scores=scores, columns=("main/a",), facts=named, rule=spec, created="2026-01-01T00:00:00Z"),
        atypical,
    )


def image(*p_values: float) -> ScoredImage:
    """An image whose faces have these p-values, the largest face first."""
    views = {"main": np.zeros((1, 16, 16, 3), np.uint8)}
    own = facts(1000 + round(sum(p_values) * 1000))
    points = ((1.0, 1.0), (2.0, 1.0), (1.5, 2.0), (1.0, 3.0), (2.0, 3.0))
    faces = tuple(
        LoadedFace(
            face=Face(box=(0, 0, 100 - index, 120), landmarks=points, confidence=0.9),
            facts=dataclasses.replace(own, face_side=100.0 - index),
            views=views,
            thumbnail=None,
        )
        for index in range(len(p_values))
    )
    loaded = Loaded("a.jpg", own, views, None, faces=faces, faces_left_out=2)
    units = [
        ScoredUnit(unit, np.array([REALS + 1.0 - round(p * (REALS + 1))]), {}, np.empty(0, np.float16))
        for unit, p in zip(units_of(loaded), p_values, strict=True)
    ]
    return ScoredImage(loaded, units)


def verdicts(result: Scored) -> list[Verdict]:
    return [face.verdict for face in result.faces]


def test_one_face_is_judged_as_an_image_of_that_face() -> None:
    result = scored_result(image(0.03), judge())
    assert result.judgement.p_value == result.faces[0].p_value == pytest.approx(0.03)
    assert result.flagged
    assert result.faces_left_out == 2


@pytest.mark.parametrize(
    ("p_values", "together", "flagged"),
    [
        ((0.03, 0.5), 0.06, False),
        ((0.5, 0.02), 0.04, True),
        ((0.5, 0.4, 0.9), 1.0, False),
        ((0.01, 0.01, 0.6), 0.03, True),
    ],
)
def test_the_p_value_of_an_image_is_that_of_its_least_likely_face_times_their_number(
    p_values: Sequence[float], together: float, flagged: bool
) -> None:
    result = scored_result(image(*p_values), judge())
    assert result.judgement.p_value == pytest.approx(together)
    assert [face.p_value for face in result.faces] == pytest.approx(list(p_values))
    assert result.flagged is flagged
    assert verdicts(result) == [Verdict.FLAGGED if p * len(p_values) <= 0.05 else Verdict.NOT_FLAGGED for p in p_values]


def test_the_score_and_the_facts_of_an_image_are_those_of_the_face_that_decided() -> None:
    result = scored_result(image(0.5, 0.02), judge())
    assert result.score == result.faces[1].score
    assert result.column_scores == result.faces[1].column_scores
    assert result.facts.face_side == 99


def test_images_of_many_real_faces_are_flagged_no_more_often_than_alpha() -> None:
    draws, rule = np.random.default_rng(3), judge()
    flagged = [
        scored_result(image(*(draws.integers(1, REALS + 1, size=5) / (REALS + 1))), rule).flagged for _ in range(400)
    ]
    # 20 are expected; three standard deviations are 13.
    assert sum(flagged) <= 33


def test_a_band_holds_for_the_image() -> None:
    result = scored_result(image(0.5, 0.04), judge(band=(0.06, 0.1)))
    assert result.judgement.verdict is Verdict.INCONCLUSIVE
    assert verdicts(result) == [Verdict.NOT_FLAGGED, Verdict.INCONCLUSIVE]


@pytest.mark.parametrize("method", ["gaussian", "lof"])
def test_a_rule_without_p_values_flags_an_image_only_if_its_p_value_is_small_enough(method: str) -> None:
    outlier = judge(method=method)
    assert scored_result(image(0.005), outlier).flagged == scored_result(image(0.005, 0.5), outlier).flagged
    assert not scored_result(image(0.03, 0.5, 0.5), outlier).flagged


@pytest.mark.parametrize("p_values", [(0.03,), (0.5, 0.02), (0.01, 0.01, 0.6)])
def test_a_kept_result_is_judged_again_as_it_was(p_values: Sequence[float]) -> None:
    result = scored_result(image(*p_values), judge())
    assert judged_again(result, judge()) == result
    strict = judge(alpha=0.015)
    assert judged_again(result, strict) == scored_result(image(*p_values), strict)


def test_the_units_of_an_image_come_together_and_everything_keeps_its_place() -> None:
    first, second = image(0.1, 0.2, 0.3), image(0.4)
    without = NoFace(path="wall.jpg", facts=facts(7, None))
    stream = [*first.units, without, *second.units]
    images = list(by_image(stream))
    assert images[1] == without
    assert [len(item.units) for item in images if isinstance(item, ScoredImage)] == [3, 1]


def test_a_unit_of_a_whole_image_has_its_views() -> None:
    views = {"main": np.zeros((2, 16, 16, 3), np.uint8)}
    loaded = Loaded("a.jpg", facts(1, None), views, None)
    assert units_of(loaded) == [Unit(loaded)]
    assert units_of(loaded)[0].views is views


def test_an_image_without_a_face_that_is_scored_whole_is_atypical_of_a_calibration_of_faces() -> None:
    views = {"main": np.zeros((1, 16, 16, 3), np.uint8)}
    loaded = Loaded("wall.jpg", facts(1, None), views, None)
    scored = ScoredImage(loaded, [ScoredUnit(Unit(loaded), np.array([5.0]), {}, np.empty(0, np.float16))])
    assert scored_result(scored, judge()).judgement.atypical_input == ("face",)


def test_a_face_unlike_the_calibrations_is_named_with_the_reason() -> None:
    assert scored_result(image(0.5, 0.4), judge()).faces[1].atypical_input == ("face_size",)


# The second and smaller faces of `image` are atypical.
@pytest.mark.parametrize(
    ("p_values", "atypical", "whole", "faces"),
    [
        ((0.5, 0.01), "report", "flagged", ["not_flagged", "flagged"]),
        ((0.5, 0.01), "inconclusive", "inconclusive", ["not_flagged", "inconclusive"]),
        ((0.4, 0.5), "inconclusive", "not_flagged", ["not_flagged", "inconclusive"]),
        ((0.02, 0.01), "inconclusive", "flagged", ["flagged", "inconclusive"]),
        ((0.5, 0.9), "flag", "flagged", ["not_flagged", "flagged"]),
    ],
)
def test_the_verdict_on_an_image_follows_from_its_faces_typical_or_not(
    p_values: Sequence[float], atypical: str, whole: str, faces: Sequence[str]
) -> None:
    result = scored_result(image(*p_values), judge(Atypical(atypical)))
    assert (result.judgement.verdict, verdicts(result)) == (whole, faces)
    assert judged_again(result, judge(Atypical(atypical))) == result
    plain = scored_result(image(*p_values), judge())
    assert (result.score, result.judgement.p_value) == (plain.score, plain.judgement.p_value)


@pytest.mark.parametrize("atypical", list(Atypical))
def test_atypical_images_stay_among_the_tests_of_a_false_discovery_rate(atypical: Atypical) -> None:
    # One face each; that of the second and the third image is atypical.
    small = [Verdict.FLAGGED, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE]
    results = [scored_result(image(p), judge(atypical)) for p in (0.01, 0.02, 0.9)]
    results[1:] = [
        dataclasses.replace(
            one,
            judgement=dataclasses.replace(
                one.judgement,
                atypical_input=("size",),
                verdict=atypical.verdict(one.judgement.verdict, ("size",)),
            ),
            faces=(
                dataclasses.replace(
                    one.faces[0], atypical_input=("size",), verdict=atypical.verdict(one.faces[0].verdict, ("size",))
                ),
            ),
        )
        for one in results[1:]
    ]
    named = {one.facts.sha256: one.facts.sha256 for one in results}
    p_values = {one.facts.sha256: one.judgement.p_value for one in results}
    ranked = [one for one in with_q_values(results, 0.05, named, p_values, atypical) if isinstance(one, Scored)]
    assert [one.judgement.q_value for one in ranked] == pytest.approx([0.03, 0.03, 0.9])
    expected = {
        Atypical.REPORT: [Verdict.FLAGGED, Verdict.FLAGGED, Verdict.NOT_FLAGGED],
        Atypical.INCONCLUSIVE: small,
        Atypical.FLAG: [Verdict.FLAGGED] * 3,
    }[atypical]
    assert [one.judgement.verdict for one in ranked] == expected
    assert [verdicts(one) for one in ranked] == [[verdict] for verdict in expected]
    bare = [dataclasses.replace(one, faces=()) for one in results]
    ranked = [one for one in with_q_values(bare, 0.05, named, p_values, atypical) if isinstance(one, Scored)]
    assert [one.judgement.verdict for one in ranked] == expected


def test_an_atypical_face_does_not_have_its_image_flagged_by_a_false_discovery_rate() -> None:
    # The first image by its typical face alone, the second by neither.
    results = [scored_result(image(*p), judge(Atypical.INCONCLUSIVE)) for p in [(0.006, 0.005), (0.9, 0.004), (0.6,)]]
    named = {one.facts.sha256: one.facts.sha256 for one in results}
    p_values = {one.facts.sha256: one.judgement.p_value for one in results}
    ranked = with_q_values(results, 0.05, named, p_values, Atypical.INCONCLUSIVE)
    found = [one.judgement.verdict for one in ranked if isinstance(one, Scored)]
    assert found == [Verdict.FLAGGED, Verdict.INCONCLUSIVE, Verdict.NOT_FLAGGED]


def test_by_a_false_discovery_rate_faces_are_flagged_only_in_flagged_images() -> None:
    results = [scored_result(image(*p), judge()) for p in [(0.005, 0.5), (0.3, 0.02), (0.6,), (0.7, 0.9)]]
    ranked = with_q_values(
        results,
        0.05,
        {result.facts.sha256: result.facts.sha256 for result in results},
        {result.facts.sha256: result.judgement.p_value for result in results},
    )
    assert [result.flagged for result in ranked if isinstance(result, Scored)] == [True, False, False, False]
    assert [verdicts(result).count(Verdict.FLAGGED) for result in ranked if isinstance(result, Scored)] == [1, 0, 0, 0]
