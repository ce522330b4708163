"""Which images a report shows: the worst mistakes and the clearest cases, by what the rule ranks by."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.bench.scores import Row
from muflow_cli.bench.scoring import ScoredImage

# Title -> whether fakes are shown, and whether the most suspicious come first.
LISTS: Final[Mapping[str, tuple[bool, bool]]] = {
    "Worst: reals that look most synthetic": (False, True),
    "Worst: fakes that look most real": (True, False),
    "Best: fakes that look most synthetic": (True, True),
    "Best: reals that look most real": (False, False),
}


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One image that a report shows: its row, a thumbnail (JPEG), a heat map (g, g) where it has one."""

    row: Row
    thumbnail: bytes | None
    heatmap: NDArray[np.float32] | None


class Exhibits:
    """Keeps the first images of every list while all are scored.

    The order is that of the rule's ranking; ties are broken by the distance from `centre`, then by the images' order.

    Args:
        count: images in each list.
        centre: median score of the calibration reals.
    """

    def __init__(self, count: int, centre: float) -> None:
        self._count, self._centre = count, centre
        self._offered = 0
        # Heaps, the image that would leave next first. No two keys are equal, so exhibits are never compared.
        self._heaps: dict[str, list[tuple[tuple[float, float, int], Exhibit]]] = {title: [] for title in LISTS}

    def offer(self, row: Row, image: ScoredImage) -> None:
        """Keep the image in each list where it is among the first."""
        self._offered += 1
        exhibit = Exhibit(row, image.thumbnail, image.heatmap)
        for title, (fake, most) in LISTS.items():
            if row.fake is fake:
                sign = 1 if most else -1
                key = (sign * (row.suspicion or 0.0), sign * abs(row.score - self._centre), -self._offered)
                heapq.heappush(self._heaps[title], (key, exhibit))
                if len(self._heaps[title]) > self._count:
                    heapq.heappop(self._heaps[title])

    def lists(self) -> dict[str, list[Exhibit]]:
        """Title -> images, in the list's order."""
        return {
            title: [exhibit for _, exhibit in sorted(heap, key=lambda entry: entry[0], reverse=True)]
            for title, heap in self._heaps.items()
        }
