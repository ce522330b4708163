"""JUnit XML of a scan, for continuous integration: a test case for each input."""

from __future__ import annotations

import tempfile
from typing import Any, BinaryIO, Final

from muflow_cli.errors import IncompatibleOptions
from muflow_cli.output.inert import escape
from muflow_cli.records import NoFace, Origin, Result, Scored, Unjudged, Unreadable, Verdict
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary

_SUITE: Final = "muflow scan"
_CLASS: Final = "muflow.scan"


class JunitWriter:
    """One test suite; its cases wait in a temporary file, since their numbers stand before them.

    A flagged image, and one that declares itself synthetic, is a failure; an unreadable input is an error; an image
    that is inconclusive or has no face is skipped. Every other image passes.
    """

    def __init__(self, stream: BinaryIO, fields: tuple[str, ...] | None) -> None:
        if fields is not None:
            raise IncompatibleOptions("--fields", "JUnit", "the format fixes what a test case holds")
        self._stream = stream
        # In memory up to 256 KiB, on disk beyond it.
        self._cases = tempfile.SpooledTemporaryFile(max_size=2**18)  # noqa: SIM115 - lives until `end`
        self._counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
        self._detector: DetectorInfo | None = None

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:  # noqa: ARG002 - the run is named at its end
        """Remember the detector."""
        self._detector = detector

    def write(self, result: Result) -> None:
        """Keep one case."""
        from junitparser import Error, Failure, Skipped, TestCase  # loaded only where JUnit is written

        case = TestCase(escape(result.path), classname=_CLASS)
        kind, message, code = _outcome(result)
        if kind:
            self._counts[kind] += 1
            outcome = {"failures": Failure, "errors": Error, "skipped": Skipped}[kind]
            case.result = [outcome(message=message, type_=code)]
        self._counts["tests"] += 1
        self._cases.write(_bytes(case) + b"\n")

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Write the suite: its numbers, what measured, and the cases."""
        from junitparser import TestSuite

        assert self._detector is not None  # noqa: S101 - `begin` came first
        suite = TestSuite(_SUITE)
        for name, count in self._counts.items():
            setattr(suite, name, count)
        suite.timestamp = run.started.removesuffix("Z")
        suite.time = summary.seconds
        suite.add_property("muflow", run.version)
        suite.add_property("detector", self._detector.fingerprint)
        suite.add_property("calibration", self._detector.calibration_fingerprint)
        suite.add_property("alpha", f"{self._detector.alpha:g}")
        suite.add_property("interrupted", "true" if summary.interrupted else "false")
        head, close, _ = _bytes(suite).rpartition(b"</testsuite>")
        self._stream.write(b'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n' + head + b"\n")
        self._cases.seek(0)
        while chunk := self._cases.read(2**16):
            self._stream.write(chunk)
        self._cases.close()
        self._stream.write(close + b"\n</testsuites>\n")
        self._stream.flush()


def _outcome(result: Result) -> tuple[str, str, str]:
    """What a case counts as, why, and a word for programs; nothing where it passes."""
    if isinstance(result, Scored) and result.flagged:
        judgement = result.judgement
        return "failures", f"flagged (p = {judgement.p_value:.4g}, {judgement.tail} tail)", "flagged"
    if result.declared.origin is Origin.SYNTHETIC:
        return "failures", "the file says that it is synthetic", "declared"
    if isinstance(result, Unreadable):
        return "errors", escape(result.message), result.code
    return _without_verdict(result)


def _without_verdict(result: Scored | Unjudged | NoFace) -> tuple[str, str, str]:
    """As `_outcome`, for a result that is neither flagged nor an error."""
    match result:
        case Unjudged():
            return "skipped", f"the detector is calibrated on {result.calibration}", "not_judged"
        case NoFace():
            return "skipped", "no face that can be scored", "no_face"
        case Scored(judgement=judgement) if judgement.verdict is Verdict.INCONCLUSIVE:
            return "skipped", f"inconclusive (p = {judgement.p_value:.4g})", "inconclusive"
    return "", "", ""


def _bytes(element: Any) -> bytes:
    """An element as UTF-8, without the declaration that begins a document."""
    written: bytes = element.tostring()
    return written.partition(b"?>")[2].lstrip() if written.startswith(b"<?xml") else written
