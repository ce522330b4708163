"""The digests of a report: of its head, of its results, and of its summary, which holds the other two."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from muflow_cli.output.encode import SCHEMA, detector_to_json, line, result_line, run_to_json, summary_to_json
from muflow_cli.records import Result
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary


class ResultsDigest:
    """SHA-256 over the canonical lines of all results of a run, in order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, result: Result) -> None:
        """Take in one result."""
        self._digest.update(result_line(result))

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._digest.hexdigest()


def head_digest(run: RunInfo, detector: DetectorInfo) -> str:
    """SHA-256 over schema, run (finished) and detector."""
    return _of({"schema": SCHEMA, "run": run_to_json(run), "detector": detector_to_json(detector)})


def report_digest(summary: Summary) -> str:
    """SHA-256 over a summary without its `report_sha256`; it covers the report, whose other digests stand in it."""
    return _of(summary_to_json(replace(summary, report_sha256=None)))


def sealed(summary: Summary, run: RunInfo, detector: DetectorInfo) -> Summary:
    """The summary with the digests of head and report, as the last step before it is written.

    JSON and JSON lines of one run have the same digests.

    Args:
        summary: with its `results_sha256`.
        run: of the report that the summary will stand in, finished.
        detector: of the same report.
    """
    headed = replace(summary, head_sha256=head_digest(run, detector))
    return replace(headed, report_sha256=report_digest(headed))


def _of(value: dict[str, object]) -> str:
    return hashlib.sha256(line(value)).hexdigest()
