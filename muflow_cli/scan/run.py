"""The workflow of `scan`: one pass over the inputs, every output in step, counts and a digest at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from muflow_cli.agreement import agreement, computing, fastest
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.shift import ShiftTest
from muflow_cli.claims import InputGuard
from muflow_cli.cluster import open_cluster
from muflow_cli.engine.devices import Placement, place
from muflow_cli.environment import begin_run, deciding, utc_now
from muflow_cli.errors import OutputIsInput
from muflow_cli.images.find import find
from muflow_cli.images.inputs import Input
from muflow_cli.images.stdin import is_stdin
from muflow_cli.output.digests import ResultsDigest, sealed
from muflow_cli.output.encode import line_key
from muflow_cli.output.writers import WRITERS, Per, WriterContext
from muflow_cli.records import Result, Scored, Unjudged, Unreadable
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary
from muflow_cli.scan.comparison import Compared, check_comparison, compare, group_name
from muflow_cli.scan.copies import FlaggedCopies, open_copies
from muflow_cli.scan.evidence import Evidence, discard_evidence, open_evidence
from muflow_cli.scan.job import Job
from muflow_cli.scan.outputs import Outputs, open_outputs
from muflow_cli.scan.resume import resumable
from muflow_cli.scan.tally import Tally
from muflow_cli.scan.workflow import Elsewhere, Scan, ScanRequest
from muflow_cli.skipped import Skip, SkipCount, nothing_found

if TYPE_CHECKING:
    from muflow_cli.output.report_writer import Exhibits


class ScanListener(Protocol):
    """Listens to a scan while it runs."""

    def result(self, result: Result, tally: Tally) -> None:
        """Called with every result; `tally` counts it and those before it."""

    def writing(self) -> AbstractContextManager[None]:
        """A context that is held while a result is written."""

    def note(self, text: str) -> None:
        """Called with a sentence for the user."""


class NoListener:
    """A listener that ignores everything."""

    def result(self, result: Result, tally: Tally) -> None:
        """Ignore the result."""

    def writing(self) -> AbstractContextManager[None]:
        """Hold nothing."""
        return nullcontext()

    def note(self, text: str) -> None:
        """Ignore the note."""


def run(
    job: Job,
    listener: ScanListener | None = None,
    stop: Callable[[], bool] = lambda: False,
    skip: Skip | None = None,
    elsewhere: Elsewhere | None = None,
) -> Summary:
    """Scan, and write every result to every destination.

    Args:
        job: what to scan, and where the results go.
        listener: told of every result.
        stop: called after each input; once it returns true, the scan finishes what it has begun and ends.
        skip: told of everything in folders and archives that is not read.
        elsewhere: other machines that read and score; None = those of the job's cluster, or this one.

    Raises:
        MuflowError: for problems that a user can solve; before the first result, no existing output is touched.
    """
    heard = listener or NoListener()
    if elsewhere is None and job.cluster is None:
        job = replace(job, runtime=fastest(job.detector, job.runtime))
    with nullcontext(elsewhere) if elsewhere is not None else _elsewhere(job) as machines:
        scan, summary, shows_images = _run(job, heard, stop, SkipCount(skip), machines)
    for sentence in _remarks(job, scan, summary, shows_images=shows_images):
        heard.note(sentence)
    return summary


@contextmanager
def _elsewhere(job: Job) -> Iterator[Elsewhere | None]:
    """The machines of the job's cluster; None without one."""
    if job.cluster is None:
        yield None
        return
    from muflow_cli.scan.elsewhere import ClusterScoring

    with open_cluster(job.cluster) as cluster:
        yield ClusterScoring(cluster, Path(job.detector_path), job.runtime)


