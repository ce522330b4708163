"""Split the reals into training, early stopping and calibration: by content, never by name or order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from muflow_cli.specs import TrainSpec

# Of 64 bits. 300 aligned portraits saved smaller at quality 60 differ from their originals in 0 to 2 bits; the two most
# similar of 1,100 different portraits differ in 8.
NEAR_DISTANCE = 4
_BLOCK = 2048


def perceptual_hash(view: NDArray[np.uint8]) -> int:
    """64-bit perceptual hash (DCT signs, imagehash's `phash`) of a view (H, W, 3)."""
    return int(str(imagehash.phash(Image.fromarray(view))), 16)


def near_duplicate_groups(hashes: Sequence[int], distance: int = NEAR_DISTANCE) -> NDArray[np.int64]:
    """(n,) group of each image; images linked by a chain of hashes at most `distance` bits apart share a group."""
    codes, code_of = np.unique(np.array(hashes, dtype=np.uint64), return_inverse=True)
    groups = np.arange(len(codes), dtype=np.int64)
    # Links are merged into groups after each block, since the frames of a film are all linked to each other.
    for start in range(0, len(codes), _BLOCK):
        for other in range(start, len(codes), _BLOCK):
            bits_apart = np.bitwise_count(codes[start : start + _BLOCK, None] ^ codes[None, other : other + _BLOCK])
            rows, columns = np.nonzero(bits_apart <= distance)
            links = groups[rows + start], groups[columns + other]
            if not np.array_equal(*links):
                graph = coo_array((np.ones(len(rows), dtype=np.int8), links), shape=(len(groups), len(groups)))
                merged: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
                groups = merged[groups]
    return groups[code_of]


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
