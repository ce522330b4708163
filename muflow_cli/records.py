"""What comes back: enums and frozen records that every writer understands.

Paths are `str` as Python decodes file names (surrogateescape), so that a name which is not UTF-8 survives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What a rule says of one unit."""

    FLAGGED = "flagged"
    NOT_FLAGGED = "not_flagged"
    INCONCLUSIVE = "inconclusive"
    NO_FACE = "no_face"


class Side(StrEnum):
    """On which side of the calibration reals a score lies."""

    HIGH = "high"
    LOW = "low"


class CalibrationMatch(StrEnum):
    """Which calibration reals an image was compared with.

    `matched`: those meant for it, all of them or its own stratum. `fallback`: all of them, since its stratum has too
    few. `extrapolated`: all of them, since none is in its stratum.
    """

    MATCHED = "matched"
    FALLBACK = "fallback"
    EXTRAPOLATED = "extrapolated"


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What was read of one file, whatever its score: the custody part of a result.

    Attributes:
        sha256: of the bytes that were decoded (one read for both), lower-case hexadecimal.
        bytes: length of those bytes.
        format: container as Pillow names it ("JPEG", "PNG", ...).
        width: in pixels as stored, before EXIF orientation.
        height: in pixels as stored, before EXIF orientation.
        jpeg_quality: estimated from the quantisation tables, 1..100; None where it is not a JPEG.
        sharpness: standard deviation of the Laplacian of the first view, in grey levels.
        damaged: whether the coded data is damaged or cut, and the image was scored all the same.
        missing: share of a damaged image that is missing, 0..1; None where nothing is missing or it cannot be told.
    """

    sha256: str
    bytes: int
    format: str
    width: int
    height: int
    jpeg_quality: int | None = None
    sharpness: float | None = None
    damaged: bool = False
    missing: float | None = None


Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """A face in an image, in pixels of the upright image, after EXIF orientation; x grows to the right, y downwards.

    Attributes:
        box: left, top, right, bottom; it may reach beyond the image.
        landmarks: the eye on the image's left, the eye on its right, the tip of the nose, the corners of the mouth on
            the image's left and right.
        confidence: of the detector, 0..1.
    """

    box: tuple[float, float, float, float]
    landmarks: tuple[Point, Point, Point, Point, Point]
    confidence: float

    @property
    def side(self) -> float:
        """Length of the box's shorter side, pixels."""
        left, top, right, bottom = self.box
        return min(right - left, bottom - top)


class Origin(StrEnum):
    """What a file says of its own origin, the strongest claim first; `none` means that it says nothing."""

    SYNTHETIC = "synthetic"
    EDITED = "edited"
    CAMERA = "camera"
    NONE = "none"


