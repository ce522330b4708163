from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

import muflow_cli.engine.projection as projection_module
from muflow_cli.engine.projection import Projection, fit_projection, pool
from muflow_cli.errors import BadSpec, NotFinite, TooFewImages
from muflow_cli.specs import FeatureSpec, Normalisation, Statistics


def maps(count: int = 50, channels: int = 12, side: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator)
    noise = torch.randn(count, channels, side, side, generator=generator)
    return torch.einsum("ij,bjhw->bihw", mixing, noise) + 3


def test_standardised_training_reals_have_mean_0_and_deviation_1() -> None:
    pooled = maps()
    projection = fit_projection([pooled], FeatureSpec(dimensions=0, grid=4))
    standard = projection(pooled).movedim(1, -1).reshape(-1, 12)
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(dim=0), torch.ones(12), atol=1e-5, rtol=0)


def test_statistics_do_not_depend_on_the_chunks() -> None:
    pooled, spec = maps(), FeatureSpec(dimensions=5, grid=4)
    whole = fit_projection([pooled], spec)
    for size in (1, 7, 49):
        parts = fit_projection(pooled.split(size), spec)
        torch.testing.assert_close(parts.mean, whole.mean)
        torch.testing.assert_close(parts.std, whole.std)
        torch.testing.assert_close(parts.axes, whole.axes, atol=1e-5, rtol=1e-5)


def test_the_projection_keeps_the_directions_of_largest_variance() -> None:
    pooled = maps()
    projection = fit_projection([pooled], FeatureSpec(dimensions=5, grid=4))
    standard = (
        ((pooled - projection.mean[:, None, None]) / projection.std[:, None, None]).movedim(1, -1).reshape(-1, 12)
    )
    variances = torch.linalg.svdvals(standard.double()) ** 2 / (len(standard) - 1)
    found = projection(pooled).movedim(1, -1).reshape(-1, 5).var(dim=0)
    torch.testing.assert_close(found.double(), variances[:5], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(projection.axes.T @ projection.axes, torch.eye(5), atol=1e-5, rtol=0)


def test_pooling_and_projecting_commute() -> None:
    pooled = maps(side=4)
    projection = fit_projection([pooled], FeatureSpec(dimensions=5, grid=4))
    torch.testing.assert_close(
        projection(functional.adaptive_avg_pool2d(pooled, 1)),
        functional.adaptive_avg_pool2d(projection(pooled), 1),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize(("side", "grid"), [(8, 4), (8, 1), (6, 4), (7, 3), (5, 5)])
def test_pooling_equals_adaptive_average_pooling(side: int, grid: int) -> None:
    map_ = maps(side=side)
    wanted = functional.adaptive_avg_pool2d(map_, grid)
    torch.testing.assert_close(pool(map_, FeatureSpec(grid=grid)), wanted)
    turned = map_.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pool(turned, FeatureSpec(grid=grid)), wanted)
    half = pool(turned.bfloat16(), FeatureSpec(grid=grid))
    torch.testing.assert_close(half, functional.adaptive_avg_pool2d(map_.bfloat16().float(), grid))  # sums in float32


def test_grid_0_leaves_the_map_as_it_is() -> None:
    assert torch.equal(pool(maps(), FeatureSpec(grid=0)), maps())


def test_layernorm_makes_every_image_mean_0_and_variance_1_before_pooling() -> None:
    spec = FeatureSpec(grid=0, dimensions=0, normalisation=Normalisation.LAYERNORM)
    flat = pool(maps() * 7 + 2, spec).flatten(1)
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(50), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.var(dim=1, unbiased=False), torch.ones(50), atol=1e-3, rtol=0)
    projection = fit_projection([pool(maps(), spec)], spec)
    assert torch.equal(projection(pool(maps(), spec)), pool(maps(), spec))


def test_a_channel_that_never_varies_does_not_blow_up() -> None:
    pooled = maps()
    pooled[:, 3] = 5
    assert bool(fit_projection([pooled], FeatureSpec(dimensions=4, grid=4))(pooled).isfinite().all())


def test_more_dimensions_than_channels_means_all_of_them() -> None:
    assert fit_projection([maps()], FeatureSpec(dimensions=64, grid=4)).dimensions == 12


def test_values_that_are_not_finite_are_refused_with_a_remedy() -> None:
    pooled = maps()
    pooled[0, 0] = float("inf")
    with pytest.raises(NotFinite, match="precision"):
        fit_projection([pooled], FeatureSpec(grid=4))


def test_one_vector_has_no_deviation() -> None:
    with pytest.raises(TooFewImages):
        fit_projection([torch.zeros(1, 3, 1, 1)], FeatureSpec(grid=1))


@pytest.mark.parametrize("dimensions", [0, 5])
def test_its_tensors_give_the_projection_back(dimensions: int) -> None:
    projection = fit_projection([maps()], FeatureSpec(dimensions=dimensions, grid=4))
    again = Projection.empty(12, dimensions)
    assert again.dimensions == projection.dimensions
    again.load_state_dict(projection.state_dict(), assign=True)
    assert torch.equal(again(maps(seed=3)), projection(maps(seed=3)))


@pytest.mark.parametrize("statistics", list(Statistics))
def test_joint_cells_are_one_vector_of_all_their_numbers(statistics: Statistics) -> None:
    map_ = maps(side=8)
    spec = FeatureSpec(grid=4, statistics=statistics)
    joint = pool(map_, replace(spec, joint=True))
    assert joint.shape == (50, 12 * replace(spec, joint=True).per_channel, 1, 1)
    torch.testing.assert_close(joint.flatten(1), pool(map_, spec).flatten(1), rtol=0, atol=0)


def test_only_joint_cells_tell_where_something_lies() -> None:
    map_ = maps(side=4)
    for joint in (False, True):
        spec = FeatureSpec(grid=4, dimensions=5, joint=joint)
        projection = fit_projection([pool(map_, spec)], spec)
        norms = [projection(pool(m, spec)).square().sum(dim=(1, 2, 3)) for m in (map_, map_.flip(-1))]
        assert torch.allclose(*norms, rtol=1e-3) is not joint


@pytest.mark.parametrize("wrong", [{"grid": 0}, {"dimensions": 0}, {"normalisation": Normalisation.LAYERNORM}])
def test_joint_cells_need_a_grid_a_projection_and_statistics(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSpec, match=next(iter(wrong))):
        FeatureSpec(joint=True, **wrong)


def test_wide_joint_cells_give_the_same_projection_from_fewer_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the sign that is fixed, and to rounding."""
    spec = FeatureSpec(grid=4, dimensions=5, joint=True)
    pooled = pool(maps(side=4), spec)
    usual = fit_projection(pooled.split(7), spec)
    monkeypatch.setattr(projection_module, "WIDE", 100)
    wide = fit_projection(pooled.split(7), spec)
    for name in ("mean", "std", "axes"):
        torch.testing.assert_close(getattr(wide, name), getattr(usual, name), atol=1e-4, rtol=1e-4)
    assert wide.moments is not None
    assert usual.moments is not None
    torch.testing.assert_close(wide.moments.covariance, usual.moments.covariance, atol=1e-3, rtol=1e-3)
    with pytest.raises(TooFewImages, match="projection"):
        fit_projection([pooled[:5]], spec)
