"""Laws of the rules: what they flag, what their p-values promise, what they refuse."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, cauchy, chi2, combine_pvalues, hmean, norm
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from muflow_cli.calibration import novelty
from muflow_cli.calibration.combine import Cauchy, Fisher, Harmonic
from muflow_cli.calibration.pvalues import mean_scores
from muflow_cli.calibration.rule import Rule
from muflow_cli.calibration.rules import RULES, Gaussian, rule_class
from muflow_cli.errors import BadCalibration, BadSpec, TooFewScores
from muflow_cli.specs import RuleSpec, Tail

DRAWS = 10_000
METHODS = list(RULES)
COMBINED = ["fisher", "cauchy", "harmonic"]
CONFORMAL = ["conformal", *COMBINED]
# Methods whose flags are set inclusion in alpha; the one-class SVM solves another problem for each nu.
NESTED = [method for method in METHODS if method != "ocsvm"]
TAILS = list(Tail)


def dependent_scores(seed: int, n: int) -> np.ndarray:
    """(n, 3) scores whose scales share most of their variance, as those of one encoder do."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=(n, 3))


def flags(method: str, reals: np.ndarray, fresh: np.ndarray, alpha: float, tail: Tail) -> np.ndarray:
    return fitted(method, reals, alpha=alpha, tail=tail).judge(fresh).flagged


def fitted(method: str, reals: np.ndarray, **settings: object) -> Rule:
    return RULES[method].fit(reals, RuleSpec(method=method, **settings))


def test_every_rule_stands_in_the_table_under_its_own_name():
    assert {name: rule.name for name, rule in RULES.items()} == {name: name for name in METHODS}
    assert {*METHODS} == {"conformal", "gaussian", "fisher", "cauchy", "harmonic", "lof", "ocsvm"}


def test_an_unknown_method_is_refused_with_the_names_of_all_rules():
    with pytest.raises(BadSpec, match="method is median: use one of conformal, gaussian, fisher, cauchy"):
        rule_class("median")


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("method", NESTED)
def test_raising_alpha_never_flags_fewer(method, tail):
    reals, fresh = dependent_scores(0, 500), 2 * dependent_scores(1, 500)
    flagged = [flags(method, reals, fresh, alpha, tail) for alpha in (0.01, 0.02, 0.05, 0.1, 0.3, 0.5)]
    for fewer, more in itertools.pairwise(flagged):
        assert not (fewer & ~more).any()
    assert flagged[0].sum() < flagged[-1].sum()


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("method", CONFORMAL)
def test_conformal_rates_lie_in_their_beta_binomial_interval(method, tail, alpha):
    """Given its reals, a threshold's rate is Beta(k, n + 1 - k), so the count of 10^4 draws is beta-binomial."""
    n = 4000
    count = flags(method, dependent_scores(2, n), dependent_scores(3, DRAWS), alpha, tail).sum()
    calibrating = n // 2 if method in COMBINED else n
    k = round(alpha * calibrating)
    law = betabinom(DRAWS, k, calibrating + 1 - k)
    assert law.ppf(0.001) <= count <= law.ppf(0.999)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("tail", TAILS)
def test_gaussian_rate_on_gaussian_scores_is_alpha_and_not_twice_alpha(tail, alpha):
    reals = np.random.default_rng(4).normal(size=(200_000, 1))
    fresh = np.random.default_rng(5).normal(size=(DRAWS, 1))
    count = flags("gaussian", reals, fresh, alpha, tail).sum()
    # The reals' own error of mean and deviation is 1/20 of the draws' in variance: 3.5 deviations cover both.
    assert abs(count - alpha * DRAWS) <= 3.5 * np.sqrt(DRAWS * alpha * (1 - alpha))


@pytest.mark.parametrize("n", [39, 100])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("method", CONFORMAL)
def test_p_values_are_super_uniform_over_calibration_sets(method, tail, n):
    """P(p <= a) <= a holds on average over calibration sets, however small and tied they are."""
    p_values = []
    for seed in range(400):
        scores = np.round(dependent_scores(seed, n + 10), 1)
        rule = fitted(method, scores[:n], alpha=0.1, tail=tail)
        p_values.append(rule.judge(scores[n:]).p_value)
    p_value = np.concatenate(p_values)
    for level in (0.05, 0.1, 0.2, 0.5, 0.8):
        # Ten draws share a calibration set; the allowance is that of 400 independent ones.
        assert (p_value <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / 400)
    assert p_value.min() > 0
    assert p_value.max() <= 1


