"""Results counted by the folder that they lie in and by their format, those with the most flagged images first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from muflow_cli.output.file_links import folder_of
from muflow_cli.records import Origin, Result, Scored, Unreadable, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The results of one folder or format.

    Attributes:
        name: of it.
        inputs: number of results.
        scored: images with a score among them.
        flagged: of these.
        inconclusive: of these.
        atypical: of these, outside the calibration's ranges.
        unreadable: inputs that could not be scored.
        declared: inputs whose files declare themselves synthetic.
    """

    name: str
    inputs: int
    scored: int
    flagged: int
    inconclusive: int
    atypical: int
    unreadable: int
    declared: int

    @property
    def share(self) -> float | None:
        """Share of the scored images that are flagged, 0..1; None without any."""
        return self.flagged / self.scored if self.scored else None


def by_folder(results: Sequence[Result]) -> list[Part]:
    """One part for each folder or archive."""
    return _counted(results, lambda result: folder_of(result.path))


def by_format(results: Sequence[Result]) -> list[Part]:
    """One part for each container format, and one for what could not be read."""
    return _counted(results, lambda result: "unreadable" if isinstance(result, Unreadable) else result.facts.format)


def _counted(results: Sequence[Result], key: Callable[[Result], str]) -> list[Part]:
    members: dict[str, list[Result]] = {}
    for result in results:
        members.setdefault(key(result), []).append(result)
    parts = [_part(name, own) for name, own in members.items()]
    return sorted(parts, key=lambda part: (-part.flagged, -(part.share or 0), part.name))


def _part(name: str, results: Sequence[Result]) -> Part:
    scored = [result for result in results if isinstance(result, Scored)]
    return Part(
        name=name,
        inputs=len(results),
        scored=len(scored),
        flagged=sum(result.flagged for result in scored),
        inconclusive=sum(result.judgement.verdict is Verdict.INCONCLUSIVE for result in scored),
        atypical=sum(bool(result.judgement.atypical_input) for result in scored),
        unreadable=sum(isinstance(result, Unreadable) for result in results),
        declared=sum(result.declared.origin is Origin.SYNTHETIC for result in results),
    )
