"""The plain flow is FrEIA's function; its log-determinant is the Jacobian's; its inverse gives back the input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from muflow_cli.engine.flow import Chain, Flow, PlainFlow, build_flow, count_parameters, plain, trace
from muflow_cli.engine.likelihood import mahalanobis, nll
from muflow_cli.engine.mixture import Mixture
from muflow_cli.specs import FlowSpec

PATTERNS = [(3,), (3, 1), (1,)]


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(channels: int, spec: FlowSpec) -> Flow:
    """A float64 flow far from its start, as after training."""
    flow = build_flow(channels, spec, seed=1).double()
    with torch.no_grad():
        for i, parameter in enumerate(p for p in flow.parameters() if p.requires_grad):
            parameter.add_(0.3 * maps(*parameter.shape, seed=i))
    return flow


@pytest.mark.parametrize("kernels", PATTERNS)
@pytest.mark.parametrize(("channels", "height", "width"), [(8, 4, 4), (7, 3, 5), (2, 1, 1)])
@pytest.mark.parametrize("preserving", [False, True])
def test_the_plain_flow_equals_freia(
    kernels: tuple[int, ...], channels: int, height: int, width: int, preserving: bool
) -> None:
    flow = shaken(channels, FlowSpec(steps=4, kernels=kernels, hidden_ratio=1.5, volume_preserving=preserving))
    x = maps(3, channels, height, width)
    expected, expected_log_det = flow(x)
    z, log_det = plain(flow)(x)
    torch.testing.assert_close(z, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(log_det.sum(dim=(1, 2)), expected_log_det, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernels", PATTERNS)
@pytest.mark.parametrize("preserving", [False, True])
def test_gradients_of_the_traced_flow_equal_freias(kernels: tuple[int, ...], preserving: bool) -> None:
    flow = shaken(6, FlowSpec(steps=3, kernels=kernels, volume_preserving=preserving))
    x = maps(4, 6, 3, 3)
    parameters = [p for p in flow.parameters() if p.requires_grad]

    def gradients(function: Flow | Chain) -> tuple[torch.Tensor, ...]:
        z, log_det = function(x)
        return torch.autograd.grad(z.square().sum() / 2 - log_det.sum(), parameters)

    for ours, theirs in zip(gradients(trace(flow)), gradients(flow), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kernels", PATTERNS)
def test_the_log_determinant_is_that_of_autograds_jacobian(kernels: tuple[int, ...]) -> None:
    flow = plain(shaken(4, FlowSpec(steps=3, kernels=kernels)))
    x = maps(1, 4, 2, 3)
    jacobian = torch.autograd.functional.jacobian(lambda flat: flow(flat.view(x.shape))[0].flatten(), x.flatten())
    assert float(flow(x)[1].sum()) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-9)


@pytest.mark.parametrize("kernels", PATTERNS)
def test_a_volume_preserving_flow_keeps_the_volume_at_every_position_and_inverts(kernels: tuple[int, ...]) -> None:
    spec = FlowSpec(steps=3, kernels=kernels, volume_preserving=True)
    flow = shaken(6, spec)
    x = maps(2, 6, 3, 4)
    z, log_det = plain(flow)(x)
    assert float(log_det.detach().abs().max()) < 1e-12
    assert float((z - x).detach().abs().max()) > 0.1
    torch.testing.assert_close(flow.inverse(z), x)
    flat = x[:1, :, :2, :2].flatten()
    jacobian = torch.autograd.functional.jacobian(lambda v: plain(flow)(v.view(1, 6, 2, 2))[0].flatten(), flat)
    assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(0, abs=1e-9)


def test_the_steepness_bounds_how_far_a_coupling_net_is_from_constant() -> None:
    step = plain(shaken(6, FlowSpec(steps=1))).chain().steps[0]
    x, y = maps(40, 3, 1, 1), maps(40, 3, 1, 1, seed=1)
    moved = (step.net(x) - step.net(y)).flatten(1).norm(dim=1)
    bound = step.steepness().sqrt() * (x - y).flatten(1).norm(dim=1)
    assert bool((moved <= bound).all())
    assert float((moved / bound).max()) > 0.1


def test_with_1x1_kernels_each_position_has_its_own_log_determinant() -> None:
    flow = plain(shaken(4, FlowSpec(steps=3)))
    x = maps(2, 4, 2, 2)
    whole = flow(x)[1]
    for b, i, j in np.ndindex(2, 2, 2):
        alone = flow(x[b : b + 1, :, i : i + 1, j : j + 1])[1]
        torch.testing.assert_close(alone.squeeze(), whole[b, i, j])


@pytest.mark.parametrize("kernels", PATTERNS)
def test_the_inverse_gives_back_the_input(kernels: tuple[int, ...]) -> None:
    flow = shaken(6, FlowSpec(steps=5, kernels=kernels))
    x = maps(2, 6, 3, 4)
    torch.testing.assert_close(flow.inverse(plain(flow)(x)[0]), x)


def test_no_steps_are_the_identity() -> None:
    x = maps(2, 5, 3, 3)
    for flow in (build_flow(5, FlowSpec(steps=0), seed=0), plain(build_flow(5, FlowSpec(steps=0), seed=0))):
        z, log_det = flow(x)
        assert torch.equal(z, x)
        assert not log_det.any()
    assert log_det.shape == (2, 3, 3)


@pytest.mark.parametrize("scale", [0.02, 1.0, 5.0])
def test_an_untrained_flow_multiplies_by_about_scale(scale: float) -> None:
    x = maps(50, 16, 2, 2).float()
    z, log_det = plain(build_flow(16, FlowSpec(), seed=0, scale=scale))(x)
    assert float(z.detach().std()) == pytest.approx(scale, rel=0.25)
    assert float(log_det.detach().mean()) / 16 == pytest.approx(math.log(scale), abs=0.25)


def test_the_same_seed_builds_the_same_flow_and_leaves_global_generators_alone() -> None:
    spec = FlowSpec(steps=2)
    first = plain(build_flow(6, spec, seed=3)).state_dict()
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    second = plain(build_flow(6, spec, seed=3)).state_dict()
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = plain(build_flow(6, spec, seed=4)).state_dict()
    assert not torch.equal(first["steps.0.weight_in"], other["steps.0.weight_in"])


def test_a_plain_flow_is_cut_off_from_the_flow_it_came_from() -> None:
    flow = build_flow(4, FlowSpec(steps=1), seed=0)
    copy = plain(flow)
    before = {name: tensor.clone() for name, tensor in copy.state_dict().items()}
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in copy.state_dict().items())
    assert not any(tensor.requires_grad for tensor in copy.state_dict().values())


@pytest.mark.parametrize("kernels", PATTERNS)
def test_a_flow_survives_its_tensors(kernels: tuple[int, ...]) -> None:
    spec = FlowSpec(steps=3, kernels=kernels)
    flow = plain(shaken(6, spec))
    x = maps(2, 6, 3, 3)
    again = PlainFlow.empty(6, spec)
    again.load_state_dict(flow.state_dict(), assign=True)
    again.check()
    assert all(torch.equal(a, b) for a, b in zip(again(x), flow(x), strict=True))


@pytest.mark.parametrize("kernels", PATTERNS)
@pytest.mark.parametrize("channels", [2, 7, 8])
def test_the_empty_flow_has_the_shapes_of_a_trained_one(kernels: tuple[int, ...], channels: int) -> None:
    spec = FlowSpec(steps=3, kernels=kernels, hidden_ratio=1.5)
    expected, empty = plain(build_flow(channels, spec, seed=0)).state_dict(), PlainFlow.empty(channels, spec)
    assert {n: (t.shape, t.dtype) for n, t in empty.state_dict().items()} == {
        n: (t.shape, t.dtype) for n, t in expected.items()
    }
    assert all(tensor.is_meta for tensor in empty.state_dict().values())


def test_permutations_are_kept_as_indices() -> None:
    permutation = plain(build_flow(6, FlowSpec(steps=1), seed=0)).state_dict()["steps.0.permutation"]
    assert permutation.dtype == torch.int64
    assert sorted(permutation.tolist()) == list(range(6))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("steps.1.permutation", torch.zeros(6, dtype=torch.int64), r"steps\.1\.permutation is not a permutation"),
        ("steps.1.permutation", torch.tensor([0, 1, 2, 3, 4, 6]), r"steps\.1\.permutation is not a permutation"),
        ("steps.1.permutation", torch.tensor([0, 1, 2, 3, 4, -1]), r"steps\.1\.permutation is not a permutation"),
        ("steps.0.scale", torch.zeros(6), r"steps\.0\.scale is not positive"),
        ("steps.0.scale", torch.full((6,), -1.0), r"steps\.0\.scale is not positive"),
    ],
)
def test_tensors_that_no_flow_has_are_refused(name: str, tensor: torch.Tensor, message: str) -> None:
    flow = plain(build_flow(6, FlowSpec(steps=2), seed=0))
    flow.check()
    flow.load_state_dict(flow.state_dict() | {name: tensor}, assign=True)
    with pytest.raises(ValueError, match=message):
        flow.check()


@pytest.mark.parametrize("kernels", [(3, 1), (1,)])
def test_bfloat16_nets_leave_latents_and_log_determinants_in_float32(kernels: tuple[int, ...]) -> None:
    flow = plain(shaken(8, FlowSpec(steps=4, kernels=kernels)).float())
    x = maps(4, 8, 4, 4).float()
    low = flow.with_nets(torch.bfloat16)
    assert low.chain().steps[0].weight_in.dtype == torch.bfloat16
    assert low.chain().steps[0].scale.dtype == torch.float32
    assert flow.chain().steps[0].weight_in.dtype == torch.float32
    for ours, exact in zip(low(x), flow(x), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, exact, atol=0.15, rtol=0.05)
        assert not torch.equal(ours, exact)


@pytest.mark.parametrize("kernels", [(3, 1), (1,)])
def test_memory_order_and_neighbours_in_the_batch_do_not_change_latents(kernels: tuple[int, ...]) -> None:
    flow = plain(shaken(8, FlowSpec(steps=4, kernels=kernels)).float())
    x = maps(5, 8, 4, 4).float()
    z, log_det = flow(x)
    for other in (flow(x.contiguous(memory_format=torch.channels_last)), _one_by_one(flow, x)):
        torch.testing.assert_close(other[0], z, atol=1e-5, rtol=0)
        torch.testing.assert_close(other[1], log_det, atol=1e-5, rtol=0)


def _one_by_one(flow: PlainFlow, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [flow(x[i : i + 1]) for i in range(len(x))]
    return torch.cat([z for z, _ in parts]), torch.cat([log_det for _, log_det in parts])


def test_the_input_is_left_as_it_was() -> None:
    flow = plain(shaken(6, FlowSpec(steps=2)))
    x = maps(2, 6, 2, 2)
    before = x.clone()
    flow(x)
    assert torch.equal(x, before)


def test_the_density_under_the_flow_integrates_to_one() -> None:
    flow, target = plain(shaken(2, FlowSpec(steps=3, clamp=1.0))), Mixture.normal(2)
    axis = torch.linspace(-40, 40, 1601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).view(-1, 2, 1, 1)
    mass = (-nll(flow, target, grid)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-3)


def test_the_nll_of_the_identity_is_the_targets() -> None:
    flow, target = PlainFlow(Chain((), 2.0)), Mixture.normal(4)
    x = maps(3, 4, 2, 2)
    torch.testing.assert_close(nll(flow, target, x), -target.log_prob(x.movedim(1, -1)))
    torch.testing.assert_close(mahalanobis(flow, target, x), x.square().sum(dim=1))


def test_the_latent_distance_has_no_jacobian_in_it() -> None:
    target = Mixture.normal(4)
    flow = plain(shaken(4, FlowSpec(steps=2)))
    x = maps(3, 4, 2, 2)
    latents, _ = flow(x)
    torch.testing.assert_close(mahalanobis(flow, target, x), latents.square().sum(dim=1))


@pytest.mark.parametrize(
    ("channels", "spec"),
    [
        (7, FlowSpec(steps=3, kernels=(3, 1), hidden_ratio=1.5)),
        (64, FlowSpec()),
        (5, FlowSpec(steps=0)),
        (7, FlowSpec(steps=2, volume_preserving=True)),
    ],
)
def test_what_is_trained_is_counted_without_building_it(channels: int, spec: FlowSpec) -> None:
    trained = sum(p.numel() for p in build_flow(channels, spec, 0).parameters() if p.requires_grad)
    assert count_parameters(channels, spec) == trained
