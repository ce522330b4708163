"""`muflow fit`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from muflow_cli.cli import clip_options, options
from muflow_cli.cli.description import selection_rows
from muflow_cli.cli.fit_spec import branch_weights, fit_spec
from muflow_cli.cli.fit_verdict import verdict_rows
from muflow_cli.cli.interruption import last_words
from muflow_cli.cli.progress import StageProgress, stderr_console
from muflow_cli.cluster import parse_engine
from muflow_cli.errors import BadSpec, IncompatibleOptions
from muflow_cli.output.suffixes import check_suffix
from muflow_cli.run_specs import Damaged, Precision
from muflow_cli.settings import with_faces
from muflow_cli.specs import FaceSpec, Tail, TargetKind, View

if TYPE_CHECKING:
    from muflow_cli.fit.records import FitRequest, FitSummary

_MODEL: Final = "Model"
_VERDICT: Final = "Verdict"


def fit_command(
    reals: Annotated[list[str], typer.Argument(metavar="REAL...", help="Folders, files or archives of REAL faces.")],
    output: Annotated[
        list[Path],
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Detector bundle to write; also .csv or .html for the history of the training (repeatable).",
        ),
    ],
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="light, lite (EfficientNet-Lite0, extra timm) or paper (the published configuration).",
            rich_help_panel=_MODEL,
        ),
    ] = "light",
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="NAME",
            help="Frozen network that gives features; timm:MODEL is one of timm's.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    branches: Annotated[
        list[str] | None,
        typer.Option(
            "--branch",
            metavar="NAME=SPEC",
            help="Add a branch; SPEC is ENCODER[,SETTING=VALUE...] (repeatable).",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    encoder_weights: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder-weights",
            metavar="[BRANCH=]FILE",
            help="Encoder weights (.safetensors or .pth) instead of a download (repeatable).",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    view: Annotated[
        View | None,
        typer.Option("--view", help="Score the whole image resized, or native crops.", rich_help_panel=_MODEL),
    ] = None,
    faces: Annotated[
        bool,
        typer.Option(
            "--faces", help="Find the faces of each image, align them and score each.", rich_help_panel=_MODEL
        ),
    ] = False,
    min_face: Annotated[
        int | None,
        typer.Option(
            "--min-face",
            min=8,
            metavar="PIXELS",
            help="With --faces, leave out faces whose box is smaller.",
            show_default=f"{FaceSpec().min_side}",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    face_detector: Annotated[
        str | None,
        typer.Option(
            "--face-detector",
            metavar="NAME",
            help="With --faces, what finds them; an unknown name lists all.",
            rich_help_panel=_MODEL,
            hidden=True,
        ),
    ] = None,
    face_model: options.FaceModel = None,
    container: options.Container = None,
    target: Annotated[
        TargetKind | None,
        typer.Option(
            "--target",
            help="Target density: mu (average images) or normal, N(0, I), as a baseline.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    images_per_average: Annotated[
        int | None,
        typer.Option("--images-per-average", min=1, help="Number of images per average (N).", rich_help_panel=_MODEL),
    ] = None,
    averages: Annotated[
        int | None, typer.Option("--averages", min=2, help="Number of averages (M).", rich_help_panel=_MODEL)
    ] = None,
    mean_size: Annotated[int | None, typer.Option("--mean-size", min=1, hidden=True)] = None,
    means: Annotated[int | None, typer.Option("--means", min=2, hidden=True)] = None,
    components: Annotated[
        str | None,
        typer.Option(
            "--components",
            metavar="K|auto",
            help="Number of mixture components; auto chooses by BIC.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", min=0, help="Maximum number of training epochs.", rich_help_panel=_MODEL),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed for all random draws.", rich_help_panel=_MODEL)] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[BRANCH/]NAME=VALUE",
            help="Any other setting, such as flow.steps=0 (repeatable).",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="RULE",
            help="Decision rule, such as conformal or cauchy; an unknown name lists all.",
            rich_help_panel=_VERDICT,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", help="Nominal false-positive rate, between 0 and 1.", rich_help_panel=_VERDICT),
    ] = None,
    tail: Annotated[
        Tail | None,
        typer.Option(
            "--tail",
            help="Flag scores above those of real images (upper) or on either side (both).",
            rich_help_panel=_VERDICT,
        ),
    ] = None,
    device: options.Device = "auto",
    precision: options.PrecisionOption = Precision.AUTO,
    workers: options.Workers = 0,
    engine: options.Engine = "local",
    exclude: options.Exclude = None,
    hidden: options.Hidden = False,
    follow_links: options.FollowLinks = False,
    max_bytes: options.MaxBytes = options.MAX_BYTES,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    damaged: options.DamagedOption = Damaged.REFUSE,
    allow_declared: options.AllowDeclared = False,
    max_seconds: options.MaxSeconds = options.MAX_SECONDS,
    no_archives: options.NoArchives = False,
    frames: clip_options.Frames = None,
    every: clip_options.Every = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted fit.")] = False,
    force: options.Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    _log_file: options.LogFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Fit a detector to REAL face images; it never sees a synthetic one.

    Images whose files declare themselves synthetic are left out and listed. The others are split by content into
    training, validation and calibration parts, and each is read and encoded once. The detector is calibrated on images
    that it was not trained on, so it is ready to scan.

    With --frames N or --every SECONDS it is also fitted to frames of videos of real faces (muflow-cli[video]); all
    frames of a video are in the same part, and one of each video calibrates.

    **Examples**

    ```sh
    # The preset light with local weights
    muflow fit ~/reals -o faces.safetensors --encoder-weights resnet50-0676ba61.pth
    # Faces in photographs, each aligned and scored by itself
    muflow fit ~/reals -o faces.safetensors --faces
    # Two kinds of evidence, the whole image and the traces in native crops, combined into one p-value
    muflow fit ~/reals -o both.safetensors --branch whole=resnet18 \\
        --branch traces=forensic,view.kind=crops,view.size=128
    ```
    """
    number, size = averages or means, images_per_average or mean_size
    changes: dict[str, dict[str, Any]] = {
        "view": {"kind": view},
        "feature": {"encoder": encoder},
        "target": {
            "kind": target,
            "images_per_average": size,
            "n_averages": number,
            "components": _components(components),
        },
        "train": {"epochs": epochs, "seed": seed},
        "rule": {"method": method, "alpha": alpha, "tail": tail},
    }
    spec = fit_spec(preset, branches or [], changes, settings or [])
    if faces:
        spec = with_faces(spec, _face_spec(min_face, face_detector, face_model))
    elif min_face is not None or face_detector is not None or face_model is not None:
        given = "--min-face" if min_face is not None else "--face-detector" if face_detector else "--face-model"
        raise IncompatibleOptions(given, "--faces", "only a detector of faces looks for them", needs=True)
    from muflow_cli.canonical import to_json
    from muflow_cli.fit.records import FitRequest
    from muflow_cli.images.container import parse_container

    if container is not None:
        spec = replace(spec, container=parse_container(container))

    bundle, reports = _outputs(output)
    request = FitRequest(
        reals=tuple(reals),
        output=bundle,
        reports=reports,
        spec=spec,
        weights=branch_weights(spec, encoder_weights or []),
        inputs=clip_options.with_frames(
            options.input_spec(
                exclude, hidden, follow_links, max_bytes, max_pixels, damaged, max_seconds, no_archives, face_model
            ),
            frames,
            every,
        ),
        runtime=options.runtime(device, precision, workers),
        cluster=parse_engine(engine, workers),
        allow_declared=allow_declared,
        resume=resume,
        force=force,
    )
    console = stderr_console(quiet)
    summary = _fit(request, console)
    if as_json:
        typer.echo(json.dumps(to_json(summary)))
    encoders = {branch.name: branch.feature.encoder for branch in spec.branches}
    for name, text in _rows(summary, encoders, reports):
        console.print(f"{name:14} {text}")


