"""Which results of a run are written, and in which order; the counts are of all of them in any case."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from muflow_cli.records import NO_FACE, NOT_JUDGED, NoFace, Origin, Result, Unjudged, Unreadable, Verdict


class Kind(StrEnum):
    """What `--only` chooses from; a result may be of several kinds."""

    FLAGGED = Verdict.FLAGGED.value
    INCONCLUSIVE = Verdict.INCONCLUSIVE.value
    NOT_FLAGGED = Verdict.NOT_FLAGGED.value
    NOT_JUDGED = NOT_JUDGED
    NO_FACE = NO_FACE
    DECLARED = "declared"
    ERROR = "error"


class Order(StrEnum):
    """By what `--sort` orders: p-values ascending, scores descending, or paths by their bytes."""

    P = "p"
    SCORE = "score"
    PATH = "path"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What is written.

    Attributes:
        only: kinds of results; empty = all results.
        order: order of the results; None = that of the inputs.
    """

    only: frozenset[Kind] = frozenset()
    order: Order | None = None

    @property
    def whole(self) -> bool:
        """Whether every result is written, in the order of the inputs."""
        return not self.only and self.order is None

    @property
    def options(self) -> dict[str, int | float | str | bool | None]:
        """The options of `scan` that say so, for the head of a report; those that were not given are left out."""
        only = ",".join(kind for kind in Kind if kind in self.only) or None
        given = {"only": only, "sort": None if self.order is None else self.order.value}
        return {name: value for name, value in given.items() if value is not None}

    def keeps(self, result: Result) -> bool:
        """Whether a result is written."""
        return not self.only or not self.only.isdisjoint(kinds_of(result))

    def ordered(self, results: Iterable[Result]) -> Iterable[Result]:
        """The results in the order in which they are written; those without a number last, equal ones as they came."""
        match self.order:
            case Order.P:
                return sorted(results, key=_p_value)
            case Order.SCORE:
                return sorted(results, key=_minus_score)
            case Order.PATH:
                return sorted(results, key=lambda result: os.fsencode(result.path))
        return results


def kinds_of(result: Result) -> frozenset[Kind]:
    """The kinds of one result; `declared` is a file that says that it is synthetic."""
    if isinstance(result, Unreadable):
        own = Kind.ERROR
    elif isinstance(result, Unjudged):
        own = Kind.NOT_JUDGED
    else:
        own = Kind.NO_FACE if isinstance(result, NoFace) else Kind(result.judgement.verdict.value)
    return frozenset({own, Kind.DECLARED} if result.declared.origin is Origin.SYNTHETIC else {own})


def _p_value(result: Result) -> float:
    """The p-value by which a run decides."""
    if isinstance(result, Unreadable | NoFace | Unjudged):
        return math.inf
    judgement = result.judgement
    given = (judgement.adaptive_p_value, judgement.weighted_p_value, judgement.p_value)
    return next(number for number in given if number is not None)


def _minus_score(result: Result) -> float:
    return math.inf if isinstance(result, Unreadable | NoFace) else -result.score
