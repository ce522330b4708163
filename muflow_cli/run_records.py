"""What comes back of a whole run: its head, its detector, its groups and its counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from muflow_cli.canonical import ADDED
from muflow_cli.records import CalibratedOn, Side


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """The head of a run: what measured, on which machine, when (UTC, ISO 8601).

    Attributes:
        options: those that decide what becomes of an input, by their names; None where an earlier muflow did not record
            them, and for runs without such options.
        case: number or name of the case that the run belongs to, as the user gave it; absent where none was given.
        examiner: who ran it, as the user gave it; absent where nobody was named.
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
    case: str | None = field(default=None, metadata=ADDED)
    examiner: str | None = field(default=None, metadata=ADDED)


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
        face_detector: what finds the faces that it scores; None where it scores whole images.
        calibrated_on: whether the calibration's rows are still images or clips.
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
    face_detector: str | None = None
    calibrated_on: CalibratedOn = CalibratedOn.STILLS


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
class Shift:
    """The images of a run, as a group, beside the calibration reals.

    That they are unlike these means that many of them are synthetic or that they come from other sources; a test cannot
    tell which.

    Attributes:
        images: that were compared: different files inside the calibration's ranges.
        alike: whether no test finds a difference that matters; if not, the stated rate does not hold for these images.
        p_value: that reals of the calibration's kind differ as much, in (0, 1]: the least of all tests, times their
            number (Bonferroni).
        share: of the images, those whose p-value is at most alpha, 0..1.
        share_at_least: lower bound of that rate, with 95 % confidence (Clopper-Pearson).
        rate_at_most: most that the rate of reals of the calibration's kind is, with 95 % confidence.
        distance: largest difference between the shares of images and of reals up to any score of a column, 0..1
            (Kolmogorov-Smirnov).
        column: where it is.
        stratum: of whose images `share` to `column` are, the one that stands out most; None = all of them.
    """

    images: int
    alike: bool
    p_value: float
    share: float
    share_at_least: float
    rate_at_most: float
    distance: float
    column: str
    stratum: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReweightInfo:
    """How the weighted p-values of a run came about.

    Attributes:
        learned_from: photographs of the run that the weights were learned from; 0 = too few, so that all weights are 1.
        bound: largest weight, and the inverse of the smallest.
        effective: how many equally weighted calibration images say as much as those that the images were ranked among
            (Kish's effective sample size).
        undecided: photographs whose p-value cannot be alpha or less, whatever their score; they are inconclusive.
    """

    learned_from: int
    bound: float
    effective: float
    undecided: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedFiles:
    """What folders and archives held that was not read, of one kind and for one reason.

    Attributes:
        kind: by the first bytes, in the singular ("MP4 video", "PDF document", "text file", ...).
        reason: not_an_image, hidden, excluded, archive (--no-archives), link or special_file.
        count: of them; a hidden or excluded folder is one, whatever it holds.
    """

    kind: str
    reason: str
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The end of a run. `inputs` = scored + unjudged + no_face + unreadable; `duplicates` are among all but the last.

    `faces` counts the faces that were scored, `no_face` the results of images without one, `no_face_skipped` the images
    without one that have no result. `known` counts the inputs without a result whose hash is on a list (`--known`).
    `clips` counts the clips among the scored and the unjudged, and `unjudged` the inputs of a kind that the detector
    was not calibrated on: clips, or still images.
    `damaged` counts the scored images whose coded data is damaged: slightly, or with `--damaged score`.
    `declared_by_origin` counts the inputs, unreadable ones too, whose files name an origin.
    `atypical` counts the scored images outside the calibration's ranges, and `atypical_by_fact` the facts that are; an
    image may have several.

    Attributes:
        written: number of results that the report holds, where `--only` left out others; None = all `inputs`.
        shift: the images beside the calibration; None where fewer than 20 could be compared.
        head_sha256: over what stands before and beside the results: schema, run and detector.
        results_sha256: over all results of the report, in order.
        report_sha256: over this summary, and so over the whole report, since the two digests above are part of it.
        skipped: what folders and archives held that was not read, and so has no result.
        frames_left_out: frames of animations and pages of documents that have no result; --all-frames gives them one.
    """

    inputs: int
    scored: int
    flagged: int
    unreadable: int
    duplicates: int
    seconds: float
    images_per_second: float
    inconclusive: int = 0
    atypical: int = 0
    damaged: int = 0
    faces: int = 0
    no_face: int = 0
    no_face_skipped: int = 0
    known: int = 0
    clips: int = 0
    unjudged: int = 0
    unreadable_by_code: Mapping[str, int] = field(default_factory=dict)
    flagged_by_tail: Mapping[str, int] = field(default_factory=dict)
    declared_by_origin: Mapping[str, int] = field(default_factory=dict)
    atypical_by_fact: Mapping[str, int] = field(default_factory=dict)
    fdr: float | None = None
    adaptive: AdaptiveInfo | None = None
    reweight: ReweightInfo | None = None
    shift: Shift | None = None
    groups: tuple[ImageGroup, ...] = ()
    skipped: tuple[SkippedFiles, ...] = ()
    frames_left_out: int = 0
    interrupted: bool = False
    written: int | None = None
    results_sha256: str | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    bottleneck: str | None = None
    head_sha256: str | None = None
    report_sha256: str | None = None

    @property
    def ranked_groups(self) -> tuple[ImageGroup, ...]:
        """The groups, the most unlike the calibration first, those without a p-value last."""
        return tuple(sorted(self.groups, key=lambda group: (group.p_value is None, group.p_value or 0, group.name)))
