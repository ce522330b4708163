"""Inputs on their way through the threads that decode, their results in order, and the memory that they hold."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.inputs import Input
from muflow_cli.records import Unreadable

_Result = TypeVar("_Result")


class Queue(Generic[_Result]):
    """The inputs that were given to the threads: at most `ahead`, and fewer where they, or clips, hold many bytes.

    Args:
        pool: of the threads.
        task: what a thread does with an input.
        inputs: drawn in the consumer's thread; an exception that they raise takes its place among the results.
        ahead: the most results that are not taken yet.
        most_bytes: that inputs and clips hold before no more are drawn.

    Attributes:
        pending: the results that are not taken yet, in order.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        task: Callable[[Input | Unreadable], _Result],
        inputs: Iterable[Input | Unreadable],
        ahead: int,
        most_bytes: int,
    ) -> None:
        self.pending: deque[Future[_Result]] = deque()
        self._pool, self._task, self._inputs, self._ahead = pool, task, iter(inputs), ahead
        self._most_bytes = most_bytes
        self._held = 0  # bytes of inputs that no thread has taken yet, and of clips that wait for their turn
        self._lock = threading.Lock()
        self._ended = False

    def fill(self) -> None:
        """Draw inputs while there is room."""
        while (
            not self._ended and len(self.pending) < self._ahead and (self._held < self._most_bytes or not self.pending)
        ):
            try:
                input_ = next(self._inputs)
            except StopIteration:
                self._ended = True
            except Exception as error:  # noqa: BLE001  result() raises it again, in its place among the results
                failed: Future[_Result] = Future()
                failed.set_exception(error)
                self.pending.append(failed)
                self._ended = True
            else:
                self._submit(input_)

    def _submit(self, input_: Input | Unreadable) -> None:
        carried = len(input_.content or b"") if isinstance(input_, Input) else 0
        self._hold(carried)
        future = self._pool.submit(self._task, input_)
        if carried:
            future.add_done_callback(lambda _: self._hold(-carried))
        future.add_done_callback(self._hold_clip)
        self.pending.append(future)

    def taken(self) -> _Result:
        """The result of the earliest input, as soon as it is there."""
        result = self.pending.popleft().result()
        if isinstance(result, LoadedClip):
            self._hold(-result.held_bytes)
        return result

    def _hold_clip(self, future: Future[_Result]) -> None:
        if not future.cancelled() and future.exception() is None and isinstance(result := future.result(), LoadedClip):
            self._hold(result.held_bytes)

    def _hold(self, amount: int) -> None:
        with self._lock:
            self._held += amount