def _run(
    job: Job, heard: ScanListener, stop: Callable[[], bool], skipped: SkipCount, elsewhere: Elsewhere | None
) -> tuple[Scan, Summary, bool]:
    exhibits = _exhibits(job)
    placement = place(job.runtime) if elsewhere is None else elsewhere.placement
    check_comparison(job.comparison, job.detector.calibration, placement)
    options = deciding(job.inputs) | {"atypical": job.atypical.value, "per_frame": job.per is Per.FRAME}
    options |= job.comparison.options | job.own_options | computing(placement)
    _check_agreement(job, placement, heard, elsewhere)
    head = begin_run(str(placement.device), placement.precision, job.argv, options)
    head = replace(head, case=job.custody.case, examiner=job.custody.examiner)
    info = job.detector.info(job.detector_path)
    drafts = job.comparison.any and job.selection.whole
    with (
        open_outputs(job.destinations, _context(job, exhibits), drafts=drafts) as outputs,
        ExitStack() as stack,
    ):
        # Only now is the report locked against a second run; and only if it can be continued is anything changed.
        earlier = {} if job.resumed is None else resumable(job.resumed, head, info, heard.note)
        evidence = stack.enter_context(_evidence(job, head, info))
        if evidence is not None:
            earlier = _comparable(earlier, evidence, heard.note)
        scan = Scan(
            _request(job, exhibits),
            earlier=earlier,
            stop=stop,
            gallery=exhibits,
            evidence=evidence,
            elsewhere=elsewhere,
        )
        copies = stack.enter_context(open_copies(job.copy_flagged, job.inputs.max_bytes, heard.note))
        passing = _Passing(job, scan, heard, copies, skipped)
        summary = _pass(job, passing, heard, _Recording(outputs, head, info, job, copies), evidence)
    if passing.failure is not None:
        raise passing.failure
    if not summary.interrupted:
        for file in job.growing_reports:
            discard_evidence(file)
    return scan, summary, exhibits is not None


def _request(job: Job, exhibits: Exhibits | None) -> ScanRequest:
    request = ScanRequest(
        detector=job.detector,
        runtime=job.runtime,
        inputs=job.inputs,
        atypical=job.atypical,
        hash_lists=job.hash_lists,
        per_frame=job.per is Per.FRAME,
    )
    if exhibits is None:
        return request
    side = exhibits.with_boxes if job.detector.spec.faces else exhibits.thumbnail
    return replace(request, thumbnail=side, face_thumbnail=exhibits.thumbnail)


def _check_agreement(job: Job, placement: Placement, listener: ScanListener, elsewhere: Elsewhere | None) -> None:
    """Say where this run does not compute the scores of the calibration; ScoresDiffer if it must."""
    if elsewhere is None:
        if not job.detector.scorer(placement).ready:
            text = f"preparing the detector for {placement.backend}, which takes up to a minute the first time"
            listener.note(text)
        found = agreement(job.detector, placement, always=job.strict)
    else:
        found = elsewhere.agreement(job.detector, always=job.strict)
    if job.strict:
        found.require()
    if found.remark is not None:
        listener.note(found.remark)


def _remarks(job: Job, scan: Scan, summary: Summary, *, shows_images: bool) -> Iterator[str]:
    """What outputs do not hold, for the user."""
    if scan.unseen and not summary.interrupted:
        many = "1 result" if scan.unseen == 1 else f"{scan.unseen} results"
        yield f"{many} of {job.resumed} had no place, since no input has that content now"
    if shows_images:
        from muflow_cli.output.report_writer import page_limits

        yield from page_limits(summary, earlier=scan.taken_over)


def _context(job: Job, exhibits: Exhibits | None) -> WriterContext:
    """What the writers need beside the results."""
    calibration = job.detector.calibration
    return WriterContext(
        fields=job.fields,
        per=job.per,
        csv_mark=job.csv_mark,
        q_values=job.comparison.fdr is not None,
        calibration_scores=calibration.mean_scores.tolist(),
        exhibits=exhibits,
        thresholds=(None, None) if exhibits is None else Judge(calibration).thresholds(),
        printed=job.printed,
    )


def _exhibits(job: Job) -> Exhibits | None:
    """The images of a page, if one is written."""
    if not any(WRITERS[destination.format].shows_images for destination in job.destinations):
        return None
    from muflow_cli.output.report_writer import Exhibits  # Jinja loads only for a page

    return Exhibits()


@contextmanager
def _evidence(job: Job, head: RunInfo, info: DetectorInfo) -> Iterator[Evidence | None]:
    """Where a run keeps what a comparison of its images needs; None without one."""
    if not job.comparison.any:
        yield None
        return
    count = job.detector.feature_count if job.comparison.features else 0
    with open_evidence(job.kept_report, line_key(head, info), count, resumed=job.resumed is not None) as evidence:
        yield evidence


def _comparable(
    earlier: Mapping[str, Scored | Unjudged], evidence: Evidence, note: Callable[[str], None]
) -> dict[str, Scored | Unjudged]:
    """Results of an earlier run whose images can be compared; the others are scored again."""
    known = {digest: own for digest, own in earlier.items() if digest in evidence or isinstance(own, Unjudged)}
    again = len(earlier) - len(known)
    if again:
        images = "1 image is" if again == 1 else f"{again} images are"
        note(f"{images} scored again, since nothing beside the report holds what a comparison needs of them")
    return known


