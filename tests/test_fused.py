"""Promises of engine/cpu/fused.py: the same network, nearer to float32, as it was where torch lacks the operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from muflow_cli.engine.branch import Encoder
from muflow_cli.engine.cpu import fused
from muflow_cli.engine.cpu.fused import FusedConvolution, available, fuse_convolutions
from muflow_cli.engine.devices import place
from muflow_cli.engine.encoder_row import Library
from muflow_cli.engine.encoders import ENCODERS
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.half import halve, natural_images
from muflow_cli.run_specs import Precision, Runtime
from muflow_cli.specs import FeatureSpec

needs_operations = pytest.mark.skipif(not available(), reason="this torch has no fused oneDNN convolutions")


class Net(nn.Module):
    """Every pattern that is fused, and the ones that must not be."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.d = nn.Conv2d(8, 8, 1, groups=8)
        self.relu, self.swish = nn.ReLU(), nn.SiLU()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.relu(self.a(x))
        twice = self.b(first)  # used by an activation and by a sum: cannot be swallowed by either
        second = self.relu(twice)
        third = self.relu(self.c(second) + twice)
        fourth = self.swish(third + self.d(third))  # a sum before another activation stays a sum
        return {"first": first, "twice": twice, "third": third, "fourth": fourth}


def traced() -> fx.GraphModule:
    return fx.symbolic_trace(Net().eval()).bfloat16().to(memory_format=torch.channels_last)


@pytest.fixture
def maps() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 8, 12, 12).bfloat16().contiguous(memory_format=torch.channels_last)


@needs_operations
@torch.inference_mode()
def test_the_fused_network_computes_what_the_plain_one_does(maps: Tensor) -> None:
    exact = Net().eval()(maps.float())
    plain, both = traced()(maps), fuse_convolutions(traced())
    first, second = both(maps), both(maps)
    for name, wanted in exact.items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name].float(), wanted, atol=0.03, rtol=0.02)
        error, before = ((found[name].float() - wanted).norm() for found in (first, plain))
        assert error <= 1.02 * before


@needs_operations
@torch.inference_mode()
def test_what_is_added_is_not_overwritten(maps: Tensor) -> None:
    out = fuse_convolutions(traced())(maps)
    alone = traced()(maps)
    assert torch.allclose(out["twice"].float(), alone["twice"].float(), atol=0.02)


@needs_operations
def test_every_convolution_is_replaced_and_only_these_sums_are_left() -> None:
    net = fuse_convolutions(traced())
    assert isinstance(net, fx.GraphModule)
    called = [node for node in net.graph.nodes if node.op == "call_module"]
    kinds = [type(net.get_submodule(str(node.target))) for node in called]
    assert kinds.count(FusedConvolution) == 4
    assert nn.Conv2d not in kinds
    assert sum(node.op == "call_function" for node in net.graph.nodes) == 1  # before the swish


@needs_operations
@torch.inference_mode()
def test_any_size_of_batch_passes(maps: Tensor) -> None:
    net = fuse_convolutions(traced())
    for count in (1, 2, 1):
        assert torch.allclose(net(maps[:count])["fourth"], net(maps)["fourth"][:count], atol=0.05)


@torch.inference_mode()
def test_what_reads_the_images_stays_in_float32(maps: Tensor) -> None:
    images = maps.float() + torch.randn(maps.shape, generator=torch.Generator().manual_seed(2)) / 50
    exact = Net().eval()(images)
    rounded, kept = traced()(images.bfloat16()), halve(fx.symbolic_trace(Net().eval()))(images)
    assert {map_.dtype for map_ in kept.values()} == {torch.bfloat16}
    assert torch.equal(kept["first"], exact["first"].bfloat16())  # rounded once, at the end
    assert not torch.equal(rounded["first"], exact["first"].bfloat16())


class Head(nn.Module):
    """How residual networks begin: a stem, and blocks that read it in three ways."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.pool, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()
        self.a, self.b, self.c = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        stem = self.pool(self.relu(self.stem(x)))
        one, two = self.a(stem), self.b(stem)
        return {"stem": stem, "one": one, "two": two, "sum": self.relu(self.c(two) + stem)}


@torch.inference_mode()
def test_what_reads_the_stem_reads_it_in_float32_and_the_rest_does_not() -> None:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    exact, kept = Head().eval()(images), halve(fx.symbolic_trace(Head().eval()))(images)
    assert {map_.dtype for map_ in kept.values()} == {torch.bfloat16}
    for name in ("stem", "one", "two"):
        assert torch.equal(kept[name], exact[name].bfloat16())
    assert torch.allclose(kept["sum"].float(), exact["sum"], atol=0.05)
    assert not torch.equal(kept["sum"], exact["sum"].bfloat16())


def test_a_torch_without_the_operations_runs_the_plain_network(maps: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_convolution_pointwise'")

    monkeypatch.setattr(FusedConvolution, "forward", gone)
    available.cache_clear()
    try:
        net = traced()
        assert fuse_convolutions(net) is net
        assert torch.equal(net(maps)["fourth"], traced()(maps)["fourth"])
    finally:
        available.cache_clear()


def test_operations_that_give_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusedConvolution, "forward", lambda _self, maps, _other: maps * 0)
    available.cache_clear()
    try:
        assert not available()
    finally:
        available.cache_clear()


@needs_operations
@pytest.mark.parametrize("name", [name for name, row in ENCODERS.items() if row.library is Library.TORCHVISION])
def test_every_encoder_is_as_near_to_float32_fused_as_plain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    torch.manual_seed(0)
    weights = getattr(torchvision.models, name)(weights=None).state_dict()
    images = natural_images()[:1].flip(3).transpose(2, 3).to(torch.uint8)  # like those that weights are chosen by

    def pooled(precision: Precision) -> list[Tensor]:
        encoder = Encoder.load(FeatureSpec(encoder=name), weights)
        return (
            PlacedEncoder(encoder, place(Runtime(device="cpu", precision=precision, batch_size=1)))
            .submit(images)
            .result()
        )

    exact, together = pooled(Precision.FP32), pooled(Precision.BF16)
    monkeypatch.setattr(fused, "available", lambda: False)
    plain = pooled(Precision.BF16)
    for wanted, found, before in zip(exact, together, plain, strict=True):
        assert (found - wanted).norm() <= 1.1 * (before - wanted).norm() + 1e-3 * wanted.norm()