@given(
    st.lists(st.integers(-3, 3), min_size=39, max_size=60),
    st.lists(st.integers(-5, 5), min_size=1, max_size=5),
)
def test_conformal_p_values_count_ties_as_extreme(reals, fresh):
    spec = {tail: RuleSpec(alpha=0.06, tail=tail) for tail in Tail}
    columns = np.array(reals, float)[:, None], np.array(fresh, float)[:, None]
    upper, both = (RULES["conformal"].fit(columns[0], spec[tail]).judge(columns[1]) for tail in (Tail.UPPER, Tail.BOTH))
    for index, score in enumerate(fresh):
        high = (1 + sum(real >= score for real in reals)) / (len(reals) + 1)
        low = (1 + sum(real <= score for real in reals)) / (len(reals) + 1)
        assert upper.p_value[index] == high
        assert both.p_value[index] == min(1.0, 2 * min(high, low))
        assert both.high[index] == (high <= low)


@pytest.mark.parametrize("method", CONFORMAL)
def test_flagged_means_p_at_most_alpha(method):
    judged = fitted(method, dependent_scores(6, 999), alpha=0.05).judge(dependent_scores(7, 999))
    np.testing.assert_array_equal(judged.flagged, judged.p_value <= 0.05)


def test_gaussian_threshold_is_equation_14():
    reals = np.arange(10.0)[:, None]
    mean, deviation = 4.5, np.std(np.arange(10.0), ddof=1)
    for tail, share in ((Tail.UPPER, 0.1), (Tail.BOTH, 0.05)):
        rule = fitted("gaussian", reals, alpha=0.1, tail=tail)
        limit = norm.ppf(1 - share) * deviation
        just = np.array(
            [[mean + 0.999 * limit], [mean + 1.001 * limit], [mean - 0.999 * limit], [mean - 1.001 * limit]]
        )
        judged = rule.judge(just)
        assert judged.flagged.tolist() == [False, True, False, tail is Tail.BOTH]
        assert judged.high.tolist() == [True, True, False, False]


@pytest.mark.parametrize("method", METHODS)
def test_upper_never_flags_an_image_more_typical_than_the_reals(method):
    reals = dependent_scores(8, 500)
    typical = np.full((3, 3), reals.min() - 5.0)
    assert not flags(method, reals, typical, 0.05, Tail.UPPER).any()
    assert flags(method, reals, typical, 0.05, Tail.BOTH).all()
    assert flags(method, reals, -typical, 0.05, Tail.UPPER).all()


@pytest.mark.parametrize("method", METHODS)
def test_high_tells_the_side_of_the_reals(method):
    reals = dependent_scores(9, 500)
    rule = fitted(method, reals)
    assert rule.judge(np.full((2, 3), 9.0)).high.tolist() == [True, True]
    assert rule.judge(np.full((2, 3), -9.0)).high.tolist() == [False, False]


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_judged_as_its_images_one_by_one(method):
    fresh = dependent_scores(11, 40)
    rule = fitted(method, dependent_scores(10, 500), alpha=0.1)
    whole, single = rule.judge(fresh), [rule.judge(fresh[i : i + 1]) for i in range(len(fresh))]
    for name in ("p_value", "flagged", "high"):
        alone = np.concatenate([getattr(judged, name) for judged in single])
        np.testing.assert_array_equal(getattr(whole, name), alone)


def test_mean_score_does_not_depend_on_the_memory_layout():
    scores = dependent_scores(12, 300)
    np.testing.assert_array_equal(mean_scores(scores), mean_scores(np.asfortranarray(scores)))


@pytest.mark.parametrize("method", COMBINED)
def test_a_combination_sees_what_the_mean_hides(method):
    """One column far up and one far down leave the mean where it was."""
    reals = dependent_scores(13, 1000)
    hidden = np.array([[8.0, -8.0, 0.0]])
    assert not flags("conformal", reals, hidden, 0.05, Tail.BOTH).any()
    assert flags(method, reals, hidden, 0.05, Tail.BOTH).all()


@pytest.mark.parametrize("method", COMBINED)
def test_a_combination_names_the_column_and_side_that_weigh_most(method):
    reals = np.random.default_rng(14).normal(size=(1000, 3))
    judged = fitted(method, reals).judge(np.array([[0.1, -4, 0.2], [0, 0.1, 4.0]]))
    assert judged.heaviest.tolist() == [1, 2]
    assert judged.high.tolist() == [False, True]


