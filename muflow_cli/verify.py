"""The workflow of `scan --verify`: does a report still say what was written, of files that are still what they were?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from muflow_cli.output.journal import Report, ResultsDigest, read_report
from muflow_cli.pictures.archives import split
from muflow_cli.pictures.decode import PictureError
from muflow_cli.pictures.find import Source, find
from muflow_cli.records import Result, Unreadable
from muflow_cli.specs import InputSpec


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as the report says: what it is about, and a sentence."""

    path: str
    message: str


def verify(report_path: Path) -> tuple[Report, Iterator[Difference]]:
    """The report, and what differs: in its own lines first, then file by file in its order.

    Raises:
        BadReport: where the report cannot be read as one.
    """
    report = read_report(report_path)
    return report, _differences(report_path, report)


def _differences(path: Path, report: Report) -> Iterator[Difference]:
    if report.summary is None:
        yield Difference(str(path), "the run did not end: there is no digest over the results to compare with")
    else:
        digest, counts = ResultsDigest(), Counter[str]()
        for result in report.results:
            digest.add(result)
            counts.update(_kinds(result))
        if digest.hexdigest() != report.summary.results_sha256:
            yield Difference(str(path), "the results are not those that were written: their SHA-256 differs")
        for name in ("inputs", "scored", "flagged", "unreadable"):
            written = getattr(report.summary, name)
            if counts[name] != written:
                yield Difference(str(path), f"the summary counts {written} {name}, the results are {counts[name]}")
    inputs = _Inputs()
    for result in report.results:
        message = _difference(result, inputs)
        if message is not None:
            yield Difference(result.path, message)


def _kinds(result: Result) -> list[str]:
    if isinstance(result, Unreadable):
        return ["inputs", "unreadable"]
    return ["inputs", "scored", "flagged"] if result.flagged else ["inputs", "scored"]


# The limits of the scan are not those of a check: a file that was read then is read now.
_LIMITS: Final = InputSpec(hidden=True, follow_links=True, max_bytes=2**40)


class _Inputs:
    """Finds inputs again. An archive is gone through once while its members are asked for in their stored order."""

    def __init__(self) -> None:
        self._archive = ""
        self._members: Iterator[Source | Unreadable] = iter(())

    def find(self, path: str) -> Source | Unreadable | None:
        """The input that was reported as `path`, or what stands in its place now."""
        archive, _ = split(path)
        if archive:
            if archive != self._archive:
                self._archive, self._members = archive, find([archive], _LIMITS)
            for member in self._members:
                if member.path == path:
                    return member
            self._archive = ""  # another order, or a member that is gone: the next one begins anew
        return next(find([path], _LIMITS), None)


def _difference(result: Result, inputs: _Inputs) -> str | None:
    wanted = result.sha256 if isinstance(result, Unreadable) else result.facts.sha256
    if wanted is None:
        return None
    source = inputs.find(result.path)
    # A folder in the file's place, or a name that fits a pattern, leads to other files.
    if source is None or source.path != result.path:
        return "cannot be found any more"
    if isinstance(source, Unreadable):
        return f"cannot be read: {source.message}"
    try:
        found = hashlib.sha256(source.read(_LIMITS.max_bytes)).hexdigest()
    except PictureError as error:
        return f"cannot be read: {error.message}"
    return None if found == wanted else f"has other content: SHA-256 {found}, the report says {wanted}"
