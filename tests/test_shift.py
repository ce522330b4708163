"""Laws of the test of a run as a group: reals of the calibration's kind seldom fail it, others do, in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from output_samples import scored
from scipy.stats import betabinom, ks_2samp

from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.pvalues import Scores
from muflow_cli.calibration.shift import FEWEST, LEAST_DISTANCE, LEVEL, ShiftTest, more_than
from muflow_cli.records import FaceScore, Facts, NoFace, Result, Scored
from muflow_cli.run_records import Shift
from muflow_cli.specs import RuleSpec

COLUMNS = ("main/layer1", "main/layer2", "main/layer3")


def draw(seed: int, count: int, shift: float = 0.0) -> Scores:
    """(count, 3) scores of images whose columns depend on each other."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, 1)) + 0.5 * generator.normal(size=(count, 3)) + shift


def facts(number: int, quality: int = 75) -> Facts:
    size = {"width": 256, "height": 256, "bytes": 9000}
    return Facts(sha256=f"{number:064x}", format="JPEG", jpeg_quality=quality, sharpness=20.0, **size)


def calibration(scores: Scores, rule: RuleSpec, own: Sequence[Facts] | None = None) -> Calibration:
    return Calibration(
        scores=scores,
        columns=COLUMNS,
        facts=tuple(own or map(facts, range(len(scores)))),
        rule=rule,
        created="2026-01-01T00:00:00Z",
    )


def results(reals: Calibration, scores: Scores, own: Sequence[Facts] | None = None) -> Iterator[Scored]:
    """What a scan makes of such scores."""
    images = list(own or (facts(10_000 + number) for number in range(len(scores))))
    for index, judgement in enumerate(Judge(reals).judge(scores, images)):
        columns = tuple(scores[index].tolist())
        yield Scored(
            path=str(index), facts=images[index], score=float(scores[index].mean()), column_scores=columns,
            judgement=judgement,
        )  # fmt: skip


def outcome(reals: Calibration, found: Sequence[Result] | Iterator[Result]) -> Shift | None:
    test = ShiftTest(reals)
    for result in found:
        test.add(result)
    return test.outcome()


def compared(reals: Calibration, scores: Scores) -> Shift:
    shift = outcome(reals, results(reals, scores))
    assert shift is not None
    return shift


@pytest.mark.parametrize("method", ["conformal", "fisher"])
def test_reals_of_the_calibrations_kind_are_called_unlike_it_no_more_often_than_stated(
    method: str,
) -> None:
    rule = RuleSpec(method=method, alpha=0.05)
    draws = [compared(calibration(draw(2 * seed, 120), rule), draw(2 * seed + 1, 60)) for seed in range(150)]
    # Of 150 draws at 1 %, six or more would be bad luck of one in 300.
    assert sum(not one.alike for one in draws) <= 5
    for level in (LEVEL, 0.1, 0.3):
        assert np.mean([one.p_value <= level for one in draws]) <= level + 3 * np.sqrt(level * (1 - level) / 150)


@pytest.mark.parametrize("shift", [1.5, -1.5])
def test_another_source_is_unlike_the_calibration_on_either_side(shift: float) -> None:
    reals = calibration(draw(1, 300), RuleSpec(alpha=0.05, tail="upper"))
    found = [compared(reals, draw(seed, 40, shift)) for seed in range(100, 120)]
    assert not any(one.alike for one in found)


def test_a_few_more_flagged_images_break_the_rate_where_the_distance_is_small() -> None:
    reals = calibration(draw(1, 2000), RuleSpec(alpha=0.05))
    some = draw(2, 1000)
    some[:50] += 6
    shift = compared(reals, some)
    assert shift.distance < LEAST_DISTANCE
    assert not shift.alike
    assert shift.share_at_least > shift.rate_at_most


def test_a_shift_that_moves_no_rate_is_no_warning_however_many_images_show_it() -> None:
    reals = calibration(draw(1, 3000), RuleSpec(alpha=0.05))
    shift = compared(reals, draw(2, 8000, 0.08))
    assert shift.p_value <= LEVEL
    assert shift.alike


