"""The workflow of `bench`: select -> score once -> figures -> perturbed again -> baselines -> gates -> one document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from muflow_cli.bench.ablation import AblationSpec, Axis, ablate
from muflow_cli.bench.baselines import NullAgainst, null_baselines
from muflow_cli.bench.data import OverlapPolicy, Picture, Selection, SelectSpec, known_to, select
from muflow_cli.bench.document import Comparison, Measured, Settings, build_document
from muflow_cli.bench.evaluate import EvaluateSpec, Evaluation, evaluate
from muflow_cli.bench.exhibits import Exhibit, show
from muflow_cli.bench.gates import Checked, Gate, check_drop, check_gates, check_names, read_baseline
from muflow_cli.bench.robustness import Condition, On, mixed
from muflow_cli.bench.scores import Row, compare_scores, read_scores
from muflow_cli.bench.scoring import Scoring, calibration_of
from muflow_cli.bench.throughput import throughput
from muflow_cli.bundle import load
from muflow_cli.detector import Detector
from muflow_cli.engine.scoring import place
from muflow_cli.errors import NothingToDo
from muflow_cli.intervals import BootstrapSpec
from muflow_cli.metrics import auc
from muflow_cli.pictures.datasets import DataArgument, Sample, read_datasets
from muflow_cli.pictures.families import FAMILIES, family
from muflow_cli.pictures.manifest import Label
from muflow_cli.pictures.perturb import Perturbation
from muflow_cli.rules import picture_scores
from muflow_cli.scan import detector_info
from muflow_cli.specs import InputSpec, Precision
from muflow_cli.watch import Clock, Watch


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRequest:
    """What `bench` is asked.

    Attributes:
        detector: the bundle; None = `scores_from` stands for it.
        data: labelled pictures.
        scores_from: a scores file instead of a detector and pictures.
        compare: other detectors' scores of the same pictures.
        families: generator -> family.
        inputs: limits on what is read.
        overlap: what is done with pictures that the detector knows.
        limit: pictures per label and group; 0 = all.
        conditions: perturbations, each on reals, fakes or both.
        bootstrap: resamples, seed, level; its seed also draws the limit, the noise and the folds.
        gates: conditions on the clean figures.
        baseline: an earlier report of the same data.
        max_drop: how far figures may fall below it.
        ablation: axes to vary; empty = none.
        fit_on: reals that the ablation fits to.
        throughput: measure speed, memory and size as well.
        exhibits: pictures in each list of a report; 0 = no heat maps.
        device: auto, cpu, cuda or cuda:N.
        precision: of the convolutions.
        batch_size: views at a time; 0 = the device's own.
        workers: decoding threads.
    """

    detector: Path | None = None
    data: tuple[DataArgument, ...] = ()
    scores_from: Path | None = None
    compare: tuple[Path, ...] = ()
    families: Mapping[str, str] = field(default_factory=lambda: FAMILIES)
    inputs: InputSpec = field(default_factory=InputSpec)
    overlap: OverlapPolicy = OverlapPolicy.REFUSE
    limit: int = 0
    conditions: tuple[Condition, ...] = ()
    bootstrap: BootstrapSpec = field(default_factory=BootstrapSpec)
    gates: tuple[Gate, ...] = ()
    baseline: Path | None = None
    max_drop: float = 0.01
    ablation: frozenset[Axis] = frozenset()
    fit_on: tuple[str, ...] = ()
    throughput: bool = False
    exhibits: int = 0
    device: str = "auto"
    precision: Precision = Precision.AUTO
    batch_size: int = 0
    workers: int = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """What `bench` gives back.

    Attributes:
        document: the report (schema "muflow.bench/1").
        rows: the clean scores.
        calibration_scores: of the reals that the detector was calibrated on.
        exhibits: title of a list -> pictures that a report shows.
        failed_gates: how many gates did not hold.
    """

    document: dict[str, Any]
    rows: Sequence[Row]
    calibration_scores: Sequence[float]
    exhibits: Mapping[str, Sequence[Exhibit]]
    failed_gates: int


def bench(request: BenchRequest, watch: Watch, run: Callable[[], Mapping[str, Any]]) -> BenchResult:
    """Measure a detector, or a file of scores, on labelled pictures.

    Args:
        request: what is measured.
        watch: hears of the stages.
        run: gives the report's `run` block when all is done.

    Raises:
        MuflowError: one sentence.
    """
    clock = Clock(watch)
    job = _Job(request, clock)
    measured = job.from_scores() if request.scores_from is not None else job.from_pictures()
    settings = Settings(evaluate=job.spec, overlap=request.overlap, limit=request.limit)
    checked = _checked(request, build_document(measured, settings, {}))
    clock.close()
    report = {**run(), **job.where, "stages": dict(clock.seconds), "throughput": job.throughput}
    return BenchResult(
        document=build_document(replace(measured, checked=checked), settings, report),
        rows=measured.rows,
        calibration_scores=job.calibration_scores,
        exhibits=job.exhibits,
        failed_gates=sum(not one.held for one in checked),
    )


class _Job:
    """One benchmark: the parts that its stages share."""

    def __init__(self, request: BenchRequest, clock: Clock) -> None:
        self.request, self.clock = request, clock
        self.spec = EvaluateSpec(
            bootstrap=request.bootstrap, centre=None, family=partial(family, families=request.families)
        )
        self.calibration_scores: list[float] = []
        self.exhibits: Mapping[str, Sequence[Exhibit]] = {}
        self.throughput: Mapping[str, Any] | None = None
        self.where: dict[str, str | None] = {"device": None, "precision": None}

    def from_scores(self) -> Measured:
        """Figures of scores that another run, or another detector, wrote."""
        self.clock.stage("read scores", None)
        rows = read_scores(str(self.request.scores_from))
        self.refuse_early(rows)
        self.clock.stage("evaluate", None)
        return Measured(rows=rows, evaluation=evaluate(rows, self.spec), comparisons=self.comparisons(rows))

    def from_pictures(self) -> Measured:
        """Figures of a detector on pictures."""
        detector, path = self.detector()
        self.clock.stage("hash pictures", None)
        selection = self.select(detector)
        scoring = self.scoring(detector)
        self.clock.stage("score", len(selection.pictures))
        rows, failed = scoring.rows(selection.pictures, self.clock)
        self.clock.stage("evaluate", None)
        evaluation = evaluate(rows, self.spec)
        measured = Measured(
            rows=rows,
            evaluation=evaluation,
            selection=selection,
            detector=detector_info(path, detector),
            conditions=self.conditions(scoring, selection, rows),
            nulls=self.nulls(rows),
            comparisons=self.comparisons(rows),
            failed=failed,
        )
        self.extras(scoring, selection, rows)
        return replace(measured, ablation=self.ablation(scoring, selection))

    def detector(self) -> tuple[Detector, str]:
        """The detector and its path."""
        if self.request.detector is None:
            raise NothingToDo("no detector: name a bundle, or give scores with --scores-from")
        detector = load(self.request.detector)
        self.calibration_scores = picture_scores(calibration_of(detector).scores).tolist()
        self.spec = replace(self.spec, centre=float(np.median(self.calibration_scores)))
        return detector, str(self.request.detector)

    def select(self, detector: Detector) -> Selection:
        """The pictures, refused early where a gate names what is not there."""
        request = self.request
        dataset = read_datasets(request.data, request.inputs)
        self.refuse_early(dataset.samples)
        spec = SelectSpec(
            overlap=request.overlap,
            limit=request.limit,
            seed=request.bootstrap.seed,
            max_bytes=request.inputs.max_bytes,
        )
        return select(dataset, known_to(detector), spec)

    def refuse_early(self, rows: Sequence[Row] | Sequence[Sample]) -> None:
        """Names in gates that the data does not hold."""
        groups = {row.group for row in rows if row.label is Label.FAKE}
        sources = {row.source for row in rows if row.label is Label.REAL}
        check_names(self.request.gates, sorted(sources), sorted(groups | {self.spec.family(group) for group in groups}))

    def scoring(self, detector: Detector) -> Scoring:
        """The detector on its device."""
        request = self.request
        placement = place(request.device, request.precision, request.batch_size)
        self.where = {"device": str(placement.device), "precision": placement.precision.value}
        seed = request.bootstrap.seed
        return Scoring(detector, placement, request.inputs, workers=request.workers, seed=seed)

    def conditions(
        self, scoring: Scoring, selection: Selection, rows: Sequence[Row]
    ) -> list[tuple[Condition, Evaluation]]:
        """Figures under every perturbation: AUCs only, the pictures of each perturbation scored once."""
        spec = replace(self.spec, metrics={"auc": auc})
        wanted: dict[Perturbation, list[On]] = {}
        for condition in self.request.conditions:
            wanted.setdefault(condition.perturbation, []).append(condition.on)
        found: list[tuple[Condition, Evaluation]] = []
        for perturbation, sides in wanted.items():
            needed = [picture for picture in selection.pictures if _is_perturbed(picture, sides)]
            self.clock.stage(f"score {perturbation}", len(needed))
            perturbed, _ = scoring.rows(needed, self.clock, perturbation)
            found += [(Condition(perturbation, side), evaluate(mixed(rows, perturbed, side), spec)) for side in sides]
        return found

    def nulls(self, rows: Sequence[Row]) -> dict[str, dict[str, NullAgainst]]:
        """What container and sharpness give away."""
        self.clock.stage("null baselines", None)
        return null_baselines(rows, self.request.bootstrap.seed)

    def comparisons(self, rows: Sequence[Row]) -> list[Comparison]:
        """Other detectors' scores of the same pictures."""
        found = []
        for path in self.request.compare:
            self.clock.stage(f"compare {path.name}", None)
            theirs = compare_scores(str(path), rows)
            # Another detector's scores have a centre of their own, which no calibration tells.
            evaluation = evaluate(theirs, replace(self.spec, centre=None))
            missing = len(rows) - len(theirs)
            found.append(Comparison(name=path.name, scored=len(theirs), missing=missing, evaluation=evaluation))
        return found

    def ablation(self, scoring: Scoring, selection: Selection) -> Mapping[str, Any] | None:
        """The paper's ablations, where asked for."""
        if not self.request.ablation:
            return None
        spec = AblationSpec(axes=self.request.ablation, fit_on=self.request.fit_on, evaluate=self.spec)
        return ablate(spec, scoring, selection.pictures, self.clock)

    def extras(self, scoring: Scoring, selection: Selection, rows: Sequence[Row]) -> None:
        """What only some reports show."""
        if self.request.throughput and self.request.detector is not None:
            bundle, inputs, workers = self.request.detector, self.request.inputs, self.request.workers
            self.throughput = throughput(scoring, selection.pictures, bundle, inputs, workers, self.clock)
        if self.request.exhibits:
            self.clock.stage("heat maps", None)
            self.exhibits = show(scoring, selection.pictures, rows, self.spec.centre or 0.0, self.request.exhibits)


def _is_perturbed(picture: Picture, sides: Sequence[On]) -> bool:
    own = On.FAKES if picture.sample.label is Label.FAKE else On.REALS
    return On.BOTH in sides or own in sides


def _checked(request: BenchRequest, report: Mapping[str, Any]) -> list[Checked]:
    checked = check_gates(request.gates, report)
    if request.baseline is not None:
        before = read_baseline(request.baseline, report["data"]["digest"])
        checked += check_drop(before, report, request.max_drop)
    return checked
