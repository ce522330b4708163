"""SARIF 2.1.0 (OASIS): flagged images, declared syntheses and images outside the calibration's ranges are results,
unreadable inputs notifications."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from typing import BinaryIO, Final
from urllib.parse import quote

from muflow_cli.errors import IncompatibleOptions
from muflow_cli.output.encode import detector_to_json, line, result_to_json, run_to_json, summary_to_json
from muflow_cli.output.inert import escape
from muflow_cli.output.shift_text import shift_text
from muflow_cli.records import FaceScore, Judgement, Origin, Result, Scored, Side, Unreadable, Verdict
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary

SCHEMA_URI: Final = "https://json.schemastore.org/sarif-2.1.0.json"

_RULES: Final[Mapping[Side | Origin | Verdict, tuple[str, str, str]]] = {
    Side.HIGH: ("synthetic-face-high", "UnlikeTheRealFaces", "Less like the real training faces than the rule allows."),
    Side.LOW: ("synthetic-face-low", "TooTypicalOfTheRealFaces", "More typical than real faces usually are."),
    Origin.SYNTHETIC: ("declared-synthetic", "DeclaresItselfSynthetic", "The file says that it is synthetic."),
    Verdict.INCONCLUSIVE: (
        "outside-the-calibration",
        "OutsideTheCalibration",
        "No calibration image has this format, size or quality, so there is no verdict.",
    ),
}

_REMOTE: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def artifact_uri(path: str) -> str:
    """A path -> a URI reference (RFC 3986): remote addresses as they are, local names percent-encoded.

    Bytes that are not UTF-8 are encoded as those bytes, so that the name is recoverable.
    """
    raw = path.encode("utf-8", "surrogateescape")
    if _REMOTE.match(path):
        return quote(raw, safe=":/?#@!$&'()*+,;=%")
    # Not PurePath: it interns every part of every path, which the interpreter keeps a growing table for.
    prefix = "file://" if path.startswith("/") else ""
    return prefix + quote(raw, safe="/!")


def _location(path: str) -> dict[str, object]:
    # GitHub shows a result only where its region has a line; an image has none, so it is the first.
    region = {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1}
    return {"physicalLocation": {"artifactLocation": {"uri": artifact_uri(path)}, "region": region}}


def _finding(result: Scored) -> dict[str, object]:
    judgement = result.judgement
    measured = f"p = {judgement.p_value:.4g}, score {result.score:.4f}, {judgement.tail} tail"
    text = f"{escape(result.path)}: flagged ({measured}{_outside(judgement)})"
    finding = _result(judgement.tail, text, result, result.facts.sha256)
    # SARIF's regions are of text and bytes; areas of an image are rectangles of an attachment.
    faces = [_rectangle(face) for face in result.faces if face.verdict is Verdict.FLAGGED]
    if faces:
        location = {"artifactLocation": {"uri": artifact_uri(result.path)}}
        finding["attachments"] = [{**location, "description": {"text": "flagged faces"}, "rectangles": faces}]
    return finding


def _outside(judgement: Judgement) -> str:
    names = ", ".join(escape(name) for name in judgement.atypical_input)
    return f", outside the calibration's ranges by {names}" if names else ""


def _open(result: Scored) -> dict[str, object]:
    """An image without a verdict: SARIF's word for a rule that did not have the information to decide is `open`."""
    judgement = result.judgement
    text = f"{escape(result.path)}: inconclusive (p = {judgement.p_value:.4g}{_outside(judgement)})"
    undecided = _result(Verdict.INCONCLUSIVE, text, result, result.facts.sha256)
    return {**undecided, "kind": "open", "level": "none"}


def _rectangle(face: FaceScore) -> dict[str, object]:
    text = f"p = {face.p_value:.4g}, score {face.score:.4f}, {face.tail} tail"
    return {**dict(zip(("left", "top", "right", "bottom"), face.box, strict=True)), "message": {"text": text}}


def _declaration(result: Result) -> dict[str, object]:
    kinds = [mark.kind for mark in result.declared.marks if mark.claim is Origin.SYNTHETIC]
    text = f"{escape(result.path)}: the file says that it is synthetic ({', '.join(kinds)})"
    sha256 = result.sha256 if isinstance(result, Unreadable) else result.facts.sha256
    return _result(Origin.SYNTHETIC, text, result, sha256)