def _fit(request: FitRequest, console: Console) -> FitSummary:
    """Fit; an interruption says where the finished work is."""
    from muflow_cli.fit.workflow import fit

    work = request.output.with_name(f"{request.output.name}.work")

    def kept() -> str:
        return f"; the finished work is kept in {work}, continue with --resume" if work.exists() else ""

    with last_words(kept), StageProgress(console) as progress:
        return fit(request, progress)


def _outputs(paths: Sequence[Path]) -> tuple[Path, tuple[Path, ...]]:
    """The bundle, and the files for the history, which are known by their suffixes."""
    reports = tuple(path for path in paths if path.suffix.lower() in (".csv", ".html"))
    bundles = [path for path in paths if path not in reports]
    if len(bundles) != 1:
        raise BadSpec("-o", " ".join(map(str, paths)), "one file for the detector, and .csv or .html for the history")
    check_suffix("-o", bundles[0], (".safetensors", ".csv", ".html"))
    return bundles[0], reports


def _face_spec(min_face: int | None, detector: str | None, model: Path | None) -> FaceSpec:
    """What a detector of faces looks for; a model file that cannot be read is refused by whoever opens it."""
    default = FaceSpec()
    digest = ""
    if model is not None and model.is_file():
        with model.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FaceSpec(
        detector=detector or default.detector,
        min_side=default.min_side if min_face is None else min_face,
        model_sha256=digest,
    )


def _components(text: str | None) -> int | None:
    if text is None:
        return None
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise BadSpec("--components", text, "a whole number above 0, or auto")
    return int(text)


def _rows(summary: FitSummary, encoders: Mapping[str, str], reports: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """The summary, for people; `encoders` are those of the branches by name."""
    skipped = ", ".join(f"{count} {code}" for code, count in sorted(summary.skipped.items())) or "none"
    yield (
        "images",
        f"{summary.used} used ({summary.train} train, {summary.validation} validation, {summary.calibration} "
        f"calibration); skipped: {skipped}; near duplicates kept together: {summary.near_duplicates}",
    )
    yield from options.skipped_rows(summary.skipped_files)
    yield from options.declared_rows(summary.declared_synthetic)
    for name, origin in summary.provenance.branches.items():
        layers = [column.partition("/")[2] for column in summary.columns if column.startswith(f"{name}/")]
        per_layer = ", ".join(
            f"{layer} {components} (regularisation {added:g})"
            for layer, components, added in zip(layers, origin.components, origin.reg_covar, strict=True)
        )
        yield "branch", f"{name}, encoder {encoders[name]}, weights {origin.weights_origin}"
        yield "  averages", f"overlap {origin.overlap:.3f}, effective sample size {origin.effective_sample_size:.1f}"
        yield "  components", per_layer
        yield (
            "  flow",
            f"{origin.epochs} epochs, best {origin.best_epoch}; NLL per dimension: train {origin.train_nll:.4f}, "
            f"validation {origin.validation_nll:.4f}",
        )
        yield "  training", origin.stopped
        yield from selection_rows(origin.selected)
    if summary.regularisation_raised:
        yield "warning", f"regularisation was raised for {', '.join(summary.regularisation_raised)}"
    yield "seconds", ", ".join(f"{name} {seconds:.1f}" for name, seconds in summary.seconds.items())
    yield "fingerprint", summary.fingerprint
    yield "calibration", summary.calibration_fingerprint
    yield "wrote", ", ".join([summary.output, *map(str, reports)])
    yield from verdict_rows(summary)
