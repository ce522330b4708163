"""Laws of what is said about a calibration: bounds of the true rate, smallest p-value, fit of the Gaussian."""

import numpy as np
import pytest
from scipy.stats import beta, binomtest, kstest

from muflow_cli.calibration.coverage import RateBounds, check_normality
from muflow_cli.calibration.rules import RULES, rule_class
from muflow_cli.errors import TooFewScores
from muflow_cli.specs import RuleSpec, Tail


def bounds_of(spec: RuleSpec, n: int) -> RateBounds | None:
    return rule_class(spec.method).rate_bounds(spec, n)


@pytest.mark.parametrize("tail", list(Tail))
def test_alpha_one_percent_from_a_thousand_reals_is_at_most_157_in_ten_thousand(tail):
    bounds = bounds_of(RuleSpec(alpha=0.01, tail=tail), 1000)
    assert round(bounds.at_most, 4) == 0.0157
    assert bounds.low < 0.01 < bounds.at_most < bounds.high


@pytest.mark.parametrize("tail", list(Tail))
def test_the_true_rate_follows_the_beta_law_that_is_stated(tail):
    """On uniform scores the true rate of a threshold is known exactly: the measure of what it flags."""
    n, spec = 99, RuleSpec(alpha=0.05, tail=tail)
    grid = np.linspace(0, 1, 20_001)[:, None]
    rng = np.random.default_rng(0)
    rates = [RULES["conformal"].fit(rng.random((n, 1)), spec).judge(grid).flagged.mean() for _ in range(400)]
    k = 5 if tail is Tail.UPPER else 4
    assert kstest(rates, beta(k, n + 1 - k).cdf).pvalue > 0.01
    bounds = bounds_of(spec, n)
    assert bounds.at_most == pytest.approx(beta(k, n + 1 - k).ppf(0.95))
    assert (bounds.low, bounds.high) == pytest.approx(beta(k, n + 1 - k).interval(0.95))


@pytest.mark.parametrize(("alpha", "n"), [(0.29, 99), (0.07, 99), (0.05, 39), (0.58, 49), (0.015, 133)])
def test_bounds_count_the_p_values_that_the_rule_flags(alpha, n):
    """0.29 as a float lies below 29/100, yet p = 29/100 is flagged: the bounds must count that rank too."""
    spec, reals = RuleSpec(alpha=alpha, tail=Tail.UPPER), np.arange(n, dtype=float)[:, None]
    k = RULES["conformal"].fit(reals, spec).judge(np.arange(n + 1)[:, None] - 0.5).flagged.sum()
    assert bounds_of(spec, n).at_most == pytest.approx(beta(k, n + 1 - k).ppf(0.95))


@pytest.mark.parametrize("method", ["fisher", "cauchy", "harmonic"])
def test_combinations_speak_of_the_half_that_calibrates_their_statistic(method):
    bounds = bounds_of(RuleSpec(method=method, alpha=0.01), 2000)
    assert round(bounds.at_most, 4) == 0.0157


def test_bounds_are_refused_where_alpha_is():
    with pytest.raises(TooFewScores, match="199 real images, found 198"):
        bounds_of(RuleSpec(alpha=0.01), 198)


def test_only_rules_that_flag_by_their_p_value_promise_a_rate():
    promising = {name for name in RULES if bounds_of(RuleSpec(method=name), 1000) is not None}
    assert promising == {"conformal", "fisher", "cauchy", "harmonic"}


@pytest.mark.parametrize("method", list(RULES))
@pytest.mark.parametrize("tail", list(Tail))
def test_the_smallest_p_value_is_that_of_an_image_beyond_all_reals(method, tail):
    spec = RuleSpec(method=method, tail=tail)
    reals = np.random.default_rng(1).normal(size=(101, 2))
    judged = RULES[method].fit(reals, spec).judge(np.full((1, 2), 50.0))
    assert judged.p_value[0] == RULES[method].smallest_p_value(spec, 101)


def test_normality_accepts_a_gaussian_and_warns_of_a_skew_law():
    rng = np.random.default_rng(2)
    gaussian, skew = check_normality(rng.normal(size=500)), check_normality(rng.exponential(size=500))
    assert not gaussian.poor_fit
    assert abs(gaussian.skew) < 0.4
    assert "the Gaussian fits" in str(gaussian)
    assert skew.poor_fit
    assert skew.skew > 1
    assert skew.anderson_darling > gaussian.anderson_darling
    assert "warning: the Gaussian fits badly" in str(skew)


def test_the_gaussian_states_the_share_that_its_threshold_flags_with_its_exact_interval():
    reals = np.random.default_rng(3).exponential(size=(300, 2))
    rule = RULES["gaussian"].fit(reals, RuleSpec(method="gaussian", alpha=0.01, tail=Tail.UPPER))
    count = int(rule.judge(reals).flagged.sum())
    exact = binomtest(count, 300).proportion_ci(method="exact")
    fit, share = rule.details()
    assert fit == str(rule.normality())
    assert f"share of {count / 300:.3g} of these reals at alpha 0.01" in share
    assert f"{exact.low:.3g} to {exact.high:.3g}" in share
