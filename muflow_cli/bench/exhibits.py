"""Which images a report shows: the worst mistakes and the clearest cases, by what the rule ranks by. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from muflow_cli.bench.scores import Row
from muflow_cli.bench.scoring import Picture

# Title -> whether fakes are shown, and whether the most suspicious come first.
LISTS: Final[Mapping[str, tuple[bool, bool]]] = {
    "Worst: reals that look most synthetic": (False, True),
    "Worst: fakes that look most real": (True, False),
    "Best: fakes that look most synthetic": (True, True),
    "Best: reals that look most real": (False, False),
}


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One image that a report shows."""

    row: Row
    picture: Picture


def chosen(rows: Sequence[Row], count: int, centre: float) -> dict[str, list[Row]]:
    """Title of a list -> its images, in the list's order.

    The order is that of the rule's ranking; ties are broken by the distance from `centre`, then by the rows' order.

    Args:
        rows: of the clean images.
        count: images in each list.
        centre: median score of the calibration reals.
    """

    lists = {}
    for title, (fake, most) in LISTS.items():
        sign = 1 if most else -1
        keys = {
            index: (sign * (row.suspicion or 0.0), sign * abs(row.score - centre))
            for index, row in enumerate(rows)
            if row.fake is fake
        }
        lists[title] = [rows[index] for index in heapq.nlargest(count, keys, key=keys.__getitem__)]
    return lists
