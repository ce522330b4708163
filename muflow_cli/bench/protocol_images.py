"""The images of a benchmark by protocol: read and encoded once, and which of them are measured or fitted to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from muflow_cli.bench.data import HashedSample, Selection, check_kinds
from muflow_cli.bench.datasets import Dataset, Sample
from muflow_cli.bench.folds import Pool
from muflow_cli.bench.manifest import Label
from muflow_cli.bench.refit import Encoded, Template, store_images
from muflow_cli.bench.scores import Row
from muflow_cli.bench.scoring import Scoring
from muflow_cli.errors import BadData
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded
from muflow_cli.images.near import distinct, near_duplicate_groups
from muflow_cli.progress import ProgressListener
from muflow_cli.records import Origin, Unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolImages:
    """All images, read once and, in time, encoded once.

    Attributes:
        reals: with the views of a fit.
        scanned: reals with the views of a scan.
        stored_fakes: fakes with the views of a scan.
        pool: all reals, by content hash.
        fakes: content hashes of the fakes that count, ascending.
        samples: content hash -> real or fake that can be measured.
        rows: of the images that count, without scores.
        selection: of these images.
    """

    reals: Encoded
    scanned: Encoded
    stored_fakes: Encoded
    pool: Pool
    fakes: Sequence[str]
    samples: Mapping[str, Sample]
    rows: Sequence[Row]
    selection: Selection

    @property
    def sources(self) -> list[str]:
        """Names of the real sources that are measured, in order."""
        return sorted({row.source for row in self.rows if not row.fake})

    @property
    def generators(self) -> list[str]:
        """Of each fake."""
        return [self.samples[sha256].group for sha256 in self.fakes]

    @property
    def failed(self) -> list[Unreadable]:
        """Images that could not be decoded."""
        return [*self.reals.unreadable, *self.stored_fakes.unreadable]

    def encode(self, template: Template, progress: ProgressListener) -> ProtocolImages:
        """The same images, encoded once."""
        reals = self.reals.encode(template, progress)
        scanned = self.scanned.encode(template, progress) if template.sees_crops else reals
        return replace(self, reals=reals, scanned=scanned, stored_fakes=self.stored_fakes.encode(template, progress))

    def fit_only(self) -> dict[str, int]:
        """Real source -> usable images that are given for fits alone."""
        given = Counter(
            source
            for sha256, source, usable in zip(self.pool.digests, self.pool.sources, self.pool.usable, strict=True)
            if usable and sha256 not in self.samples
        )
        return dict(sorted(given.items()))

    def left_out(self) -> dict[str, int]:
        """Reason -> number of reals that no fit may use."""
        reasons = Counter(self.reals.store.skipped)
        reasons["declared_synthetic"] += int((~self.pool.usable).sum())
        return {reason: count for reason, count in sorted(reasons.items()) if count}


def in_order(dataset: Dataset) -> Dataset:
    """The samples by label, source, group and path, so that the order of the arguments decides nothing."""
    ordered = sorted(dataset.samples, key=lambda s: (s.label, s.source, s.group, s.path))
    return replace(dataset, samples=tuple(ordered))


def read_images(
    selection: Selection,
    fit_on: Dataset,
    scoring: Scoring,
    template: Template,
    folder: Path,
    progress: ProgressListener,
) -> ProtocolImages:
    """Read everything once.

    Args:
        selection: the images to measure, each content once.
        fit_on: further reals, which are never measured.
        scoring: how images are read for the detector.
        template: the detector's settings.
        folder: for what is too large for memory.
        progress: told of the stages.

    Raises:
        BadData: where an image of `fit_on` is a fake of the selection, or no image of one kind shows a face.
        BadScores: where no real or no fake can be decoded.
    """
    scan = scoring.load_spec()
    samples = {image.sha256: image.sample for image in selection.images}
    reals, fakes = _inputs(selection.images, Label.REAL), _inputs(selection.images, Label.FAKE)

    def is_no_fake(item: Loaded) -> None:
        sample = samples.get(item.facts.sha256)
        if sample is not None and sample.label is Label.FAKE:
            raise BadData(f"{item.path} is given with --fit-on and holds the bytes of a fake", "give it one label")

    sources = {sample.path: sample.source for sample in fit_on.samples}
    sources |= {sample.path: sample.source for sample in samples.values()}
    further = [sample.input for sample in in_order(fit_on).samples]
    progress.stage("read real images", len(reals) + len(further))
    fit_views = replace(scan, crops_seed=scoring.detector.spec.train.seed) if template.sees_crops else scan
    encoded = store_images([*reals, *further], fit_views, folder / "reals", progress, is_no_fake, sources)
    scanned = encoded
    if template.sees_crops:
        progress.stage("read real images again", len(reals) + len(further))
        scanned = store_images([*reals, *further], scan, folder / "scanned", progress)
    progress.stage("read fakes", len(fakes))
    stored_fakes = store_images(fakes, scan, folder / "fakes", progress)
    return _counted(selection, _pool(encoded, sources, samples), (encoded, scanned, stored_fakes))


def _inputs(images: Sequence[HashedSample], label: Label) -> list[Input]:
    return [image.sample.input for image in images if image.sample.label is label]


def _counted(selection: Selection, pool: Pool, encoded: tuple[Encoded, Encoded, Encoded]) -> ProtocolImages:
    """The images of which one of each group of near copies counts."""
    reals, scanned, fakes = encoded
    samples = {image.sha256: image.sample for image in selection.images}
    measured = [sha256 for sha256, scored in zip(pool.digests, pool.measured, strict=True) if scored]
    single = distinct(fakes.digests, near_duplicate_groups(fakes.near_hashes))
    counted = sorted(fakes.digests[index] for index in single)
    check_kinds(len(measured), len(counted), [*reals.unreadable, *fakes.unreadable])
    contents = {*measured, *counted}
    decoded = sum(sha256 in samples for sha256 in (*pool.digests, *fakes.digests))
    return ProtocolImages(
        reals=reals,
        scanned=scanned,
        stored_fakes=fakes,
        pool=pool,
        fakes=counted,
        samples=samples,
        rows=[*unscored(measured, samples, scanned), *unscored(counted, samples, fakes)],
        selection=replace(
            selection,
            images=tuple(image for image in selection.images if image.sha256 in contents),
            near_copies=decoded - len(contents),
        ),
    )


def _pool(encoded: Encoded, sources: Mapping[str, str], samples: Mapping[str, Sample]) -> Pool:
    """All reals; of near copies that can be measured, the one with the smallest content hash is."""
    order = sorted(range(len(encoded.digests)), key=lambda index: encoded.digests[index])
    entries = [encoded.store.entries[index] for index in order]
    digests = [entry.facts.sha256 for entry in entries]
    groups = near_duplicate_groups([encoded.near_hashes[index] for index in order])
    candidates = [index for index, sha256 in enumerate(digests) if sha256 in samples]
    measured = np.zeros(len(order), dtype=np.bool_)
    single = distinct([digests[index] for index in candidates], groups[candidates])
    measured[[candidates[position] for position in single]] = True
    return Pool(
        digests=digests,
        sources=[sources[entry.path] for entry in entries],
        groups=groups,
        measured=measured,
        usable=np.array([encoded.declared[index].origin is not Origin.SYNTHETIC for index in order], dtype=np.bool_),
    )


def unscored(digests: Sequence[str], samples: Mapping[str, Sample], encoded: Encoded) -> Iterator[Row]:
    """Rows that say what is measured and what is known of it without a score."""
    for sha256 in digests:
        sample = samples[sha256]
        yield Row(
            path=sample.path,
            label=sample.label,
            group=sample.group,
            source=sample.source,
            score=0.0,
            sha256=sha256,
            facts=encoded.facts(sha256),
            declared=encoded.declared[encoded.at[sha256]],
        )
