"""Laws of the intervals: exact binomial ones, and the stratified bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from muflow_cli.bench import intervals
from muflow_cli.bench.intervals import BootstrapSpec, clopper_pearson, percentile_interval, resample, resample_flags
from muflow_cli.bench.metrics import FLAG_METRICS, auc, macro, signed_auc
from muflow_cli.errors import BadScores, BadSpec


@pytest.fixture
def reals(rng_scores):
    return rng_scores.normal(0, 1, 200).round(1)


@pytest.fixture
def fakes(rng_scores):
    return {"gan": rng_scores.normal(1, 1, 150).round(1), "diffusion": rng_scores.normal(0.3, 1, 90).round(1)}


@pytest.fixture
def rng_scores():
    return np.random.default_rng(11)


def test_exact_interval_of_a_known_case():
    # No event in n trials: the upper end is 1 - 0.025^(1/n).
    interval = clopper_pearson(0, 30)
    assert interval.low == 0
    assert interval.high == pytest.approx(1 - 0.025 ** (1 / 30))


@given(st.integers(1, 60), st.data())
def test_exact_interval_ends_are_where_the_tail_holds_one_fortieth(trials, data):
    events = data.draw(st.integers(0, trials))
    interval = clopper_pearson(events, trials)
    assert interval.low <= events / trials <= interval.high
    if events:
        assert binom.sf(events - 1, trials, interval.low) == pytest.approx(0.025)
    if events < trials:
        assert binom.cdf(events, trials, interval.high) == pytest.approx(0.025)


@pytest.mark.parametrize(("events", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(events, trials):
    with pytest.raises(BadSpec, match="events of trials"):
        clopper_pearson(events, trials)


def test_percentile_interval_leaves_an_equal_share_on_either_side():
    interval = percentile_interval(np.arange(1001), level=0.9)
    assert (interval.low, interval.high) == pytest.approx((50, 950))


def test_bootstrap_interval_holds_the_measured_figure_and_narrows_with_more_images(rng_scores):
    widths = []
    for size in (50, 500):
        real, fake = rng_scores.normal(0, 1, size), rng_scores.normal(1, 1, size)
        interval = percentile_interval(resample(real, {"gan": fake}, BootstrapSpec())["gan"]["auc"])
        measured = signed_auc(np.concatenate([real, fake]), np.arange(2 * size) >= size)
        assert interval.low < measured < interval.high
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0] / 2


def test_bootstrap_spread_equals_that_of_resampling_image_by_image(reals, fakes):
    rng = np.random.default_rng(5)
    naive = [
        signed_auc(
            np.concatenate([rng.choice(reals, len(reals)), rng.choice(fakes["gan"], 150)]), np.arange(350) >= 200
        )
        for _ in range(600)
    ]
    fast = resample(reals, fakes, BootstrapSpec(resamples=4000))["gan"]["auc"]
    assert np.mean(fast) == pytest.approx(np.mean(naive), abs=0.003)
    assert np.std(fast) == pytest.approx(np.std(naive), rel=0.12)


def test_same_seed_same_resamples_other_seed_others(reals, fakes):
    once, again, other = (resample(reals, fakes, BootstrapSpec(seed=seed))["gan"]["auc"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    # One real: only the fakes can differ.
    alone = [resample([0.5], fakes, BootstrapSpec(seed=seed))["gan"]["auc"] for seed in (1, 2)]
    assert not np.array_equal(*alone)


def test_draws_depend_neither_on_the_chunk_nor_on_the_other_groups(reals, fakes, monkeypatch):
    whole = resample(reals, fakes, BootstrapSpec(resamples=50))
    alone = resample(reals, {"diffusion": fakes["diffusion"]}, BootstrapSpec(resamples=50))
    monkeypatch.setattr(intervals, "_CHUNK_CELLS", 300)
    chunked = resample(reals, fakes, BootstrapSpec(resamples=50))
    for name, values in whole["diffusion"].items():
        np.testing.assert_array_equal(values, alone["diffusion"][name])
        np.testing.assert_array_equal(values, chunked["diffusion"][name])


def test_groups_share_the_resampled_reals_so_that_the_macro_interval_is_its_own(reals, fakes):
    drawn = resample(reals, {"gan": fakes["gan"], "other": fakes["gan"]}, BootstrapSpec(), {"auc": auc})
    gan, other = drawn["gan"]["auc"], drawn["other"]["auc"]
    assert not np.array_equal(gan, other)
    # Shared reals leave the two figures correlated; independent draws would not (|r| < 0.1 for 1000 resamples).
    assert np.corrcoef(gan, other)[0, 1] > 0.25
    assert np.std(macro({"gan": gan, "other": other})) > np.std(gan) / np.sqrt(2) * 1.05


def test_perfect_separation_has_no_spread():
    drawn = resample([0, 1], {"gan": [2, 3]}, BootstrapSpec(resamples=20))["gan"]
    assert all((values == 1).all() for values in drawn.values())


@pytest.mark.parametrize("verdicts", [[True] * 8, [False] * 8, [True] * 6 + [False] * 2])
def test_flag_resamples_centre_on_the_measured_accuracies(verdicts):
    reals = [False] * 30 + [True] * 10
    drawn = resample_flags(reals, verdicts, BootstrapSpec(resamples=3000), FLAG_METRICS)
    caught = np.mean(verdicts)
    assert np.mean(drawn["accuracy"]) == pytest.approx((30 + sum(verdicts)) / 48, abs=0.01)
    assert np.mean(drawn["balanced_accuracy"]) == pytest.approx((0.75 + caught) / 2, abs=0.01)


def test_missing_kinds_and_impossible_settings_are_refused():
    with pytest.raises(BadScores, match="found 1 real and 0 fake"):
        resample([1.0], {"gan": []}, BootstrapSpec())
    with pytest.raises(BadScores):
        resample_flags([], [True], BootstrapSpec(), FLAG_METRICS)
    for settings in ({"resamples": 0}, {"seed": -1}, {"level": 1.0}):
        with pytest.raises(BadSpec):
            BootstrapSpec(**settings)
