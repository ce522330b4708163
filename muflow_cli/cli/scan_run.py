"""What `muflow scan` does once its options are read: one pass, every output in step, a summary for people."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console

from muflow_cli import __version__
from muflow_cli.cli.outputs import Destination, Outputs
from muflow_cli.cli.scan_progress import ScanProgress
from muflow_cli.cli.startup import quick_start
from muflow_cli.environment import utc_now, versions
from muflow_cli.errors import NothingToDo
from muflow_cli.output.inert import escape
from muflow_cli.output.journal import ResultsDigest, resumable
from muflow_cli.records import DetectorInfo, Result, RunInfo, Summary, Unreadable
from muflow_cli.specs import InputSpec, Precision

if TYPE_CHECKING:
    from muflow_cli.cli.report_writer import Exhibits
    from muflow_cli.detector import Detector
    from muflow_cli.engine.scoring import Placement
    from muflow_cli.pictures.sources import Source
    from muflow_cli.scan import Scan, Tally


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything that the options of a scan decide.

    Attributes:
        detector: the bundle.
        arguments: paths to scan, drawn once.
        listable: they can be listed a second time, to know their number.
        inputs: limits on what is read.
        device: as `--device`.
        precision: as `--precision`.
        batch_size: views; 0 = the device's own.
        workers: decoding threads.
        destinations: of the results.
        report: where the HTML report goes.
        resume: the JSON-lines report to go on with, one of the destinations.
        fdr: false discovery rate to flag at instead of the rule's alpha.
        verbose: name every unreadable input on stderr.
    """

    detector: Path
    arguments: Iterable[str]
    listable: bool
    inputs: InputSpec
    device: str
    precision: Precision
    batch_size: int
    workers: int
    destinations: Sequence[Destination]
    report: Path | None
    resume: Path | None
    fdr: float | None
    verbose: bool


def run(job: Job, console: Console) -> Summary:
    """Scan, write, and tell.

    Raises:
        MuflowError: for what a user can put right; no output is then touched that existed.
    """
    with quick_start():
        from muflow_cli.bundle import load
        from muflow_cli.cli.report_writer import THUMBNAIL, Exhibits
        from muflow_cli.engine.scoring import place
        from muflow_cli.scan import Scan, ScanRequest, detector_info

        detector = load(job.detector)
        placement = place(job.device, job.precision, job.batch_size)
    request = ScanRequest(
        detector=detector,
        placement=placement,
        inputs=job.inputs,
        workers=job.workers,
        thumbnail=THUMBNAIL if job.report is not None else 0,
    )
    exhibits = Exhibits() if job.report is not None else None
    head, info = _head(placement), detector_info(str(job.detector), detector)
    with Outputs([*job.destinations, *_report(job, detector, exhibits)]) as outputs, Stop() as stop:
        kept = {} if job.resume is None else resumable(job.resume, head, info)
        with quick_start():
            scan = Scan(request, kept=kept, stop=stop, gallery=exhibits)
        summary = _pass(job, scan, console, _Recording(outputs, head, info))
    tell(console, summary)
    if job.report is not None:
        _warn_of_size(console, summary, kept=len(kept))
    return summary


def _warn_of_size(console: Console, summary: Summary, *, kept: int) -> None:
    from muflow_cli.cli.report_writer import COMFORTABLE_ROWS, SHOWN

    if kept:
        console.print("the report shows no pictures of the results that were kept: scan without --resume to see them")
    if summary.scored - summary.duplicates - kept > SHOWN:
        console.print(f"the report shows the pictures of {SHOWN} results: flagged ones first, then by p-value")
    if summary.inputs > COMFORTABLE_ROWS:
        console.print(f"the report has {summary.inputs} rows: a browser will be slow above {COMFORTABLE_ROWS}")


def _head(placement: Placement) -> RunInfo:
    return RunInfo(
        tool="muflow",
        version=__version__,
        argv=tuple(sys.argv),
        started=utc_now(),
        device=str(placement.device),
        precision=placement.precision.value,
        versions=versions(),
    )


