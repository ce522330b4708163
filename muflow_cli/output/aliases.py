"""Names of schema /1 that stand beside those of /2, so that a program written for /1 still finds its fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Alias:
    """What an old name holds.

    Attributes:
        field: the field of schema /2 that it repeats.
        value: what readers of /1 expect, given the JSON value of that field.
    """

    field: str
    value: Callable[[Any], Any] = lambda value: value


def layers(columns: Sequence[str]) -> list[str]:
    """`branch/layer` -> `layer` where all columns belong to one branch; as they are otherwise."""
    branches = {column.rpartition("/")[0] for column in columns}
    return [column.rpartition("/")[2] if len(branches) == 1 else column for column in columns]


# Record -> old name -> what it repeats. Kept for readers of /1 only; no code of this package reads them.
ALIASES: Final[Mapping[str, Mapping[str, Alias]]] = {
    "Scored": {"scale_scores": Alias("column_scores")},
    "DetectorInfo": {"scales": Alias("columns", layers), "calibration_pictures": Alias("calibration_images")},
    "Data": {"pictures": Alias("images")},
    "Group": {"pictures": Alias("images")},
    "Share": {"pictures": Alias("images")},
    "Throughput": {"pictures": Alias("images")},
    "SilhouettePoint": {"mean_size": Alias("images_per_average")},
}


def aliases_of(record: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The old names of a record and their values, given its JSON object."""
    return {name: alias.value(value[alias.field]) for name, alias in ALIASES.get(record, {}).items()}
