"""Which reals each fit of a protocol may use, and which images it scores. Pure.

Near copies of one photograph are in one fold, so that a fit never uses a near copy of an image that it scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from muflow_cli.errors import BadSpec

# The fold of images that are never scored, nor are near copies of them.
_NEVER_HELD_OUT = -1


class Protocol(StrEnum):
    """The reals that a detector is fitted to before it is measured on a real source: `seen`, the other folds of that
    source; `pooled`, the other folds of all sources; `unseen`, the other sources.
    """

    SEEN = "seen"
    POOLED = "pooled"
    UNSEEN = "unseen"


def parse_protocols(names: Iterable[str]) -> tuple[Protocol, ...]:
    """The protocols of these names, each once.

    Raises:
        BadSpec: for a name that no protocol has.
    """
    names = dict.fromkeys(names)
    for name in names:
        if name not in set(Protocol):
            raise BadSpec("--protocol", name, "one of " + ", ".join(Protocol))
    return tuple(map(Protocol, names))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """All real images, ascending by content hash.

    Attributes:
        digests: (n,) content hashes, all different.
        sources: (n,) names of the real sources.
        groups: (n,) of near copies.
        measured: (n,) whether the image is scored, at most one of each group.
        usable: (n,) whether fits may use it.
    """

    digests: Sequence[str]
    sources: Sequence[str]
    groups: NDArray[np.int64]
    measured: NDArray[np.bool_]
    usable: NDArray[np.bool_]

    def folds(self, count: int) -> NDArray[np.int64]:
        """(n,) fold of each image: the measured images of a source in turn by content hash, near copies with them."""
        turns: Counter[str] = Counter()
        fold_of: dict[int, int] = {}
        for index in np.flatnonzero(self.measured).tolist():
            source = self.sources[index]
            fold_of[int(self.groups[index])] = turns[source] % count
            turns[source] += 1
        return np.array([fold_of.get(group, _NEVER_HELD_OUT) for group in self.groups.tolist()], dtype=np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One fit and what it scores, as positions.

    Attributes:
        source: real source whose images are scored; None = all.
        fold: that is held out; None = the fit leaves out whole sources.
        fit_to: images of the pool that the fit may use.
        reals: images of the pool that are scored.
        fakes: fakes that are scored.
    """

    source: str | None
    fold: int | None
    fit_to: tuple[int, ...]
    reals: tuple[int, ...]
    fakes: tuple[int, ...]


def turns(digests: Sequence[str], generators: Sequence[str]) -> NDArray[np.int64]:
    """(m,) position of each fake among those of its generator, by content hash; modulo the folds it is its fold."""
    seen: Counter[str] = Counter()
    positions = np.empty(len(digests), dtype=np.int64)
    for index in sorted(range(len(digests)), key=lambda i: digests[i]):
        positions[index] = seen[generators[index]]
        seen[generators[index]] += 1
    return positions


def tasks_of(protocol: Protocol, pool: Pool, fakes: NDArray[np.int64], folds: int) -> list[Task]:
    """The fits of a protocol, in the order of sources and folds.

    Args:
        protocol: which reals a fit may use.
        pool: all reals.
        fakes: (m,) as `turns` gives them.
        folds: number of them, at least 2; a source with fewer images has as many folds as images.
    """
    sources = np.array(pool.sources)
    measured_sources = sorted(set(sources[pool.measured].tolist()))
    if protocol is Protocol.POOLED:
        return list(_held_out(pool, None, np.ones(len(sources), dtype=bool), fakes, folds))
    if protocol is Protocol.SEEN:
        return [task for name in measured_sources for task in _held_out(pool, name, sources == name, fakes, folds)]
    return [_left_out(pool, name, sources == name, fakes) for name in measured_sources]


def _held_out(
    pool: Pool, source: str | None, inside: NDArray[np.bool_], fakes: NDArray[np.int64], folds: int
) -> Iterator[Task]:
    """One fit for each fold of the images `inside` (n,)."""
    fold_of = pool.folds(folds)
    used = int(fold_of[inside & pool.measured].max()) + 1
    for fold in range(used):
        yield Task(
            source=source,
            fold=fold,
            fit_to=_positions(inside & pool.usable & (fold_of != fold)),
            reals=_positions(inside & pool.measured & (fold_of == fold)),
            fakes=_positions(fakes % used == fold),
        )


def _left_out(pool: Pool, source: str, own: NDArray[np.bool_], fakes: NDArray[np.int64]) -> Task:
    """One fit without the images of a source, `own` (n,), and without near copies of them."""
    near = np.isin(pool.groups, pool.groups[own])
    return Task(
        source=source,
        fold=None,
        fit_to=_positions(pool.usable & ~near),
        reals=_positions(own & pool.measured),
        fakes=tuple(range(len(fakes))),
    )


def _positions(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(mask).tolist())
