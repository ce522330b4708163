"""How much of a batch fits into a GPU's memory: measured once, then halved whenever it was still too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

# Share of the free memory for views. The rest is for what does not grow with them, such as workspaces.
_SHARE: Final = 0.8


def fitting(most: int, free: int, each: int) -> int:
    """The largest of `most`, its half, its quarter and so on (rounded up) whose views fit into memory; at least 1.

    Args:
        most: views, at least 1.
        free: bytes.
        each: bytes that one view takes at its peak.
    """
    while most > 1 and most * each > _SHARE * free:
        most = (most + 1) // 2
    return most


class BatchSplitter:
    """Runs work on batches in parts that fit into the device's memory.

    Args:
        most: views at a time.
        gpu: the device whose memory is measured with the first view; None = `most` views always fit.
    """

    def __init__(self, most: int, gpu: torch.device | None = None) -> None:
        self._views = most
        self._gpu = gpu

    def run(self, work: Callable[[Tensor], list[Tensor]], batch: Tensor) -> list[Tensor]:
        """`work(batch)`, in halves if the whole does not fit or did not before.

        Raises:
            torch.OutOfMemoryError: if a single view does not fit.
        """
        if self._gpu is not None:
            self._views = fitting(self._views, *_free_and_each(self._gpu, work, batch[:1]))
            self._gpu = None
        if len(batch) <= self._views:
            try:
                return work(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self._views = (len(batch) + 1) // 2
                torch.cuda.empty_cache()
        halves = [self.run(work, half) for half in batch.split((len(batch) + 1) // 2)]
        return [torch.cat(maps) for maps in zip(*halves, strict=True)]


def _free_and_each(device: torch.device, work: Callable[[Tensor], object], view: Tensor) -> tuple[int, int]:
    """Bytes that are free on a GPU, and that one view takes at its peak."""
    work(view)  # the first call loads libraries
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work(view)
    each = torch.cuda.max_memory_allocated(device) - held
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached, each
