"""The workflow of `calibrate`: reals that the flows never saw -> scores -> rule -> bundle; the flows do not change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from muflow_cli.agreement import computed
from muflow_cli.bundle import load, save
from muflow_cli.calibrate.adapt import Adapted, AdaptWork, adapt, without_adaptation
from muflow_cli.calibrate.intake import Intake
from muflow_cli.calibrate.rows import Rows, units
from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.clips import Sampling, clip_columns
from muflow_cli.calibration.coverage import Description
from muflow_cli.calibration.features import FeatureInfo, Features
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.rules import rule_class
from muflow_cli.claims import InputGuard, claimed
from muflow_cli.detector import AdaptedTo, Detector
from muflow_cli.engine.devices import place
from muflow_cli.engine.scoring import Extras, score_stream
from muflow_cli.environment import utc_now
from muflow_cli.errors import BadData, IncompatibleOptions, NothingToDo, TooFewScores
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.find import check_present, find
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded, load_with_clips
from muflow_cli.images.near import packed
from muflow_cli.progress import NoProgress, ProgressListener, StageTimer
from muflow_cli.records import CalibratedOn, Unreadable
from muflow_cli.run_records import SkippedFiles
from muflow_cli.run_specs import InputSpec, Runtime
from muflow_cli.skipped import Skip, SkipCount, nothing_found
from muflow_cli.specs import RuleSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateRequest:
    """A detector to calibrate, with reals and a rule.

    Attributes:
        detector: the bundle to calibrate.
        reals: files, folders, globs, archives of real face images; none = the stored scores.
        output: the bundle to write; None = the detector's own file, which needs `force`.
        rule: fields of RuleSpec to change; the others stay as the detector has them.
        adapt: files, folders, globs, archives of real face images to adapt the projections to first. Without `reals`,
            about half of these images calibrate and the others adapt.
        append: add to the stored scores instead of replacing them.
        features: store the features of the images, with which `scan --adaptive` and `--groups` compare a batch.
        inputs: which files are read.
        runtime: device, precision, workers.
        allow_declared: also calibrate on images that declare themselves synthetic.
        force: replace an existing output.
    """

    detector: Path
    reals: tuple[str, ...] = ()
    output: Path | None = None
    rule: Mapping[str, Any] = field(default_factory=dict)
    adapt: tuple[str, ...] = ()
    append: bool = False
    features: bool = True
    inputs: InputSpec = field(default_factory=InputSpec)
    runtime: Runtime = field(default_factory=Runtime)
    allow_declared: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.adapt and self.append:
            raise IncompatibleOptions("--append", "--adapt", "the stored scores are those of the detector before it")
        if not self.reals and self.append:
            raise NothingToDo("nothing to append", "give files or folders of real face images")
        if not self.reals and not self.adapt and not self.rule and self.features:
            raise NothingToDo("nothing to calibrate", "give real face images, or a rule for the stored scores")


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateSummary:
    """What `calibrate` did.

    Attributes:
        output: the bundle written.
        scored: number of images scored now.
        kept: number of calibration images whose stored scores are still in use.
        left_out: readable images not scored, by reason: "seen_in_fit" (the detector was fitted on these bytes),
            "duplicate" (given twice), "calibrated" (appended before), "near_copy" (of an image that is counted, fitted
            to or appended before), "adapted_to" (the detector was adapted to these bytes), "declared_synthetic" (it
            says so itself), "no_face" (for a detector of faces).
        declared_synthetic: paths of the images left out for that reason.
        unreadable: inputs that could not be read, by code.
        description: of the calibration.
        features: of the calibration images; None where they were left out.
        seconds: per stage.
        fingerprint: of the detector, which calibrating does not change, and adapting does.
        calibration_fingerprint: of scores and rule together.
        adaptation: the images that the detector was adapted to now; None without.
        skipped: what folders and archives held that was not read.
        calibrated_on: still images or clips.
    """

    output: str
    scored: int
    kept: int
    left_out: dict[str, int]
    declared_synthetic: tuple[str, ...]
    unreadable: dict[str, int]
    description: Description
    features: FeatureInfo | None
    seconds: dict[str, float]
    fingerprint: str
    calibration_fingerprint: str
    adaptation: AdaptedTo | None = None
    skipped: tuple[SkippedFiles, ...] = ()
    calibrated_on: CalibratedOn = CalibratedOn.STILLS


def calibrate(request: CalibrateRequest, progress: ProgressListener | None = None) -> CalibrateSummary:
    """Give a detector other calibration reals, another rule, or both, and write its bundle.

    Raises:
        MuflowError: one sentence; nothing is written then.
    """
    output = request.output or request.detector
    # The detector is no input here: that a calibrated one takes its place is what calibrating in place means.
    with claimed([output], force=request.force, inputs=[*request.reals, *request.adapt]):
        return _calibrate(request, output, StageTimer(progress or NoProgress()))


def _calibrate(request: CalibrateRequest, output: Path, timer: StageTimer) -> CalibrateSummary:
    check_present([*request.reals, *request.adapt], request.inputs)
    detector = load(request.detector)
    given = _Given(request, replace(detector.calibration.rule, **request.rule), timer, SkipCount())
    adapted = given.adapted(detector) if request.adapt else None
    if adapted is not None:
        detector = adapted.detector
    intake = Intake(detector, append=request.append, allow_declared=request.allow_declared)
    if request.reals:
        calibration = given.measured(detector, intake, lambda skip: find(request.reals, request.inputs, skip))
    elif adapted is not None:
        calibration = given.measured(detector, intake, lambda _: adapted.others)
    else:  # the stored scores under another rule; they keep their date, since nothing was measured
        calibration = replace(detector.calibration, rule=given.rule)
        if not request.features:
            calibration = replace(calibration, features=None)
    # This refuses a rule that needs more reals, before anything is written.
    description = _described(calibration, intake)
    timer.close()
    save(replace(detector, calibration=calibration), output, force=request.force)
    intakes = [intake] if adapted is None else [adapted.intake, intake]
    return CalibrateSummary(
        output=str(output),
        scored=intake.used,
        kept=len(calibration) - intake.used,
        left_out=_sum(own.left_out for own in intakes),
        declared_synthetic=tuple(path for own in intakes for path in own.declared_synthetic),
        unreadable=_sum(own.unreadable for own in intakes),
        skipped=given.skipped.rows,
        description=description,
        features=None if calibration.features is None else calibration.features.info,
        seconds=dict(timer.seconds),
        fingerprint=detector.fingerprint,
        calibration_fingerprint=calibration.fingerprint(),
        adaptation=None if adapted is None else detector.provenance.adaptation,
        calibrated_on=calibration.calibrated_on,
    )


def _described(calibration: Calibration, intake: Intake) -> Description:
    """What the calibration promises; where it holds too few reals, the error also says which were not used."""
    try:
        return Judge(calibration).describe()
    except TooFewScores as error:
        if not intake.left_out and not intake.unreadable:
            raise
        raise error.naming(f"{error.problem}, besides {intake.reasons()}") from None


def _sum(counters: Iterable[Counter[str]]) -> dict[str, int]:
    total = sum(counters, Counter[str]())
    return dict(sorted(total.items()))


@dataclass(frozen=True, slots=True)
class _Given:
    """What a request asks for: how images are read and placed, the rule that they are to calibrate; what is skipped."""

    request: CalibrateRequest
    rule: RuleSpec
    timer: StageTimer
    skipped: SkipCount

    def adapted(self, detector: Detector) -> Adapted:
        """The detector adapted to the images of `--adapt`, of which some are left for the rule without REAL."""
        request = self.request
        needed = 0 if request.reals else rule_class(self.rule.method).minimum_images(self.rule)
        plain = without_adaptation(detector)
        intake = Intake(plain, append=False, allow_declared=request.allow_declared)
        placement = place(request.runtime)
        stills = replace(request.inputs, clips=None)
        spec = detector.load_spec(stills, request.runtime, placement)
        inputs = list(find(request.adapt, stills, self.skipped))
        return adapt(plain, self._guarded(inputs), AdaptWork(intake, spec, placement, self.timer), needed)

    def measured(
        self, detector: Detector, intake: Intake, inputs: Callable[[Skip | None], Iterable[Input | Unreadable]]
    ) -> Calibration:
        """A calibration of the images, with the stored scores before them if the request appends."""
        request = self.request
        earlier = detector.calibration if request.append else None
        count = sum(not isinstance(item, Unreadable) for item in inputs(None))
        if count:
            # Refuse now, not after hours of scoring, if there are too few files.
            rule_class(self.rule.method).require_images(self.rule, count + (len(earlier) if earlier else 0))
        placement = place(request.runtime)
        self.timer.stage("score", count)
        spec = detector.load_spec(request.inputs, request.runtime, placement)
        loaded = self._advancing(load_with_clips(self._guarded(inputs(self.skipped)), spec))
        extras = Extras(features=request.features)
        rows = Rows(score_stream(units(intake.usable(loaded)), detector.scorer(placement), extras))
        fresh = intake.without_near_copies([image.sha256 for image in rows.facts], rows.near)
        if not fresh:
            what = f"no image to calibrate on in {', '.join([*request.reals, *request.adapt])} ({intake.reasons()})"
            remedy = "give files or folders of real face images that the detector does not know"
            raise nothing_found(what, self.skipped.rows, remedy)
        stacked = np.stack([rows.features[index] for index in fresh])
        own = Features(stacked, *placement.computed_by) if request.features else None
        probed = computed(detector.scorer(placement), detector.views)
        clips = request.inputs.clips
        measured = Calibration(
            scores=np.stack([rows.scores[index] for index in fresh]),
            columns=clip_columns(detector.columns) if rows.are_clips else detector.columns,
            facts=tuple(rows.facts[index] for index in fresh),
            near_hashes=packed([rows.near[index] for index in fresh]),
            features=own,
            computed=probed,
            clips=Sampling(frames=clips.frames, every=clips.every) if rows.are_clips and clips is not None else None,
            rule=self.rule,
            created=utc_now(),
        )
        return measured if earlier is None else _joined(earlier, measured)

    def _guarded(self, inputs: Iterable[Input | Unreadable]) -> Iterator[Input | Unreadable]:
        """The inputs, none of which may be the output."""
        guard = InputGuard([self.request.output or self.request.detector])
        for item in inputs:
            guard.check(item.path)
            yield item

    def _advancing(
        self, items: Iterable[Loaded | LoadedClip | Unreadable]
    ) -> Iterator[Loaded | LoadedClip | Unreadable]:
        for item in items:
            yield item
            self.timer.advance()


def _joined(earlier: Calibration, measured: Calibration) -> Calibration:
    """The images of both under the rule of the second; what only one of them has of its images is left out.

    Raises:
        BadData: where one is on clips and the other is not, or on other frames of them.
    """
    if earlier.clips != measured.clips:
        raise BadData(
            "the stored scores are of other inputs than the new ones, images or videos, or of other frames of videos",
            "calibrate without --append, or give inputs of the same kind",
        )
    before, now = earlier.near_hashes, measured.near_hashes
    features = earlier.features, measured.features
    computed_by = {None if own is None else own.by for own in (earlier.computed, measured.computed)}
    return replace(
        measured,
        scores=np.concatenate([earlier.scores, measured.scores]),
        facts=(*earlier.facts, *measured.facts),
        near_hashes=None if before is None or now is None else np.concatenate([before, now]),
        features=None if features[0] is None or features[1] is None else features[0].with_more(features[1]),
        computed=measured.computed if len(computed_by) == 1 else None,
        source_digest="",
    )
