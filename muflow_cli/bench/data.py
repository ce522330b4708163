"""Which pictures a benchmark scores: each content once, none that the detector knows, at most so many per group."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from muflow_cli.detector import Detector
from muflow_cli.errors import BadData, BadScores
from muflow_cli.pictures.datasets import Dataset, Sample
from muflow_cli.pictures.decode import PictureError
from muflow_cli.pictures.manifest import Label
from muflow_cli.pictures.sources import unreadable
from muflow_cli.records import Unreadable


class OverlapPolicy(StrEnum):
    """What is done with pictures that the detector was fitted or calibrated on."""

    REFUSE = "refuse"
    DROP = "drop"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Known:
    """Content hashes of what a detector has seen.

    Attributes:
        fitted: trained on, or used to decide when to stop.
        calibrated: held-out reals that the rule was made from.
    """

    fitted: frozenset[str] = frozenset()
    calibrated: frozenset[str] = frozenset()

    def how(self, sha256: str) -> str:
        """`fitted`, `calibrated`, or empty."""
        return "fitted" if sha256 in self.fitted else "calibrated" if sha256 in self.calibrated else ""


def known_to(detector: Detector) -> Known:
    """What `detector` has seen."""
    calibration = detector.calibration
    return Known(
        frozenset(bytes(row).hex() for row in detector.fitted_on),
        frozenset(facts.sha256 for facts in calibration.facts) if calibration else frozenset(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectSpec:
    """How pictures are chosen.

    Attributes:
        overlap: what is done with pictures that the detector knows.
        limit: at most so many per label and group, drawn by seed and content; 0 = all.
        seed: of that draw.
        max_bytes: a larger file is left out and reported.
    """

    overlap: OverlapPolicy = OverlapPolicy.REFUSE
    limit: int = 0
    seed: int = 0
    max_bytes: int = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Picture:
    """A sample and the SHA-256 of its bytes."""

    sample: Sample
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What is scored, and what was left out.

    Attributes:
        pictures: each content once, in the data's order.
        unreadable: files whose bytes could not be read.
        duplicates: samples with the bytes of an earlier one.
        overlap: group -> how the detector knows it -> pictures, those that are scored or those that were dropped.
        limited: pictures beyond the limit per group.
    """

    pictures: tuple[Picture, ...]
    unreadable: tuple[Unreadable, ...] = ()
    duplicates: int = 0
    overlap: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    limited: int = 0


def select(dataset: Dataset, known: Known, spec: SelectSpec) -> Selection:
    """The pictures of `dataset` that are scored; every file is read once for its hash.

    Raises:
        BadData: where overlap is refused and found, or one content is both real and fake.
        BadScores: where reals or fakes are missing in the end.
    """
    failed: list[Unreadable] = []
    read = list(_hashed(dataset.samples, spec.max_bytes, failed))
    distinct = _distinct(read)
    overlap = _overlap(distinct, known)
    if overlap and spec.overlap is OverlapPolicy.REFUSE:
        raise BadData(_refusal(overlap))
    kept = [p for p in distinct if spec.overlap is not OverlapPolicy.DROP or not known.how(p.sha256)]
    limited = _limited(kept, spec.limit, spec.seed)
    fakes = sum(picture.sample.label is Label.FAKE for picture in limited)
    if not 0 < fakes < len(limited):
        raise BadScores("a benchmark", len(limited) - fakes, fakes)
    return Selection(
        pictures=tuple(limited),
        unreadable=(*dataset.unreadable, *failed),
        duplicates=len(read) - len(distinct),
        overlap=_overlap(limited, known) if spec.overlap is OverlapPolicy.ALLOW else overlap,
        limited=len(kept) - len(limited),
    )


def _hashed(samples: Iterable[Sample], max_bytes: int, failed: list[Unreadable]) -> Iterator[Picture]:
    for sample in samples:
        try:
            yield Picture(sample, hashlib.sha256(sample.input.read(max_bytes)).hexdigest())
        except PictureError as error:
            failed.append(unreadable(sample.path, error))


def _distinct(pictures: Iterable[Picture]) -> list[Picture]:
    first: dict[str, Picture] = {}
    for picture in pictures:
        kept = first.setdefault(picture.sha256, picture)
        if kept.sample.label is not picture.sample.label:
            raise BadData(
                f"{kept.sample.path} ({kept.sample.label}) and {picture.sample.path} ({picture.sample.label}) hold the "
                "same bytes: decide for one label"
            )
    return list(first.values())


def _overlap(pictures: Iterable[Picture], known: Known) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for picture in pictures:
        if how := known.how(picture.sha256):
            found.setdefault(picture.sample.group, Counter())[how] += 1
    return {group: dict(sorted(counts.items())) for group, counts in found.items()}


def _refusal(overlap: Mapping[str, Mapping[str, int]]) -> str:
    words = {"fitted": "was fitted on", "calibrated": "was calibrated on"}
    parts = (
        f"{count} of {group} that it {words[how]}" for group, counts in overlap.items() for how, count in counts.items()
    )
    return (
        f"the detector knows pictures of this data ({', '.join(parts)}), which flatters it: test on others, leave them "
        "out with --drop-overlap, or keep them with --allow-overlap"
    )


def _limited(pictures: list[Picture], limit: int, seed: int) -> list[Picture]:
    if not limit:
        return pictures

    def draw(picture: Picture) -> str:
        # By content, so that neither names nor the order of folders decide who is drawn.
        return hashlib.sha256(f"{seed} {picture.sha256}".encode()).hexdigest()

    groups: dict[tuple[Label, str], list[Picture]] = {}
    for picture in pictures:
        groups.setdefault((picture.sample.label, picture.sample.group), []).append(picture)
    drawn = {p.sha256 for members in groups.values() for p in sorted(members, key=draw)[:limit]}
    return [picture for picture in pictures if picture.sha256 in drawn]
