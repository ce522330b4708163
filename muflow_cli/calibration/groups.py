"""Whether the images of a group are like the calibration reals: a permutation test with the energy distance.

Energy distance: Székely and Rizzo 2013, "Energy statistics: a class of statistics based on distances", Journal of
Statistical Planning and Inference 143. A permutation test is exact whatever the distribution: if a group is
exchangeable with the reals, its p-value is at most a with a probability of at most a.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration.components import Sample, components, hash_order, spread

_COMPONENTS: Final = 50
PERMUTATIONS: Final = 9999
# Reals, and images of a group, that a test compares; a larger set is compared by as many that are evenly spread.
MOST_REALS: Final = 1000
MOST_IMAGES: Final = 500
FEWEST_IMAGES: Final = 2
_CHUNK: Final = 500

Vectors = NDArray[np.float32]


def group_p_values(
    reals: Sample,
    batch: Sample,
    groups: Mapping[str, Sequence[int]],
    *,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> dict[str, float]:
    """A p-value for each group of at least two images: how likely reals of the calibration are to differ as much.

    Args:
        reals: of the calibration.
        batch: all images of all groups.
        groups: name -> positions of its images in the batch, each photograph once.
        seed: of the permutations, which differ from group to group.
        permutations: number of them; no p-value is below 1 / (permutations + 1).
    """
    null, vectors = compared_vectors(reals, batch)
    p_values = {}
    for name, positions in groups.items():
        if len(positions) < FEWEST_IMAGES:
            continue
        ordered = np.array(sorted(positions, key=lambda position: batch.digests[position]))
        own = vectors[ordered[spread(len(ordered), MOST_IMAGES)]]
        # By content, so that neither the group's name nor the other groups matter.
        generator = np.random.default_rng([seed, int(batch.digests[ordered[0]][:16], 16)])
        p_values[name] = energy_p_value(null, own, generator, permutations)
    return p_values


def compared_vectors(reals: Sample, batch: Sample) -> tuple[Vectors, Vectors]:
    """The reals that a group is compared with, (N, k), and all images of the batch, (m, k).

    The features are reduced to 50 whitened components of reals and batch together: were they fitted to the reals alone,
    these would lie closer to each other than to any group, and the test would not be exact. There are at most half as
    many components as images: with as many, all images are equally far apart, and nothing differs from anything.
    """
    vectors = components(reals, batch, min(_COMPONENTS, (len(reals) + len(batch)) // 2))
    return vectors[hash_order(reals)[spread(len(reals), MOST_REALS)]], vectors[len(reals) :]


def energy_p_value(
    reals: Vectors, group: Vectors, generator: np.random.Generator, permutations: int = PERMUTATIONS
) -> float:
    """(1 + permutations with at least the observed energy distance) / (permutations + 1).

    Args:
        reals: (N, k).
        group: (n, k).
        generator: draws the permutations.
        permutations: number of them.
    """
    from scipy.spatial.distance import cdist

    pooled = np.concatenate([group, reals]).astype(np.float64)
    n, total = len(group), len(group) + len(reals)
    distances = cdist(pooled, pooled)
    # In float32 for speed; the mean is taken out, so that the digits are spent on what differs.
    distances = (distances / distances.mean() - 1).astype(np.float32)
    rows = distances.sum(axis=1, dtype=np.float64)

    def energies(members: NDArray[np.float32]) -> NDArray[np.float64]:
        """(B,) energy distances between (B, total) chosen members and the others."""
        within = np.einsum("bi,bi->b", members @ distances, members, dtype=np.float64)
        chosen = members @ rows
        between, others = chosen - within, rows.sum() - 2 * chosen + within
        result: NDArray[np.float64] = 2 * between / (n * (total - n)) - within / n**2 - others / (total - n) ** 2
        return result

    observed = energies(np.repeat(np.array([[1.0, 0.0]], dtype=np.float32), [n, total - n], axis=1))[0]
    extreme, left = 1, permutations
    while left:
        size = min(left, _CHUNK)
        members = np.zeros((size, total), dtype=np.float32)
        drawn = generator.random((size, total)).argpartition(n - 1, axis=1)[:, :n]
        np.put_along_axis(members, drawn, 1.0, axis=1)
        extreme += int((energies(members) >= observed - 1e-6 * abs(observed)).sum())
        left -= size
    return extreme / (permutations + 1)
