"""What an ablation fits to and what it measures: each image encoded once, with the encoder of one branch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from muflow_cli.bench.data import HashedSample
from muflow_cli.bench.manifest import Label
from muflow_cli.bench.near import one_each
from muflow_cli.bench.scoring import Scoring
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.projection import Projection
from muflow_cli.errors import BadSpec, TooFewImages
from muflow_cli.fit.features import encode, project, projections_of
from muflow_cli.fit.split import images_needed, split
from muflow_cli.fit.store import Store, build_store
from muflow_cli.fit.work import Work
from muflow_cli.images.find import find
from muflow_cli.images.loader import Loaded, LoadSpec, load
from muflow_cli.images.near import near_duplicate_groups
from muflow_cli.progress import ProgressListener
from muflow_cli.records import Unreadable
from muflow_cli.specs import BranchSpec


class Subject:
    """The branch of a detector that is ablated.

    Args:
        scoring: the detector on its device.
        name: of the branch; None = the first.

    Attributes:
        scoring: as given.
        spec: of the branch.
        encoder: of the branch, on the device.

    Raises:
        BadSpec: where the detector has no branch of that name.
    """

    def __init__(self, scoring: Scoring, name: str | None) -> None:
        branches = scoring.detector.branches
        if name is not None and name not in branches:
            raise BadSpec("--branch", name, "one of " + ", ".join(branches))
        branch = branches[name or next(iter(branches))]
        self.scoring = scoring
        self.spec: BranchSpec = branch.spec
        self.encoder = PlacedEncoder(branch.encoder, scoring.placement)

    def load_spec(self, *, crops_seed: int | None) -> LoadSpec:
        """How images become views of this branch alone; with `crops_seed` as in a fit, otherwise as in a scan."""
        return replace(self.scoring.load_spec(), views={self.spec.name: self.spec.view}, crops_seed=crops_seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Features of B images, view by view.

    Attributes:
        features: per layer (views, D, g, g).
        starts: (B + 1,) row where each image's views begin.
        views: (views, size, size, 3) uint8, memory-mapped, of the whole store.
    """

    features: Sequence[Tensor]
    starts: Sequence[int]
    views: NDArray[np.uint8]

    def per_image(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B, S) means over each image's views of (views, S) rows."""
        return np.stack([rows[start:end].mean(axis=0) for start, end in pairwise(self.starts)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """Reals to fit to.

    Attributes:
        projections: per layer, fitted to the training reals.
        features: per layer, of the training reals.
        held_out: per layer, of the reals that decide when to stop.
        calibration: of the reals that the classifiers are fitted to.
        views: (views, size, size, 3) uint8, memory-mapped, of all of them.
        first_rows: row of the first view of each training real, for averages.
        validation: number of reals that decide when to stop.
        left_out: number of images that were not fitted to, because they are measured.
    """

    projections: Sequence[Projection]
    features: Sequence[Tensor]
    held_out: Sequence[Tensor]
    calibration: Encoded
    views: NDArray[np.uint8]
    first_rows: Sequence[int]
    validation: int
    left_out: int


def encode_fit(
    reals: Sequence[str], subject: Subject, measured: Collection[str], folder: Path, progress: ProgressListener
) -> Fitted:
    """Split, project and encode the real images in `reals` as the detector's fit would.

    Args:
        reals: files, folders, globs or archives.
        subject: the branch.
        measured: content hashes of the images that are measured, which are left out.
        folder: for what is too large for memory.
        progress: told of the stages.

    Raises:
        TooFewImages: where too few are left.
    """
    spec, name = subject.scoring.detector.spec, subject.spec.name
    left_out: list[str] = []
    progress.stage("read images to fit to", None)
    load_spec = subject.load_spec(crops_seed=spec.train.seed)

    def unmeasured() -> Iterator[Loaded | Unreadable]:
        for item in load(find(reals, load_spec.inputs), load_spec):
            progress.advance()
            if isinstance(item, Loaded) and item.facts.sha256 in measured:
                left_out.append(item.path)
            else:
                yield item

    store = _store(unmeasured(), folder, subject)
    needed, why = images_needed(replace(spec, branches=(subject.spec,)))
    if len(store.entries) < needed:
        raise TooFewImages("--fit-on", len(store.entries), needed, why)
    groups = near_duplicate_groups([entry.near_hash for entry in store.entries])
    parts = split([entry.facts.sha256 for entry in store.entries], groups, spec.train)
    train_rows, held_out_rows = store.rows(name, parts.train), store.rows(name, parts.validation)
    pooled = encode(subject.encoder, store.views[name], train_rows + held_out_rows, Work(folder), progress)
    trained_on = len(train_rows)
    projections = projections_of([map_[:trained_on] for map_ in pooled], subject.spec.feature)
    features = _projected(pooled, projections, subject, folder)
    return Fitted(
        projections=projections,
        features=[layer[:trained_on] for layer in features],
        held_out=[layer[trained_on:] for layer in features],
        calibration=_encoded(store, parts.calibration, subject, projections, folder / "calibration", progress),
        views=store.views[name],
        first_rows=[store.entries[index].first[name] for index in parts.train],
        validation=len(parts.validation),
        left_out=len(left_out),
    )


def encode_images(
    images: Sequence[HashedSample],
    subject: Subject,
    projections: Sequence[Projection],
    folder: Path,
    progress: ProgressListener,
) -> tuple[Encoded, list[HashedSample], list[Unreadable]]:
    """Features of the labelled images that can be decoded, these images, and records of the others.

    Of near copies with one label one counts, as in a benchmark; the others are left out.
    """
    progress.stage("read images to measure", len(images))
    unreadable: list[Unreadable] = []

    def counted() -> Iterator[Loaded | Unreadable]:
        for item in load([image.sample.input for image in images], subject.load_spec(crops_seed=None)):
            progress.advance()
            if isinstance(item, Unreadable):
                unreadable.append(item)
            yield item

    store = _store(counted(), folder, subject)
    by_path = {image.sample.path: image for image in images}
    stored = [by_path[entry.path] for entry in store.entries]
    groups = near_duplicate_groups([entry.near_hash for entry in store.entries])
    fakes = [image.sample.label is Label.FAKE for image in stored]
    kept = one_each([image.sha256 for image in stored], fakes, groups)
    encoded = _encoded(store, kept, subject, projections, folder, progress)
    return encoded, [stored[index] for index in kept], unreadable


def _store(loaded: Iterable[Loaded | Unreadable], folder: Path, subject: Subject) -> Store:
    folder.mkdir(parents=True)
    return build_store(loaded, folder, {subject.spec.name: subject.spec.view.size})


def _encoded(
    store: Store,
    indices: Sequence[int],
    subject: Subject,
    projections: Sequence[Projection],
    folder: Path,
    progress: ProgressListener,
) -> Encoded:
    folder.mkdir(exist_ok=True)
    name = subject.spec.name
    views = store.views[name]
    pooled = encode(subject.encoder, views, store.rows(name, indices), Work(folder), progress)
    starts = np.cumsum([0] + [store.entries[index].views[name] for index in indices]).tolist()
    return Encoded(features=_projected(pooled, projections, subject, folder), starts=starts, views=views)


def _projected(
    pooled: Sequence[NDArray[np.generic]], projections: Sequence[Projection], subject: Subject, folder: Path
) -> list[Tensor]:
    return [
        project(map_, projection, subject.spec.feature, folder / f"vectors.{layer}")
        for layer, (map_, projection) in enumerate(zip(pooled, projections, strict=True))
    ]
