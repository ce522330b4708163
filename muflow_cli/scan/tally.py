"""Counts of a run, kept while its results pass."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

from muflow_cli.records import EMBEDDED, NoFace, Origin, Result, Unjudged, Unreadable, Verdict
from muflow_cli.run_records import Summary


class Tally:
    """Counts results; the clock starts when it is made."""

    def __init__(self) -> None:
        self.scored = self.flagged = self.duplicates = self.inconclusive = self.damaged = self.faces = self.no_face = 0
        self.atypical = self.frames_left_out = self.clips = self.unjudged = 0
        self.codes: Counter[str] = Counter()
        self.tails: Counter[str] = Counter()
        self.origins: Counter[str] = Counter()
        self.facts: Counter[str] = Counter()
        self._since = time.monotonic()

    @property
    def unreadable(self) -> int:
        """Number of inputs that could not be scored."""
        return sum(self.codes.values())

    @property
    def inputs(self) -> int:
        """Number of results."""
        return self.scored + self.unjudged + self.no_face + self.unreadable

    def add(self, result: Result) -> None:
        """Count one result."""
        if result.declared.origin is not Origin.NONE:
            self.origins[result.declared.origin.value] += 1
        if isinstance(result, Unreadable):
            self.codes[result.code] += 1
            return
        # The first frame of a file speaks for all, and each of the others takes itself away.
        if result.facts.frame != EMBEDDED:
            self.frames_left_out += result.facts.frames - 1 if result.facts.frame == 1 else -1
        self.duplicates += result.duplicate_of is not None
        self.damaged += result.facts.damaged
        if isinstance(result, NoFace):
            self.no_face += 1
            return
        self.clips += result.clip is not None
        if isinstance(result, Unjudged):
            self.unjudged += 1
            return
        self.scored += 1
        self.faces += len(result.faces)
        self.inconclusive += result.judgement.verdict is Verdict.INCONCLUSIVE
        self.atypical += bool(result.judgement.atypical_input)
        self.facts.update(result.judgement.atypical_input)
        if result.flagged:
            self.flagged += 1
            self.tails[result.judgement.tail.value] += 1

    def summary(self, **fields: object) -> Summary:
        """The counts, with the other `fields` of Summary."""
        seconds = time.monotonic() - self._since
        counted = Summary(
            inputs=self.inputs,
            scored=self.scored,
            flagged=self.flagged,
            unreadable=self.unreadable,
            duplicates=self.duplicates,
            seconds=round(seconds, 3),
            images_per_second=round((self.scored + self.unjudged) / seconds, 3) if seconds > 0 else 0.0,
            inconclusive=self.inconclusive,
            atypical=self.atypical,
            damaged=self.damaged,
            faces=self.faces,
            no_face=self.no_face,
            frames_left_out=max(0, self.frames_left_out),
            clips=self.clips,
            unjudged=self.unjudged,
            unreadable_by_code=dict(sorted(self.codes.items())),
            flagged_by_tail=dict(sorted(self.tails.items())),
            declared_by_origin=dict(sorted(self.origins.items())),
            atypical_by_fact=dict(sorted(self.facts.items())),
        )
        return replace(counted, **fields)  # type: ignore[arg-type] # names are Summary's own, checked by `replace`
