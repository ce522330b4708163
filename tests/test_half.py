"""Promises of engine/half.py: weights that bfloat16 holds, and less change in what is computed than by nearest."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from muflow_cli.engine.half import CONVOLUTIONS, natural_images, round_weights, rounded


def moments_of(samples: Tensor) -> Tensor:
    """Of (n, C) samples, a constant 1 first."""
    wide = torch.cat([torch.ones(len(samples), 1), samples], dim=1).double()
    return wide.T @ wide / len(wide)


def like_activations(count: int, channels: int, seed: int) -> Tensor:
    """Non-negative, correlated: what a ReLU leaves."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, 6, generator=generator) @ torch.randn(6, channels, generator=generator)
    return torch.relu(mixed + torch.randn(channels, generator=generator))


def change(weight: Tensor, bias: Tensor, new: tuple[Tensor, Tensor], samples: Tensor) -> float:
    """Mean square of what rounding changes in a 1 x 1 convolution."""
    return float((samples @ (new[0] - weight).flatten(1).T + (new[1] - bias)).square().mean())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 40), st.integers(1, 8))
def test_rounded_weights_are_bfloat16s_and_change_less_than_the_nearest(seed: int, inputs: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(outputs, inputs, 1, 1, generator=generator), torch.randn(outputs, generator=generator)
    samples = like_activations(500, inputs, seed)
    new = rounded(weight, bias, moments_of(samples))
    for value in new:
        assert torch.equal(value, value.bfloat16().float())
    nearest = (weight.bfloat16().float(), bias.bfloat16().float())
    assert change(weight, bias, new, samples) <= 1.001 * change(weight, bias, nearest, samples) + 1e-9


def test_with_inputs_like_a_networks_most_of_the_change_is_gone() -> None:
    weight, bias = torch.randn(2, 64, 64, 1, 1, generator=torch.Generator().manual_seed(2))[0], torch.zeros(64)
    seen, unseen = like_activations(4000, 64, 3).chunk(2)
    nearest = (weight.bfloat16().float(), bias)
    new = rounded(weight, bias, moments_of(seen))
    assert change(weight, bias, new, unseen) < change(weight, bias, nearest, unseen) / 10


def test_weights_that_bfloat16_holds_stay() -> None:
    weight = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    new, bias = rounded(weight, None, moments_of(like_activations(100, 5, 1)))
    assert torch.equal(new, weight)
    assert torch.equal(bias, torch.zeros(4))


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weight, bias = torch.randn(3, 4, 1, 1), torch.randn(3)
    new = rounded(weight, bias, moments_of(torch.zeros(10, 4)))
    assert torch.equal(new[0], weight.bfloat16().float())
    assert torch.equal(new[1], bias.bfloat16().float())


def test_the_first_convolution_and_those_in_groups_are_left_alone() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)]
    layers += [nn.Conv2d(8, 8, 1) for _ in range(CONVOLUTIONS + 1)]
    trunk = fx.symbolic_trace(nn.Sequential(*layers).eval())
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    after = round_weights(trunk, natural_images() / 255).state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {str(place) for place in range(3, 3 + CONVOLUTIONS)}


def test_the_drawn_images_are_images_and_the_same_at_every_call() -> None:
    images = natural_images()
    assert torch.equal(images, natural_images())
    assert images.shape == (4, 3, 128, 128)
    assert images.min() >= 0
    assert images.max() <= 255
    assert torch.equal(images, images.round())
    spectrum = np.abs(np.fft.rfft2(images.mean(dim=1).numpy())).mean(axis=0)
    assert spectrum[1, 1] > 4 * spectrum[4, 4] > 8 * spectrum[32, 32]