@pytest.mark.parametrize("method", COMBINED)
def test_a_combination_tells_images_beyond_all_reals_from_the_outermost_real(method):
    """One column and few reals: the outermost of each half tie in p-value, yet an image far out must reach 1/(m+1)."""
    for seed in range(20):
        rule = fitted(method, np.random.default_rng(seed).normal(size=(77, 1)))
        assert rule.judge(np.array([[20.0], [-20.0]])).p_value.tolist() == [1 / 40, 1 / 40]


def test_the_statistics_are_those_of_their_sources():
    p_values = np.array([[1.0, 1.0], [0.5, 0.5], [0.01, 0.4]])
    np.testing.assert_allclose(Fisher.statistic(p_values), combine_pvalues(p_values, axis=1).statistic, atol=1e-12)
    # A standard Cauchy variable exceeds the mean of the transformed p-values with the combined probability.
    np.testing.assert_allclose(
        cauchy.sf(Cauchy.statistic(p_values[1:])), [0.5, cauchy.sf(cauchy.isf([0.01, 0.4]).mean())]
    )
    np.testing.assert_allclose(1 / Harmonic.statistic(p_values), hmean(p_values, axis=1))


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=6), st.data())
def test_a_smaller_p_value_never_makes_an_image_less_suspicious(p_values, data):
    column = data.draw(st.integers(0, len(p_values) - 1))
    smaller = list(p_values)
    smaller[column] *= data.draw(st.floats(0.01, 1))
    for method in COMBINED:
        statistic = RULES[method].statistic
        assert statistic(np.array([smaller]))[0] >= statistic(np.array([p_values]))[0] - 1e-9


def test_a_perfectly_typical_column_does_not_outweigh_a_very_unusual_one():
    """Conformal p-values reach 1, where the tangent of the Cauchy combination is minus infinity."""
    unusual, usual = np.array([[1.0, 1e-3]]), np.array([[0.3, 0.3]])
    assert Cauchy.statistic(unusual) > Cauchy.statistic(usual)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("method", COMBINED)
def test_combinations_keep_alpha_on_dependent_columns(method, copies, tail):
    """Calibrated jointly, a rate follows its beta-binomial law even for columns that are copies of each other."""
    n, alpha = 4000, 0.05
    reals, fresh = (dependent_scores(seed, size)[:, [0] * copies + [1]] for seed, size in ((15, n), (16, DRAWS)))
    law = betabinom(DRAWS, alpha * n / 2, n / 2 + 1 - alpha * n / 2)
    assert law.ppf(0.0005) <= flags(method, reals, fresh, alpha, tail).sum() <= law.ppf(0.9995)


def test_only_the_dependence_safe_combinations_nearly_hold_without_joint_calibration():
    """P-values of the theory for independent columns, from columns that share most of their variance."""
    p_values = norm.sf(dependent_scores(30, 200_000) / np.sqrt(1.25))
    combined = {
        Fisher: chi2(6).sf(Fisher.statistic(p_values)),
        Cauchy: cauchy.sf(Cauchy.statistic(p_values)),
        Harmonic: 1 / Harmonic.statistic(p_values),
    }
    for rule, p_value in combined.items():
        assert rule.dependence_safe == ((p_value <= 0.01).mean() < 0.015)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("method", ["lof", "ocsvm"])
def test_lof_and_ocsvm_flag_what_scikit_learn_flags(method, alpha):
    reals, fresh = dependent_scores(17, 600), 1.5 * dependent_scores(18, 600)
    scaler = StandardScaler().fit(reals)
    model = {"lof": LocalOutlierFactor(novelty=True, contamination=alpha), "ocsvm": OneClassSVM(nu=alpha)}
    own = model[method].fit(scaler.transform(reals)).predict(scaler.transform(fresh)) == -1
    np.testing.assert_array_equal(flags(method, reals, fresh, alpha, Tail.BOTH), own)
    assert 0 < own.sum() < 600


def test_large_sets_are_fitted_on_a_seeded_subsample():
    rows = novelty.novelty_subsample(25_000)
    assert len(rows) == novelty.NOVELTY_CAP == len(np.unique(rows))
    np.testing.assert_array_equal(rows, novelty.novelty_subsample(25_000))
    np.testing.assert_array_equal(novelty.novelty_subsample(10_000), np.arange(10_000))


def test_novelty_rules_use_the_subsample(monkeypatch):
    monkeypatch.setattr(novelty, "NOVELTY_CAP", 100)
    rule = fitted("ocsvm", dependent_scores(19, 500))
    assert rule.pipeline[0].n_samples_seen_ == 100
    assert rule.details() == ("fitted to 100 of 500 reals (a seeded subsample)",)


