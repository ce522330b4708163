"""Average images are exact, drawn without replacement, and say how far they repeat each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muflow_cli.engine import averaging
from muflow_cli.engine.averaging import average, draw_members, overlap
from muflow_cli.errors import TooFewImages


def images(count: int, height: int = 9, width: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact(pool: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    return torch.stack([pool[row].double().mean(dim=0) for row in members]).float()


@given(count=st.integers(1, 40), means=st.integers(1, 6), share=st.floats(0.01, 1), chunk=st.integers(1, 50))
@settings(max_examples=40, deadline=None)
def test_averages_are_the_correctly_rounded_means_however_the_images_arrive(
    count: int, means: int, share: float, chunk: int
) -> None:
    pool = images(count)
    members = draw_members(count, means, max(1, round(share * count)), seeded())
    assert torch.equal(average(pool.split(chunk), members, count), exact(pool, members))


@pytest.mark.parametrize(("block", "columns"), [(1, 1), (7, 50), (64, 189), (1000, 1000)])
def test_block_sizes_do_not_change_the_averages(monkeypatch: pytest.MonkeyPatch, block: int, columns: int) -> None:
    monkeypatch.setattr(averaging, "BLOCK", block)
    monkeypatch.setattr(averaging, "COLUMNS", columns)
    pool = images(61)
    members = draw_members(61, 5, 30, seeded())
    assert torch.equal(average(pool.split(10), members, 61), exact(pool, members))


def test_averages_keep_the_fraction_of_a_grey_level() -> None:
    pool = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]).to(torch.uint8)
    means = average([pool], torch.tensor([[0, 1]]), 2)
    assert means.dtype == torch.float32
    assert torch.equal(means, torch.full((1, 3, 2, 2), 0.5))


def test_averaging_reads_the_images_once() -> None:
    pool = images(30)
    reads = iter(pool.split(4))
    average(reads, draw_members(30, 8, 20, seeded()), 30)
    assert next(reads, None) is None


def test_images_missing_from_the_chunks_are_refused() -> None:
    with pytest.raises(ValueError, match="hold 5 images, expected 6"):
        average([images(5)], draw_members(6, 2, 3, seeded()), 6)


def test_an_average_never_holds_an_image_twice() -> None:
    members = draw_members(20, 50, 15, seeded())
    assert members.shape == (50, 15)
    assert all(len(set(row.tolist())) == 15 for row in members)
    assert members.min() >= 0
    assert members.max() < 20


def test_every_image_is_as_likely_as_any_other() -> None:
    counts = torch.bincount(draw_members(10, 4000, 5, seeded()).flatten(), minlength=10)
    assert (counts / 4000 - 0.5).abs().max() < 0.04


def test_the_same_seed_draws_the_same_averages() -> None:
    assert torch.equal(draw_members(50, 5, 20, seeded(3)), draw_members(50, 5, 20, seeded(3)))
    assert not torch.equal(draw_members(50, 5, 20, seeded(3)), draw_members(50, 5, 20, seeded(4)))


def test_an_average_of_more_images_than_there_are_is_refused_with_both_numbers() -> None:
    with pytest.raises(TooFewImages, match=r"at least 500 real images .* found 499"):
        draw_members(499, 2, 500, seeded())


def test_shared_is_the_mean_share_of_images_that_pairs_have_in_common() -> None:
    members = draw_members(30, 7, 12, seeded())
    sets = [set(row.tolist()) for row in members]
    pairs = [len(a & b) / 12 for i, a in enumerate(sets) for b in sets[:i]]
    assert overlap(members, 30).shared == pytest.approx(sum(pairs) / len(pairs))


def test_averages_of_half_the_pool_share_half_their_images() -> None:
    assert overlap(draw_members(1000, 200, 500, seeded()), 1000).shared == pytest.approx(0.5, abs=0.01)


def test_disjoint_averages_count_in_full_and_equal_ones_count_once() -> None:
    assert overlap(torch.arange(12).view(4, 3), 12).effective_sample_size == pytest.approx(4)
    assert overlap(torch.arange(3).expand(4, 3), 12).effective_sample_size == pytest.approx(1)


def test_effective_sample_size_is_the_variance_ratio_seen_in_simulation() -> None:
    members = draw_members(40, 12, 20, seeded())
    values = torch.randn(20_000, 40, generator=seeded(1), dtype=torch.float64)
    averages = values[:, members].mean(dim=2)
    ratio = float(averages[:, 0].var() / averages.mean(dim=1).var())
    assert overlap(members, 40).effective_sample_size == pytest.approx(ratio, rel=0.05)
