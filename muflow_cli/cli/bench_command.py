"""`muflow bench`: its options, and what they mean together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from muflow_cli import __version__
from muflow_cli.cli import options
from muflow_cli.cli.progress import StageProgress, stderr_console
from muflow_cli.errors import BadSpec, CannotWrite, NothingToDo, OutputExists
from muflow_cli.specs import Precision

if TYPE_CHECKING:
    from muflow_cli.bench import BenchRequest, BenchResult
    from muflow_cli.bench.ablation import Axis
    from muflow_cli.bench.data import OverlapPolicy
    from muflow_cli.bench.robustness import Condition
    from muflow_cli.pictures.datasets import DataArgument

_DATA: Final = "Data"
_ROBUSTNESS: Final = "Robustness"
_GATES: Final = "Gates"
_OUTPUTS: Final = "Outputs"
_EXHIBITS: Final = 6  # pictures in each list of a report
_UNBOUNDED: Final = 10_000  # columns of output that no screen shows

Texts = list[str] | None
Files = list[Path] | None
File = Path | None


def bench_command(
    detector: Annotated[File, typer.Argument(metavar="[DETECTOR]", help="A detector bundle (.safetensors).")] = None,
    real: Annotated[
        Texts,
        typer.Option("--real", metavar="[NAME=]DIR", rich_help_panel=_DATA, help="REAL faces (repeatable)."),
    ] = None,
    fake: Annotated[
        Texts,
        typer.Option("--fake", metavar="[NAME=]DIR", rich_help_panel=_DATA, help="Synthetic faces (repeatable)."),
    ] = None,
    data: Annotated[
        Texts,
        typer.Option(
            "--data",
            metavar="[NAME=]PATH",
            rich_help_panel=_DATA,
            help="A labelled tree (real/fake, 0_real/1_fake, nature/ai) or a CSV: path,label,group[,source].",
        ),
    ] = None,
    families: Annotated[
        File, typer.Option("--families", metavar="FILE", rich_help_panel=_DATA, help="CSV: generator,family.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, rich_help_panel=_DATA, help="Pictures per group, drawn by seed; 0 = all.")
    ] = 0,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", rich_help_panel=_DATA, help="Keep pictures that the detector knows; say so."),
    ] = False,
    drop_overlap: Annotated[
        bool,
        typer.Option("--drop-overlap", rich_help_panel=_DATA, help="Leave out pictures that the detector knows."),
    ] = False,
    perturb: Annotated[
        Texts,
        typer.Option("--perturb", metavar="SPEC", rich_help_panel=_ROBUSTNESS, help="As in jpeg:q=75 (repeatable)."),
    ] = None,
    suite: Annotated[
        Texts,
        typer.Option(
            "--suite",
            metavar="NAME",
            rich_help_panel=_ROBUSTNESS,
            help="paper, ufd, sidbench or delivery (repeatable).",
        ),
    ] = None,
    on: Annotated[
        Texts,
        typer.Option(
            "--on", metavar="SIDE", rich_help_panel=_ROBUSTNESS, help="Perturb both, reals or fakes (repeatable)."
        ),
    ] = None,
    gate: Annotated[
        Texts,
        typer.Option("--gate", metavar="EXPR", rich_help_panel=_GATES, help="As in macro_auc>=0.80 (repeatable)."),
    ] = None,
    baseline: Annotated[
        File, typer.Option("--baseline", metavar="FILE", rich_help_panel=_GATES, help="Earlier JSON, same data.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", rich_help_panel=_GATES, help="Allowed fall below the baseline, 0.01 if not given."),
    ] = None,
    scores_from: Annotated[
        File,
        typer.Option("--scores-from", metavar="FILE", rich_help_panel=_DATA, help="Scores (CSV) instead of DETECTOR."),
    ] = None,
    compare: Annotated[
        Files,
        typer.Option(
            "--compare", metavar="FILE", rich_help_panel=_DATA, help="Another detector's scores, by path (repeatable)."
        ),
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option("--ablation", metavar="AXES", help="Any of target,classifier,alpha,mean-size; needs --fit-on."),
    ] = None,
    fit_on: Annotated[
        Texts, typer.Option("--fit-on", metavar="DIR", help="REAL faces that the ablation fits to (repeatable).")
    ] = None,
    throughput: Annotated[
        bool, typer.Option("--throughput", help="Also measure speed, memory, size and operations per view.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=_OUTPUTS, help="JSON on stdout instead of the table.")
    ] = False,
    json_output: Annotated[
        File, typer.Option("--json-output", metavar="FILE", rich_help_panel=_OUTPUTS, help="JSON (muflow.bench/1).")
    ] = None,
    csv_output: Annotated[
        File, typer.Option("--csv-output", metavar="FILE", rich_help_panel=_OUTPUTS, help="Every figure as a line.")
    ] = None,
    markdown_output: Annotated[
        File, typer.Option("--markdown-output", metavar="FILE", rich_help_panel=_OUTPUTS, help="Tables for a README.")
    ] = None,
    junit_output: Annotated[
        File, typer.Option("--junit-output", metavar="FILE", rich_help_panel=_OUTPUTS, help="Gates as JUnit XML.")
    ] = None,
    report: Annotated[
        File,
        typer.Option(
            "--report", metavar="FILE.html", rich_help_panel=_OUTPUTS, help="One page with plots and pictures."
        ),
    ] = None,
    scores: Annotated[
        File, typer.Option("--scores", metavar="FILE", rich_help_panel=_OUTPUTS, help="Scores of all pictures (CSV).")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap, the limit and the noise.")] = 0,
    resamples: Annotated[int, typer.Option("--resamples", min=1, help="Of the bootstrap.")] = 1000,
    device: options.Device = "auto",
    precision: options.PrecisionOption = Precision.AUTO,
    batch_size: Annotated[int, typer.Option("--batch-size", min=0, help="Views at a time; 0 = the device's own.")] = 0,
    workers: options.Workers = 0,
    exclude: options.Exclude = None,
    hidden: options.Hidden = False,
    follow_links: options.FollowLinks = False,
    max_bytes: options.MaxBytes = options.MAX_BYTES,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure a detector on labelled pictures, each real source on its own; the headline is the worst of them.

    Pictures that the detector was fitted or calibrated on are refused. Every figure has its 95 % interval, and null
    baselines (metadata, sharpness) say what the data gives away. Exit status: 0 done, 1 a gate failed, 2 bad data.

    Example: `muflow bench faces.safetensors --real celeba=~/celebahq --fake ~/fakes --gate "macro_auc>=0.8"`
    """
    files = {
        "json": json_output,
        "csv": csv_output,
        "markdown": markdown_output,
        "junit": junit_output,
        "report": report,
        "scores": scores,
    }
    _refuse_ignored(
        {
            "--on": bool(on) and not (perturb or suite),
            "--max-drop": max_drop is not None and baseline is None,
        },
        "without what it is about: --perturb or --suite, --baseline",
    )
    _refuse_ignored(
        {
            "--perturb": scores_from and perturb,
            "--suite": scores_from and suite,
            "--limit": scores_from and limit,
            "--ablation": scores_from and ablation,
            "--throughput": scores_from and throughput,
            "--allow-overlap": scores_from and allow_overlap,
            "--drop-overlap": scores_from and drop_overlap,
        },
        "with --scores-from, which has no pictures",
    )
    _check_outputs(files, force=force)
    _check_inputs(detector, scores_from, [*(real or []), *(fake or []), *(data or [])])
    _check_files([*(compare or []), *([baseline] if baseline else [])])
    from muflow_cli.bench import BenchRequest
    from muflow_cli.bench.gates import parse_gate
    from muflow_cli.intervals import BootstrapSpec
    from muflow_cli.pictures.families import FAMILIES, read_families

    request = BenchRequest(
        detector=detector,
        data=_data(real or [], fake or [], data or []),
        scores_from=scores_from,
        compare=tuple(compare or ()),
        families=FAMILIES if families is None else read_families(str(families)),
        inputs=options.input_spec(exclude, hidden, follow_links, max_bytes, max_pixels),
        overlap=_overlap(allow_overlap, drop_overlap),
        limit=limit,
        conditions=_conditions(perturb or [], suite or [], on or ["both"]),
        bootstrap=BootstrapSpec(resamples=resamples, seed=seed),
        gates=tuple(parse_gate(text) for text in gate or ()),
        baseline=baseline,
        max_drop=0.01 if max_drop is None else max_drop,
        ablation=_axes(ablation, fit_on),
        fit_on=tuple(fit_on or ()),
        throughput=throughput,
        exhibits=_EXHIBITS if report is not None else 0,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=options.worker_count(workers),
    )
    console = stderr_console(quiet)
    result = _run(request, console)
    _write(result, files, as_json=as_json, force=force)
    raise typer.Exit(1 if result.failed_gates else 0)


