"""What folders and archives held that was not read: which kind it is, why, and how many there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from muflow_cli.errors import NothingToDo
from muflow_cli.run_records import SkippedFiles


class Why(StrEnum):
    """Why something in a folder or an archive is no input."""

    NOT_AN_IMAGE = "not_an_image"
    HIDDEN = "hidden"
    EXCLUDED = "excluded"
    ARCHIVE = "archive"
    LINK = "link"
    SPECIAL = "special_file"


# What follows a kind, and what follows a path; the usual reason goes without saying in a sum.
_IN_WORDS: Final = {
    Why.NOT_AN_IMAGE: ("", "it is not an image"),
    Why.HIDDEN: ("hidden", "its name begins with a dot; --hidden reads it"),
    Why.EXCLUDED: ("excluded", "--exclude leaves it out"),
    Why.ARCHIVE: ("not opened", "--no-archives leaves it closed"),
    Why.LINK: ("not followed", "it is a link; --follow-links follows those in folders"),
    Why.SPECIAL: ("never read", "it is neither a file nor a folder"),
}


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was not read: its path, its kind in the singular (`images.kinds.kind_of`), and why."""

    path: str
    kind: str
    why: Why

    def __str__(self) -> str:
        """The kind and the reason, without the path."""
        return f"{self.kind}; {_IN_WORDS[self.why][1]}"


Skip = Callable[[Skipped], object]


class SkipCount:
    """Counts what is skipped, and passes it on.

    Args:
        then: called with each as well.
    """

    def __init__(self, then: Skip | None = None) -> None:
        self._counts: Counter[tuple[str, Why]] = Counter()
        self._then = then

    def __call__(self, skipped: Skipped) -> None:
        """Count one."""
        self._counts[skipped.kind, skipped.why] += 1
        if self._then is not None:
            self._then(skipped)

    @property
    def rows(self) -> tuple[SkippedFiles, ...]:
        """The counts, in the order of reasons, the largest first."""
        order = list(Why)
        ranked = sorted(self._counts.items(), key=lambda item: (order.index(item[0][1]), -item[1], item[0][0]))
        return tuple(SkippedFiles(kind=kind, reason=why.value, count=count) for (kind, why), count in ranked)


def skipped_text(rows: Iterable[SkippedFiles]) -> str:
    """The counts in words, such as "2 MP4 videos, 1 PDF document, 3 text files (hidden)"; empty without any."""
    words = []
    for row in rows:
        reason = _IN_WORDS[Why(row.reason)][0]
        words.append(several(row.count, row.kind) + (f" ({reason})" if reason else ""))
    return ", ".join(words)


def nothing_found(what: str, rows: Sequence[SkippedFiles], remedy: str) -> NothingToDo:
    """The error for inputs without an image.

    Args:
        what: begins the sentence, such as "no image was found".
        rows: what was skipped.
        remedy: ends it where nothing better is known.
    """
    if not rows:
        return NothingToDo(what, remedy)
    others = [row for row in rows if row.reason == Why.NOT_AN_IMAGE]
    if others and all(_is_video(row.kind) for row in others):
        remedy = "videos need pip install 'muflow-cli[video]', and muflow fit takes their frames with --frames N"
    if all(row.reason == Why.LINK for row in rows):
        remedy = "links in folders are followed with --follow-links"
    return NothingToDo(f"{what}, only {skipped_text(rows)}", remedy)


def _is_video(kind: str) -> bool:
    """Whether a kind is one of the videos."""
    return kind.endswith("video")


def several(count: int, kind: str) -> str:
    """A number of files of a kind, in words."""
    if count == 1:
        return f"1 {kind}"
    first, of, rest = kind.partition(" of ")
    plural = f"{first[:-1]}ies" if first.endswith("y") else f"{first}s"
    return f"{count} {plural}{of}{rest}"
