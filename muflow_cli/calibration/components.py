"""Principal components of features: a few whitened numbers in place of thousands."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

# Rows that the components are computed from; more change them little.
_MOST_ROWS = 2048
_CHUNK = 1024
# Deviation of a feature that never varies, in place of 0.
_LEAST_STD = 1e-6


def one_thread() -> AbstractContextManager[object]:
    """A context in which products of matrices use one thread: the last digits depend on their number, and a classifier
    or a choice between two of them can turn on a last digit."""
    return cast("AbstractContextManager[object]", _thread_pools().limit(limits=1))


@cache
def _thread_pools() -> ThreadpoolController:
    """The pools of the libraries that multiply; looking for them takes longer than a small product."""
    import sklearn.decomposition  # noqa: F401 - its libraries must be loaded to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def spread(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of the positions 0 to `count` - 1, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Images to compare.

    Attributes:
        digests: (n,) content hashes, all different.
        features: (N, F) float16; read in pieces, so that it may be a mapped file.
        rows: (n,) rows of the images in `features`; None = all of them, in their order.
    """

    digests: Sequence[str]
    features: NDArray[np.float16]
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.digests)

    def taken(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """(k, F) features of the images at these positions."""
        return self.features[positions if self.rows is None else self.rows[positions]].astype(np.float32)


def hash_order(*samples: Sample) -> NDArray[np.int64]:
    """The positions of all images, counted through all samples, in the order of their content hashes.

    The hash of an image is as good as a random number: whatever is computed in this order knows nothing of where an
    image comes from or stood.
    """
    digests = [digest for sample in samples for digest in sample.digests]
    return np.argsort(np.array(digests), kind="stable")


def components(reals: Sample, batch: Sample, most: int, *, whiten: bool = True) -> NDArray[np.float32]:
    """(n, k) principal components of standardised features, the reals' before the batch's.

    Computed from the images of both together, or from 2,048 that are evenly spread, in the order of their content
    hashes. Nothing in the result depends on which of them are calibration reals; the tests of a batch are exact because
    of that.

    Args:
        reals: of the calibration.
        batch: images to compare with them; at least 2 in all.
        most: k is at most this, at most F and at most n - 1.
        whiten: to unit variance; without, the `whitened` components of any part of the images are, nearly, those that
            this gives of that part.
    """
    from sklearn.decomposition import PCA  # a second to import, which only comparisons of batches need

    def taken(positions: NDArray[np.int64]) -> NDArray[np.float32]:
        features = np.empty((len(positions), reals.features.shape[1]), dtype=np.float32)
        is_real = positions < len(reals)
        features[is_real] = reals.taken(positions[is_real])
        features[~is_real] = batch.taken(positions[~is_real] - len(reals))
        return features

    order = hash_order(reals, batch)
    some = taken(order[spread(len(order), _MOST_ROWS)])
    mean, std = some.mean(axis=0), np.maximum(some.std(axis=0), _LEAST_STD)
    some -= mean
    some /= std
    count = min(most, len(some) - 1, some.shape[1])
    result = np.empty((len(order), count), dtype=np.float32)
    with one_thread():
        pca = PCA(count, svd_solver="randomized", whiten=whiten, random_state=0, copy=False).fit(some)
        for start in range(0, len(order), _CHUNK):
            rows = order[start : start + _CHUNK]
            result[rows] = pca.transform((taken(rows) - mean) / std)
    return result


def whitened(vectors: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """(n, k) whitened principal components of (n, F) vectors; k as in `components`."""
    from sklearn.decomposition import PCA

    count = min(most, len(vectors) - 1, vectors.shape[1])
    with one_thread():
        result: NDArray[np.float32] = PCA(count, svd_solver="covariance_eigh", whiten=True).fit_transform(vectors)
    return result
