"""`muflow scan`: its options, and what they mean together."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer
from rich.console import Console

from muflow_cli.cli import options, scan_run
from muflow_cli.cli.default_detector import find_detector
from muflow_cli.cli.outputs import Destination, check_paths, silence_stdout
from muflow_cli.cli.progress import stderr_console
from muflow_cli.errors import BadSpec, NothingToDo
from muflow_cli.output.encode import check_fields
from muflow_cli.output.inert import escape
from muflow_cli.output.journal import ResumedWriter
from muflow_cli.output.writers import WRITERS, OutputFormat, Writer
from muflow_cli.records import Summary
from muflow_cli.specs import Precision

_FORMATS: Final = "Results"
_RUN: Final = "Run"

_EXTRA_FORMATS = (OutputFormat.JSON, OutputFormat.JSONL, OutputFormat.CSV, OutputFormat.SARIF)


def scan_command(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH...", help="Pictures, folders, globs, archives or URLs.")
    ] = None,
    detector: Annotated[
        Path | None, typer.Option("--detector", metavar="FILE", help="Detector to scan with.", envvar="MUFLOW_DETECTOR")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The same as --format json.", rich_help_panel=_FORMATS)
    ] = False,
    format_: Annotated[
        OutputFormat | None,
        typer.Option(
            "--format",
            help="Of the results; default: by the name of -o, table on a terminal, jsonl into a pipe.",
            rich_help_panel=_FORMATS,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Instead of stdout.", rich_help_panel=_FORMATS),
    ] = None,
    json_output: Annotated[
        Path | None, typer.Option("--json-output", metavar="FILE", help="Also as JSON.", rich_help_panel=_FORMATS)
    ] = None,
    jsonl_output: Annotated[
        Path | None,
        typer.Option("--jsonl-output", metavar="FILE", help="Also as JSON lines.", rich_help_panel=_FORMATS),
    ] = None,
    csv_output: Annotated[
        Path | None, typer.Option("--csv-output", metavar="FILE", help="Also as CSV.", rich_help_panel=_FORMATS)
    ] = None,
    sarif_output: Annotated[
        Path | None,
        typer.Option("--sarif-output", metavar="FILE", help="Also as SARIF 2.1.0.", rich_help_panel=_FORMATS),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE.html", help="Also as one self-contained page.", rich_help_panel=_FORMATS
        ),
    ] = None,
    fields: Annotated[
        str | None,
        typer.Option("--fields", metavar="A,B,...", help="Only these fields, in order.", rich_help_panel=_FORMATS),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace outputs that exist.", rich_help_panel=_FORMATS)
    ] = False,
    files_from: Annotated[
        Path | None, typer.Option("--files-from", metavar="FILE", help="Read paths from FILE, one a line; - is stdin.")
    ] = None,
    null: Annotated[bool, typer.Option("-0", "--null", help="Paths of --files-from end with NUL.")] = False,
    exclude: options.Exclude = None,
    hidden: options.Hidden = False,
    follow_links: options.FollowLinks = False,
    max_bytes: options.MaxBytes = options.MAX_BYTES,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    fdr: Annotated[
        float | None,
        typer.Option(
            "--fdr",
            metavar="RATE",
            help="Flag by Benjamini-Hochberg q-values over this run, at this false discovery rate, instead of alpha.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with -o FILE.jsonl: what it holds is not scored again.", rich_help_panel=_RUN
        ),
    ] = False,
    verify: Annotated[
        Path | None,
        typer.Option(
            "--verify",
            metavar="REPORT",
            help="Scan nothing: hash the files of a json or jsonl report again and say what differs.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    workers: options.Workers = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=0, help="Views per batch; 0 = the device's own.")] = 0,
    device: options.Device = "auto",
    precision: options.PrecisionOption = Precision.AUTO,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit 0 whatever was flagged or unreadable.")] = False,
    quiet: options.Quiet = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name every unreadable input on stderr.")] = False,
) -> None:
    """Score pictures and say which are unlike the real faces that the detector was fitted to.

    Results go to stdout or to files; progress, warnings and the summary go to stderr. One result for every input, in
    the order of the inputs; an input that cannot be read is a result that says why.

    **Exit status**: 0 nothing flagged; 1 something flagged; 2 wrong usage, unreadable detector or an output that
    cannot be written; 3 nothing flagged, but some inputs unreadable; 130 interrupted, what was done is kept.
    With --verify: 0 all is as the report says; 1 something differs; 2 it is no report.

    **Examples**

    ```sh
    # Verdicts of a folder, as a table
    muflow scan photos/ --detector faces.safetensors
    # A long run; where it was killed, the same line goes on
    muflow scan /archive --detector faces.safetensors -o night.jsonl --resume
    # Two formats for programs and a page for people
    muflow scan photos/ --json-output r.json --csv-output r.csv --report r.html
    # What another program found, NUL between names; the detector is named by MUFLOW_DETECTOR
    find . -newer last -print0 | muflow scan --files-from - -0 --json
    # At most a tenth of what is flagged is expected to be a real face
    muflow scan photos/ --fdr 0.1
    # Whether a report and its files are still what they were
    muflow scan --verify night.jsonl
    ```
    """
    console = stderr_console(quiet)
    with _pipes():
        if verify is not None:
            raise typer.Exit(_verify(verify, paths, console))
        output = None if output is not None and str(output) == "-" else output
        main = _main_format(as_json, format_, output)
        more = dict(zip(_EXTRA_FORMATS, (json_output, jsonl_output, csv_output, sarif_output), strict=True))
        names = None if fields is None else tuple(fields.split(","))
        check_fields(names)
        _check_batch(fdr, resume, names, output if main is OutputFormat.JSONL else None)
        written = [output, *more.values(), report]
        check_paths([path for path in written if path], force=force, resumed=output if resume else None)
        job = scan_run.Job(
            detector=find_detector(detector, console.print),
            arguments=_arguments(paths or [], files_from, null),
            listable=files_from is None and not any("://" in path for path in paths or []),
            inputs=options.input_spec(exclude, hidden, follow_links, max_bytes, max_pixels),
            device=device,
            precision=precision,
            batch_size=batch_size,
            workers=options.worker_count(workers),
            destinations=_destinations(main, output, more, names, resume),
            report=report,
            resume=output if resume else None,
            fdr=fdr,
            verbose=verbose,
        )
        summary = scan_run.run(job, console)
    raise typer.Exit(_status(summary, exit_zero))


@contextlib.contextmanager
def _pipes() -> Iterator[None]:
    """End quietly where the reader of stdout went away; typer would end with status 1, which means `flagged`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
        typer.echo("muflow: the reader of standard output went away: stopped there", err=True)
        raise typer.Exit(130) from None


