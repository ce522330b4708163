"""`--resume`: inputs that an earlier run scored are not scored again, and its JSON-lines report is continued."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from muflow_cli.environment import option_of, side_by_side
from muflow_cli.errors import BadReport, CannotResume, CannotWrite
from muflow_cli.files import replacing
from muflow_cli.output.digests import sealed
from muflow_cli.output.encode import checked_line, line_key, mismatch_note, run_line, summary_line
from muflow_cli.output.report_reader import Head, UnusableReport, read_good_results, read_head, read_results
from muflow_cli.records import Result, Scored, Unjudged
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary


def resumable(
    path: Path, run: RunInfo, detector: DetectorInfo, note: Callable[[str], None] = lambda _: None
) -> dict[str, Scored | Unjudged]:
    """Scored results by content hash that a resumed run need not compute again; empty without a report.

    Args:
        path: the JSON-lines report that an earlier run began.
        run: of this run.
        detector: of this run.
        note: told, in a sentence, of lines that cannot be trusted; their inputs are scored again.

    Raises:
        CannotResume: if the file is not such a report, or its results were computed differently.
    """
    try:
        head = read_head(path)
    except UnusableReport as error:
        raise CannotResume(str(path), f"it {error.why}") from None
    except BadReport as error:
        raise CannotResume(str(path), error.problem) from None
    if head is None:
        return {}
    differing = _differing(head, run, detector)
    if differing:
        raise CannotResume(str(path), f"it was written with another {', '.join(differing)}")
    kept, bad = _scored_by_content(path, line_key(run, detector))
    if bad:
        note(mismatch_note(bad, "result", "input", path))
    return _set_aside(path, run, detector) | kept


def written_before(path: Path, outputs: Sequence[Path]) -> list[Path]:
    """Those of the `outputs` that the command line in the report at `path` names: the same line continues it."""
    if not path.is_file():  # reading a pipe would wait for ever
        return []
    try:
        head = read_head(path)
    except BadReport:  # `resumable` says so
        return []
    words = () if head is None else head.run.argv
    return [output for output in outputs if any(word == str(output) or word.endswith(f"={output}") for word in words)]


def _set_aside(path: Path, run: RunInfo, detector: DetectorInfo) -> dict[str, Scored | Unjudged]:
    """Results that a resumed run had put aside before it was killed."""
    prior = prior_path(path)
    try:
        head = read_head(prior)
    except BadReport:
        return {}
    # The copy may be a leftover of other work under the same name.
    if head is None or _differing(head, run, detector):
        return {}
    return _scored_by_content(prior, line_key(run, detector))[0]


# Unlike other options, these stand in the head of a report only where they were given.
_OPTIONAL: Final = ("only", "sort", "known", "shard", "merged", "all_frames", "embedded_video")


def _differing(head: Head, run: RunInfo, detector: DetectorInfo) -> list[str]:
    """Names of the settings, options and versions that affect results and differ from those of the report."""
    before_options = head.run.options or {}
    pairs = {
        "detector": (head.detector.fingerprint, detector.fingerprint),
        "calibration": (head.detector.calibration_fingerprint, detector.calibration_fingerprint),
        "device": (head.run.device, run.device),
        "precision": (head.run.precision, run.precision),
        "rule": (_rule(head.detector), _rule(detector)),
        # No result depends on these two, but the head of a report stays as the first run wrote it.
        "--case": (head.run.case, run.case),
        "--examiner": (head.run.examiner, run.examiner),
        **{option_of(name): (before_options.get(name), (run.options or {}).get(name)) for name in _OPTIONAL},
        **side_by_side(head.run.versions, run.versions),
        **{option_of(name): (before_options.get(name), value) for name, value in (run.options or {}).items()},
    }
    return [name for name, (before, now) in pairs.items() if before != now]


def _rule(detector: DetectorInfo) -> tuple[object, ...]:
    return detector.rule, detector.alpha, detector.tail, detector.columns, detector.calibration_images


def _scored_by_content(path: Path, key: bytes) -> tuple[dict[str, Scored | Unjudged], int]:
    """Scored results by content hash, and the number of results whose check does not match."""
    results, bad = read_good_results(path, key)
    return {result.facts.key: result for result in results if isinstance(result, Scored | Unjudged)}, bad


class ResumedWriter:
    """A JSON-lines writer that keeps the lines of an earlier run as long as this run would write the same lines.

    At the first difference the rest of the old file is cut off and this run's lines follow. The old results are first
    copied to `PATH.prior`, so that a second kill loses none of them; that file is removed at the end.

    Args:
        stream: the report, open for reading and writing.
        path: its name.

    Raises:
        CannotWrite: if something else lies where it would put the old results.
    """

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        _check_prior(prior_path(path))
        self._stream, self._path = stream, path
        self._old: Iterator[tuple[int, Result]] | None = None
        self._end, self._key = 0, b""
        self._earlier: Callable[[], dict[str, Scored | Unjudged]] = dict

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:
        """Keep the old head if it is complete."""
        self._key = line_key(run, detector)
        self._head = Head(run, detector)
        self._stream.seek(0)
        first = self._stream.readline()
        if first.endswith(b"\n"):
            self._end = len(first)
            self._head = read_head(self._path) or self._head
            self._old = self._lines()
            self._earlier = lambda: _set_aside(self._path, run, detector)
        else:
            self._cut()
            self._put(run_line(run, detector))

    def _lines(self) -> Iterator[tuple[int, Result]]:
        with self._path.open("rb") as file:
            yield from read_results(file, self._key)

    def write(self, result: Result) -> None:
        """Write one result, or skip it if it is already in the file."""
        if self._old is not None:
            end, old = next(self._old, (0, None))
            if old == result:
                self._end = end
                return
            if old is not None:
                # Every result known so far, those put aside before included.
                known = self._earlier() | _scored_by_content(self._path, self._key)[0]
                with replacing(prior_path(self._path)) as file, self._path.open("rb") as report:
                    file.write(report.readline())
                    for scored in known.values():
                        file.write(checked_line(scored, self._key))
            self._cut()
        self._put(checked_line(result, self._key))

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Write the last line, and remove the results that were put aside."""
        if self._old is not None:
            self._cut()
        # The report keeps the head of the run that began it.
        head = replace(self._head.run, finished=run.finished)
        self._put(summary_line(run, sealed(summary, head, self._head.detector)))
        prior_path(self._path).unlink(missing_ok=True)

    def _cut(self) -> None:
        """Cut off the rest of the old file; this run's lines follow."""
        self._old = None
        self._stream.truncate(self._end)
        self._stream.seek(self._end)

    def _put(self, written: bytes) -> None:
        self._stream.write(written)
        self._stream.flush()


def _check_prior(prior: Path) -> None:
    """Refuse to put results in the place of what no scan wrote."""
    if not os.path.lexists(prior):
        return
    try:
        if not prior.is_symlink() and prior.is_file() and read_head(prior) is not None:
            return
    except BadReport:
        pass
    why, remedy = "it is not what a scan keeps there", "move it away, or choose another name for the report"
    raise CannotWrite(str(prior), why, remedy)


def prior_path(path: Path) -> Path:
    """The file in which a resumed run keeps the results of the earlier one."""
    return path.with_name(path.name + ".prior")
