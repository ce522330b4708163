"""The workflow of `calibrate`: reals that the flows never saw -> scores -> rule -> bundle; the flows do not change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from muflow_cli.bundle import load, save
from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.coverage import Description
from muflow_cli.calibration.features import FeatureInfo, Features
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.rules import rule_class
from muflow_cli.claims import InputGuard, claimed
from muflow_cli.detector import Detector
from muflow_cli.engine.devices import place
from muflow_cli.engine.scoring import Extras, ScoredUnit, score_stream
from muflow_cli.environment import utc_now
from muflow_cli.errors import NothingToDo
from muflow_cli.images.find import find
from muflow_cli.images.loader import Loaded, LoadSpec
from muflow_cli.images.loader import load as load_images
from muflow_cli.images.near import distinct, near_duplicate_groups, near_hash, packed, unpacked
from muflow_cli.progress import NoProgress, ProgressListener, StageTimer
from muflow_cli.records import Origin, Unreadable
from muflow_cli.run_specs import InputSpec, Runtime


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateRequest:
    """A detector to calibrate, with reals and a rule.

    Attributes:
        detector: the bundle to calibrate.
        reals: files, folders, globs, archives of real face images; none = the stored scores.
        output: the bundle to write; None = the detector's own file, which needs `force`.
        rule: fields of RuleSpec to change; the others stay as the detector has them.
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
    append: bool = False
    features: bool = True
    inputs: InputSpec = field(default_factory=InputSpec)
    runtime: Runtime = field(default_factory=Runtime)
    allow_declared: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if not self.reals and self.append:
            raise NothingToDo("nothing to append", "give files or folders of real face images")
        if not self.reals and not self.rule and self.features:
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
            to or appended before), "declared_synthetic" (it says so itself), "no_face" (for a detector of faces).
        declared_synthetic: paths of the images left out for that reason.
        unreadable: inputs that could not be read, by code.
        description: of the calibration.
        features: of the calibration images; None where they were left out.
        seconds: per stage.
        fingerprint: of the detector, which calibrating does not change.
        calibration_fingerprint: of scores and rule together.
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


def calibrate(request: CalibrateRequest, progress: ProgressListener | None = None) -> CalibrateSummary:
    """Give a detector other calibration reals, another rule, or both, and write its bundle.

    Raises:
        MuflowError: one sentence; nothing is written then.
    """
    output = request.output or request.detector
    # The detector is no input here: that a calibrated one takes its place is what calibrating in place means.
    with claimed([output], force=request.force, inputs=request.reals):
        return _calibrate(request, output, StageTimer(progress or NoProgress()))


def _calibrate(request: CalibrateRequest, output: Path, timer: StageTimer) -> CalibrateSummary:
    detector = load(request.detector)
    intake = Intake(detector, append=request.append, allow_declared=request.allow_declared)
    if request.reals:
        calibration = _measured(request, detector, intake, timer)
    else:  # the stored scores under another rule; they keep their date, since nothing was measured
        calibration = replace(detector.calibration, rule=replace(detector.calibration.rule, **request.rule))
        if not request.features:
            calibration = replace(calibration, features=None)
    # This refuses a rule that needs more reals, before anything is written.
    description = Judge(calibration).describe()
    timer.close()
    save(replace(detector, calibration=calibration), output, force=request.force)
    return CalibrateSummary(
        output=str(output),
        scored=intake.used,
        kept=len(calibration) - intake.used,
        left_out=dict(sorted(intake.left_out.items())),
        declared_synthetic=tuple(intake.declared_synthetic),
        unreadable=dict(sorted(intake.unreadable.items())),
        description=description,
        features=None if calibration.features is None else calibration.features.info,
        seconds=dict(timer.seconds),
        fingerprint=detector.fingerprint,
        calibration_fingerprint=calibration.fingerprint(),
    )


