"""The workflow of `ablate`: one branch fitted again with other targets, flows and classifiers, each image encoded once.

Everything is fitted to reals that are not measured; fakes are only scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from muflow_cli.ablate.encoded import Subject, encode_fit, encode_images
from muflow_cli.ablate.records import AblationDocument, AblationFit
from muflow_cli.ablate.silhouettes import silhouettes
from muflow_cli.ablate.table import Axis, Bench, make_table
from muflow_cli.bench.data import HashedSample, OverlapPolicy, Selection, SelectSpec, known_to, select
from muflow_cli.bench.datasets import DataArgument, read_datasets
from muflow_cli.bench.document import Settings, make_bootstrap, make_data
from muflow_cli.bench.evaluate import EvaluateSpec
from muflow_cli.bench.families import family
from muflow_cli.bench.intervals import BootstrapSpec
from muflow_cli.bench.scores import Row
from muflow_cli.bench.scoring import Scoring
from muflow_cli.bundle import load
from muflow_cli.environment import begin_run, utc_now
from muflow_cli.files import temporary_folder
from muflow_cli.output.encode import to_object
from muflow_cli.progress import NoProgress, ProgressListener, StageTimer
from muflow_cli.run_records import RunInfo
from muflow_cli.run_specs import InputSpec, Runtime


@dataclass(frozen=True, kw_only=True, slots=True)
class AblateRequest:
    """What to ablate, with which images.

    Attributes:
        detector: the bundle.
        data: labelled images to measure.
        fit_on: files, folders, globs or archives of real images to fit to.
        axes: what is varied.
        branch: name of the branch; None = the first.
        inputs: limits on what is read.
        runtime: device, precision, batch size, workers.
        overlap: what happens to measured images that the detector knows.
        limit: most measured images per label and group; 0 = all.
        bootstrap: resamples, seed, level; its seed also draws the limit and the averages.
        argv: the command line, for the report.
    """

    detector: Path
    data: tuple[DataArgument, ...]
    fit_on: tuple[str, ...]
    axes: frozenset[Axis]
    branch: str | None = None
    inputs: InputSpec = field(default_factory=InputSpec)
    runtime: Runtime = field(default_factory=Runtime)
    overlap: OverlapPolicy = OverlapPolicy.REFUSE
    limit: int = 0
    bootstrap: BootstrapSpec = BootstrapSpec(resamples=200)  # noqa: RUF009 - frozen
    argv: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class AblateResult:
    """What `ablate` gives back: the report (schema "muflow.ablation/1")."""

    document: dict[str, Any]


def ablate(request: AblateRequest, progress: ProgressListener | None = None) -> AblateResult:
    """Fit one branch of a detector again, varying what `request.axes` names, and measure each variant.

    Raises:
        TooFewImages: where `fit_on` holds too few images that are not measured.
        MuflowError: with `.problem` and `.remedy`.
    """
    started = utc_now()
    timer = StageTimer(progress or NoProgress())
    detector = load(request.detector)
    timer.stage("hash images", None)
    spec = SelectSpec(
        overlap=request.overlap,
        limit=request.limit,
        seed=request.bootstrap.seed,
        max_bytes=request.inputs.max_bytes,
    )
    selection = select(read_datasets(request.data, request.inputs), known_to(detector), spec)
    scoring = Scoring(detector, request.runtime, request.inputs, seed=request.bootstrap.seed)
    placement = scoring.placement
    run = replace(begin_run(str(placement.device), placement.precision, request.argv), started=started)
    document = _measured(request, Subject(scoring, request.branch), selection, run, timer)
    timer.close()
    document = replace(document, run=replace(run, finished=utc_now()), stages=dict(timer.seconds))
    return AblateResult(document=dict(to_object(document, "the ablation")))


def _measured(
    request: AblateRequest, subject: Subject, selection: Selection, run: RunInfo, timer: StageTimer
) -> AblationDocument:
    """The report, not finished yet."""
    evaluate = EvaluateSpec(bootstrap=request.bootstrap, centre=None, family=family)
    hashes = {image.sha256 for image in selection.images}
    with temporary_folder("muflow-ablation-") as folder:
        fitted = encode_fit(request.fit_on, subject, hashes, folder / "fit", timer)
        tested, images, unreadable = encode_images(
            selection.images, subject, fitted.projections, folder / "tested", timer
        )
        bench = Bench(
            subject=subject, axes=request.axes, fitted=fitted, tested=tested, images=images, evaluate=evaluate
        )
        table = make_table(bench, timer)
        points = None
        if Axis.IMAGES_PER_AVERAGE in request.axes:
            points = silhouettes(tested, images, fitted, subject, request.bootstrap.seed, timer)
    # What is measured went through the detector's own container, if it has one.
    container = subject.scoring.detector.spec.container
    settings = Settings(evaluate=evaluate, overlap=request.overlap, limit=request.limit, container=container)
    return AblationDocument(
        detector=subject.scoring.detector.info(str(request.detector)),
        branch=subject.spec.name,
        data=make_data(
            _unscored(images),
            replace(selection, near_copies=len(selection.images) - len(unreadable) - len(images)),
            [*selection.unreadable, *unreadable],
            settings,
        ),
        settings=make_bootstrap(evaluate),
        fit=AblationFit(
            train=len(fitted.first_rows),
            validation=fitted.validation,
            calibration=len(fitted.calibration.starts) - 1,
            left_out=fitted.left_out,
        ),
        table=table,
        silhouette=points,
        run=run,
        stages={},
    )


def _unscored(images: Sequence[HashedSample]) -> list[Row]:
    """Rows that say which images were measured; every variant has scores of its own."""
    return [
        Row(
            path=image.sample.path,
            label=image.sample.label,
            group=image.sample.group,
            source=image.sample.source,
            score=0.0,
            sha256=image.sha256,
        )
        for image in images
    ]