def _main_format(as_json: bool, format_: OutputFormat | None, output: Path | None) -> OutputFormat:
    if as_json and format_ not in (None, OutputFormat.JSON):
        raise BadSpec("--json", f"given with --format {format_}", "the only choice of format")
    if as_json:
        return OutputFormat.JSON
    if format_ is not None:
        return format_
    by_name = {f".{kind.value}": kind for kind in OutputFormat if kind is not OutputFormat.TABLE}
    if output is not None:
        return by_name.get(output.suffix.lower(), OutputFormat.JSONL)
    return OutputFormat.TABLE if sys.stdout.isatty() else OutputFormat.JSONL


def _check_batch(fdr: float | None, resume: bool, names: tuple[str, ...] | None, lines: Path | None) -> None:
    """Refuse what cannot go together; `lines` is the main output where that is a JSON-lines file."""
    if fdr is not None and not 0 < fdr < 1:
        raise BadSpec("--fdr", fdr, "between 0 and 1, both excluded")
    if not resume:
        return
    if lines is None:
        raise BadSpec("--resume", "given without a JSON-lines file", "given with -o FILE.jsonl")
    if names is not None:
        raise BadSpec("--resume", "given with --fields", "given alone: results are kept whole")
    if fdr is not None:
        raise BadSpec("--resume", "given with --fdr", "given alone: q-values hang on every result of a run")


def _destinations(
    main: OutputFormat,
    output: Path | None,
    more: Mapping[OutputFormat, Path | None],
    names: tuple[str, ...] | None,
    resume: bool,
) -> list[Destination]:
    def one(kind: OutputFormat, path: Path | None) -> Destination:
        grows = kind is OutputFormat.JSONL and path is not None
        return Destination(make=lambda stream: WRITERS[kind](stream, names), path=path, grows=grows)

    def resumed(path: Path) -> Destination:
        def make(stream: BinaryIO) -> Writer:
            return ResumedWriter(stream, path)

        return Destination(make=make, path=path, grows=True, resumed=True)

    first = resumed(output) if resume and output is not None else one(main, output)
    return [first, *(one(kind, path) for kind, path in more.items() if path is not None)]


def _arguments(paths: list[str], files_from: Path | None, null: bool) -> Iterable[str]:
    if not paths and files_from is None:
        raise NothingToDo("nothing to scan: give files or folders, or a list with --files-from")
    return paths if files_from is None else chain(paths, _listed(files_from, null))


def _listed(files_from: Path, null: bool) -> Iterator[str]:
    from muflow_cli.pictures.find import read_list

    if str(files_from) == "-":
        yield from read_list(sys.stdin.buffer, null)
        return
    try:
        stream: BinaryIO = files_from.open("rb")
    except OSError as error:
        raise NothingToDo(f"cannot read the list {files_from} ({error.strerror}): check --files-from") from None
    with stream:
        yield from read_list(stream, null)


def _verify(report: Path, paths: list[str] | None, console: Console) -> int:
    if paths:
        raise BadSpec("--verify", "given with paths", "given alone: the report names its files")
    from muflow_cli.verify import verify

    read, differences = verify(report)
    found = 0
    for found, difference in enumerate(differences, start=1):  # noqa: B007 - the count is told afterwards
        typer.echo(f"{escape(difference.path)}: {difference.message}")
    console.print(f"{len(read.results)} results, {found or 'no'} difference{'' if found == 1 else 's'}")
    return 1 if found else 0


def _status(summary: Summary, exit_zero: bool) -> int:
    if summary.interrupted:
        return 130
    if exit_zero:
        return 0
    if summary.flagged:
        return 1
    return 3 if summary.unreadable else 0
