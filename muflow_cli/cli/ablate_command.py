"""`muflow ablate`: its options, and what they mean together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from muflow_cli.claims import claimed
from muflow_cli.cli import bench_command as shared
from muflow_cli.cli import options
from muflow_cli.cli.bench_outputs import table_console
from muflow_cli.cli.progress import StageProgress, stderr_console
from muflow_cli.errors import NothingToDo
from muflow_cli.files import write_whole
from muflow_cli.run_specs import InputSpec, Precision, Runtime


def ablate_command(
    detector: options.DetectorArgument,
    real: shared.Real = None,
    fake: shared.Fake = None,
    data: shared.Labelled = None,
    fit_on: Annotated[
        list[str] | None,
        typer.Option("--fit-on", metavar="DIR", rich_help_panel=shared.DATA, help="REAL faces to fit to (repeatable)."),
    ] = None,
    axes: Annotated[
        str,
        typer.Option(
            "--axes",
            metavar="AXES",
            help="What to vary, separated by commas: target, classifier, alpha, images-per-average.",
        ),
    ] = "target,classifier,alpha",
    branch: Annotated[
        str | None, typer.Option("--branch", metavar="NAME", help="Branch to ablate; the first by default.")
    ] = None,
    limit: shared.Limit = 0,
    overlap: shared.Overlap = "refuse",
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            rich_help_panel=shared.OUTPUTS,
            help="Write FILE by its suffix: .json, .csv, .html or .md (repeatable).",
        ),
    ] = None,
    as_json: shared.AsJson = False,
    force: Annotated[
        bool, typer.Option("--force", rich_help_panel=shared.OUTPUTS, help="Replace existing output files.")
    ] = False,
    seed: shared.Seed = 0,
    resamples: Annotated[int, typer.Option("--resamples", min=1, help="Number of bootstrap resamples.")] = 200,
    device: options.Device = "auto",
    precision: options.PrecisionOption = Precision.AUTO,
    workers: options.Workers = 0,
    exclude: options.Exclude = None,
    quiet: options.Quiet = False,
) -> None:
    """Fit a branch of a detector again with other targets, flows and classifiers, and measure each variant.

    Encoder, projection and training stay as the detector has them, and every image is encoded once. The target axis
    adds the normal target, the identity flow and the latent Mahalanobis distance; the classifier axis adds every rule,
    with one tail and with two; images-per-average adds the silhouette of averaged features over N. Images that are
    measured are never fitted to.

    Example: `muflow ablate faces.safetensors --real ~/photos --fake ~/fakes --fit-on ~/ffhq -o ablation.json`
    """
    if not (real or fake or data):
        raise NothingToDo("there are no images to measure on", "give --real and --fake, or --data")
    if not fit_on:
        raise NothingToDo("there are no images to fit to", "give folders of real faces with --fit-on")
    from muflow_cli.ablate import AblateRequest, ablate
    from muflow_cli.ablate.table import parse_axes
    from muflow_cli.bench.datasets import data_arguments
    from muflow_cli.bench.intervals import BootstrapSpec
    from muflow_cli.output import ablation_text
    from muflow_cli.output.bench_text import to_bytes
    from muflow_cli.output.suffixes import longest_match

    formats = {suffix: (suffix,) for suffix in ablation_text.ABLATION_WRITERS}
    suffixes = {path: longest_match(path, formats) for path in output or ()}
    request = AblateRequest(
        detector=detector,
        data=data_arguments(real or (), fake or (), data or ()),
        fit_on=tuple(fit_on),
        axes=parse_axes(axes),
        branch=branch,
        inputs=InputSpec(exclude=tuple(exclude or ())),
        runtime=Runtime(device=device, precision=precision, workers=workers),
        overlap=shared.overlap_policy(overlap),
        limit=limit,
        bootstrap=BootstrapSpec(resamples=resamples, seed=seed),
        argv=tuple(sys.argv),
    )
    with claimed(output or [], force=force, inputs=[detector, *(real or ()), *(fake or ()), *(data or ()), *fit_on]):
        with StageProgress(stderr_console(quiet)) as progress:
            report = ablate(request, progress).document
        for path, suffix in suffixes.items():
            write_whole(path, ablation_text.ABLATION_WRITERS[suffix](report), force=force)
    if as_json:
        sys.stdout.buffer.write(to_bytes(report))
    else:
        ablation_text.print_tables(report, table_console())
