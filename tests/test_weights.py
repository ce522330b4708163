"""Weighted conformal p-values: exact levels under a known shift, and weights that know nothing of what images show."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.pvalues import tail_p_values, weighted_tail_p_values
from muflow_cli.calibration.rules import RULES, rule_class
from muflow_cli.calibration.weights import BOUND, FEWEST_IMAGES, Weights, effective_count, likelihood_ratios
from muflow_cli.errors import BadSpec, CannotReweight
from muflow_cli.records import CalibrationMatch, Facts, Judgement, Scored, Side, Verdict
from muflow_cli.scan.reweighting import check_reweighting, reweighted
from muflow_cli.specs import RuleSpec, Tail

WEIGHABLE = sorted(name for name, rule in RULES.items() if rule.weighable)
LEVELS = (0.05, 0.1, 0.2)


def facts(name: str, side: int = 256, quality: int | None = 75, **more) -> Facts:
    digest = hashlib.sha256(name.encode()).hexdigest()
    values = {"format": "JPEG", "sharpness": 20.0} | more
    return Facts(sha256=digest, bytes=9, width=side, height=side, jpeg_quality=quality, **values)


def brute_force(reals: Sequence[float], real_weights: Sequence[float], score: float, weight: float) -> float:
    """The formula of Tibshirani et al. 2019, term by term."""
    above = sum(own for real, own in zip(reals, real_weights, strict=True) if real >= score)
    return (above + weight) / (sum(real_weights) + weight)


small = st.integers(0, 5).map(float)
positive = st.floats(0.05, 20)


@given(st.lists(st.tuples(small, positive), min_size=1, max_size=12), st.lists(st.tuples(small, positive), min_size=1))
def test_both_tails_are_the_formula(reals: list[tuple[float, float]], batch: list[tuple[float, float]]) -> None:
    ordered, scores = np.array(sorted(reals)).T, np.array(batch).T
    upper, lower, least = weighted_tail_p_values(*ordered, *scores)
    expected = [brute_force(*ordered, *own) for own in batch]
    mirrored = [brute_force(-ordered[0], ordered[1], -score, weight) for score, weight in batch]
    np.testing.assert_allclose(upper, expected, rtol=1e-12)
    np.testing.assert_allclose(lower, mirrored, rtol=1e-12)
    assert (least <= np.minimum(upper, lower) * (1 + 1e-12)).all()


def test_it_agrees_with_another_library() -> None:
    scoring = pytest.importorskip("nonconform.scoring")
    generator = np.random.default_rng(0)
    reals, scores = np.sort(generator.normal(size=50).round(1)), generator.normal(size=30).round(1)
    real_weights, weights = generator.uniform(0.1, 9, 50), generator.uniform(0.1, 9, 30)
    expected = scoring.calculate_weighted_p_val(scores, reals, weights, real_weights)
    np.testing.assert_allclose(weighted_tail_p_values(reals, real_weights, scores, weights)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_equal_weights_change_nothing(weight: float) -> None:
    generator = np.random.default_rng(1)
    reals, scores = np.sort(generator.integers(0, 9, 40).astype(float)), generator.integers(-1, 10, 25).astype(float)
    ours = weighted_tail_p_values(reals, np.full(40, weight), scores, np.full(25, weight))
    for own, plain in zip(ours, tail_p_values(reals, scores), strict=False):
        assert np.array_equal(own, plain)


@pytest.mark.parametrize("tail", Tail)
@pytest.mark.parametrize("method", WEIGHABLE)
def test_equal_weights_give_the_rules_own_p_values(method: str, tail: Tail) -> None:
    generator = np.random.default_rng(2)
    reals, scores = generator.normal(size=(60, 3)), generator.normal(1, 2, size=(20, 3))
    rule = rule_class(method).fit(reals, RuleSpec(method=method, alpha=0.1, tail=tail))
    judged = rule.weighted(scores, Weights(np.ones(60), np.ones(20)))
    assert np.array_equal(judged.p_value, rule.judge(scores).p_value)
    assert np.allclose(judged.least, rule.smallest_p_value(rule.spec, 60))
    assert judged.effective == pytest.approx(60 if method == "conformal" else 30)


@pytest.mark.parametrize("method", WEIGHABLE)
def test_the_level_holds_under_a_known_shift_and_not_without_the_weights(method: str) -> None:
    """A covariate x decides the score; x of the batch is distributed otherwise, and its density ratio is known."""
    plain, weighted = [], []
    for seed in range(400):
        generator = np.random.default_rng(seed)
        x, batch = generator.random(80), np.sqrt(generator.random(8))  # densities 1 and 2x, so the ratio is 2x
        reals, scores = (own[:, None] * [3, 2] + generator.normal(scale=0.3, size=(len(own), 2)) for own in (x, batch))
        rule = rule_class(method).fit(reals, RuleSpec(method=method, alpha=0.1, tail=Tail.UPPER))
        plain.append(rule.judge(scores).p_value[:1])
        weighted.append(rule.weighted(scores, Weights(2 * x, 2 * batch)).p_value[:1])
    for level in LEVELS:
        rate, off = (np.concatenate(own) <= level for own in (weighted, plain))
        deviation = (level * (1 - level) / len(rate)) ** 0.5
        assert rate.mean() <= level + 2.6 * deviation
        assert rate.mean() >= 0.3 * level  # and it is no test that never flags
        assert off.mean() > level + 2.6 * deviation


def test_rules_whose_flags_are_no_p_values_are_refused() -> None:
    generator = np.random.default_rng(3)
    scores, images = generator.normal(size=(40, 1)), tuple(facts(f"real {n}") for n in range(40))
    for method in sorted(RULES.keys() - set(WEIGHABLE)):
        spec = RuleSpec(method=method, alpha=0.2)
        calibration = Calibration(scores=scores, columns=("a/b",), facts=images, rule=spec, created="2026-01-01T00:00Z")
        with pytest.raises(CannotReweight, match=f"rule {method} do not come from p-values: calibrate it with another"):
            check_reweighting(calibration)
        with pytest.raises(BadSpec):
            Judge(calibration).weighted(scores, images, Weights(np.ones(40), np.ones(40)))


def test_a_detector_of_faces_is_refused() -> None:
    images = tuple(replace(facts(f"real {n}"), face_side=90.0, face_tilt=0.0) for n in range(40))
    scores = np.random.default_rng(4).normal(size=(40, 1))
    calibration = Calibration(scores=scores, columns=("a/b",), facts=images, rule=RuleSpec(), created="2026-01-01")
    with pytest.raises(CannotReweight, match="it scores faces"):
        check_reweighting(calibration)


def drawn(name: str, count: int, qualities: Sequence[int], seed: int) -> list[Facts]:
    generator = np.random.default_rng(seed)
    sharpness, quality = generator.normal(20, 4, count), generator.choice(qualities, count)
    return [facts(f"{name} {n}", quality=int(quality[n]), sharpness=float(sharpness[n])) for n in range(count)]


def test_calibration_images_like_the_batch_weigh_more() -> None:
    reals, batch = drawn("real", 200, (75, 95), 5), drawn("batch", 60, (95,), 6)
    weights = likelihood_ratios(reals, batch)
    like = np.array([image.jpeg_quality == 95 for image in reals])
    assert weights.reals[like].min() > 3 * weights.reals[~like].max()
    assert effective_count(weights.reals) == pytest.approx(like.sum(), rel=0.3)
    assert weights.reals.min() >= 1 / BOUND
    assert weights.reals.max() <= BOUND


def test_without_a_shift_the_weights_are_nearly_alike() -> None:
    weights = likelihood_ratios(drawn("real", 200, (75, 95), 7), drawn("batch", 100, (75, 95), 8))
    assert effective_count(weights.reals) > 0.8 * 200


def test_an_image_does_not_weigh_itself() -> None:
    """The only image of its kind: a classifier that had learned from it would give it a weight of its own."""
    reals, batch = drawn("real", 100, (75,), 9), drawn("batch", 60, (75,), 10)
    before = likelihood_ratios(reals, batch).batch[0]
    folds = sorted(image.sha256 for image in batch)
    alone = [replace(image, jpeg_quality=20) if image.sha256 == folds[0] else image for image in batch]
    position = [image.sha256 for image in batch].index(folds[0])
    assert likelihood_ratios(reals, alone).batch[position] < 3 * before


def test_the_order_changes_nothing() -> None:
    reals, batch = drawn("real", 60, (75, 95), 11), drawn("batch", 40, (85, 95), 12)
    given_order, turned = likelihood_ratios(reals, batch), likelihood_ratios(reals[::-1], batch[::-1])
    assert np.array_equal(turned.reals[::-1], given_order.reals)
    assert np.array_equal(turned.batch[::-1], given_order.batch)


def test_few_images_have_equal_weights() -> None:
    weights = likelihood_ratios(drawn("real", 60, (75,), 13), drawn("batch", FEWEST_IMAGES - 1, (95,), 14))
    assert (weights.reals == 1).all()
    assert (weights.batch == 1).all()


def scored(image: Facts, score: float, p_value: float, verdict: Verdict = Verdict.NOT_FLAGGED) -> Scored:
    judgement = Judgement(p_value=p_value, verdict=verdict, tail=Side.HIGH, calibration=CalibrationMatch.MATCHED)
    return Scored(path=image.sha256[:8], facts=image, score=score, column_scores=(score,), judgement=judgement)


def calibrated(images: Sequence[Facts], scores: np.ndarray, **rule) -> Calibration:
    spec = RuleSpec(alpha=0.1, **rule)
    return Calibration(
        scores=scores[:, None], columns=("a/b",), facts=tuple(images), rule=spec, created="2026-01-01T00:00Z"
    )


@pytest.mark.parametrize("by", [(), ("quality",)])
def test_a_run_is_judged_by_its_weighted_p_values_and_copies_share_one(by: tuple[str, ...]) -> None:
    """Calibration images of quality 95 score higher; a batch of that quality alone looks unusual without weights."""
    reals, batch = drawn("real", 300, (75, 95), 15), drawn("batch", 80, (95,), 16)
    generator = np.random.default_rng(17)
    score = lambda image: float(generator.normal(2 * (image.jpeg_quality == 95)))  # noqa: E731
    calibration = calibrated(reals, np.array([score(image) for image in reals]), by=by)
    results = [scored(image, score(image), 0.04) for image in batch]
    photograph_of = {image.sha256: image.sha256 for image in batch} | {batch[1].sha256: batch[0].sha256}
    judged, info = reweighted(results, photograph_of, calibration)
    p_values = np.array([result.judgement.weighted_p_value for result in judged])
    assert p_values[0] == p_values[1]
    assert info.learned_from == 79
    assert info.undecided == 0
    assert 20 < info.effective < 300
    assert np.mean(p_values <= 0.1) < 0.25
    assert [result.judgement.verdict is Verdict.FLAGGED for result in judged] == (p_values <= 0.1).tolist()
    assert [result.judgement.p_value for result in judged] == [0.04] * 80


def test_images_unlike_all_of_the_calibration_are_inconclusive_whatever_their_score() -> None:
    reals, batch = drawn("real", 60, (75,), 18), drawn("batch", 60, (98,), 19)
    calibration = calibrated(reals, np.random.default_rng(20).normal(size=60))
    results = [scored(image, 50.0, 0.03, Verdict.FLAGGED) for image in batch]
    judged, info = reweighted(results, {image.sha256: image.sha256 for image in batch}, calibration)
    assert info.undecided == 60
    assert {result.judgement.verdict for result in judged} == {Verdict.INCONCLUSIVE}
