"""The uint8 store of a fit: every view of every usable real, read once, on disk, memory-mapped.

One file of raw views per branch and one JSON index, which is written last: without it, the store is incomplete. The
index holds the digest of each file, and its own.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muflow_cli.canonical import canonical_json, from_json, to_json
from muflow_cli.fit.parts import Part, check_part, read_sealed, write_sealed
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.loader import Loaded
from muflow_cli.images.near import near_hash
from muflow_cli.records import Facts, Origin, Unreadable

_INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One usable image in the index.

    Attributes:
        path: as given.
        facts: of its bytes.
        near_hash: perceptual hash of its first view.
        first: branch -> row of its first view in the branch's file.
        views: branch -> number of its views.
        source: where it comes from; the first by name where several sources hold the same bytes.
        clip: content hash of the clip that it is a frame of; empty for an image.
    """

    path: str
    facts: Facts
    near_hash: int
    first: dict[str, int]
    views: dict[str, int]
    source: str = ""
    clip: str = ""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that can be scored: its facts and its views of each branch."""

    facts: Facts
    views: dict[str, NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Store:
    """Usable images and their views.

    Attributes:
        entries: one per distinct image, in the order of the inputs.
        skipped: reason -> number of inputs.
        declared_synthetic: paths of the inputs that were skipped because they declare themselves synthetic.
        views: branch -> (total views, size, size, 3) uint8, memory-mapped.
    """

    entries: tuple[Entry, ...]
    skipped: dict[str, int]
    declared_synthetic: tuple[str, ...]
    views: dict[str, NDArray[np.uint8]]

    def image(self, index: int) -> StoredImage:
        """The image at `index`."""
        entry = self.entries[index]
        own = {name: v[entry.first[name] : entry.first[name] + entry.views[name]] for name, v in self.views.items()}
        return StoredImage(entry.facts, own)

    def rows(self, branch: str, indices: Iterable[int]) -> list[int]:
        """Rows of all views of the images at `indices` for one branch."""
        entries = (self.entries[index] for index in indices)
        return [row for e in entries for row in range(e.first[branch], e.first[branch] + e.views[branch])]


def build_store(
    loaded: Iterable[Loaded | LoadedClip | Unreadable],
    folder: Path,
    sizes: Mapping[str, int],
    *,
    allow_declared: bool = False,
    sources: Mapping[str, str] | None = None,
) -> Store:
    """Write the images of `loaded` to `folder`; identical bytes are stored once, unreadable inputs are counted.

    Each frame of a clip is an image; the first one has the content hash of the clip, by which it is known again.

    Args:
        loaded: images and clips with the views of every branch.
        folder: exists.
        sizes: branch -> side of its views, pixels.
        allow_declared: also store images that declare themselves synthetic.
        sources: path of an input -> its source.

    Raises:
        CannotWrite: if the disk is full or the folder cannot be written.
    """
    entries: list[Entry] = []
    skipped: Counter[str] = Counter()
    declared: list[str] = []
    rows = dict.fromkeys(sizes, 0)
    known: dict[str, int] = {}
    source_of = sources or {}
    with ExitStack() as stack:
        files = {name: stack.enter_context(closing(Part(_views_path(folder, name)))) for name in sizes}
        for item in loaded:
            if isinstance(item, Unreadable):
                skipped[item.code] += 1
            elif item.facts.sha256 in known:
                skipped["duplicate"] += 1
                first = entries[known[item.facts.sha256]]
                source = min(first.source, source_of.get(item.path, first.source))
                entries[known[item.facts.sha256]] = replace(first, source=source)
            elif item.declared.origin is Origin.SYNTHETIC and not allow_declared:
                skipped["declared_synthetic"] += 1
                declared.append(item.path)
            else:
                known[item.facts.sha256] = len(entries)
                clip = item.facts.sha256 if isinstance(item, LoadedClip) else ""
                for image in _images(item):
                    counts = {name: len(views) for name, views in image.views.items()}
                    source = source_of.get(item.path, "")
                    entries.append(
                        Entry(item.path, image.facts, near_hash(image.views), dict(rows), counts, source, clip)
                    )
                    for name, views in image.views.items():
                        files[name].write(views)
                        rows[name] += len(views)
        stored = {
            name: {"side": side, "rows": rows[name], "sha256": files[name].finish()} for name, side in sizes.items()
        }
    index = {"entries": to_json(entries), "skipped": dict(skipped), "declared": declared, "views": stored}
    write_sealed(folder / _INDEX, canonical_json(index))
    return _mapped(folder, index)


def _images(item: Loaded | LoadedClip) -> list[StoredImage]:
    """What is stored of an input: the image, or each frame of a clip; of faces, those of the track with most frames."""
    if isinstance(item, Loaded):
        return [StoredImage(item.facts, dict(item.views))]
    frames = [frame for frame in item.frames if frame.track == 0]
    return [
        StoredImage(replace(frame.facts, sha256=_frame_digest(frame.facts.sha256, number)), dict(frame.views))
        for number, frame in enumerate(frames)
    ]


def _frame_digest(clip: str, number: int) -> str:
    """What stands for the content hash of a frame: that of its clip for the first, others derived from it."""
    return hashlib.sha256(f"{clip} {number}".encode()).hexdigest() if number else clip


def _views_path(folder: Path, branch: str) -> Path:
    return folder / f"views.{branch}.u8"


def has_store(folder: Path) -> bool:
    """Whether `folder` holds a complete store."""
    return (folder / _INDEX).is_file()


def open_store(folder: Path) -> Store:
    """The store in `folder`, its views memory-mapped.

    Raises:
        UnfinishedFit: if a byte of its index or of its views has changed.
    """
    index = json.loads(read_sealed(folder / _INDEX))
    for name, stored in index["views"].items():
        check_part(_views_path(folder, name), stored["sha256"])
    return _mapped(folder, index)


def _mapped(folder: Path, index: Mapping[str, Any]) -> Store:
    views: dict[str, NDArray[np.uint8]] = {}
    for name, stored in index["views"].items():
        shape = (stored["rows"], stored["side"], stored["side"], 3)
        path = _views_path(folder, name)
        views[name] = np.memmap(path, np.uint8, "r", shape=shape) if shape[0] else np.zeros(shape, np.uint8)
    entries = tuple(from_json(Entry, entry) for entry in index["entries"])
    return Store(entries, dict(index["skipped"]), tuple(index["declared"]), views)
