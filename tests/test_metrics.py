"""Laws of the ranking metrics, checked by hand, against scikit-learn and on drawn scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score

from muflow_cli.bench.metrics import (
    RANKING_METRICS,
    ScoreCounts,
    accuracy,
    auc,
    average_precision,
    balanced_accuracy,
    count,
    count_flags,
    macro,
    partial_auc,
    prevalence,
    signed_auc,
    tpr_at_fpr,
    worst,
)
from muflow_cli.errors import BadScores, NotFinite

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
def test_tpr_at_a_fixed_fpr_is_the_most_that_any_threshold_within_it_catches(reals, fakes, max_fpr):
    scores, fake = labelled(reals, fakes)
    shares = [
        np.mean(scores[fake] >= threshold)
        for threshold in [*scores, np.inf]
        if np.mean(scores[~fake] >= threshold) <= max_fpr
    ]
    assert tpr_at_fpr(count(scores, fake), max_fpr) == max(shares)


def test_nominal_rate_that_is_a_whole_number_of_reals_is_used_in_full():
    # 0.29 x 100 is 28.999999999999996 in binary: a threshold that compares products would lose an image.
    assert tpr_at_fpr(count(*labelled(list(range(100)), [71.0])), 0.29) == 1


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


def test_macro_weighs_groups_alike_and_worst_names_the_least():
    assert macro({"small": 1.0, "large": 0.5}) == 0.75
    np.testing.assert_array_equal(macro({"a": [0, 1], "b": [1, 1]}), [0.5, 1])
    assert worst({"ffhq": 0.9, "celebahq": 0.6, "other": 0.6}) == ("celebahq", 0.6)