@pytest.mark.parametrize(
    ("method", "tail", "alpha", "needed"),
    [
        ("conformal", Tail.UPPER, 0.01, 99),
        ("conformal", Tail.BOTH, 0.01, 199),
        ("conformal", Tail.BOTH, 0.05, 39),
        ("conformal", Tail.UPPER, 0.07, 14),
        ("fisher", Tail.BOTH, 0.01, 197),
        ("fisher", Tail.UPPER, 0.01, 197),
        ("cauchy", Tail.BOTH, 0.05, 37),
        ("gaussian", Tail.BOTH, 0.01, 2),
        ("lof", Tail.BOTH, 0.01, 100),
        ("ocsvm", Tail.BOTH, 0.3, 4),
    ],
)
def test_alpha_that_the_reals_cannot_reach_is_refused_with_the_number_needed(method, tail, alpha, needed):
    spec = RuleSpec(method=method, tail=tail, alpha=alpha)
    reals = dependent_scores(20, needed)
    assert RULES[method].minimum_images(spec) == needed
    with pytest.raises(TooFewScores, match=rf"alpha {alpha}.*{needed} real images, found {needed - 1}: add"):
        RULES[method].fit(reals[:-1], spec)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("method", METHODS)
def test_every_rule_keeps_what_it_promises_from_its_minimum_on(method, tail, alpha):
    rule, spec = RULES[method], RuleSpec(method=method, alpha=alpha, tail=tail)
    n = rule.minimum_images(spec)
    reals = np.random.default_rng(21).normal(size=(n, 2))
    far = np.full((1, 2), 1e6)
    judged = rule.fit(reals, spec).judge(far)
    assert judged.flagged.all()
    assert judged.p_value[0] == rule.smallest_p_value(spec, n)
    bounds = rule.rate_bounds(spec, n)
    assert bounds is None or 0 < bounds.low < bounds.at_most < bounds.high < 1
    # Only a rule whose flags are its p-values promises a rate.
    assert bounds is None or judged.p_value[0] <= alpha
    assert rule.stratum_minimum(spec) >= n
    for refuse in (lambda: rule.fit(reals[:-1], spec), lambda: rule.rate_bounds(spec, n - 1)):
        with pytest.raises(TooFewScores):
            refuse()


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("method", METHODS)
def test_every_flagged_image_ranks_above_all_others(method, tail):
    rule = fitted(method, dependent_scores(22, 500), alpha=0.1, tail=tail)
    fresh = 2 * dependent_scores(23, 500)
    flagged, ranking = rule.judge(fresh).flagged, rule.ranking(fresh)
    assert 0 < flagged.sum() < len(fresh)
    assert ranking[flagged].min() > ranking[~flagged].max()


@given(st.decimals("0.001", "0.999", places=3), st.sampled_from(CONFORMAL), st.sampled_from(TAILS))
def test_the_number_needed_is_just_enough_to_flag_something(alpha, method, tail):
    spec = RuleSpec(method=method, alpha=float(alpha), tail=tail)
    reals = np.random.default_rng(0).normal(size=(RULES[method].minimum_images(spec), 2))
    assert RULES[method].fit(reals, spec).judge(np.full((1, 2), 99.0)).flagged.all()


def test_a_stratum_needs_what_lets_its_p_value_reach_alpha():
    assert RULES["gaussian"].stratum_minimum(RuleSpec(method="gaussian", alpha=0.05)) == 39
    assert RULES["fisher"].stratum_minimum(RuleSpec(method="fisher", alpha=0.01)) == 199


def test_lof_refuses_alpha_above_one_half():
    with pytest.raises(BadSpec, match=r"at most 0\.5 with method lof"):
        fitted("lof", dependent_scores(0, 100), alpha=0.6)


def test_gaussian_refuses_scores_without_spread():
    with pytest.raises(BadCalibration, match="all equal"):
        fitted("gaussian", np.ones((50, 2)))
    assert isinstance(fitted("gaussian", dependent_scores(0, 2)), Gaussian)


@given(st.integers(2, 2000), st.integers(1, 8))
def test_no_number_of_typical_columns_outweighs_one_that_stands_out(n: int, typical: int) -> None:
    least = 1 / (n + 1)
    extreme = np.array([[least, *[1.0] * typical]])
    unsuspicious = np.full((1, typical + 1), 0.5)
    assert Cauchy.statistic(extreme) > Cauchy.statistic(unsuspicious)
