"""Which images a benchmark scores: each content once, none that the detector knows, a limited number per group."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from muflow_cli.bench.datasets import Dataset, Sample
from muflow_cli.bench.manifest import Label
from muflow_cli.detector import Detector
from muflow_cli.errors import BadData, BadScores
from muflow_cli.images.error import ImageError
from muflow_cli.images.inputs import unreadable
from muflow_cli.images.near import unpacked
from muflow_cli.images.read import read_input
from muflow_cli.records import Unreadable
from muflow_cli.run_records import SkippedFiles


class OverlapPolicy(StrEnum):
    """What happens to images that the detector was fitted or calibrated on."""

    REFUSE = "refuse"
    DROP = "drop"
    ALLOW = "allow"


# How a detector knows an image, and what completes "images that ...".
KNOWN: Final[Mapping[str, str]] = {
    "fitted": "it was fitted on",
    "calibrated": "it was calibrated on",
    "near_fitted": "are near copies of those it was fitted on",
    "near_calibrated": "are near copies of those it was calibrated on",
}


@dataclass(frozen=True, slots=True)
class Known:
    """Content hashes of the images that a detector has seen, and perceptual hashes by which near copies are recognised.

    Attributes:
        fitted: trained on, used to decide when to stop, or adapted to.
        calibrated: held-out reals that the rule was fitted to.
        fitted_near: perceptual hashes of those fitted; empty for bundles of earlier versions.
        calibrated_near: perceptual hashes of those calibrated; likewise.
    """

    fitted: frozenset[str] = frozenset()
    calibrated: frozenset[str] = frozenset()
    fitted_near: tuple[int, ...] = ()
    calibrated_near: tuple[int, ...] = ()

    def how(self, sha256: str) -> str:
        """`fitted`, `calibrated`, or empty."""
        return "fitted" if sha256 in self.fitted else "calibrated" if sha256 in self.calibrated else ""


def known_to(detector: Detector) -> Known:
    """The images that `detector` has seen."""
    calibrated = detector.calibration.near_hashes
    fitted = [rows for rows in (detector.fitted_on, detector.adapted_to) if rows is not None]
    near = [rows for rows in (detector.fitted_near, detector.adapted_near) if rows is not None]
    return Known(
        frozenset(bytes(row).hex() for rows in fitted for row in rows),
        frozenset(facts.sha256 for facts in detector.calibration.facts),
        tuple(own for rows in near for own in unpacked(rows)),
        () if calibrated is None else tuple(unpacked(calibrated)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectSpec:
    """How images are chosen.

    Attributes:
        overlap: what happens to images that the detector knows.
        limit: most images per label and group, drawn by seed and content; 0 = all.
        seed: of that draw.
        max_bytes: a larger file is left out and reported.
    """

    overlap: OverlapPolicy = OverlapPolicy.REFUSE
    limit: int = 0
    seed: int = 0
    max_bytes: int = 256 * 2**20


@dataclass(frozen=True, slots=True)
class HashedSample:
    """A sample and the SHA-256 of its bytes."""

    sample: Sample
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What is scored, and what was left out.

    Attributes:
        images: each content once, in the data's order.
        unreadable: files whose bytes could not be read.
        duplicates: samples with the bytes of an earlier one.
        near_copies: images that show the same as another one with their label; known once all are decoded.
        overlap: group -> how the detector knows them (a key of KNOWN) -> number of images, scored or dropped as the
            policy says.
        limited: images beyond the limit per group.
        skipped: what folders and archives held that was not read.
    """

    images: tuple[HashedSample, ...]
    unreadable: tuple[Unreadable, ...] = ()
    duplicates: int = 0
    near_copies: int = 0
    overlap: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    limited: int = 0
    skipped: tuple[SkippedFiles, ...] = ()


