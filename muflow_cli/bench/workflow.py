"""The workflow of `bench`: select -> score once -> figures -> perturbed again -> baselines -> gates -> one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from muflow_cli import __version__
from muflow_cli.bench.batches import LEARNED_AT, by_source, measure_batches
from muflow_cli.bench.data import Known, OverlapPolicy, Selection, SelectSpec, check_kinds, known_to, select
from muflow_cli.bench.datasets import DataArgument, Sample, read_datasets
from muflow_cli.bench.differences import paired_differences
from muflow_cli.bench.document import Comparison, Measured, Settings, build_document
from muflow_cli.bench.evaluate import EvaluateSpec, Evaluation, evaluate
from muflow_cli.bench.exhibits import Exhibit, chosen
from muflow_cli.bench.families import FAMILIES, family
from muflow_cli.bench.folds import Protocol
from muflow_cli.bench.gates import Gate, check_drop, check_gates, check_names, read_baseline
from muflow_cli.bench.groups import measure_groups
from muflow_cli.bench.intervals import BootstrapSpec
from muflow_cli.bench.kept import Kept
from muflow_cli.bench.manifest import Label
from muflow_cli.bench.metrics import auc
from muflow_cli.bench.near import without_near_copies
from muflow_cli.bench.nulls import null_baselines
from muflow_cli.bench.protocol_images import in_order
from muflow_cli.bench.protocols import ProtocolsSpec, measure_protocols
from muflow_cli.bench.records import BenchRun
from muflow_cli.bench.robustness import Condition, On, mixed
from muflow_cli.bench.scores import Row, compare_scores, read_scores
from muflow_cli.bench.scoring import Picture, Scoring
from muflow_cli.bench.speed import measure_speed
from muflow_cli.bounds import between
from muflow_cli.bundle import load
from muflow_cli.detector import Detector
from muflow_cli.environment import utc_now, versions
from muflow_cli.errors import IncompatibleOptions, NothingToDo, NotOnStills
from muflow_cli.images.perturb import Perturbation
from muflow_cli.progress import NoProgress, ProgressListener, StageTimer
from muflow_cli.records import Origin
from muflow_cli.run_specs import InputSpec, Runtime
from muflow_cli.scan.comparison import calibration_sample, check_comparison
from muflow_cli.scan.settings import Comparison as BatchComparison
from muflow_cli.specs import ContainerSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRequest:
    """What to measure, on which images.

    Attributes:
        detector: the bundle; None = `scores_from` replaces it.
        data: labelled images.
        scores_from: a scores file instead of a detector and images.
        compare: other detectors' scores of the same images.
        families: generator -> family.
        inputs: limits on what is read.
        container: every image is stored in it before anything looks at it; None = scored as found.
        runtime: device, precision, batch size, workers.
        overlap: what happens to images that the detector knows.
        limit: most images per label and group; 0 = all.
        conditions: perturbations, each on reals, fakes or both.
        bootstrap: resamples, seed, level; its seed also draws the limit, the noise and the folds.
        gates: conditions on the figures of the clean images.
        baseline: an earlier report of the same data.
        max_drop: how far figures may fall below it.
        speed: also measure speed, memory and size.
        adaptive: also measure adaptive p-values in batches.
        groups: also test groups of every source.
        protocols: fit the detector's settings again by these, in place of measuring the detector.
        folds: of the protocols, at least 2.
        fit_on: further reals that the fits of the protocols may use.
        exhibits: images in each list of a report; 0 = none, and no heat maps.
        argv: the command line, for the report.
    """

    detector: Path | None = None
    data: tuple[DataArgument, ...] = ()
    scores_from: Path | None = None
    compare: tuple[Path, ...] = ()
    families: Mapping[str, str] = field(default_factory=lambda: FAMILIES)
    inputs: InputSpec = field(default_factory=InputSpec)
    container: ContainerSpec | None = None
    runtime: Runtime = field(default_factory=Runtime)
    overlap: OverlapPolicy = OverlapPolicy.REFUSE
    limit: int = 0
    conditions: tuple[Condition, ...] = ()
    bootstrap: BootstrapSpec = field(default_factory=BootstrapSpec)
    gates: tuple[Gate, ...] = ()
    baseline: Path | None = None
    max_drop: float = 0.01
    speed: bool = False
    adaptive: bool = False
    groups: bool = False
    protocols: tuple[Protocol, ...] = ()
    folds: int = 5
    fit_on: tuple[DataArgument, ...] = ()
    exhibits: int = 0
    argv: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        between(self, 2, 1000, "folds")
        if not self.protocols:
            return
        why = "protocols measure fits of the detector's settings, not the detector"
        for option, given in {
            "--scores-from": self.scores_from,
            "--compare": self.compare,
            "--gate": self.gates,
            "--baseline": self.baseline,
            "--adaptive": self.adaptive,
            "--groups": self.groups,
            "--perturb": self.conditions,
            "--speed": self.speed,
        }.items():
            if given:
                raise IncompatibleOptions(option, "--protocol", why)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """What `bench` gives back.

    Attributes:
        document: the report (schema "muflow.bench/2").
        rows: the scores of the clean images.
        calibration_scores: of the reals that the detector was calibrated on; empty for a file of scores.
        exhibits: title of a list -> images that a report shows.
        failed_gates: number of gates that did not hold.
    """

    document: dict[str, Any]
    rows: Sequence[Row]
    calibration_scores: Sequence[float]
    exhibits: Mapping[str, Sequence[Exhibit]]
    failed_gates: int


def bench(request: BenchRequest, progress: ProgressListener | None = None, kept: Kept | None = None) -> BenchResult:
    """Measure a detector, or a file of scores, on labelled images.

    Args:
        request: what to measure.
        progress: told of the stages.
        kept: keeps what is measured for a run that continues this one, and gives back what an earlier one kept.

    Raises:
        MuflowError: with `.problem` and `.remedy`.
    """
    started = utc_now()
    timer = StageTimer(progress or NoProgress())
    job = _Job(request, timer, kept)
    measured = job.measured()
    settings = Settings(evaluate=job.spec, overlap=request.overlap, limit=request.limit, container=request.container)
    report = build_document(measured, settings, BenchRun())
    checked = check_gates(request.gates, report)
    if request.baseline is not None:
        before = read_baseline(request.baseline, report["data"]["digest"])
        checked += check_drop(before, report, request.max_drop)
    timer.close()
    run = replace(
        job.run,
        tool="muflow",
        version=__version__,
        argv=request.argv,
        started=started,
        finished=utc_now(),
        versions=versions(),
        stages=dict(timer.seconds),
    )
    return BenchResult(
        document=build_document(replace(measured, checked=checked), settings, run),
        rows=measured.rows,
        calibration_scores=job.calibration_scores,
        exhibits=job.exhibits,
        failed_gates=sum(not gate.held for gate in checked),
    )


class _Job:
    """One benchmark: the parts that its stages share."""

    def __init__(self, request: BenchRequest, timer: StageTimer, kept: Kept | None) -> None:
        self.request, self.timer, self.kept = request, timer, kept
        self.spec = EvaluateSpec(
            bootstrap=request.bootstrap, centre=None, family=partial(family, families=request.families)
        )
        self.calibration_scores: list[float] = []
        self.exhibits: Mapping[str, Sequence[Exhibit]] = {}
        self.run = BenchRun()

    def measured(self) -> Measured:
        """The figures that are asked for."""
        if self.request.scores_from is not None:
            return self.from_scores()
        path = self.request.detector
        if path is None:
            raise NothingToDo("there is no detector to measure", "give a bundle, or scores with --scores-from")
        return self.from_protocols(path) if self.request.protocols else self.from_images(path)

    def from_scores(self) -> Measured:
        """Figures of scores that another run, or another detector, wrote."""
        self.timer.stage("read scores", None)
        rows = read_scores(str(self.request.scores_from))
        self.refuse_early(rows)
        self.timer.stage("evaluate", None)
        return Measured(rows=rows, evaluation=evaluate(rows, self.spec), comparisons=self.comparisons(rows))

    def from_protocols(self, path: Path) -> Measured:
        """Figures of a detector's settings, fitted again; what it was fitted and calibrated on does not matter."""
        request, detector = self.request, load(path)
        if detector.calibration.clips is not None:
            raise NotOnStills("bench")
        self.spec = replace(self.spec, centre=0.0)
        spec = ProtocolsSpec(
            protocols=request.protocols,
            folds=request.folds,
            fit_on=read_datasets(request.fit_on, request.inputs),
            evaluate=self.spec,
        )
        scoring = self.scoring(detector)
        self.timer.stage("hash images", None)
        found = measure_protocols(spec, self.select(Known()), scoring, self.timer)
        return Measured(
            rows=found.rows,
            evaluation=None,
            protocols=found.protocols,
            selection=found.selection,
            detector=detector.info(str(path)),
            nulls=found.nulls,
            failed=found.failed,
        )

    def from_images(self, path: Path) -> Measured:
        """Figures of a detector on images."""
        request, detector = self.request, load(path)
        if detector.calibration.clips is not None:
            raise NotOnStills("bench")
        centre = detector.calibration.median_score
        self.calibration_scores = detector.calibration.mean_scores.tolist()
        self.spec = replace(self.spec, centre=centre)
        scoring = self.scoring(detector)
        self.timer.stage("hash images", None)
        known = known_to(detector)
        selection = self.select(known)
        self.timer.stage("score", len(selection.images))
        scored, failed = scoring.rows(selection.images, self.timer)
        fakes = sum(row.fake for row in scored)
        check_kinds(len(scored) - fakes, fakes, failed)
        selection, rows = without_near_copies(selection, scored, known, request.overlap)
        if request.exhibits:
            self.exhibits = self.shown(scoring, selection, chosen(rows, request.exhibits, centre))
        self.timer.stage("evaluate", None)
        measured = Measured(
            rows=rows,
            evaluation=evaluate(rows, self.spec),
            undeclared=self.undeclared(rows),
            selection=selection,
            detector=detector.info(str(path)),
            conditions=self.conditions(scoring, selection, rows),
            failed=failed,
        )
        self.timer.stage("null baselines", None)
        nulls = null_baselines(rows, request.bootstrap.seed, marks=request.container is None)
        if request.speed:
            self.run = replace(self.run, throughput=measure_speed(scoring, selection.images, path, self.timer))
        measured = replace(measured, nulls=nulls, comparisons=self.comparisons(rows))
        return self.batchwise(measured, scoring)

    def scoring(self, detector: Detector) -> Scoring:
        """The detector, ready to score; refused where batches cannot be compared with its calibration."""
        request = self.request
        comparison = BatchComparison(
            fdr=LEARNED_AT if request.adaptive else None, adaptive=request.adaptive, groups=request.groups
        )
        scoring = Scoring(
            detector,
            request.runtime,
            request.inputs,
            stored_as=request.container,
            seed=request.bootstrap.seed,
            kept=self.kept,
            features=comparison.features,
        )
        check_comparison(comparison, detector.calibration, scoring.placement)
        placement = scoring.placement
        self.run = BenchRun(device=str(placement.device), precision=placement.precision.value)
        return scoring

    def batchwise(self, measured: Measured, scoring: Scoring) -> Measured:
        """With what batches and groups of images tell, where that is asked for."""
        request, rows = self.request, measured.rows
        if not (request.adaptive or request.groups):
            return measured
        reals = calibration_sample(scoring.detector.calibration)
        sources, generators = (len(by_source(rows, fake=fake)) for fake in (False, True))
        shared = (rows, scoring.features, reals, request.bootstrap, self.timer.advance)
        if request.adaptive:
            self.timer.stage("adaptive batches", sources * generators)
            measured = replace(measured, batches=measure_batches(*shared))
        if request.groups:
            self.timer.stage("groups", sources + generators)
            measured = replace(measured, groups=measure_groups(*shared))
        return measured

    def undeclared(self, rows: Sequence[Row]) -> tuple[Sequence[Row], Evaluation] | None:
        """The rows that do not declare themselves synthetic and their figures, if that leaves some of both kinds."""
        left = [row for row in rows if row.declared.origin is not Origin.SYNTHETIC]
        fakes = sum(row.fake for row in left)
        if len(left) == len(rows) or not 0 < fakes < len(left):
            return None
        return left, evaluate(left, self.spec)

    def select(self, known: Known) -> Selection:
        """The images to score; `known` to the detector."""
        request = self.request
        dataset = read_datasets(request.data, request.inputs)
        if request.protocols:
            dataset = in_order(dataset)
        self.refuse_early(dataset.samples)
        choice = SelectSpec(
            overlap=request.overlap,
            limit=request.limit,
            seed=request.bootstrap.seed,
            max_bytes=request.inputs.max_bytes,
        )
        return select(dataset, known, choice)

    def shown(
        self, scoring: Scoring, selection: Selection, lists: Mapping[str, Sequence[Row]]
    ) -> dict[str, list[Exhibit]]:
        """Title -> images with their pictures, each of which is made once."""
        wanted = {row.sha256 for rows in lists.values() for row in rows}
        images = [image for image in selection.images if image.sha256 in wanted]
        self.timer.stage("draw images", len(images))
        pictures = scoring.pictures(images, self.timer)
        missing = Picture(None, None)
        return {
            title: [Exhibit(row, pictures.get(row.sha256 or "", missing)) for row in rows]
            for title, rows in lists.items()
        }

    def refuse_early(self, rows: Sequence[Row] | Sequence[Sample]) -> None:
        """Refuse gates about names that the data lack."""
        groups = {row.group for row in rows if row.label is Label.FAKE}
        sources = {row.source for row in rows if row.label is Label.REAL}
        check_names(self.request.gates, sorted(sources), sorted(groups | {self.spec.family(group) for group in groups}))

    def conditions(
        self, scoring: Scoring, selection: Selection, rows: Sequence[Row]
    ) -> list[tuple[Condition, Evaluation]]:
        """Figures under every perturbation: AUCs only, the images of each perturbation scored once."""
        spec = replace(self.spec, metrics={"auc": auc})
        sides_of: dict[Perturbation, list[On]] = {}
        for condition in self.request.conditions:
            sides_of.setdefault(condition.perturbation, []).append(condition.on)
        measured: list[tuple[Condition, Evaluation]] = []
        for perturbation, sides in sides_of.items():
            fakes = On.BOTH in sides or On.FAKES in sides
            reals = On.BOTH in sides or On.REALS in sides
            images = [image for image in selection.images if (fakes if image.sample.label is Label.FAKE else reals)]
            self.timer.stage(f"score {perturbation}", len(images))
            perturbed, _ = scoring.rows(images, self.timer, perturbation)
            measured += [
                (Condition(perturbation, side), evaluate(mixed(rows, perturbed, side), spec)) for side in sides
            ]
        return measured

    def comparisons(self, rows: Sequence[Row]) -> list[Comparison]:
        """Other detectors' scores of the same images."""
        comparisons = []
        for path in self.request.compare:
            self.timer.stage(f"compare {path.name}", None)
            theirs = compare_scores(str(path), rows)
            # Another detector's scores have a median of their own, which the file does not hold.
            evaluation = evaluate(theirs, replace(self.spec, centre=None))
            missing = len(rows) - len(theirs)
            comparisons.append(
                Comparison(
                    name=path.name,
                    scored=len(theirs),
                    missing=missing,
                    evaluation=evaluation,
                    differences=paired_differences(rows, theirs, self.spec.bootstrap),
                )
            )
        return comparisons
