"""`muflow fit`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from muflow_cli.cli import options
from muflow_cli.cli.progress import StageProgress, stderr_console
from muflow_cli.errors import BadSpec
from muflow_cli.settings import apply, override
from muflow_cli.specs import PRESETS, DetectorSpec, Precision, Tail, TargetKind, View

if TYPE_CHECKING:
    from muflow_cli.fit import FitSummary


def fit_command(
    reals: Annotated[list[str], typer.Argument(metavar="REAL...", help="Folders, files or archives of REAL faces.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The detector to write.")],
    preset: Annotated[
        str, typer.Option("--preset", help="light: small and fast. paper: the published configuration.")
    ] = "light",
    encoder: Annotated[
        str | None, typer.Option("--encoder", metavar="NAME", help="Frozen network for features.")
    ] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option("--encoder-weights", metavar="FILE", help="Its weights (.safetensors, .pth); else downloaded."),
    ] = None,
    view: Annotated[View | None, typer.Option("--view", help="Whole picture resized, or native crops.")] = None,
    target: Annotated[
        TargetKind | None, typer.Option("--target", help="mu: density of averages. normal: N(0, I), the baseline.")
    ] = None,
    mean_size: Annotated[int | None, typer.Option("--mean-size", min=1, help="Pictures per average (N).")] = None,
    means: Annotated[int | None, typer.Option("--means", min=2, help="Number of averages (M).")] = None,
    components: Annotated[
        str | None, typer.Option("--components", metavar="K|auto", help="Mixture components; auto chooses by BIC.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=0, help="At most so many passes.")] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Nominal false-positive rate, 0 to 1.")] = None,
    tail: Annotated[Tail | None, typer.Option("--tail", help="Which side of the reals is suspicious.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of every random draw.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, e.g. flow.steps=0 (repeatable)."),
    ] = None,
    device: options.Device = "auto",
    precision: options.PrecisionOption = Precision.AUTO,
    workers: options.Workers = 0,
    exclude: options.Exclude = None,
    hidden: options.Hidden = False,
    follow_links: options.FollowLinks = False,
    max_bytes: options.MaxBytes = options.MAX_BYTES,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed run stopped.")] = False,
    force: options.Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Fit a detector to REAL face pictures; it never sees a synthetic one.

    Pictures are found by content, split by content hash into training, validation and calibration parts, and each is
    read and encoded once. The detector is calibrated on pictures it did not train on, so that it can scan at once.

    Example: `muflow fit ~/reals -o faces.safetensors --encoder-weights resnet50-0676ba61.pth`
    """
    averages = {"mean_size": mean_size, "means": means, "components": _components(components)}
    changes: dict[str, dict[str, Any]] = {
        "view": {"kind": view},
        "feature": {"encoder": encoder},
        "target": {"kind": target, **averages},
        "train": {"epochs": epochs, "seed": seed},
        "rule": {"alpha": alpha, "tail": tail},
    }
    spec = _spec(preset, changes, settings or [])
    from muflow_cli.fit import FitRequest, fit

    request = FitRequest(
        reals=tuple(reals),
        output=output,
        spec=spec,
        weights=encoder_weights,
        inputs=options.input_spec(exclude, hidden, follow_links, max_bytes, max_pixels),
        device=device,
        precision=precision,
        workers=options.worker_count(workers),
        resume=resume,
        force=force,
    )
    console = stderr_console(quiet)
    with StageProgress(console) as progress:
        summary = fit(request, progress)
    if as_json:
        typer.echo(json.dumps(asdict(summary)))
    _tell(console, summary)


def _components(text: str | None) -> int | None:
    if text is None:
        return None
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise BadSpec("--components", text, "a whole number above 0, or auto")
    return int(text)


def _spec(preset: str, changes: dict[str, dict[str, Any]], settings: list[str]) -> DetectorSpec:
    if preset not in PRESETS:
        raise BadSpec("--preset", preset, "one of " + ", ".join(PRESETS))
    given = {group: {k: v for k, v in fields.items() if v is not None} for group, fields in changes.items()}
    return override(apply(PRESETS[preset], given), settings)


def _tell(console: Console, summary: FitSummary) -> None:
    """The summary, for people."""
    skipped = ", ".join(f"{count} {code}" for code, count in sorted(summary.skipped.items())) or "none"
    origin = summary.provenance
    raised = f" (raised for {', '.join(summary.regularisation_raised)})" if summary.regularisation_raised else ""
    lines = (
        f"pictures       {summary.used} used ({summary.train} train, {summary.validation} validation, "
        f"{summary.calibration} calibration); skipped: {skipped}; near duplicates kept together: "
        f"{summary.near_duplicates}",
        f"averages       overlap {origin.overlap:.3f}, effective sample size {origin.effective_sample_size:.1f}",
        f"target         components {', '.join(map(str, origin.components))} at {', '.join(summary.scales)}; "
        f"regularisation {', '.join(f'{r:g}' for r in origin.reg_covar)}{raised}",
        f"flow           {origin.epochs} epochs, best {origin.best_epoch}; NLL per dimension: train "
        f"{origin.train_nll:.4f}, validation {origin.validation_nll:.4f}",
        "seconds        " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in summary.seconds.items()),
        f"fingerprint    {summary.fingerprint}",
        f"calibration    {summary.calibration_fingerprint}",
        f"wrote          {summary.output}",
    )
    for line in lines:
        console.print(line)