def _pass(
    job: Job, passing: _Passing, listener: ScanListener, recording: _Recording, evidence: Evidence | None
) -> Summary:
    scan, results = passing.scan, passing.results()
    compared, comparing = Compared(()), dict[str, float]()
    if evidence is not None:
        first = list(recording.drafted(results))
        begun = time.monotonic()
        compared = compare(first, job.comparison, job.detector.calibration, evidence, passing.group_of, job.atypical)
        comparing["compare"] = time.monotonic() - begun
        results = iter(compared.results)
    for result in job.selection.ordered(results):
        with listener.writing():
            recording.write(result)
    nowhere = not (scan.no_face_skipped or scan.listed or scan.interrupted or passing.elsewhere)
    if recording.tally.inputs == 0 and nowhere:
        remedy = "give image files, or folders that contain images"
        raise nothing_found("no image was found", passing.skipped.rows, remedy)
    stages = scan.seconds | comparing
    return recording.end(
        interrupted=scan.interrupted or passing.failure is not None,
        no_face_skipped=scan.no_face_skipped,
        known=scan.listed,
        fdr=job.comparison.fdr,
        adaptive=compared.adaptive,
        reweight=compared.reweight,
        groups=compared.groups,
        skipped=passing.skipped.rows,
        stages={name: round(seconds, 3) for name, seconds in stages.items()},
        bottleneck=max(stages, key=lambda stage: stages[stage]),
    )


class _Passing:
    """The results of a pass, each reported as it passes.

    Attributes:
        scan: the pass.
        skipped: counts what is not read.
        group_of: path of an input -> name of its group, in a run by groups.
        elsewhere: number of inputs that belong to other shards.
        failure: the error that ended it too early; the results before it are good, and their outputs get their ends.
    """

    def __init__(
        self, job: Job, scan: Scan, listener: ScanListener, copies: FlaggedCopies | None, skipped: SkipCount
    ) -> None:
        self.skipped = skipped
        self.scan, self._job, self._listener, self._copies = scan, job, listener, copies
        self.failure: Exception | None = None
        self.elsewhere = 0
        self.group_of: dict[str, str] = {}

    def results(self) -> Iterator[Result]:
        """Every result; an error after the first one ends them and is kept in `failure`."""
        tally = Tally()
        try:
            for result in self.scan.results(self._inputs()):
                tally.add(result)
                self._listener.result(result, tally)
                yield result
        except OutputIsInput:
            raise
        except Exception as error:
            if not tally.inputs:
                raise
            self.failure = error

    def _inputs(self) -> Iterator[Input | Unreadable]:
        """The inputs, as long as none of them is an output."""
        guard = InputGuard([output.file for output in self._job.destinations if output.file is not None])
        for item in find(self._job.arguments, self._job.inputs, self.skipped):
            guard.check((isinstance(item, Input) and item.location) or item.path)
            if self._job.shard is not None and not self._job.shard.holds(item.path):
                self.elsewhere += 1
                continue
            if self._copies is not None and isinstance(item, Input) and is_stdin(item.path):
                self._copies.again.stdin = item.location
            if self._job.comparison.groups and isinstance(item, Input):
                self.group_of[item.path] = group_name(item)
            yield item


class _Recording:
    """Writes and counts results; the outputs begin with the first result."""

    def __init__(
        self, outputs: Outputs, head: RunInfo, info: DetectorInfo, job: Job, copies: FlaggedCopies | None
    ) -> None:
        self._outputs, self._head, self._info, self._selection = outputs, head, info, job.selection
        self.tally, self._shift = Tally(), ShiftTest(job.detector.calibration)
        self._written, self._copies = 0, copies
        self._digest = ResultsDigest()
        self._begun = False

    def _begin(self) -> None:
        if not self._begun:
            self._outputs.begin(self._head, self._info)
            self._begun = True

    def drafted(self, results: Iterable[Result]) -> Iterator[Result]:
        """The results of the first pass, each written down before it is passed on."""
        begun = False
        for result in results:
            if not begun:
                self._outputs.begin_drafts(self._head, self._info)
                begun = True
            self._outputs.draft(result)
            yield result

    def write(self, result: Result) -> None:
        self._begin()
        self.tally.add(result)
        self._shift.add(result)
        if self._copies is not None:
            self._copies.add(result)
        if self._selection.keeps(result):
            self._digest.add(result)
            self._outputs.write(result)
            self._written += 1

    def end(self, **fields: object) -> Summary:
        self._begin()
        run = replace(self._head, finished=utc_now())
        fields |= {"written": self._written if self._selection.only else None}
        summary = self.tally.summary(shift=self._shift.outcome(), results_sha256=self._digest.hexdigest(), **fields)
        summary = sealed(summary, run, self._info)
        self._outputs.end(run, summary)
        return summary
