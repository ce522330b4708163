"""The workflow of `scan --verify`: whether a report and the files it names are unchanged."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from muflow_cli.images.archives import split
from muflow_cli.images.error import ImageError
from muflow_cli.images.find import find
from muflow_cli.images.inputs import Input, InputKind, file_error, open_regular
from muflow_cli.images.read import read_input
from muflow_cli.images.remote import is_remote
from muflow_cli.output.report_reader import Report, ResultsDigest, read_report
from muflow_cli.records import Result, Scored, Unreadable
from muflow_cli.specs import InputSpec


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference from a report: the path that differs, and a sentence."""

    path: str
    message: str


def verify(report_path: Path) -> tuple[Report, Iterator[Difference]]:
    """The report and the differences: first those in its own lines, then those of its files, in its order.

    Raises:
        BadReport: if the file is not a complete report.
    """
    report = read_report(report_path)
    return report, _differences(report_path, report)


def _differences(path: Path, report: Report) -> Iterator[Difference]:
    if report.summary is None:
        yield Difference(str(path), "the run did not finish, so the report has no digest to compare its results with")
    else:
        digest, counts = ResultsDigest(), Counter[str]()
        for result in report.results:
            digest.add(result)
            kind = "unreadable" if isinstance(result, Unreadable) else "scored"
            counts.update(["inputs", kind, *(["flagged"] if isinstance(result, Scored) and result.flagged else [])])
        if digest.hexdigest() != report.summary.results_sha256:
            yield Difference(str(path), "the results were changed, since their SHA-256 differs")
        for name in ("inputs", "scored", "flagged", "unreadable"):
            written = getattr(report.summary, name)
            if counts[name] != written:
                yield Difference(str(path), f"the summary says {written} {name}, but the results have {counts[name]}")
    inputs = _Inputs()
    for result in report.results:
        message = _difference(result, inputs)
        if message is not None:
            yield Difference(result.path, message)


# Wider limits than those of any scan, so that every file that a scan read is read again.
_LIMITS: Final = InputSpec(hidden=True, follow_links=True, max_bytes=2**40)


class _Inputs:
    """Finds inputs again; an archive is read once if its members are looked up in their stored order."""

    def __init__(self) -> None:
        self._archive = ""
        self._members: Iterator[Input | Unreadable] = iter(())

    def find(self, path: str) -> Input | Unreadable | None:
        """The current input at `path`."""
        archive, _ = split(path)
        if archive:
            if archive != self._archive:
                self._archive, self._members = archive, find([archive], _LIMITS)
            for member in self._members:
                if member.path == path:
                    return member
            self._archive = ""  # not found from here on, so the next search starts from the beginning
        return next(find([path], _LIMITS), None)


def _difference(result: Result, inputs: _Inputs) -> str | None:
    recorded = result.sha256 if isinstance(result, Unreadable) else result.facts.sha256
    if recorded is None:
        return None
    sha256, problem = _current(result.path, inputs)
    if problem is not None or sha256 == recorded:
        return problem
    return f"has other content (SHA-256 is {sha256}, but was {recorded})"


def _current(path: str, inputs: _Inputs) -> tuple[str, str | None]:
    """SHA-256 of what lies at `path` now, and what is wrong with it, if anything is."""
    if is_remote(path):
        return "", "is an address, which --verify does not fetch; download the file and compare its SHA-256"
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


def _sha256(source: Input) -> str:
    """Of the bytes of an input; a file is read in blocks, since any size can be put where an image was."""
    if source.kind is not InputKind.FILE:
        return hashlib.sha256(read_input(source, _LIMITS.max_bytes)).hexdigest()
    with open_regular(source.path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
