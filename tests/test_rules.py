"""Laws of the rules: what they flag, what their p-values promise, what they refuse."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, norm
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from muflow_cli import rules
from muflow_cli.errors import BadCalibration, BadSpec, TooFewScores
from muflow_cli.rules import RULES, Gaussian, fisher_statistic, pictures_needed, stratum_minimum
from muflow_cli.specs import Method, RuleSpec, Tail

DRAWS = 10_000
METHODS = list(Method)
# Methods whose flags are set inclusion in alpha; the one-class SVM solves another problem for each nu.
NESTED = [method for method in Method if method is not Method.OCSVM]
TAILS = list(Tail)


def dependent_scores(seed: int, n: int) -> np.ndarray:
    """(n, 3) scores whose scales share most of their variance, as those of one encoder do."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 1)) + 0.5 * rng.normal(size=(n, 3))


def flags(method: Method, reals: np.ndarray, fresh: np.ndarray, alpha: float, tail: Tail) -> np.ndarray:
    return RULES[method](reals, RuleSpec(method=method, alpha=alpha, tail=tail)).judge(fresh).flagged


def test_every_method_is_a_row_of_the_table():
    assert set(RULES) == set(Method)


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
@pytest.mark.parametrize("method", [Method.CONFORMAL, Method.FISHER])
def test_conformal_rates_lie_in_their_beta_binomial_interval(method, tail, alpha):
    """Given its reals, a threshold's rate is Beta(k, n + 1 - k), so the count of 10^4 draws is beta-binomial."""
    n = 4000
    count = flags(method, dependent_scores(2, n), dependent_scores(3, DRAWS), alpha, tail).sum()
    calibrating = n // 2 if method is Method.FISHER else n
    k = round(alpha * calibrating)
    law = betabinom(DRAWS, k, calibrating + 1 - k)
    assert law.ppf(0.001) <= count <= law.ppf(0.999)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("tail", TAILS)
def test_gaussian_rate_on_gaussian_scores_is_alpha_and_not_twice_alpha(tail, alpha):
    reals = np.random.default_rng(4).normal(size=(200_000, 1))
    fresh = np.random.default_rng(5).normal(size=(DRAWS, 1))
    count = flags(Method.GAUSSIAN, reals, fresh, alpha, tail).sum()
    # The reals' own error of mean and deviation is 1/20 of the draws' in variance: 3.5 deviations cover both.
    assert abs(count - alpha * DRAWS) <= 3.5 * np.sqrt(DRAWS * alpha * (1 - alpha))


@pytest.mark.parametrize("n", [39, 100])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("method", [Method.CONFORMAL, Method.FISHER])
def test_p_values_are_super_uniform_over_calibration_sets(method, tail, n):
    """P(p <= a) <= a holds on average over calibration sets, however small and tied they are."""
    p_values = []
    for seed in range(1000):
        scores = np.round(dependent_scores(seed, n + 10), 1)
        rule = RULES[method](scores[:n], RuleSpec(method=method, alpha=0.1, tail=tail))
        p_values.append(rule.judge(scores[n:]).p_value)
    p_value = np.concatenate(p_values)
    for level in (0.05, 0.1, 0.2, 0.5, 0.8):
        # Ten draws share a calibration set; the allowance is that of 1,000 independent ones.
        assert (p_value <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / 1000)
    assert p_value.min() > 0
    assert p_value.max() <= 1


@given(
    st.lists(st.integers(-3, 3), min_size=39, max_size=60),
    st.lists(st.integers(-5, 5), min_size=1, max_size=5),
)
def test_conformal_p_values_count_ties_as_extreme(reals, fresh):
    spec = {tail: RuleSpec(alpha=0.06, tail=tail) for tail in Tail}
    columns = np.array(reals, float)[:, None], np.array(fresh, float)[:, None]
    upper = RULES[Method.CONFORMAL](columns[0], spec[Tail.UPPER]).judge(columns[1])
    both = RULES[Method.CONFORMAL](columns[0], spec[Tail.BOTH]).judge(columns[1])
    for place, score in enumerate(fresh):
        high = (1 + sum(real >= score for real in reals)) / (len(reals) + 1)
        low = (1 + sum(real <= score for real in reals)) / (len(reals) + 1)
        assert upper.p_value[place] == high
        assert both.p_value[place] == min(1.0, 2 * min(high, low))
        assert both.tail[place] == ("high" if high <= low else "low")


