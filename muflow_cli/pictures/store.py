"""The uint8 store of a fit: every view of every usable real, read once, on disk, memory-mapped.

One file of raw views and one JSON index, written last: a store without an index is not a store.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muflow_cli.canonical import canonical_json, from_json, to_json
from muflow_cli.errors import CannotWrite
from muflow_cli.pictures.pool import Loaded
from muflow_cli.pictures.split import perceptual_hash
from muflow_cli.records import Facts, Unreadable

_VIEWS, _INDEX = "views.u8", "index.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """One usable picture: where it was, what it is, its perceptual hash, its views' places in the store."""

    path: str
    facts: Facts
    near_hash: int
    first: int
    views: int


@dataclass(frozen=True, slots=True)
class Store:
    """Usable pictures and their views.

    Attributes:
        kept: one entry per distinct picture, in the order found.
        skipped: reason -> how many inputs.
        views: (total views, size, size, 3) uint8, memory-mapped.
    """

    kept: tuple[Kept, ...]
    skipped: dict[str, int]
    views: NDArray[np.uint8]

    def of(self, index: int) -> NDArray[np.uint8]:
        """(V, size, size, 3) views of one picture."""
        entry = self.kept[index]
        return self.views[entry.first : entry.first + entry.views]

    def places(self, indices: Iterable[int]) -> list[int]:
        """Places of all views of the pictures at `indices`."""
        entries = (self.kept[i] for i in indices)
        return [place for e in entries for place in range(e.first, e.first + e.views)]


def build_store(loaded: Iterable[Loaded | Unreadable], folder: Path, size: int) -> Store:
    """Write what `loaded` yields to `folder`; identical bytes are kept once, unreadable inputs are counted.

    Raises:
        CannotWrite: where the disk is full or the folder cannot be written.
    """
    kept: list[Kept] = []
    skipped: Counter[str] = Counter()
    try:
        with (folder / _VIEWS).open("wb") as file:
            for entry, views in _distinct(loaded, skipped):
                file.write(views.tobytes())
                kept.append(entry)
        index = {"kept": to_json(kept), "skipped": dict(skipped), "size": size}
        part = folder / f"{_INDEX}.part"
        part.write_bytes(canonical_json(index))
        part.replace(folder / _INDEX)
    except OSError as error:
        raise CannotWrite(str(folder), error.strerror or str(error)) from None
    return open_store(folder)


def _distinct(loaded: Iterable[Loaded | Unreadable], skipped: Counter[str]) -> Iterator[tuple[Kept, NDArray[np.uint8]]]:
    seen: set[str] = set()
    place = 0
    for item in loaded:
        if isinstance(item, Unreadable):
            skipped[item.code] += 1
        elif item.facts.sha256 in seen:
            skipped["duplicate"] += 1
        else:
            seen.add(item.facts.sha256)
            entry = Kept(item.path, item.facts, perceptual_hash(item.views[0]), place, len(item.views))
            place += len(item.views)
            yield entry, item.views


def has_store(folder: Path) -> bool:
    """Whether `folder` holds a whole store."""
    return (folder / _INDEX).is_file()


def open_store(folder: Path) -> Store:
    """The store in `folder`, its views memory-mapped."""
    index: dict[str, Any] = json.loads((folder / _INDEX).read_bytes())
    size = int(index["size"])
    path = folder / _VIEWS
    total = path.stat().st_size // (size * size * 3)
    shape = (total, size, size, 3)
    views: NDArray[np.uint8] = np.memmap(path, np.uint8, "r", shape=shape) if total else np.zeros(shape, np.uint8)
    kept = tuple(from_json(Kept, entry) for entry in index["kept"])
    return Store(kept, dict(index["skipped"]), views)