def _refuse_ignored(ignored: Mapping[str, object], why: str) -> None:
    """Say that an option would do nothing, instead of doing nothing."""
    for name, given in ignored.items():
        if given:
            raise BadSpec(name, f"given {why}", "left out here")


def _check_outputs(files: Mapping[str, Path | None], *, force: bool) -> None:
    """Refuse before hours of work what would be refused after them."""
    named = [path for path in files.values() if path is not None]
    for path in named:
        if path.exists() and not force:
            raise OutputExists(str(path))
        if not path.parent.is_dir():
            raise CannotWrite(str(path), "there is no such folder")
    if len({path.absolute() for path in named}) < len(named):
        raise BadSpec("an output", "named twice", "a file of its own")


def _check_inputs(detector: Path | None, scores_from: Path | None, data: list[str]) -> None:
    if scores_from is not None and (detector is not None or data):
        raise BadSpec("--scores-from", "given with a detector or pictures", "alone: it stands for both")
    if scores_from is None and detector is None:
        raise NothingToDo("nothing to measure: name a detector and pictures, or scores with --scores-from")
    if scores_from is None and not data:
        raise NothingToDo("no pictures: give --real and --fake, or --data")


def _check_files(paths: list[Path]) -> None:
    """Miss before hours of work what would be missed after them."""
    for path in paths:
        if not path.is_file():
            raise NothingToDo(f"{path} is not a file: check --compare and --baseline")