class Trust(StrEnum):
    """What backs a mark.

    `unsigned`: nothing; anybody can write or remove it. `not_verified`: it is signed, but the signature was not
    checked. `invalid`: the signature does not fit the file. `untrusted`: the signature fits, but no list of trusted
    certificates vouches for its signer. `valid`: the signature fits and its signer is on the list.
    """

    UNSIGNED = "unsigned"
    NOT_VERIFIED = "not_verified"
    INVALID = "invalid"
    UNTRUSTED = "untrusted"
    VALID = "valid"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One thing that a file says of its own origin.

    Attributes:
        kind: a row of MARKS ("c2pa", "a1111", "exif", ...).
        claim: the origin that it claims; none where it is a remark.
        detail: what it says, by name ("model", "seed", "software", ...); values are at most 200 printable characters.
        trust: what backs it.
    """

    kind: str
    claim: Origin
    detail: Mapping[str, str]
    trust: Trust = Trust.UNSIGNED


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """What a file says of its own origin, true or not; no score or p-value depends on it.

    Attributes:
        origin: the strongest claim of its marks (synthetic, then edited, then camera). None is no evidence of anything:
            a mark is easily removed.
        marks: in the order of MARKS.
    """

    origin: Origin = Origin.NONE
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a calibration says of one image.

    Attributes:
        p_value: share of calibration reals at least as extreme, (1 + #) / (n + 1), in (0, 1].
        verdict: by the rule, or by q-values where a false discovery rate was given.
        tail: the side of the reals on which the image lies: high (unlike the reals) or low (more typical than they).
        calibration: which reals it was compared with.
        stratum: the stratum whose own rule decided; None where all reals did.
        atypical_input: names of the facts outside the calibration images' range, sorted.
        heaviest: the column that weighs most in the verdict; None for rules that do not look at single columns.
        q_value: Benjamini-Hochberg over this run, where a false discovery rate was given, of the adaptive p-values if
            there are any, else of the p-values.
        adaptive_p_value: in (0, 1], by a score learned between calibration reals and this batch, in an adaptive run.
    """

    p_value: float
    verdict: Verdict
    tail: Side
    calibration: CalibrationMatch = CalibrationMatch.MATCHED
    stratum: str | None = None
    atypical_input: tuple[str, ...] = ()
    heaviest: str | None = None
    q_value: float | None = None
    adaptive_p_value: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One image with its verdict.

    Attributes:
        path: as found.
        facts: custody facts of the bytes that were scored.
        score: mean of the columns, nats per dimension; higher = less like the reals fitted.
        column_scores: (S,) one score per column of the detector, nats per dimension.
        judgement: verdict and p-value.
        declared: what the file says of its own origin; nothing above depends on it.
        duplicate_of: path of the first input with the same bytes in this run.
        group: folder, archive or entry of a list with which it was judged, in a run by groups.
    """

    path: str
    facts: Facts
    score: float
    column_scores: tuple[float, ...]
    judgement: Judgement
    declared: Declared = Declared()
    duplicate_of: str | None = None
    group: str | None = None

    @property
    def flagged(self) -> bool:
        """Whether the verdict is `flagged`."""
        return self.judgement.verdict is Verdict.FLAGGED


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """One input that could not be scored.

    Attributes:
        path: as found.
        code: a stable word for programs ("truncated", "not_an_image", "empty", "too_large", ...).
        message: one sentence for people.
        sha256: of the bytes, where they were read. They are not where a file is larger than allowed, or large and no
            image by its first bytes (`inputs.HASHED_BYTES`).
        bytes: their number, where it is known.
        declared: what the file says of its own origin, where its bytes were read.
    """

    path: str
    code: str
    message: str
    sha256: str | None = None
    bytes: int | None = None
    declared: Declared = Declared()


Result = Scored | Unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """The head of a run: what measured, on which machine, when (UTC, ISO 8601).

    Attributes:
        options: those that decide what becomes of an input, by their names; None where an earlier muflow did not record
            them, and for runs without such options.
    """

    tool: str
    version: str
    argv: tuple[str, ...]
    started: str
    device: str
    precision: str
    versions: Mapping[str, str]
    finished: str | None = None
    options: Mapping[str, int | float | str | bool | None] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorInfo:
    """The detector as a report names it.

    Attributes:
        path: of the bundle, as given.
        fingerprint: of the detector.
        calibration_fingerprint: of scores and rule.
        encoder: of every branch, joined with "+".
        rule: method of the rule.
        alpha: nominal false-positive rate.
        tail: which side the rule flags, "upper" or "both".
        columns: (S,) names of the scores, `branch/layer`.
        calibration_images: number of calibration reals.
        smallest_p_value: that this rule can give with that many reals.
        file_sha256: of the bundle as it was read, as `sha256sum` prints it; None for a detector made in memory.
    """

    path: str
    fingerprint: str
    calibration_fingerprint: str
    encoder: str
    rule: str
    alpha: float
    tail: str
    columns: tuple[str, ...]
    calibration_images: int
    smallest_p_value: float
    file_sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageGroup:
    """The images of one folder, archive or entry of a list, compared with the calibration reals together.

    That a group is unlike the calibration does not make it synthetic: reals of another origin are unlike it too.

    Attributes:
        name: of the folder, archive or entry.
        images: photographs that were scored; copies and near copies count once.
        flagged: how many of them are flagged.
        p_value: of a permutation test that the group is like the calibration reals, in (0, 1]; None with one image.
        q_value: Benjamini-Hochberg over the groups of this run.
        unlike_calibration: whether the q-value is at most the run's false discovery rate, or else the rule's alpha.
        tail: the side of the calibration's median score on which the group's mean score lies.
        atypical: share of its images with a fact outside the calibration's ranges, 0..1.
    """

    name: str
    images: int
    flagged: int
    p_value: float | None
    q_value: float | None
    unlike_calibration: bool
    tail: Side
    atypical: float

    @property
    def share_flagged(self) -> float:
        """Share of its images that are flagged, 0..1."""
        return self.flagged / self.images


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptiveInfo:
    """How the adaptive p-values of a run came about.

    Attributes:
        learner: the classifier that was chosen, without labels, among those offered.
        training: calibration reals that it learned from.
        nulls: calibration reals that the images were ranked among; no adaptive p-value is below 1 / (nulls + 1).
        fewest_flagged: photographs that can be flagged at this rate, if any is: at least so many stand out together.
        atypical: share of the photographs with a fact outside the calibration's ranges, 0..1.
    """

    learner: str
    training: int
    nulls: int
    fewest_flagged: int
    atypical: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The end of a run. `inputs` = scored + unreadable; `duplicates` are among the scored.

    `damaged` counts the scored images whose coded data is damaged: slightly, or with `--damaged score`.
    `declared_by_origin` counts the inputs, unreadable ones too, whose files name an origin.

    Attributes:
        head_sha256: over what stands before and beside the results: schema, run and detector.
        results_sha256: over all results, in order.
        report_sha256: over this summary, and so over the whole report, since the two digests above are part of it.
    """

    inputs: int
    scored: int
    flagged: int
    unreadable: int
    duplicates: int
    seconds: float
    images_per_second: float
    inconclusive: int = 0
    damaged: int = 0
    unreadable_by_code: Mapping[str, int] = field(default_factory=dict)
    flagged_by_tail: Mapping[str, int] = field(default_factory=dict)
    declared_by_origin: Mapping[str, int] = field(default_factory=dict)
    fdr: float | None = None
    adaptive: AdaptiveInfo | None = None
    groups: tuple[ImageGroup, ...] = ()
    interrupted: bool = False
    results_sha256: str | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    bottleneck: str | None = None
    head_sha256: str | None = None
    report_sha256: str | None = None

    @property
    def ranked_groups(self) -> tuple[ImageGroup, ...]:
        """The groups, the most unlike the calibration first, those without a p-value last."""
        return tuple(sorted(self.groups, key=lambda group: (group.p_value is None, group.p_value or 0, group.name)))
