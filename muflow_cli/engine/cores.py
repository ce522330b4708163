"""Work handed to a device ahead of the results: on processors one piece on each core at a time."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Final, ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_T = TypeVar("_T")
_R = TypeVar("_R")

# The one waited for, and two that follow: a core that is done early finds work, and little is begun in vain.
AHEAD: Final = 2

# Names and numbers of glibc's malloc.h. A larger threshold for mmap is refused.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MMAP_FROM: Final = 32 * 2**20
_TRIM_FROM: Final = 256 * 2**20


class Cores:
    """Runs pieces of work: on processors in a pool, each on one core; on a GPU in the calling thread.

    Cores that share one product wait for each other whenever a decoding thread takes one of them. With a product for
    each, nobody waits. A GPU queues what it is given by itself.

    Attributes:
        count: pieces that run at a time.
    """

    def __init__(self, device: torch.device) -> None:
        self.count = torch.get_num_threads() if device.type == "cpu" else 1
        if device.type == "cpu":
            _keep_memory()
        self._pool = (
            ThreadPoolExecutor(self.count, "score", initializer=torch.set_num_threads, initargs=(1,))
            if device.type == "cpu"
            else None
        )

    def submit(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Begin a piece; an error of it is raised by the future's `result`."""
        if self._pool is not None:
            return self._pool.submit(work, *args, **kwargs)
        done: Future[_T] = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  raised by result(), as the pool would
            done.set_exception(error)
        return done


@cache
def _keep_memory() -> None:
    """Tell glibc to keep the memory of freed activations, not give it back and fault it in anew at every layer."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_FROM)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run the block on one processor thread.

    Products of a few thousand short vectors gain nothing from a second thread and, on a machine with other work,
    lose an order of magnitude waiting for it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pipelined(batches: Iterable[_T], begin: Callable[[_T], Callable[[], _R]]) -> Iterator[tuple[_T, _R]]:
    """Each batch with its result, in order, while the next AHEAD are begun already.

    Args:
        batches: drawn in the calling thread, only as far ahead as they are begun.
        begin: starts a batch; calling what it returns waits for the result.
    """
    pending: deque[tuple[_T, Callable[[], _R]]] = deque()
    for batch in batches:
        pending.append((batch, begin(batch)))
        if len(pending) > AHEAD:
            first, result = pending.popleft()
            yield first, result()
    while pending:
        first, result = pending.popleft()
        yield first, result()