def _data(real: list[str], fake: list[str], both: list[str]) -> tuple[DataArgument, ...]:
    from muflow_cli.pictures.datasets import DataArgument, Wanted

    sides = ((Wanted.REAL, real), (Wanted.FAKE, fake), (Wanted.BOTH, both))
    return tuple(DataArgument(text, wanted) for wanted, texts in sides for text in texts)


def _axes(ablation: str | None, fit_on: list[str] | None) -> frozenset[Axis]:
    from muflow_cli.bench.ablation import parse_axes

    if (ablation is None) != (not fit_on):
        raise BadSpec(
            "--ablation", "given without --fit-on" if ablation else "missing beside --fit-on", "given with it"
        )
    return frozenset() if ablation is None else parse_axes(ablation)


def _overlap(allow: bool, drop: bool) -> OverlapPolicy:
    from muflow_cli.bench.data import OverlapPolicy

    if allow and drop:
        raise BadSpec("--allow-overlap", "given with --drop-overlap", "the only choice about overlap")
    return OverlapPolicy.ALLOW if allow else OverlapPolicy.DROP if drop else OverlapPolicy.REFUSE


def _conditions(texts: list[str], suites: list[str], sides: list[str]) -> tuple[Condition, ...]:
    from muflow_cli.bench.robustness import Condition, On
    from muflow_cli.pictures.perturb import SUITES, parse

    for name in suites:
        if name not in SUITES:
            raise BadSpec("--suite", name, "one of " + ", ".join(SUITES))
    for side in sides:
        if side not in set(On):
            raise BadSpec("--on", side, "one of " + ", ".join(On))
    wanted = [*map(parse, texts), *(one for name in suites for one in SUITES[name])]
    return tuple(dict.fromkeys(Condition(one, On(side)) for one in wanted for side in sides))


def _run(request: BenchRequest, console: Console) -> BenchResult:
    from muflow_cli.bench import bench
    from muflow_cli.environment import utc_now, versions

    started = utc_now()

    def run() -> dict[str, Any]:
        return {
            "tool": "muflow",
            "version": __version__,
            "argv": list(sys.argv),
            "started": started,
            "finished": utc_now(),
            "versions": versions(),
        }

    with StageProgress(console) as progress:
        return bench(request, progress, run)


def _write(result: BenchResult, files: Mapping[str, Path | None], *, as_json: bool, force: bool) -> None:
    """Every file that was asked for, then stdout."""
    from muflow_cli.bench.page import page_of
    from muflow_cli.bench.scores import scores_csv
    from muflow_cli.bundle import write_atomically
    from muflow_cli.output import bench_text
    from muflow_cli.output.bench_report import render_bench

    report = result.document
    make: dict[str, Callable[[], bytes]] = {
        "json": lambda: bench_text.to_bytes(report),
        "csv": lambda: bench_text.csv_bytes(report),
        "markdown": lambda: bench_text.markdown(report).encode(),
        "junit": lambda: bench_text.junit(report),
        "report": lambda: render_bench(page_of(result)).encode(),
        "scores": lambda: scores_csv(result.rows),
    }
    for kind, path in files.items():
        if path is not None:
            write_atomically(path, make[kind](), force=force)
    if as_json:
        sys.stdout.buffer.write(bench_text.to_bytes(report))
    else:
        # A file or a pipe has no edge at which a line would have to end.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _UNBOUNDED
        bench_text.print_tables(report, Console(highlight=False, markup=False, emoji=False, width=width))
