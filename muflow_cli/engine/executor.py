"""Work submitted to a device ahead of the results: on processors, one piece per core at a time."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Final, TypeVar

import torch
from torch import Tensor

from muflow_cli.engine.devices import Placement
from muflow_cli.engine.memory import BatchSplitter

_T = TypeVar("_T")
_R = TypeVar("_R")

# Batches begun beyond the one being waited for: idle cores find work, and little work is wasted at an interruption.
AHEAD: Final = 2

Work = Callable[[Tensor], list[Tensor]]


class PieceExecutor:
    """Runs work on batches of images in pieces: on processors one piece on each core, on a GPU in the calling thread.

    Cores that share one product wait for each other whenever a decoding thread takes one of them; with one product
    per core, none waits. A GPU queues its work by itself; a thread waits for the results, while the next batch is
    prepared.

    Attributes:
        placement: where the work runs.
        piece: images in a piece.
    """

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        on_cpu = placement.device.type == "cpu"
        cores = torch.get_num_threads() if on_cpu else 1
        self.piece = -(-placement.batch_size // cores)
        # The threads that compute on processors, or the one that waits for a GPU.
        self._pool = ThreadPoolExecutor(cores, "score", initializer=torch.set_num_threads, initargs=(1,))
        self._queues = not on_cpu

    def splitter(self) -> BatchSplitter:
        """A splitter that keeps one kind of work within the memory of a GPU."""
        device = self.placement.device
        return BatchSplitter(self.piece, device if device.type == "cuda" else None)

    def submit(self, work: Work, images: Tensor, *, padded: bool = False) -> Future[list[Tensor]]:
        """Begin `work` on the pieces of `images`; the future holds the joined tensors, on the CPU.

        Args:
            work: returns tensors with the first dimension of its argument.
            images: (B, 3, H, W), B at least 1.
            padded: give every piece the same size, whatever B is. Kernels then see a single shape, so an image's score
                depends on its pixels alone, not on its neighbours or on where a run was interrupted.
        """
        if self.placement.device.type == "cuda":
            images = images.pin_memory()

        def run(piece: Tensor) -> list[Tensor]:
            missing = self.piece - len(piece)
            if not padded or not missing:
                return work(piece)
            full = torch.cat([piece, piece[:1].expand(missing, -1, -1, -1)])
            return [tensor[: len(piece)] for tensor in work(full)]

        pieces = images.split(self.piece)
        if not self._queues:
            return gather([self._pool.submit(run, piece) for piece in pieces], _joined)
        try:
            queued = [run(piece) for piece in pieces]
        except Exception as error:  # noqa: BLE001  raised by result(), as the pool would
            failed: Future[list[Tensor]] = Future()
            failed.set_exception(error)
            return failed
        return self._pool.submit(_joined, queued)


def _joined(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The tensors of all pieces, joined on the CPU; waits for the device."""
    return [torch.cat(tensors).cpu() for tensors in zip(*rows, strict=True)]


def gather(parts: Sequence[Future[_T]], combine: Callable[[list[_T]], _R]) -> Future[_R]:
    """One future for all `parts` (at least one): `combine` of their results, or the first exception among them."""
    whole: Future[_R] = Future()
    waiting, lock = len(parts), Lock()

    def finish(_: Future[_T]) -> None:
        nonlocal waiting
        with lock:
            waiting -= 1
            if waiting:
                return
        try:
            whole.set_result(combine([part.result() for part in parts]))
        except Exception as error:  # noqa: BLE001  raised by result()
            whole.set_exception(error)

    for part in parts:
        part.add_done_callback(finish)
    return whole


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run the block on one processor thread.

    Products of a few thousand short vectors gain nothing from a second thread and, on a busy machine, become ten times
    slower waiting for it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pipelined(batches: Iterable[_T], begin: Callable[[_T], Future[_R]]) -> Iterator[tuple[_T, _R]]:
    """Each batch with its result, in order, while the next AHEAD batches are under way.

    Args:
        batches: drawn in the calling thread, no further ahead than needed.
        begin: starts a batch.
    """
    pending: deque[tuple[_T, Future[_R]]] = deque()
    for batch in batches:
        pending.append((batch, begin(batch)))
        if len(pending) > AHEAD:
            first, result = pending.popleft()
            yield first, result.result()
    while pending:
        first, result = pending.popleft()
        yield first, result.result()
