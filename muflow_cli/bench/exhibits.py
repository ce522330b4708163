"""Which pictures a report shows: the worst mistakes and the clearest cases, by what the detector flags by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from muflow_cli.bench.data import Picture
from muflow_cli.bench.scores import Row
from muflow_cli.bench.scoring import Scoring, Shown

# Title -> whether fakes are shown, and whether the most suspicious come first.
LISTS: Final[Mapping[str, tuple[bool, bool]]] = {
    "Worst: reals that look most synthetic": (False, True),
    "Worst: fakes that look most real": (True, False),
    "Best: fakes that look most synthetic": (True, True),
    "Best: reals that look most real": (False, False),
}


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One picture that a report shows."""

    row: Row
    shown: Shown


def show(
    scoring: Scoring, pictures: Sequence[Picture], rows: Sequence[Row], centre: float, count: int
) -> dict[str, list[Exhibit]]:
    """Title -> at most `count` pictures with thumbnails and heat maps.

    The order is that of the rule's p-value, of equals that of the distance from `centre`.
    """

    def suspicion(row: Row) -> tuple[float, float]:
        return -(row.p_value or 0.0), abs(row.score - centre)

    chosen: dict[str, list[Row]] = {}
    for title, (fake, most) in LISTS.items():
        members = [row for row in rows if row.fake is fake]
        chosen[title] = sorted(members, key=suspicion, reverse=most)[:count]
    wanted = {row.path for members in chosen.values() for row in members}
    shown = scoring.shown([picture for picture in pictures if picture.sample.path in wanted])
    return {
        title: [Exhibit(row, shown[row.path]) for row in members if row.path in shown]
        for title, members in chosen.items()
    }
