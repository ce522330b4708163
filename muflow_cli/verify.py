"""The workflow of `scan --verify`: whether a report and the files it names are unchanged."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from muflow_cli.images.again import LIMITS, Again
from muflow_cli.images.error import ImageError
from muflow_cli.images.frames import without_frame
from muflow_cli.images.inputs import Input, InputKind, file_error, open_regular
from muflow_cli.images.read import read_input
from muflow_cli.images.remote import is_remote
from muflow_cli.images.stdin import is_stdin
from muflow_cli.output.digests import head_digest, report_digest
from muflow_cli.output.inert import inert
from muflow_cli.output.report_reader import Contents, Report, read_report
from muflow_cli.records import Result, Unreadable
from muflow_cli.run_records import Summary
from muflow_cli.signatures import check_signature


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference from a report: the path that differs, and a sentence."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What verifying a report gives.

    Attributes:
        report: as read.
        notes: sentences on what the check covers, and on a signature that fits.
        differences: first those in the report itself, then those of its files, in its order.
    """

    report: Report
    notes: tuple[str, ...]
    differences: Iterator[Difference]


def verify(report_path: Path, signers: Path | None = None) -> Verification:
    """Compare a report with its own digests, its signature if it has one, and the files that it names.

    Args:
        report_path: of the report; its signature is `REPORT.sig`.
        signers: whose signatures count (allowed_signers); a report without such a signature then differs.

    Raises:
        BadReport: if the file is not a complete report.
        MuflowError: if the signature cannot be checked at all.
    """
    signature = check_signature(report_path, signers)
    report = read_report(report_path)
    notes: list[str] = []
    differences = _differences(report_path, report)
    if signature is not None and signature.good:
        notes.append(signature.message)
    elif signature is not None:
        differences = chain([Difference(str(report_path), signature.message)], differences)
    notes += _left_out(report)
    return Verification(report, tuple(notes), differences)


def _left_out(report: Report) -> list[str]:
    """A sentence on the results that `--only` left out of a report, if any were."""
    only = (report.run.options or {}).get("only")
    if only is None:
        return []
    summary = report.summary
    count = "" if summary is None or summary.written is None else f" ({summary.inputs - summary.written} of them)"
    return [f"the report holds only results of the kinds {inert(str(only))}; the others{count} were left out of it"]


def _differences(path: Path, report: Report) -> Iterator[Difference]:
    if report.summary is None:
        yield Difference(
            str(path), "the run did not finish, so the report has no digests to compare it with; --resume continues it"
        )
    else:
        for message in _in_itself(report, report.summary):
            yield Difference(str(path), message)
    # The checks are taken with the head: if that was changed, none can be compared.
    if report.contents.unchecked and not _has_other_head(report):
        yield Difference(str(path), _unchecked(report.contents))
    inputs = Again()
    for result in report.results:
        difference = _difference(result, inputs)
        if difference is not None:
            yield Difference(result.path, difference)


def _in_itself(report: Report, summary: Summary) -> Iterator[str]:
    """What was changed in a report since it was written, as far as its digests and counts show."""
    digests = (
        ("head (run and detector)", head_digest(report.run, report.detector), summary.head_sha256),
        ("results", report.contents.digest.hexdigest(), summary.results_sha256),
        ("summary", report_digest(summary), summary.report_sha256),
    )
    for part, found, written in digests:
        if found != written:
            was = "were" if part == "results" else "was"
            yield f"the {part} {was} changed, since the SHA-256 differs"
    counts = report.contents.counts
    if summary.written is not None:
        if summary.written != counts["inputs"]:
            yield f"the summary says {summary.written} results, but the report has {counts['inputs']}"
        return
    for name in ("inputs", "scored", "unjudged", "no_face", "flagged", "unreadable"):
        count, said = counts[name], getattr(summary, name)
        if count != said:
            yield f"the summary says {said} {name}, but the results have {count}"


def _has_other_head(report: Report) -> bool:
    """Whether the head differs from its digest."""
    return report.summary is not None and head_digest(report.run, report.detector) != report.summary.head_sha256


def _unchecked(contents: Contents) -> str:
    """The sentence on lines that do not match their check."""
    path, number = contents.first_unchecked
    others = contents.unchecked - 1
    more = "" if not others else f", nor {'does one' if others == 1 else f'do {others}'} after it"
    return f"result number {number} ({path!a}) does not match the check on its line{more}"


_SHA256: Final = re.compile("[0-9a-f]{64}")


def _difference(result: Result, inputs: Again) -> str | None:
    recorded = result.sha256 if isinstance(result, Unreadable) else result.facts.sha256
    if recorded is None:
        return None
    sha256, problem = _current(result.path, inputs)
    if problem is not None or sha256 == recorded:
        return problem
    # Anything may stand in a report that was edited.
    was = f"but was {recorded}" if _SHA256.fullmatch(recorded) else "and what the report says is none"
    return f"has other content (SHA-256 is {sha256}, {was})"


def _current(path: str, inputs: Again) -> tuple[str, str | None]:
    """SHA-256 of what lies at `path` now, and what is wrong with it, if anything is."""
    if why := _cannot_return(path):
        return "", why
    path = path if os.path.lexists(path) else without_frame(path)
    source = inputs.find(path)
    # If a folder has replaced the file, or the name is also a pattern, other files are found.
    if source is None or source.path != path:
        return "", "no longer exists"
    if isinstance(source, Unreadable):
        return "", f"cannot be read ({source.message})"
    try:
        return _sha256(source), None
    except ImageError as error:
        return "", f"cannot be read ({error.message})"
    except OSError as error:
        return "", f"cannot be read ({file_error(error).message})"


def _cannot_return(path: str) -> str | None:
    """Why nothing that was scanned can be read again at `path`; None where it can."""
    if is_remote(path):
        return "is an address, which --verify does not fetch; download the file and compare its SHA-256"
    if is_stdin(path) and not Path(path).exists():
        return "came from standard input, which cannot be read again"
    return None


def _sha256(source: Input) -> str:
    """Of the bytes of an input; a file is read in blocks, since any size can be put where an image was."""
    if source.kind is not InputKind.FILE:
        return hashlib.sha256(read_input(source, LIMITS.max_bytes)).hexdigest()
    with open_regular(source.path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
