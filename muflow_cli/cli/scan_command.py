"""`muflow scan`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer
from rich.console import Console

from muflow_cli import __version__
from muflow_cli.cli import options
from muflow_cli.cli.default_detector import find_detector
from muflow_cli.cli.outputs import Destination, Outputs
from muflow_cli.cli.progress import StageProgress, stderr_console
from muflow_cli.environment import utc_now, versions
from muflow_cli.errors import BadSpec, NothingToDo
from muflow_cli.output.writers import OutputFormat
from muflow_cli.records import RunInfo, Summary, Unreadable
from muflow_cli.specs import Precision

if TYPE_CHECKING:
    from muflow_cli.pictures.sources import Source
    from muflow_cli.scan import ScanRequest


def scan_command(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH...", help="Pictures, folders, globs or archives.")
    ] = None,
    detector: Annotated[
        Path | None, typer.Option("--detector", metavar="FILE", help="Detector to scan with.", envvar="MUFLOW_DETECTOR")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    format_: Annotated[
        OutputFormat | None,
        typer.Option("--format", help="Of the results; default: table on a terminal, jsonl into a pipe or file."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Instead of stdout.")] = None,
    json_output: Annotated[Path | None, typer.Option("--json-output", metavar="FILE", help="Also as JSON.")] = None,
    jsonl_output: Annotated[
        Path | None, typer.Option("--jsonl-output", metavar="FILE", help="Also as JSON lines.")
    ] = None,
    csv_output: Annotated[Path | None, typer.Option("--csv-output", metavar="FILE", help="Also as CSV.")] = None,
    sarif_output: Annotated[Path | None, typer.Option("--sarif-output", metavar="FILE", help="Also as SARIF.")] = None,
    fields: Annotated[
        str | None, typer.Option("--fields", metavar="A,B,...", help="Only these fields, in order.")
    ] = None,
    files_from: Annotated[
        Path | None, typer.Option("--files-from", metavar="FILE", help="Read paths from FILE, one a line; - is stdin.")
    ] = None,
    null: Annotated[bool, typer.Option("-0", "--null", help="Paths of --files-from end with NUL.")] = False,
    exclude: options.Exclude = None,
    hidden: options.Hidden = False,
    follow_links: options.FollowLinks = False,
    max_bytes: options.MaxBytes = options.MAX_BYTES,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    workers: options.Workers = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=0, help="Views per batch; 0 = the device's own.")] = 0,
    device: options.Device = "auto",
    precision: options.PrecisionOption = Precision.AUTO,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit 0 whatever was flagged or unreadable.")] = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Score pictures and say which are unlike the real faces that the detector was fitted to.

    Exit status: 0 nothing flagged, 1 something flagged, 2 wrong usage or unreadable detector, 3 nothing flagged but
    some inputs unreadable, 130 interrupted (what was done is kept).

    Example: `muflow scan ./photos --detector faces.safetensors --json > verdicts.json`
    """
    console = stderr_console(quiet)
    main_format = _main_format(as_json, format_, output)
    more = {
        OutputFormat.JSON: json_output,
        OutputFormat.JSONL: jsonl_output,
        OutputFormat.CSV: csv_output,
        OutputFormat.SARIF: sarif_output,
    }
    destinations = [Destination(main_format, output)]
    destinations += [Destination(kind, path) for kind, path in more.items() if path is not None]
    names = tuple(fields.split(",")) if fields is not None else None
    chosen = find_detector(detector)
    inputs = options.input_spec(exclude, hidden, follow_links, max_bytes, max_pixels)
    arguments = _arguments(paths or [], files_from, null)
    with Outputs(destinations, names, force=force) as outputs:
        from muflow_cli.bundle import load
        from muflow_cli.engine.scoring import place
        from muflow_cli.pictures.find import find
        from muflow_cli.scan import ScanRequest

        request = ScanRequest(
            detector=load(chosen),
            placement=place(device, precision, batch_size),
            inputs=inputs,
            workers=options.worker_count(workers),
        )
        summary = _run(request, str(chosen), find(arguments, inputs), outputs, console)
    _tell(console, summary)
    raise typer.Exit(_status(summary, exit_zero))


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


def _arguments(paths: list[str], files_from: Path | None, null: bool) -> Iterable[str]:
    if not paths and files_from is None:
        raise NothingToDo("nothing to scan: give files or folders, or a list with --files-from")
    if files_from is None:
        return paths
    from itertools import chain

    return chain(paths, _listed(files_from, null))


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


class _Stop:
    """Turns SIGINT and SIGTERM into a request to finish the batch and stop; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def __enter__(self) -> _Stop:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


def _run(
    request: ScanRequest, path: str, sources: Iterable[Source | Unreadable], outputs: Outputs, console: Console
) -> Summary:
    from muflow_cli.scan import Scan, Tally, detector_info

    run = RunInfo(
        tool="muflow",
        version=__version__,
        argv=tuple(sys.argv),
        started=utc_now(),
        device=str(request.placement.device),
        precision=request.placement.precision.value,
        versions=versions(),
    )
    tally = Tally()
    with _Stop() as stop, StageProgress(console) as progress:
        scan = Scan(request, stop=stop)
        outputs.begin(run, detector_info(path, request.detector))
        progress.stage("scan", None)
        for result in scan.results(sources):
            tally.add(result)
            outputs.write(result)
            progress.advance()
        if tally.inputs == 0 and not scan.interrupted:
            raise NothingToDo("no picture was found there: give files, or folders that hold pictures")
        summary = tally.summary(interrupted=scan.interrupted)
        outputs.end(replace(run, finished=utc_now()), summary)
    return summary


def _tell(console: Console, summary: Summary) -> None:
    """The counts, for people."""
    tails = ", ".join(f"{count} {tail} tail" for tail, count in summary.flagged_by_tail.items())
    codes = ", ".join(f"{count} {code}" for code, count in summary.unreadable_by_code.items())
    console.print(
        f"{summary.inputs} inputs, {summary.scored} scored, {summary.flagged} flagged{f' ({tails})' if tails else ''}, "
        f"{summary.unreadable} unreadable{f' ({codes})' if codes else ''}, {summary.duplicates} duplicates; "
        f"{summary.seconds:.1f} s, {summary.images_per_second:.1f} pictures/s"
    )
    if summary.interrupted:
        console.print("interrupted: results up to here are whole")


def _status(summary: Summary, exit_zero: bool) -> int:
    if summary.interrupted:
        return 130
    if exit_zero:
        return 0
    if summary.flagged:
        return 1
    return 3 if summary.unreadable else 0
