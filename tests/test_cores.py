"""Promises of engine/cores.py: results in order, bounded work ahead, errors in their place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from muflow_cli.engine.cores import AHEAD, Cores, pipelined


@given(st.lists(st.integers()))
def test_every_batch_comes_with_its_own_result_in_order(batches: list[int]) -> None:
    assert list(pipelined(batches, lambda batch: lambda: batch * 2)) == [(batch, batch * 2) for batch in batches]


def test_no_more_is_begun_than_promised() -> None:
    begun: list[int] = []

    def begin(batch: int) -> Callable[[], int]:
        begun.append(batch)
        return lambda: batch

    for done, (batch, _) in enumerate(pipelined(range(50), begin)):
        assert batch == done
        assert len(begun) <= done + 1 + AHEAD


def test_an_error_comes_after_the_results_before_it() -> None:
    def begin(batch: int) -> Callable[[], float]:
        return lambda: 1 / (3 - batch)

    results = pipelined(range(9), begin)
    assert [next(results)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_source_that_fails_does_not_lose_what_was_begun_unnoticed() -> None:
    def batches() -> Iterator[int]:
        yield from range(AHEAD + 2)
        raise OSError("gone")

    results = pipelined(batches(), lambda batch: lambda: batch)
    assert [next(results)[1] for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        next(results)


def test_pieces_run_beside_each_other_each_on_one_thread() -> None:
    cores = Cores(torch.device("cpu"))
    together = threading.Barrier(cores.count, timeout=20)

    def piece() -> int:
        together.wait()  # passes only when all are inside at once
        return torch.get_num_threads()

    before = torch.get_num_threads()
    futures = [cores.submit(piece) for _ in range(cores.count)]
    assert [future.result() for future in futures] == [1] * cores.count
    assert torch.get_num_threads() == before


def test_an_error_of_a_piece_is_raised_where_its_result_is_asked_for() -> None:
    future = Cores(torch.device("cpu")).submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        future.result()


def test_on_another_device_pieces_run_in_the_calling_thread() -> None:
    cores = Cores(torch.device("meta"))
    assert cores.count == 1
    assert cores.submit(threading.get_ident).result() == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        cores.submit(lambda: 1 // 0).result()