def _result(rule: Side | Origin | Verdict, text: str, result: Result, sha256: str | None) -> dict[str, object]:
    return {
        "ruleId": _RULES[rule][0],
        "ruleIndex": list(_RULES).index(rule),
        "level": "warning",
        "message": {"text": text},
        "locations": [_location(result.path)],
        "fingerprints": {} if sha256 is None else {"contentSha256/v1": sha256},
        # The one that GitHub reads: a result stays the same alert as long as the file has the same content.
        "partialFingerprints": {} if sha256 is None else {"primaryLocationLineHash": f"{sha256}:1"},
        "properties": {key: value for key, value in result_to_json(result).items() if key != "path"},
    }


class SarifWriter:
    """One SARIF log of one run; findings are streamed, notifications wait in a temporary file.

    Images that are neither flagged nor declared synthetic are not findings, but for those that are inconclusive because
    they lie outside the calibration's ranges; the summary in `properties` counts them.
    """

    def __init__(self, stream: BinaryIO, fields: tuple[str, ...] | None) -> None:
        if fields is not None:
            raise IncompatibleOptions("--fields", "sarif", "the SARIF standard fixes what a result holds")
        self._stream = stream
        # In memory up to 256 KiB, on disk beyond it.
        self._notifications = tempfile.SpooledTemporaryFile(max_size=2**18)  # noqa: SIM115 - lives until `end`
        self._separator = self._notice_separator = b"\n"
        self._detector: dict[str, object] = {}
        self._alpha = 0.0

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:
        """Open the log up to its findings."""
        self._detector, self._alpha = detector_to_json(detector), detector.alpha
        head = line({"$schema": SCHEMA_URI, "version": "2.1.0"}).removesuffix(b"}\n")
        rules = [{"id": key, "name": name, "shortDescription": {"text": text}} for key, name, text in _RULES.values()]
        tool = {"driver": {"name": run.tool, "version": run.version, "rules": rules}}
        body = line({"tool": tool, "columnKind": "unicodeCodePoints"}).removesuffix(b"}\n")
        self._stream.write(head + b',"runs":[' + body + b',"results":[')

    def write(self, result: Result) -> None:
        """Add what there is to say of an input: findings, or a notification."""
        if result.declared.origin is Origin.SYNTHETIC:
            self._add(_declaration(result))
        if isinstance(result, Unreadable):
            notification = {
                "level": "error",
                "descriptor": {"id": result.code},
                "message": {"text": f"{escape(result.path)}: {escape(result.message)}"},
                "locations": [_location(result.path)],
            }
            self._notify(notification)
        elif isinstance(result, Scored) and result.flagged:
            self._add(_finding(result))
        elif (
            isinstance(result, Scored)
            and result.judgement.verdict is Verdict.INCONCLUSIVE
            and _outside(result.judgement)
        ):
            self._add(_open(result))

    def _add(self, finding: dict[str, object]) -> None:
        self._stream.write(self._separator + line(finding).rstrip(b"\n"))
        self._stream.flush()
        self._separator = b",\n"

    def _notify(self, notification: Mapping[str, object]) -> None:
        self._notifications.write(self._notice_separator + line(notification).rstrip(b"\n"))
        self._notice_separator = b",\n"

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Close the log with the times, the unreadable inputs, a warning on the images as a group and the counts."""
        properties = {"run": run_to_json(run), "detector": self._detector, "summary": summary_to_json(summary)}
        times = {"startTimeUtc": run.started, **({"endTimeUtc": run.finished} if run.finished else {})}
        invocation = {"executionSuccessful": not summary.interrupted, "arguments": list(run.argv), **times}
        self._stream.write(b'\n],"invocations":[' + line(invocation).removesuffix(b"}\n"))
        if summary.shift is not None and not summary.shift.alike:
            text = shift_text(summary.shift, self._alpha)
            warning = {"level": "warning", "descriptor": {"id": "unlike-the-calibration"}, "message": {"text": text}}
            self._notify(warning)
        self._stream.write(b',"toolExecutionNotifications":[')
        self._notifications.seek(0)
        while chunk := self._notifications.read(2**16):
            self._stream.write(chunk)
        self._notifications.close()
        self._stream.write(b'\n]}],"properties":' + line(properties).rstrip(b"\n") + b"}]}\n")
        self._stream.flush()
