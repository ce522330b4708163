"""`muflow calibrate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muflow_cli.cli import clip_options, options
from muflow_cli.cli.description import description_rows, features_text
from muflow_cli.cli.progress import StageProgress, stderr_console
from muflow_cli.errors import BadSpec
from muflow_cli.output.suffixes import check_suffix
from muflow_cli.records import CalibratedOn
from muflow_cli.run_specs import Backend, Damaged, Precision
from muflow_cli.specs import Tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muflow_cli.calibrate.workflow import CalibrateSummary


def calibrate_command(
    detector: options.DetectorArgument,
    reals: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REAL...", help="Folders, files or archives of REAL faces; none = use the stored scores."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Detector bundle to write instead of replacing DETECTOR."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", metavar="RULE", help="Decision rule, such as conformal or cauchy; an unknown name lists all."
        ),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="Nominal false-positive rate, between 0 and 1.")
    ] = None,
    tail: Annotated[
        Tail | None,
        typer.Option("--tail", help="Flag scores above those of real images (upper) or on either side (both)."),
    ] = None,
    band: Annotated[
        str | None,
        typer.Option("--band", metavar="LO,HI", help="Range of p-values that are inconclusive; none = no band."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by", metavar="FACT,...", help="Calibrate separately by format, quality or size; none = together."
        ),
    ] = None,
    adapt: Annotated[
        list[str] | None,
        typer.Option(
            "--adapt",
            metavar="FOLDER",
            help="First re-centre and re-whiten the projections on these real faces, at least 50, all of one source.",
        ),
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add to the stored scores instead of replacing them.")
    ] = False,
    no_features: Annotated[
        bool,
        typer.Option(
            "--no-features",
            help="Store no features of the images, for a small file; scan --adaptive and --groups need them.",
        ),
    ] = False,
    allow_declared: options.AllowDeclared = False,
    device: options.Device = "auto",
    precision: options.PrecisionOption = Precision.AUTO,
    backend: options.BackendOption = Backend.TORCH,
    workers: options.Workers = 0,
    exclude: options.Exclude = None,
    hidden: options.Hidden = False,
    follow_links: options.FollowLinks = False,
    max_bytes: options.MaxBytes = options.MAX_BYTES,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    damaged: options.DamagedOption = Damaged.REFUSE,
    max_seconds: options.MaxSeconds = options.MAX_SECONDS,
    no_archives: options.NoArchives = False,
    face_model: options.FaceModel = None,
    frames: clip_options.Frames = None,
    every: clip_options.Every = None,
    animations: clip_options.Animations = False,
    max_clip_bytes: clip_options.MaxClipBytes = clip_options.MAX_CLIP_BYTES,
    force: options.Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    _log_file: options.LogFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Calibrate a detector with your own REAL face images: they set the threshold and the p-values, not the scores.

    Images that the detector was fitted on, or that declare themselves synthetic, are left out, and so are damaged ones
    unless --damaged score is given. Options that are not given keep their values in the detector; without REAL, the
    stored scores are used under the new rule. Without -o the detector's own file is replaced, which needs --force.

    With --adapt, real faces of a new source look to the detector as those of the fit did. Scores change, flow, target
    and encoder stay. REAL then calibrates; without REAL, about half of the images in FOLDER do, and the others adapt.

    REAL may be videos instead of images (muflow-cli[video]): the detector then judges videos as a whole, and n counts
    videos. --frames N or --every SECONDS says which frames are looked at, here and in every scan with this detector.

    **Examples**

    ```sh
    muflow calibrate faces.safetensors ~/reals -o mine.safetensors --alpha 0.01
    muflow calibrate mine.safetensors --method fisher --alpha 0.05 --force
    # At least 50 images to adapt to, and as many to calibrate on as the rule needs
    muflow calibrate faces.safetensors --adapt ~/reals -o mine.safetensors
    ```
    """
    rule = {"method": method, "alpha": alpha, "tail": tail}
    given: dict[str, Any] = {name: value for name, value in rule.items() if value is not None}
    if band is not None:
        given["band"] = _band(band)
    if by is not None:
        given["by"] = () if by == "none" else tuple(dict.fromkeys(by.split(",")))
    inputs = options.input_spec(
        exclude, hidden, follow_links, max_bytes, max_pixels, damaged, max_seconds, no_archives, face_model
    )
    if output is not None:
        check_suffix("-o", output, (".safetensors",))
    inputs = replace(inputs, clips=clip_options.clip_spec(frames, every, animations, max_clip_bytes))
    console = stderr_console(quiet)
    from muflow_cli.calibrate.workflow import CalibrateRequest, calibrate
    from muflow_cli.canonical import to_json

    request = CalibrateRequest(
        detector=detector,
        reals=tuple(reals or ()),
        output=output,
        rule=given,
        adapt=tuple(adapt or ()),
        append=append,
        features=not no_features,
        inputs=inputs,
        runtime=options.runtime(device, precision, workers, backend=backend),
        allow_declared=allow_declared,
        force=force,
    )
    with StageProgress(console) as progress:
        summary = calibrate(request, progress)
    if as_json:
        typer.echo(json.dumps(to_json(summary)))
    for name, text in _rows(summary):
        console.print(f"{name:14} {text}")


def _band(text: str) -> tuple[float, float] | None:
    if text == "none":
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise BadSpec("--band", text, "two p-values LO,HI, or none") from None
    return low, high


def _rows(summary: CalibrateSummary) -> Iterator[tuple[str, str]]:
    """The summary, for people."""
    stored = f" and {summary.kept} stored" if summary.kept else ""
    yield (
        "images" if summary.calibrated_on is CalibratedOn.STILLS else "videos",
        f"{summary.scored} scored{stored}, n = {summary.description.images}; "
        f"{_left_out(summary.left_out)}; unreadable: {_counts(summary.unreadable)}",
    )
    yield from options.skipped_rows(summary.skipped)
    yield from options.declared_rows(summary.declared_synthetic)
    yield from description_rows(summary.description)
    yield "features", features_text(summary.features)
    adapted = summary.adaptation
    if adapted is not None:
        yield "adapted", f"to {adapted.images} real images, SHA-256 of the set {adapted.digest}"
    yield "fingerprint", f"{summary.fingerprint} ({'unchanged' if adapted is None else 'changed, as scores do'})"
    yield "calibration", summary.calibration_fingerprint
    yield "wrote", summary.output


def _left_out(counts: dict[str, int]) -> str:
    others = {name: count for name, count in counts.items() if name != "near_copy"}
    near = counts.get("near_copy", 0)
    copies = f"; {near} near {'copy' if near == 1 else 'copies'} of other images left out" if near else ""
    return f"left out: {_counts(others)}{copies}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or "none"
