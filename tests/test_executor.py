"""Promises of engine/executor.py: results in order, bounded work ahead, errors where a result is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from muflow_cli.engine.devices import Placement
from muflow_cli.engine.executor import AHEAD, PieceExecutor, gather, pipelined
from muflow_cli.run_specs import Precision


def done(value: float) -> Future[float]:
    future: Future[float] = Future()
    future.set_result(value)
    return future


def failed(error: Exception) -> Future[float]:
    future: Future[float] = Future()
    future.set_exception(error)
    return future


def executor(batch_size: int, device: str = "cpu") -> PieceExecutor:
    return PieceExecutor(Placement(torch.device(device), Precision.FP32, batch_size))


def images(count: int) -> Tensor:
    return torch.arange(float(count))[:, None, None, None].expand(count, 3, 2, 2)


@given(st.lists(st.integers()))
def test_every_batch_comes_with_its_own_result_in_order(batches: list[int]) -> None:
    assert list(pipelined(batches, lambda batch: done(batch * 2))) == [(batch, batch * 2) for batch in batches]


def test_no_more_is_begun_than_promised() -> None:
    begun: list[int] = []

    def begin(batch: int) -> Future[float]:
        begun.append(batch)
        return done(batch)

    for finished, (batch, _) in enumerate(pipelined(range(50), begin)):
        assert batch == finished
        assert len(begun) <= finished + 1 + AHEAD


def test_an_error_comes_after_the_results_before_it() -> None:
    def begin(batch: int) -> Future[float]:
        return failed(ZeroDivisionError()) if batch == 3 else done(batch)

    results = pipelined(range(9), begin)
    assert [next(results)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_source_that_fails_does_not_lose_what_was_begun_unnoticed() -> None:
    def batches() -> Iterator[int]:
        yield from range(AHEAD + 2)
        raise OSError("gone")

    results = pipelined(batches(), done)
    assert [next(results)[1] for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        next(results)


@given(st.integers(1, 40), st.integers(1, 12), st.booleans())
def test_a_batch_of_any_size_comes_back_whole_and_in_order(count: int, batch_size: int, padded: bool) -> None:
    future = executor(batch_size).submit(
        lambda piece: [piece * 2, piece.sum(dim=(1, 2, 3))], images(count), padded=padded
    )
    doubled, sums = future.result()
    assert torch.equal(doubled, images(count) * 2)
    assert torch.equal(sums, images(count).sum(dim=(1, 2, 3)))


def test_padded_pieces_all_have_one_size() -> None:
    sizes: list[int] = []

    def work(piece: Tensor) -> list[Tensor]:
        sizes.append(len(piece))
        return [piece]

    pieces = executor(4 * torch.get_num_threads())
    assert torch.equal(pieces.submit(work, images(11), padded=True).result()[0], images(11))
    assert sizes == [4, 4, 4]
    sizes.clear()
    pieces.submit(work, images(11)).result()
    assert sorted(sizes) == [3, 4, 4]


def test_pieces_run_beside_each_other_each_on_one_thread() -> None:
    cores = torch.get_num_threads()
    together = threading.Barrier(cores, timeout=20)
    threads: list[int] = []

    def work(piece: Tensor) -> list[Tensor]:
        together.wait()  # passes only when all are inside at once
        threads.append(torch.get_num_threads())
        return [piece]

    executor(cores).submit(work, images(cores)).result()
    assert threads == [1] * cores
    assert torch.get_num_threads() == cores


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_error_of_a_piece_is_raised_where_its_result_is_asked_for(device: str) -> None:
    def work(_: Tensor) -> list[Tensor]:
        raise ZeroDivisionError

    future = executor(2, device).submit(work, images(5))
    with pytest.raises(ZeroDivisionError):
        future.result(timeout=20)


def test_on_another_device_pieces_run_in_the_calling_thread() -> None:
    callers: list[int] = []

    def work(piece: Tensor) -> list[Tensor]:
        callers.append(threading.get_ident())
        return [piece]

    executor(2, "meta").submit(work, images(4)).result()
    assert callers == [threading.get_ident()] * 2


@given(st.permutations(range(5)))
def test_gathered_results_are_in_the_order_of_the_parts(order: list[int]) -> None:
    parts: list[Future[int]] = [Future() for _ in range(5)]
    whole = gather(parts, tuple)
    for index in order:
        assert not whole.done()
        parts[index].set_result(index)
    assert whole.result() == (0, 1, 2, 3, 4)


def test_a_gathered_error_waits_for_all_parts_and_the_first_part_decides() -> None:
    parts: list[Future[int]] = [Future() for _ in range(3)]
    whole = gather(parts, tuple)
    parts[2].set_exception(OSError("last"))
    parts[1].set_exception(ValueError("second"))
    assert not whole.done()
    parts[0].set_result(0)
    with pytest.raises(ValueError, match="second"):
        whole.result()


def test_an_error_of_the_combination_is_raised_by_the_result() -> None:
    whole = gather([done(0)], lambda results: 1 / results[0])
    with pytest.raises(ZeroDivisionError):
        whole.result()


def test_many_threads_that_finish_at_once_finish_the_whole_once() -> None:
    for _ in range(50):
        parts: list[Future[int]] = [Future() for _ in range(8)]
        combined: list[int] = []
        start = threading.Barrier(8)

        def finish(part: Future[int], start: threading.Barrier = start) -> None:
            start.wait()
            part.set_result(1)

        def combine(results: list[int], combined: list[int] = combined) -> int:
            combined.append(len(results))
            return sum(results)

        whole = gather(parts, combine)
        threads = [threading.Thread(target=finish, args=(part,)) for part in parts]
        for thread in threads:
            thread.start()
        assert whole.result(timeout=20) == 8
        for thread in threads:
            thread.join()
        assert combined == [8]


def test_work_is_begun_before_its_result_is_asked_for() -> None:
    began = threading.Event()

    def work(piece: Tensor) -> list[Tensor]:
        began.set()
        return [piece]

    future = executor(1).submit(work, images(1))
    deadline = time.monotonic() + 20
    while not began.is_set() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert began.is_set()
    future.result()