@pytest.mark.parametrize("method", [Method.CONFORMAL, Method.FISHER])
def test_flagged_means_p_at_most_alpha(method):
    judged = RULES[method](dependent_scores(6, 999), RuleSpec(method=method, alpha=0.05)).judge(
        dependent_scores(7, 999)
    )
    np.testing.assert_array_equal(judged.flagged, judged.p_value <= 0.05)


def test_gaussian_threshold_is_equation_14():
    reals = np.arange(10.0)[:, None]
    mean, deviation = 4.5, np.std(np.arange(10.0), ddof=1)
    for tail, share in ((Tail.UPPER, 0.1), (Tail.BOTH, 0.05)):
        rule = RULES[Method.GAUSSIAN](reals, RuleSpec(method=Method.GAUSSIAN, alpha=0.1, tail=tail))
        limit = norm.ppf(1 - share) * deviation
        just = np.array(
            [[mean + 0.999 * limit], [mean + 1.001 * limit], [mean - 0.999 * limit], [mean - 1.001 * limit]]
        )
        judged = rule.judge(just)
        assert judged.flagged.tolist() == [False, True, False, tail is Tail.BOTH]
        assert judged.tail.tolist() == ["high", "high", "low", "low"]


@pytest.mark.parametrize("method", METHODS)
def test_upper_never_flags_a_picture_more_typical_than_the_reals(method):
    reals = dependent_scores(8, 500)
    typical = np.full((3, 3), reals.min() - 5.0)
    assert not flags(method, reals, typical, 0.05, Tail.UPPER).any()
    assert flags(method, reals, typical, 0.05, Tail.BOTH).all()
    assert flags(method, reals, -typical, 0.05, Tail.UPPER).all()


@pytest.mark.parametrize("method", METHODS)
def test_tail_names_the_side_of_the_reals(method):
    reals = dependent_scores(9, 500)
    rule = RULES[method](reals, RuleSpec(method=method))
    assert rule.judge(np.full((2, 3), 9.0)).tail.tolist() == ["high", "high"]
    assert rule.judge(np.full((2, 3), -9.0)).tail.tolist() == ["low", "low"]


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_judged_as_its_pictures_one_by_one(method):
    fresh = dependent_scores(11, 40)
    rule = RULES[method](dependent_scores(10, 500), RuleSpec(method=method, alpha=0.1))
    whole, single = rule.judge(fresh), [rule.judge(fresh[i : i + 1]) for i in range(len(fresh))]
    np.testing.assert_array_equal(whole.p_value, np.concatenate([one.p_value for one in single]))
    np.testing.assert_array_equal(whole.flagged, np.concatenate([one.flagged for one in single]))
    np.testing.assert_array_equal(whole.tail, np.concatenate([one.tail for one in single]))


def test_mean_score_does_not_depend_on_the_memory_layout():
    scores = dependent_scores(12, 300)
    np.testing.assert_array_equal(rules.picture_scores(scores), rules.picture_scores(np.asfortranarray(scores)))


def test_fisher_sees_what_the_mean_hides():
    """One scale far up and one far down leave the mean where it was."""
    reals = dependent_scores(13, 1000)
    hidden = np.array([[8.0, -8.0, 0.0]])
    assert not flags(Method.CONFORMAL, reals, hidden, 0.05, Tail.BOTH).any()
    assert flags(Method.FISHER, reals, hidden, 0.05, Tail.BOTH).all()


def test_fisher_names_the_scale_and_tail_that_weigh_most():
    reals = np.random.default_rng(14).normal(size=(1000, 3))
    judged = RULES[Method.FISHER](reals, RuleSpec(method=Method.FISHER)).judge(
        np.array([[0.1, -4, 0.2], [0, 0.1, 4.0]])
    )
    assert judged.heaviest.tolist() == [1, 2]
    assert judged.tail.tolist() == ["low", "high"]


def test_fisher_tells_pictures_beyond_all_reals_from_the_outermost_real():
    """One scale and few reals: the outermost of each half tie in p-value, yet a picture far out must reach 1/(m+1)."""
    for seed in range(20):
        reals = np.random.default_rng(seed).normal(size=(77, 1))
        rule = RULES[Method.FISHER](reals, RuleSpec(method=Method.FISHER))
        assert rule.judge(np.array([[20.0], [-20.0]])).p_value.tolist() == [1 / 40, 1 / 40]


def test_fisher_statistic_is_minus_twice_the_sum_of_logarithms():
    np.testing.assert_allclose(fisher_statistic(np.array([[1.0, 1.0], [np.exp(-1), np.exp(-2)]])), [0, 6])