def test_the_order_of_the_images_and_copies_of_them_change_nothing() -> None:
    reals = calibration(draw(1, 200), RuleSpec(alpha=0.05))
    found = list(results(reals, draw(2, 60, 0.4)))
    copies: list[Result] = [replace(one, path="copy", duplicate_of=one.path) for one in found[:30]]
    mixed = [found[index] for index in np.random.default_rng(0).permutation(60)]
    assert outcome(reals, found) == outcome(reals, mixed) == outcome(reals, [*copies, *found])


def test_too_few_images_say_nothing_nor_do_those_that_are_marked_already() -> None:
    reals = calibration(draw(1, 200), RuleSpec(alpha=0.05))
    few = list(results(reals, draw(2, FEWEST - 1, 9.0)))
    assert outcome(reals, few) is None
    others = [facts(500 + number, quality=99) for number in range(50)]
    faceless = NoFace(path="wall", facts=facts(1))
    assert outcome(reals, [*few, *results(reals, draw(3, 50, 9.0), others), faceless]) is None
    # One more that counts; those outside the ranges still do not.
    shift = outcome(reals, [*few, *results(reals, draw(4, 1, 9.0), [facts(900)])])
    assert shift is not None
    assert (shift.images, shift.alike) == (FEWEST, False)


def test_of_an_image_with_faces_the_largest_counts() -> None:
    reals = calibration(draw(1, 200), RuleSpec(alpha=0.05))
    whole = list(results(reals, draw(2, 30)))
    other = scored().judgement

    def face(result: Scored, columns: tuple[float, ...]) -> FaceScore:
        own, box = result.judgement, (0.0, 0.0, 9.0, 9.0)
        return FaceScore(
            box=box, landmarks=((0, 0), (1, 0), (1, 1), (0, 2), (2, 2)), confidence=1, tilt=0, sharpness=9,
            score=0, column_scores=columns, p_value=own.p_value, tail=own.tail, verdict=own.verdict,
        )  # fmt: skip

    with_faces = [
        replace(
            one, column_scores=(99.0,) * 3, judgement=replace(other, p_value=0.001),
            faces=(face(one, one.column_scores), face(one, (99.0,) * 3)),
        )
        for one in whole
    ]  # fmt: skip
    assert outcome(reals, with_faces) == outcome(reals, whole)


def test_each_stratum_is_compared_with_its_own_reals() -> None:
    own = [facts(number, quality=75 if number % 2 else 92) for number in range(400)]
    scores = draw(1, 400)
    scores[::2] += 5  # the reals of quality 92 score higher
    reals = calibration(scores, RuleSpec(alpha=0.05, by=("quality",)), own)
    high = [facts(1000 + number, quality=92) for number in range(60)]
    low = [facts(2000 + number, quality=75) for number in range(60)]
    usual = outcome(reals, results(reals, draw(2, 60, 5.0), high))
    assert usual is not None
    assert usual.alike
    both = [*results(reals, draw(2, 60, 5.0), high), *results(reals, draw(3, 60, 5.0), low)]
    shift = outcome(reals, both)
    assert shift is not None
    assert (shift.alike, shift.images, shift.stratum) == (False, 120, "q70-79")


@pytest.mark.parametrize("ties", [False, True])
def test_the_distance_is_that_of_kolmogorov_and_smirnov(ties: bool) -> None:
    ours, theirs = draw(1, 90), draw(2, 35, 0.3)
    if ties:
        ours, theirs = ours.round(), theirs.round()
    shift = compared(calibration(ours, RuleSpec(alpha=0.1)), theirs)
    distances = [ks_2samp(ours[:, column], theirs[:, column]).statistic for column in range(3)]
    assert shift.distance == pytest.approx(max(distances))
    assert shift.column == COLUMNS[int(np.argmax(distances))]


def test_the_number_of_small_p_values_is_beta_binomial() -> None:
    for found, images, ranks, nulls in [
        (0, 30, 4, 99),
        (1, 30, 4, 99),
        (7, 30, 4, 99),
        (300, 5000, 50, 999),
        (20, 20, 1, 19),
    ]:
        expected = betabinom.sf(found - 1, images, ranks, nulls + 1 - ranks)
        assert more_than(found, images, ranks, nulls) == pytest.approx(expected, rel=1e-6)