def _report(job: Job, detector: Detector, exhibits: Exhibits | None) -> list[Destination]:
    if exhibits is None:
        return []
    from muflow_cli.cli.report_writer import ReportWriter
    from muflow_cli.rules import picture_scores

    scores = [] if detector.calibration is None else picture_scores(detector.calibration.scores).tolist()
    return [Destination(make=lambda stream: ReportWriter(stream, exhibits, scores), path=job.report)]


class _Recording:
    """Writes results as they come, and keeps count; the outputs begin with the first."""

    def __init__(self, outputs: Outputs, head: RunInfo, info: DetectorInfo) -> None:
        from muflow_cli.scan import Tally

        self._outputs, self._head, self._info = outputs, head, info
        self.tally: Tally = Tally()
        self._digest = ResultsDigest()
        self._begun = False

    def _begin(self) -> None:
        if not self._begun:
            self._outputs.begin(self._head, self._info)
            self._begun = True

    def write(self, result: Result) -> None:
        self._begin()
        self.tally.add(result)
        self._digest.add(result)
        self._outputs.write(result)

    def end(self, **more: object) -> Summary:
        self._begin()
        summary = self.tally.summary(results_sha256=self._digest.hexdigest(), **more)
        self._outputs.end(replace(self._head, finished=utc_now()), summary)
        return summary


def _pass(job: Job, scan: Scan, console: Console, recording: _Recording) -> Summary:
    from muflow_cli.pictures.find import find
    from muflow_cli.scan import with_q_values

    def listing() -> Iterator[Source | Unreadable]:
        return find(job.arguments, job.inputs)

    beside = sys.stdout.isatty() and any(one.path is None for one in job.destinations)
    with ScanProgress(console, listing if job.listable else None, beside=beside) as progress:
        results: Iterable[Result] = _watched(scan.results(listing()), job, console, progress.show)
        if job.fdr is not None:
            results = with_q_values(list(results), job.fdr)
        for result in results:
            with progress.aside():
                recording.write(result)
    if recording.tally.inputs == 0 and not scan.interrupted:
        raise NothingToDo("no picture was found there: give files, or folders that hold pictures")
    return recording.end(
        interrupted=scan.interrupted,
        fdr=job.fdr,
        stages={name: round(seconds, 3) for name, seconds in scan.seconds.items()},
        bottleneck=scan.bottleneck,
    )


def _watched(results: Iterable[Result], job: Job, console: Console, show: Callable[[Tally], None]) -> Iterator[Result]:
    """The results as they pass by, counted for the progress line."""
    from muflow_cli.scan import Tally

    tally = Tally()
    for result in results:
        tally.add(result)
        show(tally)
        if job.verbose and isinstance(result, Unreadable):
            console.print(f"{escape(result.path)}: {escape(result.message)}")
        yield result


class Stop:
    """Turns SIGINT and SIGTERM into a request to finish the batch and stop; a second one stops at once."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        """Whether to stop after this batch."""
        return self._asked

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


def tell(console: Console, summary: Summary) -> None:
    """The counts, for people."""
    tails = ", ".join(f"{count} {tail} tail" for tail, count in summary.flagged_by_tail.items())
    codes = ", ".join(f"{count} {code}" for code, count in summary.unreadable_by_code.items())
    by = "" if summary.fdr is None else f" at a false discovery rate of {summary.fdr:g}"
    inconclusive = f", {summary.inconclusive} inconclusive" if summary.inconclusive else ""
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.stages.items())
    console.print(
        f"{summary.inputs} inputs, {summary.scored} scored, {summary.flagged} flagged{by}"
        f"{f' ({tails})' if tails else ''}{inconclusive}, {summary.unreadable} unreadable"
        f"{f' ({codes})' if codes else ''}, {summary.duplicates} duplicates"
    )
    console.print(
        f"{summary.seconds:.1f} s, {summary.images_per_second:.1f} pictures/s ({stages}; "
        f"the bottleneck is {summary.bottleneck})"
    )
    if summary.interrupted:
        console.print("interrupted: results up to here are whole")
