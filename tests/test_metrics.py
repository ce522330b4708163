"""Laws of the ranking metrics, checked by hand, against scikit-learn and on drawn scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score, roc_curve

from muflow_cli.errors import BadScores, BadSpec, NotFinite
from muflow_cli.metrics import (
    RANKING_METRICS,
    ScoreCounts,
    accuracy,
    auc,
    average_precision,
    balanced_accuracy,
    benjamini_hochberg,
    count,
    count_flags,
    folded_auc,
    macro,
    operating_point,
    partial_auc,
    prevalence,
    roc_points,
    signed_auc,
    silhouette,
    tpr_at_fpr,
    worst,
)

# Small integers, so that ties are the rule.
tied_scores = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=30)


def labelled(reals: list[float], fakes: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(reals + fakes), np.array([False] * len(reals) + [True] * len(fakes))


@pytest.fixture
def overlapping() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.normal(0, 1, 300), rng.normal(0.8, 1.3, 170)]).round(1)
    return scores, np.arange(470) >= 300


def test_auc_of_a_hand_counted_example_counts_ties_one_half():
    # Pairs (fake, real): 2>1, 2=2, 2<3, 3>1, 3>2, 3=3: 3 wins and 2 halves of 6.
    assert signed_auc(*labelled([1, 2, 3], [2, 3])) == 4 / 6


def test_tpr_at_a_fixed_fpr_of_a_hand_counted_example():
    scores, fake = labelled(list(range(20)), [18.5, 18.5, 19.5, 3.0])
    assert tpr_at_fpr(count(scores, fake), 0.05) == 0.75  # one real in twenty lies above 18.5
    assert tpr_at_fpr(count(scores, fake), 0.04) == 0.25  # none may: only 19.5 is left


def test_average_precision_of_a_hand_counted_example():
    # Descending: fake, real, fake, real: precision 1 at recall 1/2, 2/3 at recall 1.
    assert average_precision(count(*labelled([1, 3], [2, 4]))) == pytest.approx((1 + 2 / 3) / 2)


@given(tied_scores, tied_scores)
def test_every_ranking_metric_equals_scikit_learn(reals, fakes):
    scores, fake = labelled(reals, fakes)
    counts = count(scores, fake)
    assert auc(counts) == pytest.approx(roc_auc_score(fake, scores))
    assert partial_auc(counts, 0.05) == pytest.approx(roc_auc_score(fake, scores, max_fpr=0.05))
    assert partial_auc(counts, 0.3) == pytest.approx(roc_auc_score(fake, scores, max_fpr=0.3))
    assert average_precision(counts) == pytest.approx(average_precision_score(fake, scores))
    assert prevalence(counts) == pytest.approx(fake.mean())


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.lists(st.booleans(), min_size=1, max_size=20))
def test_accuracies_equal_scikit_learn(on_reals, on_fakes):
    flags = np.array(on_reals + on_fakes)
    fake = np.array([False] * len(on_reals) + [True] * len(on_fakes))
    counts = count_flags(flags, fake)
    assert accuracy(counts) == pytest.approx(accuracy_score(fake, flags))
    assert balanced_accuracy(counts) == pytest.approx(balanced_accuracy_score(fake, flags))


def test_roc_corners_equal_scikit_learn(overlapping):
    scores, fake = overlapping
    points = roc_points(scores, fake)
    fpr, tpr, thresholds = roc_curve(fake, scores, drop_intermediate=False)
    np.testing.assert_allclose(points.fpr, fpr)
    np.testing.assert_allclose(points.tpr, tpr)
    np.testing.assert_array_equal(points.thresholds, thresholds)


@given(tied_scores, tied_scores)
def test_auc_is_unchanged_by_an_increasing_map_and_mirrored_by_negation(reals, fakes):
    scores, fake = labelled(reals, fakes)
    assert signed_auc(np.exp(scores) * 7 - 3, fake) == signed_auc(scores, fake)
    assert signed_auc(-scores, fake) == pytest.approx(1 - signed_auc(scores, fake))


@given(tied_scores, tied_scores)
def test_all_metrics_lie_in_the_unit_interval_and_are_one_when_fakes_lie_above(reals, fakes):
    for name, metric in RANKING_METRICS.items():
        assert 0 <= metric(count(*labelled(reals, fakes))) <= 1, name
        assert metric(count(*labelled(reals, [10 + score for score in fakes]))) == 1, name


@given(tied_scores, tied_scores, st.floats(0, 1))
def test_realised_fpr_never_exceeds_the_nominal_one_and_no_lower_threshold_would_do(reals, fakes, max_fpr):
    scores, fake = labelled(reals, fakes)
    point = operating_point(scores, fake, max_fpr)
    assert point.fpr == np.mean(scores[~fake] >= point.threshold) <= max_fpr
    assert point.tpr == np.mean(scores[fake] >= point.threshold) == tpr_at_fpr(count(scores, fake), max_fpr)
    lower = scores[scores < point.threshold]
    assert not len(lower) or np.mean(scores[~fake] >= lower.max()) > max_fpr


def test_nominal_rate_that_is_a_whole_number_of_reals_is_used_in_full():
    # 0.29 x 100 is 28.999999999999996 in binary: a threshold that compares products would lose a picture.
    scores, fake = labelled(list(range(100)), [71.0])
    assert operating_point(scores, fake, 0.29).fpr == 0.29


def test_folded_auc_sees_fakes_on_both_sides_that_the_signed_auc_misses():
    scores, fake = labelled([-1, 0, 1], [-9, 9])
    assert signed_auc(scores, fake) == 0.5
    assert folded_auc(scores, fake, centre=0.0) == 1
    assert folded_auc(scores, fake, centre=-9.0) == 0.5


@given(tied_scores, tied_scores)
def test_folded_auc_is_unchanged_when_the_scores_are_mirrored_at_the_centre(reals, fakes):
    scores, fake = labelled(reals, fakes)
    assert folded_auc(2 - scores, fake, 1.0) == folded_auc(scores, fake, 1.0)


def test_leading_axes_are_resamples(overlapping):
    one = count(*overlapping)
    two = ScoreCounts(np.stack([one.reals, one.reals[::-1]]), np.stack([one.fakes, one.fakes[::-1]]))
    for name, metric in RANKING_METRICS.items():
        stacked = metric(two)
        assert stacked.shape == (2,), name
        assert stacked[0] == metric(one), name
        assert stacked[1] == metric(ScoreCounts(one.reals[::-1], one.fakes[::-1])), name


def test_ranking_metrics_need_both_kinds_and_finite_scores():
    with pytest.raises(BadScores, match="found 2 real and 0 fake"):
        signed_auc([1, 2], [False, False])
    with pytest.raises(BadScores, match="found 0 real and 2 fake"):
        count_flags([True, False], [True, True])
    with pytest.raises(NotFinite, match="1 of 3 scores"):
        signed_auc([1, np.nan, 2], [False, True, True])


def test_q_values_of_a_hand_computed_example():
    # Sorted p 0.005 0.01 0.03 0.5 times 4 / rank: 0.02 0.02 0.04 0.5.
    np.testing.assert_allclose(benjamini_hochberg([0.03, 0.005, 0.5, 0.01]), [0.04, 0.02, 0.5, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_q_values_are_at_least_the_p_values_and_keep_their_order(p_values):
    q_values = benjamini_hochberg(p_values)
    assert (q_values >= np.array(p_values) - 1e-15).all()
    assert (q_values <= 1).all()
    assert (np.diff(q_values[np.argsort(p_values)]) >= 0).all()


def test_q_values_of_nothing_are_nothing_and_of_nonsense_an_error():
    assert benjamini_hochberg([]).shape == (0,)
    with pytest.raises(BadSpec, match=r"p-value is 1\.5"):
        benjamini_hochberg([0.5, 1.5])
    with pytest.raises(BadSpec, match="p-value is nan"):
        benjamini_hochberg([np.nan])


def test_silhouette_is_near_one_for_far_clusters_and_refuses_a_single_group():
    vectors = np.array([[0, 0], [0, 0.1], [9, 9], [9, 9.1]])
    assert silhouette(vectors, ["a", "a", "b", "b"]) > 0.98
    assert silhouette(vectors, ["a", "b", "a", "b"]) < 0
    with pytest.raises(BadSpec, match="groups of the silhouette is 1"):
        silhouette(vectors, ["a"] * 4)


def test_macro_weighs_groups_alike_and_worst_names_the_least():
    assert macro({"small": 1.0, "large": 0.5}) == 0.75
    np.testing.assert_array_equal(macro({"a": [0, 1], "b": [1, 1]}), [0.5, 1])
    assert worst({"ffhq": 0.9, "celebahq": 0.6, "other": 0.6}) == ("celebahq", 0.6)
