"""Promises of engine/stem.py: grey levels convolved in whole numbers are what float32 makes of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from muflow_cli.engine import stem
from muflow_cli.engine.encoders import IMAGENET_MEAN, IMAGENET_STD
from muflow_cli.engine.fused import FusedConvolution, fuse_convolutions
from muflow_cli.engine.fused import available as can_fuse
from muflow_cli.engine.rounding import integers, natural_pictures
from muflow_cli.engine.stem import IntegerConvolution, Normal, available, with_stem

NORMAL = Normal(IMAGENET_MEAN, IMAGENET_STD)

needs_integers = pytest.mark.skipif(not available(), reason="this torch convolves no whole numbers")
needs_operations = pytest.mark.skipif(not can_fuse(), reason="this torch has no fused oneDNN convolutions")


def convolution(seed: int, kernel: int = 7, stride: int = 2, padding: int = 3) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(3, 16, kernel, stride, padding).eval().requires_grad_(False)


def grey_levels(seed: int, side: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def first() -> IntegerConvolution:
    return IntegerConvolution(FusedConvolution(convolution(0), "relu"), NORMAL, natural_pictures())


@needs_integers
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**16),
    st.sampled_from([(7, 2, 3), (3, 2, 1), (3, 1, 1), (4, 4, 0), (5, 3, 2)]),
    st.sampled_from(["none", "relu", "hardswish", "swish"]),
    st.integers(9, 40),
)
def test_whole_numbers_and_float32_agree(seed: int, window: tuple[int, int, int], activation: str, side: int) -> None:
    layer = IntegerConvolution(FusedConvolution(convolution(seed, *window), activation), NORMAL, natural_pictures())
    pictures = grey_levels(seed, side)
    exact, rounded = layer(pictures), layer(pictures.float())
    assert exact.shape == rounded.shape
    assert torch.allclose(exact, rounded, atol=1e-4, rtol=1e-5)


@needs_integers
@pytest.mark.parametrize("level", [0, 1, 127, 128, 254, 255])
def test_no_sum_is_too_large(first: IntegerConvolution, level: int) -> None:
    flat = torch.full((1, 3, 64, 64), level, dtype=torch.uint8)
    assert torch.allclose(first(flat), first(flat.float()), atol=1e-4)


def test_it_is_nearly_the_convolution_of_normalised_pictures(first: IntegerConvolution) -> None:
    conv, pictures = convolution(0), natural_pictures().flip(3).transpose(2, 3)  # like those it was made with
    wanted = torch.relu(conv(NORMAL(pictures)))
    found = first(pictures.to(torch.uint8))
    assert float((found - wanted).square().mean() / wanted.square().mean()) < 0.005**2


def test_on_the_average_nothing_is_added() -> None:
    conv = convolution(4, padding=0)
    layer = IntegerConvolution(FusedConvolution(conv, "none"), NORMAL, natural_pictures())
    wanted = conv(NORMAL(natural_pictures()))
    added = (layer(natural_pictures()) - wanted).mean(dim=(0, 2, 3))
    assert float(added.abs().max()) < 1e-5 * float(wanted.std())


def test_colours_without_texture_come_out_right(first: IntegerConvolution) -> None:
    # The error would be the same all over a background, and nothing would average it away.
    conv = convolution(0)
    for colour in ([0, 0, 0], [255, 255, 255], [20, 60, 200], [250, 240, 230]):
        flat = torch.tensor(colour, dtype=torch.uint8)[None, :, None, None].expand(1, 3, 40, 40)
        wanted = torch.relu(conv(NORMAL(flat)))[0, :, 10, 10]
        assert float((first(flat)[0, :, 10, 10] - wanted).abs().max()) < 0.02 * float(wanted.abs().max())


def test_a_picture_is_the_same_alone_and_in_any_company(first: IntegerConvolution) -> None:
    pictures = grey_levels(1, 33, 5)
    together = first(pictures)
    for place in range(5):
        assert torch.equal(first(pictures[place : place + 1])[0], together[place])


def test_without_the_operation_the_same_is_had_in_float32(
    first: IntegerConvolution, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> Tensor:
        raise AttributeError("'_OpNamespace' 'onednn' object has no attribute 'qconv2d_pointwise'")

    pictures = grey_levels(2, 32)
    wanted = first(pictures)
    monkeypatch.setattr(stem._Product, "in_integers", gone)
    available.cache_clear()
    try:
        assert not available()
        assert torch.allclose(first(pictures), wanted, atol=1e-4)
    finally:
        available.cache_clear()


def test_an_operation_that_saturates_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(product: stem._Product, pictures: Tensor, _packed: Tensor) -> Tensor:
        return F.conv2d(pictures.float(), product.whole.float()).clamp(-32768, 32767)

    monkeypatch.setattr(stem._Product, "in_integers", saturating)
    available.cache_clear()
    try:
        assert not available()
    finally:
        available.cache_clear()


class Two(nn.Module):
    """Pictures read by two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": self.a(x), "b": self.b(x)}


class One(nn.Module):
    """By one, in groups or not."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.relu, self.b = nn.Conv2d(3, 6, 3, groups=groups), nn.ReLU(), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"b": self.b(self.relu(self.a(x)))}


@needs_operations
@pytest.mark.parametrize("net", [Two(), One(3), One(1)])
@torch.inference_mode()
def test_what_cannot_be_replaced_is_normalised_and_run_as_it_is(net: nn.Module) -> None:
    pictures = grey_levels(3, 24)
    wanted = net.eval()(NORMAL(pictures))
    made = with_stem(fuse_convolutions(fx.symbolic_trace(net)), NORMAL, natural_pictures())
    assert any(isinstance(module, IntegerConvolution) for module in made.modules()) == (
        isinstance(net, One) and net.a.groups == 1
    )
    for name, map_ in made(pictures).items():
        assert float((map_ - wanted[name]).abs().mean()) < 0.01 * float(wanted[name].abs().mean())


def test_integers_of_weights_that_are_zero_are_zero() -> None:
    whole, step = integers(torch.zeros(2, 5), torch.eye(5, dtype=torch.float64))
    assert torch.equal(whole, torch.zeros(2, 5, dtype=torch.int8))
    assert bool((step > 0).all())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 60), st.integers(1, 8))
def test_integers_change_no_more_than_the_nearest(seed: int, inputs: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    mixed = torch.randn(inputs, 4, generator=generator, dtype=torch.float64)
    covariance = mixed @ mixed.T + 0.1 * torch.eye(inputs, dtype=torch.float64)
    whole, step = integers(weight, covariance)
    assert int(whole.abs().max()) <= 127
    nearest = (weight / step[:, None]).round() * step[:, None]
    changes = [((rows - weight) @ covariance * (rows - weight)).sum() for rows in (whole * step[:, None], nearest)]
    assert changes[0] <= changes[1] * (1 + 1e-9) + 1e-15
