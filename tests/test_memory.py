from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from muflow_cli.engine.memory import BatchSplitter, fitting


@given(st.integers(1, 4096), st.integers(0, 2**40), st.integers(0, 2**34))
def test_what_fits_is_the_most_by_halves_that_memory_holds(most: int, free: int, each: int) -> None:
    views = fitting(most, free, each)
    halves = [most]
    while halves[-1] > 1:
        halves.append((halves[-1] + 1) // 2)
    assert views in halves
    assert views == 1 or views * each <= 0.8 * free
    larger = halves[: halves.index(views)]
    assert all(one * each > 0.8 * free for one in larger)


def test_a_card_of_8_gib_takes_less_than_one_of_80() -> None:
    assert fitting(256, 8 * 2**30, 40 * 2**20) == 128
    assert fitting(256, 80 * 2**30, 40 * 2**20) == 256


def test_parts_come_back_in_their_order_and_whole() -> None:
    def doubled(batch: Tensor) -> list[Tensor]:
        if len(batch) > 5:
            raise torch.OutOfMemoryError("no room")
        return [batch * 2, batch.sum(dim=1)]

    batch = torch.arange(46.0).reshape(23, 2)
    whole, sums = BatchSplitter(64).run(doubled, batch)
    assert torch.equal(whole, batch * 2)
    assert torch.equal(sums, batch.sum(dim=1))
