"""Which real trains, which decides when to stop, which calibrates: by content, never by name or order."""

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

# Of 64 bits: 300 aligned portraits saved smaller at quality 60 differ from themselves in 0 to 2; the two most alike of
# 1,100 different ones in 8.
NEAR_DISTANCE = 4
_BLOCK = 2048


def perceptual_hash(view: NDArray[np.uint8]) -> int:
    """64-bit perceptual hash (DCT signs, imagehash's `phash`) of a view (H, W, 3)."""
    return int(str(imagehash.phash(Image.fromarray(view))), 16)


def near_duplicate_groups(hashes: Sequence[int], distance: int = NEAR_DISTANCE) -> NDArray[np.int64]:
    """(n,) group of each picture: pictures linked by hashes at most `distance` bits apart share one."""
    codes, places = np.unique(np.array(hashes, dtype=np.uint64), return_inverse=True)
    groups = np.arange(len(codes), dtype=np.int64)
    # Block by block, and links turned into groups at once: frames of one film are all linked to each other.
    for start in range(0, len(codes), _BLOCK):
        for other in range(start, len(codes), _BLOCK):
            apart = np.bitwise_count(codes[start : start + _BLOCK, None] ^ codes[None, other : other + _BLOCK])
            one, two = np.nonzero(apart <= distance)
            groups = _joined(groups, groups[one + start], groups[two + other])
    return groups[places]


def _joined(groups: NDArray[np.int64], one: NDArray[np.int64], two: NDArray[np.int64]) -> NDArray[np.int64]:
    """`groups` with each of the groups `one` and its partner in `two` made the same."""
    if np.array_equal(one, two):
        return groups
    graph = coo_array((np.ones(len(one), dtype=np.int8), (one, two)), shape=(len(groups), len(groups)))
    merged: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return merged[groups]


@dataclass(frozen=True, slots=True)
class Split:
    """Positions of pictures, each in one part, ascending by content hash."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    calibration: tuple[int, ...]


def split(digests: Sequence[str], groups: NDArray[np.int64], spec: TrainSpec) -> Split:
    """Deal whole groups to the parts in the order of their smallest content hash, by the shares of `spec`.

    A hash knows nothing of names, folders or dates, so the deal is random with respect to them, and the same on
    every machine. Within a few pictures of a group the shares are exact.
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
        fallback = int(rank >= bounds[0]) + int(rank >= bounds[1])
        parts[part_of.setdefault(int(groups[index]), fallback)].append(index)
    return Split(*(tuple(part) for part in parts))
