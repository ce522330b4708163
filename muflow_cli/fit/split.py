"""Split the reals into training, early stopping and calibration: by content, never by name or order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muflow_cli.specs import TrainSpec


@dataclass(frozen=True, slots=True)
class Split:
    """Positions of the images of each part, ascending by content hash; each image is in one part."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    calibration: tuple[int, ...]


def split(digests: Sequence[str], groups: NDArray[np.int64], spec: TrainSpec) -> Split:
    """Assign whole groups to the parts in the order of their smallest content hash, by the shares of `spec`.

    A hash does not depend on names, folders or dates, so the split is random with respect to them and the same on
    every machine. The shares are exact but for the images of the group at each boundary.
    """
    keys: dict[int, str] = {}
    for digest, group in zip(digests, groups.tolist(), strict=True):
        keys[group] = min(digest, keys.get(group, digest))
    order = sorted(range(len(digests)), key=lambda i: (keys[int(groups[i])], digests[i]))
    total = len(digests)
    bounds = (
        round(total * (1 - spec.validation_share - spec.calibration_share)),
        round(total * (1 - spec.calibration_share)),
    )
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    part_of: dict[int, int] = {}
    for rank, index in enumerate(order):
        by_rank = int(rank >= bounds[0]) + int(rank >= bounds[1])
        parts[part_of.setdefault(int(groups[index]), by_rank)].append(index)
    return Split(*(tuple(part) for part in parts))
