"""Mixtures are scikit-learn's densities, evaluated in torch; a fit that fails is regularised and says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_info, threadpool_limits

from muflow_cli.engine.mixture import Mixture, fit_mixture
from muflow_cli.errors import NotFinite, TooFewImages


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(count: int, centres: list[float], dimensions: int = 5) -> torch.Tensor:
    generator = seeded()
    shape = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64) / 4
    parts = [torch.randn(count, dimensions, generator=generator, dtype=torch.float64) @ shape + c for c in centres]
    return torch.cat(parts)


@pytest.mark.parametrize("components", [1, 3])
def test_log_density_is_scikit_learns(components: int) -> None:
    vectors = clusters(200, [-3, 0, 4])
    ours = fit_mixture(vectors, components, 1e-6, seed=0).mixture
    theirs = GaussianMixture(components, init_params="k-means++", max_iter=200, random_state=0).fit(vectors.numpy())
    probes = vectors + torch.randn(vectors.shape, generator=seeded(1), dtype=torch.float64)
    expected = torch.from_numpy(theirs.score_samples(probes.numpy()))
    torch.testing.assert_close(ours.log_prob(probes), expected, atol=1e-4, rtol=0)


def test_float32_positions_give_the_float64_density_to_a_ten_thousandth() -> None:
    vectors = clusters(300, [-2, 3], dimensions=8)
    mixture = fit_mixture(vectors, 2, 1e-6, seed=0).mixture
    single = mixture.log_prob(vectors.float().view(60, 10, 8))
    assert single.dtype == torch.float32
    expected = mixture.log_prob(vectors.float().double()).view(60, 10)
    torch.testing.assert_close(single.double(), expected, atol=1e-4, rtol=1e-4)


def test_half_precision_positions_are_evaluated_in_float32() -> None:
    mixture = Mixture.normal(4)
    x = torch.randn(7, 4, generator=seeded()).bfloat16()
    assert torch.equal(mixture.log_prob(x), mixture.log_prob(x.float()))
    assert torch.equal(mixture.mahalanobis(x), mixture.mahalanobis(x.float()))


def test_the_number_of_cores_changes_nothing_and_stays_as_it_was() -> None:
    generator = seeded(3)
    vectors = torch.randn(3001, 67, generator=generator) @ torch.randn(67, 67, generator=generator)
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads, user_api="blas"):
            found.append(fit_mixture(vectors, 0, 1e-6, seed=0))
            asked = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
            assert set(asked) == {threads}
    for other in found[1:]:
        assert other.bic == found[0].bic
        for name, tensor in found[0].mixture.state_dict().items():
            assert torch.equal(other.mixture.state_dict()[name], tensor)


def test_one_component_is_the_gaussian_of_the_sample() -> None:
    vectors = clusters(500, [1])
    mixture = fit_mixture(vectors, 1, 1e-6, seed=0).mixture
    covariance = np.cov(vectors.numpy().T, bias=True) + 1e-6 * np.eye(5)
    expected = multivariate_normal(vectors.mean(dim=0).numpy(), covariance).logpdf(vectors.numpy())
    torch.testing.assert_close(mixture.log_prob(vectors), torch.from_numpy(expected))
    centred = vectors - vectors.mean(dim=0)
    distances = torch.einsum("ni,ij,nj->n", centred, torch.from_numpy(np.linalg.inv(covariance)), centred)
    torch.testing.assert_close(mixture.mahalanobis(vectors), distances)


def test_distance_is_to_the_nearest_component() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    means = torch.tensor([[0.0, 0.0], [10.0, 0.0]], dtype=torch.float64)
    mixture = Mixture(torch.tensor([0.999, 0.001], dtype=torch.float64), means, torch.stack([eye, 2 * eye]))
    probes = torch.tensor([[1.0, 0.0], [9.0, 0.0]], dtype=torch.float64)
    assert mixture.mahalanobis(probes).tolist() == [1.0, 4.0]


def test_spread_is_that_of_the_vectors_fitted() -> None:
    vectors = clusters(300, [-3, 0, 4])
    mixture = fit_mixture(vectors, 2, 1e-9, seed=0).mixture
    spread = math.sqrt(float(vectors.var(dim=0, correction=0).mean()))
    assert mixture.spread() == pytest.approx(spread, rel=1e-3)
    assert Mixture.normal(7).spread() == 1


def test_normal_is_the_standard_normal() -> None:
    x = torch.randn(6, 3, generator=seeded(), dtype=torch.float64)
    expected = -0.5 * x.square().sum(dim=1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(Mixture.normal(3).log_prob(x), expected)


@pytest.mark.parametrize(("centres", "expected"), [([0.0], 1), ([-9.0, 9.0], 2), ([-20.0, -7.0, 7.0, 20.0], 4)])
def test_bic_finds_the_number_of_clusters(centres: list[float], expected: int) -> None:
    fit = fit_mixture(clusters(400, centres), 0, 1e-6, seed=0)
    assert fit.components == expected
    assert set(fit.bic) == {1, 2, 4, 8}
    assert fit.bic[expected] == min(fit.bic.values())


def test_component_counts_with_too_few_vectors_are_not_tried() -> None:
    assert set(fit_mixture(clusters(13, [0]), 0, 1e-6, seed=0).bic) == {1, 2}
    assert set(fit_mixture(clusters(3, [0]), 0, 1e-3, seed=0).bic) == {1}


def test_a_fit_that_fails_is_regularised_more_and_says_so() -> None:
    flat = torch.zeros(50, 4)
    fit = fit_mixture(flat, 1, 0.0, seed=0)
    assert fit.raised
    assert fit.reg_covar == 1e-6
    assert torch.isfinite(fit.mixture.log_prob(flat)).all()
    large = fit_mixture(1e6 * (1 + torch.rand(50, 1, generator=seeded()).expand(50, 4)), 1, 1e-9, seed=0)
    assert large.raised
    assert 1e-9 < large.reg_covar <= 1


def test_a_fit_that_works_keeps_its_regularisation() -> None:
    fit = fit_mixture(clusters(100, [0]), 1, 1e-5, seed=0)
    assert (fit.raised, fit.reg_covar) == (False, 1e-5)


def test_vectors_that_no_regularisation_helps_are_refused() -> None:
    with pytest.raises(NotFinite, match="even with reg_covar 1: use fewer components"):
        fit_mixture(1e12 * torch.rand(50, 1, generator=seeded(), dtype=torch.float64).expand(50, 3), 1, 1e-6, seed=0)


def test_vectors_that_are_not_finite_are_refused() -> None:
    vectors = clusters(20, [0])
    vectors[3, 1] = math.nan
    with pytest.raises(NotFinite, match="NaN or infinite"):
        fit_mixture(vectors, 1, 1e-6, seed=0)


@pytest.mark.parametrize(("count", "components", "needed"), [(1, 0, 2), (3, 4, 4)])
def test_too_few_averages_are_refused_with_both_numbers(count: int, components: int, needed: int) -> None:
    with pytest.raises(TooFewImages, match=f"at least {needed} .* found {count}"):
        fit_mixture(torch.rand(count, 3), components, 1e-6, seed=0)


def test_the_same_seed_fits_the_same_bytes() -> None:
    vectors = clusters(200, [-3, 0, 4])
    first, second = (fit_mixture(vectors, 4, 1e-6, seed=7).mixture.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_mixture_survives_its_tensors() -> None:
    mixture = fit_mixture(clusters(100, [0, 5]), 2, 1e-6, seed=0).mixture
    again = Mixture.empty(2, 5)
    again.load_state_dict(mixture.state_dict(), assign=True)
    x = torch.randn(9, 5, generator=seeded(), dtype=torch.float64)
    assert torch.equal(again(x), mixture.log_prob(x))