def test_fisher_p_value_is_calibrated_on_the_half_that_did_not_set_the_scales():
    """With dependent scales the chi-square law would flag far more than alpha; the calibrated statistic does not."""
    one = np.random.default_rng(15).normal(size=(4000, 1))
    fresh = np.random.default_rng(16).normal(size=(DRAWS, 1))
    share = flags(Method.FISHER, one.repeat(3, axis=1), fresh.repeat(3, axis=1), 0.05, Tail.BOTH).mean()
    assert 0.035 < share < 0.065


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("method", [Method.LOF, Method.OCSVM])
def test_lof_and_ocsvm_flag_what_scikit_learn_flags(method, alpha):
    reals, fresh = dependent_scores(17, 600), 1.5 * dependent_scores(18, 600)
    scaler = StandardScaler().fit(reals)
    model = {Method.LOF: LocalOutlierFactor(novelty=True, contamination=alpha), Method.OCSVM: OneClassSVM(nu=alpha)}
    own = model[method].fit(scaler.transform(reals)).predict(scaler.transform(fresh)) == -1
    np.testing.assert_array_equal(flags(method, reals, fresh, alpha, Tail.BOTH), own)
    assert 0 < own.sum() < 600


def test_large_sets_are_fitted_on_a_seeded_subsample():
    rows = rules.novelty_subsample(25_000)
    assert len(rows) == rules.NOVELTY_CAP == len(np.unique(rows))
    np.testing.assert_array_equal(rows, rules.novelty_subsample(25_000))
    np.testing.assert_array_equal(rules.novelty_subsample(10_000), np.arange(10_000))


def test_novelty_rules_use_the_subsample(monkeypatch):
    monkeypatch.setattr(rules, "NOVELTY_CAP", 100)
    rule = RULES[Method.OCSVM](dependent_scores(19, 500), RuleSpec(method=Method.OCSVM))
    assert rule.model[0].n_samples_seen_ == 100


@pytest.mark.parametrize(
    ("method", "tail", "alpha", "needed"),
    [
        (Method.CONFORMAL, Tail.UPPER, 0.01, 99),
        (Method.CONFORMAL, Tail.BOTH, 0.01, 199),
        (Method.CONFORMAL, Tail.BOTH, 0.05, 39),
        (Method.CONFORMAL, Tail.UPPER, 0.07, 14),
        (Method.FISHER, Tail.BOTH, 0.01, 197),
        (Method.FISHER, Tail.UPPER, 0.01, 197),
        (Method.GAUSSIAN, Tail.BOTH, 0.01, 2),
        (Method.LOF, Tail.BOTH, 0.01, 100),
        (Method.OCSVM, Tail.BOTH, 0.3, 4),
    ],
)
def test_alpha_that_the_reals_cannot_reach_is_refused_with_the_number_needed(method, tail, alpha, needed):
    spec = RuleSpec(method=method, tail=tail, alpha=alpha)
    reals = dependent_scores(20, needed)
    assert pictures_needed(spec) == needed
    RULES[method](reals, spec)
    with pytest.raises(TooFewScores, match=rf"alpha {alpha}.*{needed} real pictures, found {needed - 1}: add"):
        RULES[method](reals[:-1], spec)


@given(
    st.decimals("0.001", "0.999", places=3), st.sampled_from([Method.CONFORMAL, Method.FISHER]), st.sampled_from(TAILS)
)
def test_the_number_needed_is_just_enough_to_flag_something(alpha, method, tail):
    spec = RuleSpec(method=method, alpha=float(alpha), tail=tail)
    n = pictures_needed(spec)
    reals = np.random.default_rng(0).normal(size=(n, 2))
    assert RULES[method](reals, spec).judge(np.full((1, 2), 99.0)).flagged.all()


def test_a_stratum_needs_what_lets_its_p_value_reach_alpha():
    assert stratum_minimum(RuleSpec(method=Method.GAUSSIAN, alpha=0.05)) == 39
    assert stratum_minimum(RuleSpec(method=Method.FISHER, alpha=0.01)) == 199


def test_lof_refuses_alpha_above_one_half():
    with pytest.raises(BadSpec, match=r"at most 0\.5 with method lof"):
        RuleSpec(method=Method.LOF, alpha=0.6)


def test_gaussian_refuses_scores_without_spread():
    with pytest.raises(BadCalibration, match="all equal"):
        RULES[Method.GAUSSIAN](np.ones((50, 2)), RuleSpec(method=Method.GAUSSIAN))
    assert isinstance(RULES[Method.GAUSSIAN](dependent_scores(0, 2), RuleSpec(method=Method.GAUSSIAN)), Gaussian)