def _measured(request: CalibrateRequest, detector: Detector, intake: Intake, timer: StageTimer) -> Calibration:
    """A calibration of the given images, with the stored scores before them if `append`."""
    rule = replace(detector.calibration.rule, **request.rule)
    earlier = detector.calibration if request.append else None
    inputs = sum(not isinstance(item, Unreadable) for item in find(request.reals, request.inputs))
    if inputs:
        # Refuse now, not after hours of scoring, if there are too few files.
        rule_class(rule.method).require_images(rule, inputs + (len(earlier) if earlier else 0))
    placement = place(request.runtime)
    timer.stage("score", inputs)
    spec = detector.load_spec(request.inputs, request.runtime, placement)
    rows, features, facts, hashes = [], [], [], []
    extras = Extras(features=request.features)
    for scored in score_stream(intake.usable(_loaded(request, spec, timer)), detector.scorer(placement), extras):
        if isinstance(scored, ScoredUnit):
            rows.append(scored.columns)
            features.append(scored.features)
            facts.append(scored.unit.facts)
            hashes.append(near_hash(scored.unit.views))
    fresh = intake.without_near_copies([image.sha256 for image in facts], hashes)
    if not fresh:
        raise NothingToDo(
            f"no image to calibrate on in {', '.join(request.reals)} ({intake.reasons()})",
            "give files or folders of real face images that the detector does not know",
        )
    measured = Calibration(
        scores=np.stack([rows[index] for index in fresh]),
        columns=detector.columns,
        facts=tuple(facts[index] for index in fresh),
        near_hashes=packed([hashes[index] for index in fresh]),
        features=Features(np.stack([features[i] for i in fresh]), *placement.computed_by) if request.features else None,
        rule=rule,
        created=utc_now(),
    )
    return measured if earlier is None else _joined(earlier, measured)


def _loaded(request: CalibrateRequest, spec: LoadSpec, timer: StageTimer) -> Iterator[Loaded | Unreadable]:
    """The reals, none of which may be the output."""
    guard = InputGuard([request.output or request.detector])
    for item in load_images(find(request.reals, request.inputs), spec):
        guard.check(item.path)
        yield item
        timer.advance()


def _joined(earlier: Calibration, measured: Calibration) -> Calibration:
    """The images of both under the rule of the second; what only one of them has of its images is left out."""
    before, now = earlier.near_hashes, measured.near_hashes
    features = earlier.features, measured.features
    return replace(
        measured,
        scores=np.concatenate([earlier.scores, measured.scores]),
        facts=(*earlier.facts, *measured.facts),
        near_hashes=None if before is None or now is None else np.concatenate([before, now]),
        features=None if features[0] is None or features[1] is None else features[0].with_more(features[1]),
        source_digest="",
    )


class Intake:
    """Passes each readable image that may calibrate, once, and counts the others.

    Args:
        detector: to calibrate; images that it was fitted on must not calibrate it.
        append: whether the images that already calibrate it stay in use.
        allow_declared: also pass images that declare themselves synthetic.

    Attributes:
        used: number of images passed.
        left_out: reason -> number of readable images that were not.
        declared_synthetic: paths of those that declare themselves synthetic.
        unreadable: code -> number of inputs.
    """

    def __init__(self, detector: Detector, *, append: bool, allow_declared: bool = False) -> None:
        self._allow_declared = allow_declared
        self.declared_synthetic: list[str] = []
        self._why = dict.fromkeys((bytes(row).hex() for row in detector.fitted_on), "seen_in_fit")
        if append:
            self._why |= dict.fromkeys((facts.sha256 for facts in detector.calibration.facts), "calibrated")
        known = (detector.fitted_near, detector.calibration.near_hashes if append else None)
        self._known_near = [near for rows in known if rows is not None for near in unpacked(rows)]
        self.used = 0
        self.left_out: Counter[str] = Counter()
        self.unreadable: Counter[str] = Counter()

    def usable(self, items: Iterable[Loaded | Unreadable]) -> Iterator[Loaded]:
        """The images among `items` that may calibrate, in order."""
        for item in items:
            if isinstance(item, Unreadable) and item.code == "no_face":
                self.left_out["no_face"] += 1
            elif isinstance(item, Unreadable):
                self.unreadable[item.code] += 1
            elif item.facts.sha256 in self._why:
                self.left_out[self._why[item.facts.sha256]] += 1
            elif item.declared.origin is Origin.SYNTHETIC and not self._allow_declared:
                self.left_out["declared_synthetic"] += 1
                self.declared_synthetic.append(item.path)
            else:
                self._why[item.facts.sha256] = "duplicate"
                self.used += 1
                yield item

    def without_near_copies(self, digests: Sequence[str], hashes: Sequence[int]) -> list[int]:
        """Positions of the images that may calibrate beside those known and beside each other; the others are counted.

        Of several near copies of one photograph the one with the smallest content hash stays, whatever their order;
        none stays where the photograph was fitted to or already calibrates.

        Args:
            digests: content hashes of the images that `usable` passed.
            hashes: their perceptual hashes.
        """
        groups = near_duplicate_groups([*self._known_near, *hashes])
        taken, own = set(groups[: len(self._known_near)].tolist()), groups[len(self._known_near) :]
        fresh = [index for index in distinct(digests, own) if int(own[index]) not in taken]
        if len(fresh) < len(digests):
            self.left_out["near_copy"] += len(digests) - len(fresh)
        self.used = len(fresh)
        return fresh

    def reasons(self) -> str:
        """The counts in words."""
        counts = sorted((self.unreadable + self.left_out).items())
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts) or "no file"
