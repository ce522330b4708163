"""How much of a batch a device has room for: asked of its memory once, then halved where it was too much after all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

# Of the memory that is free. The rest is for what grows otherwise than by the view: a library's workspaces, fragments.
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


class Room:
    """Runs work on batches in parts that the device has room for.

    Args:
        most: views at a time.
        card: a GPU whose memory decides, by what the first view takes; None = room for `most`.
    """

    def __init__(self, most: int, card: torch.device | None = None) -> None:
        self._views = most
        self._card = card

    def run(self, work: Callable[[Tensor], list[Tensor]], batch: Tensor) -> list[Tensor]:
        """`work(batch)`, in halves where there is no room for the whole, now or before.

        Raises:
            torch.OutOfMemoryError: where there is none for a single view.
        """
        if self._card is not None:
            self._views = fitting(self._views, *_free_and_each(self._card, work, batch[:1]))
            self._card = None
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
    work(view)  # libraries are loaded by the first
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work(view)
    each = torch.cuda.max_memory_allocated(device) - held
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept, each
