"""Promises of engine/cpu/winograd.py: the same convolution and flow, a little further from float32 in bfloat16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from hypothesis import given, settings
from hypothesis import strategies as st

from muflow_cli.engine.cpu.winograd import Convolution, WinogradFlow, from_phases, to_phases
from muflow_cli.engine.flow import PlainFlow, build_flow, plain
from muflow_cli.specs import FlowSpec


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made_flow(channels: int, kernels: tuple[int, ...], steps: int = 4) -> PlainFlow:
    flow = build_flow(channels, FlowSpec(steps=steps, kernels=kernels), 3, 1.3)
    with torch.no_grad():
        for place, parameter in enumerate(flow.parameters()):
            parameter.add_(0.2 * drawn(*parameter.shape, seed=place))
    return plain(flow)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from([1, 3]),
)
def test_it_is_the_convolution(batch: int, inputs: int, outputs: int, rows: int, columns: int, kernel: int) -> None:
    maps = drawn(batch, inputs, 2 * rows, 2 * columns)
    weight, bias = drawn(outputs, inputs, kernel, kernel, seed=1), drawn(outputs, seed=2)
    found = from_phases(Convolution.of(weight, bias, torch.float32)(to_phases(maps)))
    assert torch.allclose(found, F.conv2d(maps, weight, bias, padding=kernel // 2), atol=2e-5, rtol=1e-4)


def test_phases_go_back_to_maps() -> None:
    maps = drawn(3, 2, 6, 8)
    phases = to_phases(maps)
    assert torch.equal(from_phases(phases), maps)
    assert torch.equal(phases[1, 0, :, 2, 1, 3], maps[2, :, 3, 6])


@pytest.mark.parametrize("kernels", [(3,), (3, 1)])
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 8, 8), (3, 2, 6), (2, 5, 4), (40, 16, 16)])
@torch.inference_mode()
def test_the_flow_is_the_plain_flow(kernels: tuple[int, ...], batch: int, height: int, width: int) -> None:
    flow = made_flow(7, kernels)
    x = drawn(batch, 7, height, width)
    before = x.clone()
    wanted, found = flow(x), WinogradFlow(flow, torch.float32)(x)
    assert torch.equal(x, before)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=5e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_map_alone_and_in_company_are_the_same_to_the_last_digits() -> None:
    flow = WinogradFlow(made_flow(6, (3,)), torch.float32)
    x = drawn(9, 6, 32, 32)
    together, alone = flow(x), flow(x[4:5])
    assert torch.allclose(together[0][4:5], alone[0], atol=1e-5)
    assert torch.allclose(together[1][4:5], alone[1], atol=1e-4)


@torch.inference_mode()
def test_in_bfloat16_it_is_within_twice_and_a_half_of_the_plain_flows_error() -> None:
    flow = made_flow(32, (3,), steps=8)
    x = drawn(4, 32, 16, 16)
    exact, half = flow(x), flow.with_nets(torch.bfloat16)(x)
    for wanted, plainly, found in zip(exact, half, WinogradFlow(flow, torch.bfloat16)(x), strict=True):
        assert float((found - wanted).square().mean()) < 6 * float((plainly - wanted).square().mean())


@pytest.mark.parametrize(("kernels", "can"), [((1,), False), ((3, 1), True), ((3,), True), ((5,), False)])
def test_it_says_which_flows_it_can(kernels: tuple[int, ...], can: bool) -> None:
    assert WinogradFlow.can(made_flow(4, kernels, steps=2)) is can


def test_a_flow_that_preserves_volume_is_left_as_it_is() -> None:
    assert not WinogradFlow.can(plain(build_flow(6, FlowSpec(steps=2, kernels=(3,), volume_preserving=True), 0)))
