"""A bound on the memory that the inputs in work take together, whatever their number."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Budget:
    """Bytes that threads share.

    Args:
        total: in bytes. A larger claim counts as all of it, so that it is granted once nothing else is in work.
    """

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def claim(self, amount: int) -> Iterator[None]:
        """Hold `amount` bytes inside the block; waits until they are free.

        A thread that holds bytes of two budgets must claim them in the same order as every other thread.
        """
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: amount <= self._free)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()
