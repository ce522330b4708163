"""The workflow of `muflow diff`: what two reports say differently of the same inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from muflow_cli.errors import BadReport
from muflow_cli.output.report_reader import Report, read_report
from muflow_cli.records import NO_FACE, NOT_JUDGED, NoFace, Origin, Result, Unjudged, Unreadable


class Change(StrEnum):
    """How an input differs.

    `verdict`: another verdict, error or declared origin. `content`: another file has its path. `new` and `gone`: only
    one report has it, by its path and by its content.
    """

    VERDICT = "verdict"
    CONTENT = "content"
    NEW = "new"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a report says of one input.

    Attributes:
        path: of the input.
        sha256: of its content; None where it was not read.
        verdict: `flagged`, `not_flagged`, `inconclusive`, `no_face`, or `error (CODE)`.
        declared: the origin that the file names.
        p_value: of a scored image.
    """

    path: str
    sha256: str | None
    verdict: str
    declared: Origin
    p_value: float | None

    @property
    def says(self) -> tuple[str, Origin]:
        """What is compared."""
        return self.verdict, self.declared


@dataclass(frozen=True, slots=True)
class Difference:
    """One input that differs; `before` or `after` is None where that report has no such input."""

    change: Change
    before: Entry | None
    after: Entry | None


def entry_of(result: Result) -> Entry:
    """What is compared of a result."""
    origin = result.declared.origin
    if isinstance(result, Unreadable):
        return Entry(result.path, result.sha256, f"error ({result.code})", origin, None)
    if isinstance(result, NoFace):
        return Entry(result.path, result.facts.sha256, NO_FACE, origin, None)
    if isinstance(result, Unjudged):
        return Entry(result.path, result.facts.sha256, NOT_JUDGED, origin, None)
    judgement = result.judgement
    return Entry(result.path, result.facts.sha256, judgement.verdict.value, origin, judgement.p_value)


def read_whole(path: Path) -> Report:
    """A report of all results of its run.

    Raises:
        BadReport: for anything else.
    """
    report = read_report(path)
    if (report.run.options or {}).get("only") is not None:
        raise BadReport(f"{path} holds a part of its results (--only), so nothing is known of the others")
    if report.summary is None:
        raise BadReport(f"{path} has no end, since its run did not finish")
    if report.was_changed:
        raise BadReport(f"{path} was changed since it was written (muflow scan --verify says where)")
    return report


class Differences:
    """Compares two reports, by path first and by content where a path is in one of them only.

    Args:
        before: the earlier report.
        after: the later one.

    Attributes:
        same: number of inputs of which both say the same, once `found` has ended.
    """

    def __init__(self, before: Report, after: Report) -> None:
        self._before, self._after = before, after
        self.same = 0

    def found(self) -> Iterator[Difference]:
        """The differences in the order of the later report, then what is gone, in the order of the earlier one."""
        earlier = {entry.path: entry for entry in map(entry_of, self._before.results)}
        left: list[Entry] = []
        for entry in map(entry_of, self._after.results):
            old = earlier.pop(entry.path, None)
            if old is None:
                left.append(entry)
            else:
                yield from self._pair(old, entry)
        moved: dict[str, list[Entry]] = {}
        for old in earlier.values():
            if old.sha256 is not None:
                moved.setdefault(old.sha256, []).append(old)
        for entry in left:
            candidates = moved.get(entry.sha256 or "")
            if candidates:
                old = candidates.pop(0)
                del earlier[old.path]
                yield from self._pair(old, entry)
            else:
                yield Difference(Change.NEW, None, entry)
        for old in earlier.values():
            yield Difference(Change.GONE, old, None)

    def _pair(self, old: Entry, new: Entry) -> Iterator[Difference]:
        if old.says != new.says:
            yield Difference(Change.VERDICT, old, new)
        elif old.sha256 != new.sha256:
            yield Difference(Change.CONTENT, old, new)
        else:
            self.same += 1
