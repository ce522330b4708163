"""Scores of held-out reals as a detector keeps them, and the judge that is made from them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.canonical import canonical_json, from_json, to_json
from muflow_cli.errors import BadCalibration, BadSpec, NotFinite, TooFewScores
from muflow_cli.rates import Description, Stratum, check_normality, promised_rate, smallest_p_value
from muflow_cli.records import Facts
from muflow_cli.rules import (
    NOVELTY_METHODS,
    RULES,
    Judgement,
    Rule,
    Scores,
    novelty_subsample,
    picture_scores,
    stratum_minimum,
)
from muflow_cli.specs import Method, RuleSpec
from muflow_cli.strata import ranges_of, stratum_name

# Facts that are whole numbers, each stored as one (n,) array.
_COLUMNS: Final = ("bytes", "width", "height")
_NO_QUALITY: Final = -1
_SHA256: Final = re.compile("[0-9a-f]{64}")


def source_digest(sha256: Sequence[str]) -> str:
    """SHA-256 over the sorted content hashes, lower-case hexadecimal: names a set of pictures whatever their order."""
    return hashlib.sha256(b"".join(bytes.fromhex(one) for one in sorted(sha256))).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """The reals that a verdict is measured against; one row per distinct picture, ascending by content hash.

    Rows may be given in any order and pictures more than once: identical bytes count once.

    Attributes:
        scores: (n, S) per-scale scores in nats per dimension, n >= 1, of reals that the flow never saw.
        facts: (n,) what was read of each picture.
        rule: how the scores become a verdict.
        created: UTC, ISO 8601.
        source_digest: of the content hashes, see `source_digest`; computed where empty, else checked.

    Raises:
        BadCalibration: when the parts do not belong together.
        TooFewScores: without any picture.
    """

    scores: Scores
    facts: tuple[Facts, ...]
    rule: RuleSpec
    created: str
    source_digest: str = ""

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, dtype=np.float64)
        if scores.ndim != 2 or scores.shape[1] == 0 or len(scores) != len(self.facts):
            raise BadCalibration(f"holds scores of shape {scores.shape} for {len(self.facts)} pictures")
        if len(scores) == 0:
            raise TooFewScores("calibration", 0, 1)
        if not np.isfinite(scores).all():
            raise BadCalibration("holds scores that are not finite numbers")
        rows = _first_rows_by_hash(self.facts)
        facts = tuple(self.facts[row] for row in rows)
        digest = source_digest([one.sha256 for one in facts])
        if self.source_digest not in ("", digest):
            raise BadCalibration("names another set of pictures than it holds")
        object.__setattr__(self, "scores", np.ascontiguousarray(scores[rows]))
        object.__setattr__(self, "facts", facts)
        object.__setattr__(self, "source_digest", digest)

    def __len__(self) -> int:
        return len(self.facts)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a safetensors file holds: scores, their mean, content hashes (n, 32), and a column for each fact.

        A missing quality is -1, a missing sharpness NaN; `format` counts into the names listed in `meta`.
        """
        formats = self._formats()
        quality = [_NO_QUALITY if one.jpeg_quality is None else one.jpeg_quality for one in self.facts]
        sharpness = [np.nan if one.sharpness is None else one.sharpness for one in self.facts]
        digests = b"".join(bytes.fromhex(one.sha256) for one in self.facts)
        return {
            "scores": self.scores,
            "score": picture_scores(self.scores),
            "sha256": np.frombuffer(digests, dtype=np.uint8).reshape(len(self), 32).copy(),
            "format": np.array([formats.index(one.format) for one in self.facts], dtype=np.int64),
            "jpeg_quality": np.array(quality, dtype=np.int64),
            "sharpness": np.array(sharpness, dtype=np.float64),
            **{name: np.array([getattr(one, name) for one in self.facts], dtype=np.int64) for name in _COLUMNS},
        }

    def meta(self) -> dict[str, object]:
        """What the arrays do not say, for JSON: rule, date, source_digest, format names, numbers of rows and scales."""
        return {
            "rule": to_json(self.rule),
            "created": self.created,
            "source_digest": self.source_digest,
            "formats": list(self._formats()),
            "pictures": len(self),
            "scales": self.scores.shape[1],
        }

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Calibration:
        """The calibration that `arrays` and `meta` describe.

        Raises:
            BadCalibration: where they do not describe one.
        """
        try:
            datetime.fromisoformat(meta["created"])
            found = cls(
                scores=arrays["scores"],
                facts=_facts_from(arrays, meta["formats"]),
                rule=from_json(RuleSpec, meta["rule"]),
                created=meta["created"],
                source_digest=meta["source_digest"],
            )
        except (KeyError, ValueError, TypeError, IndexError, BadSpec) as error:
            raise BadCalibration(f"cannot be read ({error})") from error
        if found.meta() != dict(meta) or not _same_arrays(found.arrays(), arrays):
            raise BadCalibration("contradicts itself")
        return found

    def fingerprint(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of the sorted arrays, and the rule; not over the date."""
        digest = hashlib.sha256(canonical_json({"rule": to_json(self.rule), "formats": list(self._formats())}))
        for name, array in sorted(self.arrays().items()):
            digest.update(canonical_json([name, array.dtype.str, list(array.shape)]))
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _formats(self) -> tuple[str, ...]:
        return tuple(sorted({one.format for one in self.facts}))


def _first_rows_by_hash(facts: Sequence[Facts]) -> list[int]:
    """Row of the first picture of each content hash, ascending by hash."""
    first: dict[str, int] = {}
    for row, one in enumerate(facts):
        if not _SHA256.fullmatch(one.sha256):
            raise BadCalibration(f"holds a picture whose content hash is {one.sha256!r}, which is no SHA-256")
        first.setdefault(one.sha256, row)
    return [first[sha256] for sha256 in sorted(first)]


def _facts_from(arrays: Mapping[str, NDArray[Any]], formats: Sequence[str]) -> tuple[Facts, ...]:
    digests = [bytes(row).hex() for row in arrays["sha256"]]
    names = [formats[index] for index in arrays["format"].tolist()]
    quality = [None if value == _NO_QUALITY else value for value in arrays["jpeg_quality"].tolist()]
    sharpness = [None if np.isnan(value) else value for value in arrays["sharpness"].tolist()]
    counts = (arrays[name].tolist() for name in _COLUMNS)
    rows = zip(digests, names, quality, sharpness, *counts, strict=True)
    return tuple(
        Facts(sha256=s, format=f, jpeg_quality=q, sharpness=sharp, bytes=size, width=width, height=height)
        for s, f, q, sharp, size, width, height in rows
    )


def _same_arrays(found: Mapping[str, NDArray[Any]], given: Mapping[str, NDArray[Any]]) -> bool:
    return found.keys() == given.keys() and all(
        array.dtype == given[name].dtype and array.tobytes() == given[name].tobytes() for name, array in found.items()
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one picture.

    Attributes:
        p_value: conformal, of the mean score (under `fisher` of Fisher's statistic), in (0, 1].
        flagged: whether the rule calls it synthetic; False where inconclusive.
        tail: "high" (unlike the reals) or "low" (more typical than the reals).
        verdict: "flagged", "not flagged", or "inconclusive" for a p-value inside the rule's band.
        calibration: "matched" without strata; else the name of the picture's stratum, "fallback" (its stratum has too
            few reals: all of them judge) or "extrapolated" (no calibration real is in its stratum: all of them judge).
        atypical_input: facts outside the calibration pictures' range, sorted.
        heaviest: the scale that weighs most; None for rules that do not look at single scales.
    """

    p_value: float
    flagged: bool
    tail: str
    verdict: str
    calibration: str = "matched"
    atypical_input: tuple[str, ...] = ()
    heaviest: str | None = None


class Judge:
    """Turns scores into verdicts; the rules are fitted once, when made.

    A stratum with fewer reals than `stratum_minimum` has no rule of its own.

    Args:
        calibration: the reals to compare with.
        scales: (S,) names of the scales, for `heaviest`; numbers from 0 where not given.

    Raises:
        TooFewScores: when the rule's alpha needs more reals than there are.
    """

    def __init__(self, calibration: Calibration, scales: Sequence[str] = ()) -> None:
        self._calibration = calibration
        self._spec = calibration.rule
        self._scales = tuple(scales) or tuple(str(scale) for scale in range(calibration.scores.shape[1]))
        self._ranges = ranges_of(calibration.facts)
        self._pooled = RULES[self._spec.method](calibration.scores, self._spec)
        self._members = _rows_by_stratum(calibration.facts, self._spec.by) if self._spec.by else {}
        self._rules = {
            name: RULES[self._spec.method](calibration.scores[rows], self._spec)
            for name, rows in self._members.items()
            if len(rows) >= stratum_minimum(self._spec)
        }

    def judge(self, scores: Scores, facts: Sequence[Facts]) -> list[Verdict]:
        """One verdict for each of B pictures.

        Args:
            scores: (B, S) per-scale scores, nats per dimension.
            facts: (B,) what was read of each picture.

        Raises:
            NotFinite: for a score that is not a finite number.
        """
        scores = np.ascontiguousarray(scores, dtype=np.float64)
        if not np.isfinite(scores).all():
            raise NotFinite("a score is not a finite number: the picture cannot be judged")
        verdicts: dict[int, Verdict] = {}
        for name, rows in _rows_by_stratum(facts, self._spec.by).items():
            rule, said = self._rule_for(name)
            judgement = rule.judge(scores[rows])
            for place, row in enumerate(rows):
                verdicts[row] = self._verdict(judgement, place, said, facts[row])
        return [verdicts[row] for row in range(len(facts))]

    def describe(self) -> Description:
        """What may be said of these reals and this rule, for a summary."""
        own, spec, n = self._calibration, self._spec, len(self._calibration)
        return Description(
            pictures=n,
            rule=spec,
            created=own.created,
            source_digest=own.source_digest,
            smallest_p_value=smallest_p_value(spec, n),
            true_rate=promised_rate(spec, n),
            normality=check_normality(own.scores, spec) if spec.method is Method.GAUSSIAN else None,
            fitted_on=len(novelty_subsample(n)) if spec.method in NOVELTY_METHODS else None,
            stratum_minimum=stratum_minimum(spec),
            strata=tuple(self._stratum(name) for name in sorted(self._members)),
            ranges=self._ranges,
        )

    def _stratum(self, name: str) -> Stratum:
        pictures, calibrated = len(self._members[name]), name in self._rules
        true_rate = promised_rate(self._spec, pictures) if calibrated else None
        return Stratum(name=name, pictures=pictures, calibrated=calibrated, true_rate=true_rate)

    def _rule_for(self, name: str) -> tuple[Rule, str]:
        if not self._spec.by:
            return self._pooled, "matched"
        if name in self._rules:
            return self._rules[name], name
        return self._pooled, "fallback" if name in self._members else "extrapolated"

    def _verdict(self, judgement: Judgement, place: int, said: str, facts: Facts) -> Verdict:
        p_value, flagged = float(judgement.p_value[place]), bool(judgement.flagged[place])
        verdict = "flagged" if flagged else "not flagged"
        if self._spec.band is not None and self._spec.band[0] <= p_value <= self._spec.band[1]:
            verdict = "inconclusive"
        return Verdict(
            p_value=p_value,
            flagged=verdict == "flagged",
            tail=str(judgement.tail[place]),
            verdict=verdict,
            calibration=said,
            atypical_input=self._ranges.atypical(facts),
            heaviest=None if judgement.heaviest is None else self._scales[judgement.heaviest[place]],
        )


def _rows_by_stratum(facts: Sequence[Facts], by: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, one in enumerate(facts):
        rows.setdefault(stratum_name(one, by), []).append(row)
    return rows
