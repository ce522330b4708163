"""What comes back: frozen records that every writer understands.

Paths are `str` as Python decodes file names (surrogateescape), so that a name which is not UTF-8 survives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What was read of one file, whatever its score: the custody part of a result.

    Attributes:
        sha256: of the bytes that were decoded (one read for both), lower-case hexadecimal.
        bytes: length of those bytes.
        format: container as Pillow names it ("JPEG", "PNG", ...).
        width: in pixels as stored, before EXIF orientation.
        height: in pixels as stored, before EXIF orientation.
        jpeg_quality: estimated from the quantisation tables, 1..100; None where it is not a JPEG.
        sharpness: standard deviation of the Laplacian of the first view, in grey levels.
    """

    sha256: str
    bytes: int
    format: str
    width: int
    height: int
    jpeg_quality: int | None = None
    sharpness: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One picture with its verdict.

    Attributes:
        path: as found.
        facts: custody facts of the bytes that were scored.
        score: mean over scales of NLL / dimension, nats per dimension; higher = less like the reals fitted.
        scale_scores: (S,) the same for each scale.
        p_value: share of calibration reals at least as extreme, (1 + #) / (n + 1).
        flagged: whether the rule calls it synthetic.
        tail: "high" (unlike the reals) or "low" (more typical than the reals).
        verdict: "flagged", "not flagged" or "inconclusive".
        q_value: Benjamini-Hochberg over this run, where asked for.
        duplicate_of: path of the first input with the same bytes in this run.
        calibration: "matched", a stratum's name, "fallback" or "extrapolated".
        atypical_input: names of the facts outside the calibration set's range.
        heaviest: the scale that weighs most in the verdict; None for rules that do not look at single scales.
    """

    path: str
    facts: Facts
    score: float
    scale_scores: tuple[float, ...]
    p_value: float
    flagged: bool
    tail: str
    verdict: str = "not flagged"
    q_value: float | None = None
    duplicate_of: str | None = None
    calibration: str = "matched"
    atypical_input: tuple[str, ...] = ()
    heaviest: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """One input that could not be scored.

    Attributes:
        path: as found.
        code: a stable word for programs ("truncated", "not_a_picture", "empty", "too_large", ...).
        message: one sentence for people.
        sha256: of the bytes, where they could be read.
        bytes: their number, where they could be read.
    """

    path: str
    code: str
    message: str
    sha256: str | None = None
    bytes: int | None = None


Result = Scored | Unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """The head of a run: who measured, with what, when (UTC, ISO 8601)."""

    tool: str
    version: str
    argv: tuple[str, ...]
    started: str
    device: str
    precision: str
    versions: Mapping[str, str]
    finished: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorInfo:
    """The detector as a report names it."""

    path: str
    fingerprint: str
    calibration_fingerprint: str
    encoder: str
    rule: str
    alpha: float
    tail: str
    scales: tuple[str, ...] = ()
    calibration_pictures: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The end of a run. `inputs` = scored + unreadable; `duplicates` are among the scored."""

    inputs: int
    scored: int
    flagged: int
    unreadable: int
    duplicates: int
    seconds: float
    images_per_second: float
    inconclusive: int = 0
    unreadable_by_code: Mapping[str, int] = field(default_factory=dict)
    flagged_by_tail: Mapping[str, int] = field(default_factory=dict)
    fdr: float | None = None
    interrupted: bool = False
    results_sha256: str | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    bottleneck: str | None = None
