"""What an ablation fits to and what it scores, each picture encoded once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from muflow_cli.bench.data import Picture
from muflow_cli.bench.scoring import Scoring
from muflow_cli.engine.features import Space, fit_space
from muflow_cli.errors import TooFewPictures
from muflow_cli.fit.cache import chunks, encode, project
from muflow_cli.fit.work import Work
from muflow_cli.fit.workflow import pictures_needed
from muflow_cli.pictures.find import find
from muflow_cli.pictures.pool import Loaded, load
from muflow_cli.pictures.split import near_duplicate_groups, split
from muflow_cli.pictures.store import Store, build_store
from muflow_cli.records import Unreadable
from muflow_cli.watch import Watch


@dataclass(frozen=True, slots=True)
class Encoded:
    """Features of pictures, view by view.

    Attributes:
        features: per scale (views, D, g, g).
        starts: (B + 1,) where each picture's views begin.
        pictures: (B,) the benchmark's pictures; empty for calibration reals.
        views: (views, size, size, 3) uint8, memory-mapped.
    """

    features: Sequence[Tensor]
    starts: Sequence[int]
    pictures: Sequence[Picture]
    views: NDArray[np.uint8]

    def per_picture(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B, S) means over each picture's views of (views, S) rows."""
        return np.stack([rows[a:b].mean(axis=0) for a, b in pairwise(self.starts)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """Reals to fit to.

    Attributes:
        spaces: per scale, of the training reals.
        features: per scale, of the training reals.
        held_out: per scale, of those that decide when to stop.
        calibration: of those that the rules are made from.
        views: the store's.
        first_places: first view of each training real, for averages.
        train: pictures.
        validation: pictures.
        left_out: pictures that the benchmark scores, and that were therefore not fitted to.
    """

    spaces: Sequence[Space]
    features: Sequence[Tensor]
    held_out: Sequence[Tensor]
    calibration: Encoded
    views: NDArray[np.uint8]
    first_places: Sequence[int]
    train: int
    validation: int
    left_out: int


def encode_fit(reals: Sequence[str], scoring: Scoring, tested: Collection[str], folder: Path, watch: Watch) -> Fitted:
    """Reals of `reals` as the detector's `fit` would take them, less those whose content is among `tested`.

    Raises:
        TooFewPictures: where too few are left.
    """
    spec = scoring.detector.spec
    left_out = [0]
    store = _store(_others(_loaded(reals, scoring, watch), tested, left_out), folder, spec.view.size)
    needed, why = pictures_needed(spec)
    if len(store.kept) < needed:
        raise TooFewPictures("--fit-on", len(store.kept), needed, why)
    groups = near_duplicate_groups([entry.near_hash for entry in store.kept])
    parts = split([entry.facts.sha256 for entry in store.kept], groups, spec.train)
    train_places, held_out = store.places(parts.train), store.places(parts.validation)
    fit_places = train_places + held_out
    pooled = encode(scoring.scorer.extractor, store.views, fit_places, Work(folder), watch)
    cut = len(train_places)
    spaces = [fit_space(chunks(map_[:cut]), spec.feature) for map_ in pooled]
    features = _projected(pooled, spaces, scoring, folder)
    calibration = _encoded(store, list(parts.calibration), scoring, spaces, folder / "calibration", watch)
    return Fitted(
        spaces=spaces,
        features=[scale[:cut] for scale in features],
        held_out=[scale[cut:] for scale in features],
        calibration=calibration,
        views=store.views,
        first_places=[store.kept[i].first for i in parts.train],
        train=len(parts.train),
        validation=len(parts.validation),
        left_out=left_out[0],
    )


def encode_pictures(
    pictures: Sequence[Picture], scoring: Scoring, spaces: Sequence[Space], folder: Path, watch: Watch
) -> Encoded:
    """The benchmark's pictures in the fitted spaces; those that cannot be decoded are missing."""
    watch.stage("read for ablation", len(pictures))
    sources = [picture.sample.input for picture in pictures]
    store = _store(load(sources, scoring.load_spec()), folder, scoring.detector.spec.view.size)
    encoded = _encoded(store, list(range(len(store.kept))), scoring, spaces, folder, watch)
    by_path = {picture.sample.path: picture for picture in pictures}
    return Encoded(encoded.features, encoded.starts, [by_path[entry.path] for entry in store.kept], encoded.views)


def _loaded(reals: Sequence[str], scoring: Scoring, watch: Watch) -> Iterator[Loaded | Unreadable]:
    watch.stage("read --fit-on", None)
    spec = scoring.load_spec(crops_seed=scoring.detector.spec.train.seed)
    for item in load(find(reals, spec.inputs), spec):
        watch.advance()
        yield item


def _others(
    loaded: Iterable[Loaded | Unreadable], tested: Collection[str], left_out: list[int]
) -> Iterator[Loaded | Unreadable]:
    for item in loaded:
        if isinstance(item, Loaded) and item.facts.sha256 in tested:
            left_out[0] += 1
        else:
            yield item


def _store(loaded: Iterable[Loaded | Unreadable], folder: Path, size: int) -> Store:
    folder.mkdir(parents=True)
    return build_store(loaded, folder, size)


def _encoded(
    store: Store, indices: Sequence[int], scoring: Scoring, spaces: Sequence[Space], folder: Path, watch: Watch
) -> Encoded:
    folder.mkdir(exist_ok=True)
    places = store.places(indices)
    pooled = encode(scoring.scorer.extractor, store.views, places, Work(folder), watch)
    starts = np.cumsum([0] + [store.kept[i].views for i in indices]).tolist()
    return Encoded(_projected(pooled, spaces, scoring, folder), starts, (), store.views)


def _projected(
    pooled: Sequence[NDArray[np.generic]], spaces: Sequence[Space], scoring: Scoring, folder: Path
) -> list[Tensor]:
    feature = scoring.detector.spec.feature
    return [
        project(map_, space, feature, folder / f"vectors.{scale}")
        for scale, (map_, space) in enumerate(zip(pooled, spaces, strict=True))
    ]