def select(dataset: Dataset, known: Known, spec: SelectSpec) -> Selection:
    """The images of `dataset` that are scored; every file is read once for its hash.

    Raises:
        BadData: where images that the detector knows are refused, or one content is both real and fake.
        BadScores: where no real or no fake is left.
    """
    read: list[HashedSample] = []
    failed: list[Unreadable] = []
    for sample in dataset.samples:
        try:
            sha256 = hashlib.sha256(read_input(sample.input, spec.max_bytes)).hexdigest()
            read.append(HashedSample(sample, sha256))
        except ImageError as error:
            failed.append(unreadable(sample.path, error))
    distinct = _distinct(read)
    overlap = _overlap(distinct, known)
    if overlap and spec.overlap is OverlapPolicy.REFUSE:
        raise known_images(overlap)
    usable = [image for image in distinct if spec.overlap is not OverlapPolicy.DROP or not known.how(image.sha256)]
    limited = _limited(usable, spec.limit, spec.seed)
    fakes = sum(image.sample.label is Label.FAKE for image in limited)
    if not 0 < fakes < len(limited):
        raise BadScores("a benchmark", len(limited) - fakes, fakes)
    return Selection(
        images=tuple(limited),
        unreadable=(*dataset.unreadable, *failed),
        duplicates=len(read) - len(distinct),
        overlap=_overlap(limited, known) if spec.overlap is OverlapPolicy.ALLOW else overlap,
        limited=len(usable) - len(limited),
        skipped=dataset.skipped,
    )


def check_kinds(reals: int, fakes: int, failed: Iterable[Unreadable]) -> None:
    """Refuse images of which no real or no fake one was decoded.

    Args:
        reals: number of those that were.
        fakes: likewise.
        failed: records of the others.

    Raises:
        BadData: where such images show no face.
        BadScores: otherwise.
    """
    if reals and fakes:
        return
    without = sum(record.code == "no_face" for record in failed)
    if not without:
        raise BadScores("a benchmark", reals, fakes)
    images = "1 image shows" if without == 1 else f"{without} images show"
    raise BadData(
        f"no image of one kind is left, since {images} no face that is large enough",
        "give photographs of faces, or a detector that scores whole images",
    )


def known_images(overlap: Mapping[str, Mapping[str, int]]) -> BadData:
    """The error for data with images that the detector knows."""
    counted = ", ".join(
        f"{count} of {group} that {KNOWN[how]}" for group, counts in overlap.items() for how, count in counts.items()
    )
    return BadData(
        f"the detector knows images of this data ({counted}), which flatters it",
        "test on other images, leave these out with --overlap drop, or keep them with --overlap allow",
    )


def _distinct(images: Iterable[HashedSample]) -> list[HashedSample]:
    first: dict[str, HashedSample] = {}
    for image in images:
        same = first.setdefault(image.sha256, image).sample
        if same.label is not image.sample.label:
            raise BadData(
                f"{same.path} ({same.label}) and {image.sample.path} ({image.sample.label}) hold the same bytes",
                "give this image one label",
            )
    return list(first.values())


def _overlap(images: Iterable[HashedSample], known: Known) -> dict[str, dict[str, int]]:
    groups: dict[str, Counter[str]] = {}
    for image in images:
        if how := known.how(image.sha256):
            groups.setdefault(image.sample.group, Counter())[how] += 1
    return {group: dict(sorted(counts.items())) for group, counts in groups.items()}


def _limited(images: list[HashedSample], limit: int, seed: int) -> list[HashedSample]:
    if not limit:
        return images

    def draw(image: HashedSample) -> str:
        # By content, so that neither names nor the order of folders decide what is drawn.
        return hashlib.sha256(f"{seed} {image.sha256}".encode()).hexdigest()

    groups: dict[tuple[Label, str], list[HashedSample]] = {}
    for image in images:
        groups.setdefault((image.sample.label, image.sample.group), []).append(image)
    drawn = {image.sha256 for members in groups.values() for image in sorted(members, key=draw)[:limit]}
    return [image for image in images if image.sha256 in drawn]
