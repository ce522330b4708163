"""The workflow of `calibrate`: reals that the flow never saw -> scores -> rule -> bundle. The flow stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muflow_cli.bundle import check_writable, load, save
from muflow_cli.calibration import Calibration, Judge
from muflow_cli.detector import Detector
from muflow_cli.engine.cores import pipelined
from muflow_cli.engine.scoring import Placement, Scorer, place
from muflow_cli.environment import utc_now
from muflow_cli.errors import NothingToDo
from muflow_cli.pictures.find import find
from muflow_cli.pictures.pool import Loaded, LoadSpec
from muflow_cli.pictures.pool import load as load_pictures
from muflow_cli.rates import Description
from muflow_cli.records import Facts, Unreadable
from muflow_cli.rules import require_pictures
from muflow_cli.specs import InputSpec, Precision, RuleSpec, ViewSpec
from muflow_cli.watch import Clock, Watch


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateRequest:
    """What `calibrate` is asked.

    Attributes:
        detector: the bundle to calibrate.
        reals: files, folders, globs, archives of real face pictures; none = judge by the stored scores.
        output: the bundle to write; None = the detector's own file, which needs `force`.
        rule: fields of RuleSpec to change; the others stay as the detector has them.
        append: add to the stored scores instead of replacing them.
        inputs: which files are read.
        device: auto, cpu, cuda or cuda:N.
        precision: of the convolutions.
        workers: decoding threads.
        force: replace an existing output.
    """

    detector: Path
    reals: tuple[str, ...] = ()
    output: Path | None = None
    rule: Mapping[str, Any] = field(default_factory=dict)
    append: bool = False
    inputs: InputSpec = field(default_factory=InputSpec)
    device: str = "auto"
    precision: Precision = Precision.AUTO
    workers: int = 2
    force: bool = False

    def __post_init__(self) -> None:
        if not self.reals and self.append:
            raise NothingToDo("nothing to append: give files or folders of real face pictures")
        if not self.reals and not self.rule:
            raise NothingToDo("nothing to calibrate: give real face pictures, or a rule for the stored scores")


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateSummary:
    """What `calibrate` did.

    Attributes:
        output: the bundle written.
        scored: pictures scored now.
        kept: calibration pictures whose stored scores are still in use.
        left_out: readable pictures not scored, by reason: "seen_in_fit" (the flow was fitted on these bytes),
            "duplicate" (given twice), "calibrated" (appended before).
        unreadable: inputs that could not be read, by code.
        description: what may be said of the calibration.
        seconds: per stage.
        fingerprint: of the detector; calibrating leaves it alone.
        calibration_fingerprint: of scores and rule together.
    """

    output: str
    scored: int
    kept: int
    left_out: dict[str, int]
    unreadable: dict[str, int]
    description: Description
    seconds: dict[str, float]
    fingerprint: str
    calibration_fingerprint: str


def calibrate(request: CalibrateRequest, watch: Watch) -> CalibrateSummary:
    """Give a detector other calibration reals, another rule, or both, and write its bundle.

    Raises:
        MuflowError: one sentence; nothing is written then.
    """
    clock = Clock(watch)
    detector = load(request.detector)
    output = request.output or request.detector
    check_writable(output, force=request.force)
    intake = Intake(detector, request.append)
    calibration = _measured(request, detector, intake, clock) if request.reals else _ruled(request, detector)
    # A rule that n cannot carry is refused here, before anything is written.
    description = Judge(calibration, detector.scales).describe()
    clock.close()
    save(replace(detector, calibration=calibration), output, force=request.force)
    return CalibrateSummary(
        output=str(output),
        scored=intake.used,
        kept=len(calibration) - intake.used,
        left_out=dict(sorted(intake.left_out.items())),
        unreadable=dict(sorted(intake.unreadable.items())),
        description=description,
        seconds=dict(clock.seconds),
        fingerprint=detector.fingerprint,
        calibration_fingerprint=calibration.fingerprint(),
    )


def _rule(request: CalibrateRequest, detector: Detector) -> RuleSpec:
    stored = detector.spec.rule if detector.calibration is None else detector.calibration.rule
    return replace(stored, **request.rule)


def _ruled(request: CalibrateRequest, detector: Detector) -> Calibration:
    """The stored scores under another rule; their date stays, since nothing was measured."""
    if detector.calibration is None:
        raise NothingToDo(f"{request.detector} holds no scores of reals yet: give real face pictures")
    return replace(detector.calibration, rule=_rule(request, detector))


def _measured(request: CalibrateRequest, detector: Detector, intake: Intake, clock: Clock) -> Calibration:
    """Scores of the pictures given, after the stored ones where they are appended."""
    rule = _rule(request, detector)
    earlier = detector.calibration if request.append else None
    inputs = sum(not isinstance(one, Unreadable) for one in find(request.reals, request.inputs))
    if inputs:
        # Hours of scoring should not end in a refusal that the number of files already settles.
        require_pictures(rule, inputs + (len(earlier) if earlier else 0))
    placement = place(request.device, request.precision)
    clock.stage("score", inputs)
    usable = intake.usable(_loaded(request, detector.spec.view, placement, clock))
    measured = list(score_pictures(detector.scorer(placement), usable))
    if not measured:
        raise NothingToDo(
            f"no picture to calibrate on in {', '.join(request.reals)} ({intake.reasons()}): "
            "give files or folders of real face pictures that the detector was not fitted on"
        )
    scores = np.stack([row for _, row in measured])
    facts = tuple(facts for facts, _ in measured)
    if earlier is not None:
        scores, facts = np.concatenate([earlier.scores, scores]), (*earlier.facts, *facts)
    return Calibration(scores=scores, facts=facts, rule=rule, created=utc_now())


def _loaded(
    request: CalibrateRequest, view: ViewSpec, placement: Placement, clock: Clock
) -> Iterator[Loaded | Unreadable]:
    ahead = 2 * (placement.batch_size + request.workers)  # the device need not wait for the next batch
    spec = LoadSpec(view=view, inputs=request.inputs, workers=request.workers, ahead=ahead)
    for item in load_pictures(find(request.reals, request.inputs), spec):
        yield item
        clock.advance()


class Intake:
    """Lets through each readable picture that may calibrate, once, and counts the others.

    Args:
        detector: whose flow was fitted on pictures that must not calibrate it.
        append: whether the pictures that calibrate it already stay in use.
    """

    def __init__(self, detector: Detector, append: bool) -> None:  # noqa: FBT001 - the request's own field
        known: Set[str] = {bytes(row).hex() for row in detector.fitted_on}
        self._why = dict.fromkeys(known, "seen_in_fit")
        if append and detector.calibration is not None:
            self._why |= dict.fromkeys((facts.sha256 for facts in detector.calibration.facts), "calibrated")
        self.used = 0
        self.left_out: Counter[str] = Counter()
        self.unreadable: Counter[str] = Counter()

    def usable(self, items: Iterable[Loaded | Unreadable]) -> Iterator[Loaded]:
        """The pictures among `items` that may calibrate, in order."""
        for item in items:
            if isinstance(item, Unreadable):
                self.unreadable[item.code] += 1
            elif item.facts.sha256 in self._why:
                self.left_out[self._why[item.facts.sha256]] += 1
            else:
                self._why[item.facts.sha256] = "duplicate"
                self.used += 1
                yield item

    def reasons(self) -> str:
        """The counts in words."""
        counts = sorted((self.unreadable + self.left_out).items())
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts) or "nothing found"


def score_pictures(scorer: Scorer, pictures: Iterable[Loaded]) -> Iterator[tuple[Facts, NDArray[np.float64]]]:
    """Facts and (S,) scores of each picture, in order; a few batches of views are held.

    Raises:
        NotFinite: where a score left the numbers.
    """
    batches = _batches(pictures, scorer.placement.batch_size)
    for held, rows in pipelined(batches, lambda held: scorer.submit([picture.views for picture in held])):
        yield from zip((picture.facts for picture in held), rows, strict=True)


def _batches(pictures: Iterable[Loaded], views: int) -> Iterator[list[Loaded]]:
    held: list[Loaded] = []
    for picture in pictures:
        held.append(picture)
        if sum(len(one.views) for one in held) >= views:
            yield held
            held = []
    if held:
        yield held
