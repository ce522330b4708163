"""Near copies: images that differ in their bytes and show the same, such as one photograph saved twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

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


def near_hash(views: Mapping[str, NDArray[np.uint8]]) -> int:
    """The perceptual hash of an image: that of the first view of its first branch."""
    return perceptual_hash(next(iter(views.values()))[0])


def packed(hashes: Sequence[int]) -> NDArray[np.uint8]:
    """(n, 8) uint8, big-endian: 64-bit hashes as a bundle stores them."""
    return np.array(hashes, dtype=">u8").view(np.uint8).reshape(-1, 8)


def unpacked(rows: NDArray[np.uint8]) -> list[int]:
    """Inverse of `packed`."""
    return [int.from_bytes(bytes(row), "big") for row in rows]


def distinct(digests: Sequence[str], groups: NDArray[np.int64]) -> list[int]:
    """Positions, ascending, of one image of each group: that of the smallest content hash, whatever the order."""
    first: dict[int, int] = {}
    for index in sorted(range(len(digests)), key=lambda i: digests[i]):
        first.setdefault(int(groups[index]), index)
    return sorted(first.values())
