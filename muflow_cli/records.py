"""What comes back: enums and frozen records that every writer understands.

Paths are `str` as Python decodes file names (surrogateescape), so that a name which is not UTF-8 survives.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from muflow_cli.clip_records import CalibratedOn, Clip
from muflow_cli.verdicts import Side, Verdict

__all__ = [
    "NOT_JUDGED",
    "NO_FACE",
    "PIXELS",
    "CalibratedOn",
    "CalibrationMatch",
    "Clip",
    "Declared",
    "Face",
    "FaceScore",
    "Facts",
    "Judgement",
    "Mark",
    "NoFace",
    "Origin",
    "Point",
    "Result",
    "Scored",
    "Side",
    "Trust",
    "Unjudged",
    "Unreadable",
    "Verdict",
]


class CalibrationMatch(StrEnum):
    """Which calibration reals an image was compared with.

    `matched`: those meant for it, all of them or its own stratum. `fallback`: all of them, since its stratum has too
    few. `extrapolated`: all of them, since none is in its stratum.
    """

    MATCHED = "matched"
    FALLBACK = "fallback"
    EXTRAPOLATED = "extrapolated"


# Format of an image that was given as pixels, whose container nobody knows.
PIXELS: Final = "pixels"

# In the place of a frame's number: the video that a motion photo holds behind its image.
EMBEDDED: Final = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What was read of one file, whatever its score: the custody part of a result.

    Attributes:
        sha256: of the bytes that were decoded (one read for both), lower-case hexadecimal.
        bytes: length of those bytes.
        format: container as Pillow names it ("JPEG", "PNG", ...), or codec of a clip ("H264", "AV1", ...) and what
            was converted from HDR ("HEVC PQ", "HEVC HLG"); PIXELS for an image that was given in memory.
        width: in pixels as stored, before EXIF orientation.
        height: in pixels as stored, before EXIF orientation.
        jpeg_quality: estimated from the quantisation tables, 1..100; None where it is not a JPEG.
        sharpness: standard deviation of the Laplacian of the first view, in grey levels; with faces, of the one that
            decided; of a clip the median over its frames.
        damaged: whether the coded data is damaged or cut, and the image was scored all the same.
        missing: share of a damaged image that is missing, 0..1; None where nothing is missing or it cannot be told.
        face_side: shorter side of the box of the face that decided, pixels; None where no face was scored.
        face_tilt: its angle against upright, -180..180 degrees, clockwise in the image; None likewise.
        frame: of the file that was scored, from 1; EMBEDDED for the video inside a motion photo.
        frames: that the file holds: of an animation (GIF, PNG, WebP) or pages of a TIFF.
    """

    sha256: str
    bytes: int
    format: str
    width: int
    height: int
    jpeg_quality: int | None = None
    sharpness: float | None = None
    damaged: bool = False
    missing: float | None = None
    face_side: float | None = None
    face_tilt: float | None = None
    frame: int = 1
    frames: int = 1

    @property
    def key(self) -> str:
        """What tells this picture from others: the SHA-256 of the file, or one of it and any frame but the first.

        Lower-case hexadecimal, as a SHA-256 is.
        """
        return frame_key(self.sha256, self.frame)


def frame_key(sha256: str, frame: int) -> str:
    """`Facts.key` of a frame of the file with this SHA-256."""
    return sha256 if frame == 1 else hashlib.sha256(f"{sha256} frame {frame}".encode("ascii")).hexdigest()


Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """A face in an image, in pixels of the upright image, after EXIF orientation; x grows to the right, y downwards.

    Attributes:
        box: left, top, right, bottom; it may reach beyond the image.
        landmarks: the eye on the image's left, the eye on its right, the tip of the nose, the corners of the mouth on
            the image's left and right.
        confidence: of the detector, 0..1.
    """

    box: tuple[float, float, float, float]
    landmarks: tuple[Point, Point, Point, Point, Point]
    confidence: float

    @property
    def side(self) -> float:
        """Length of the box's shorter side, pixels."""
        left, top, right, bottom = self.box
        return min(right - left, bottom - top)

    @property
    def tilt(self) -> float:
        """Angle of the line between the eyes against the horizontal, -180..180 degrees, clockwise in the image."""
        (left_x, left_y), (right_x, right_y), *_ = self.landmarks
        return math.degrees(math.atan2(right_y - left_y, right_x - left_x))


class Origin(StrEnum):
    """What a file says of its own origin, the strongest claim first; `none` means that it says nothing."""

    SYNTHETIC = "synthetic"
    EDITED = "edited"
    CAMERA = "camera"
    NONE = "none"


class Trust(StrEnum):
    """What backs a mark.

    `unsigned`: nothing; anybody can write or remove it. `not_verified`: it is signed, but the signature was not
    checked. `invalid`: the signature does not fit the file. `untrusted`: the signature fits, but no list of trusted
    certificates vouches for its signer. `valid`: the signature fits and its signer is on the list.
    """

    UNSIGNED = "unsigned"
    NOT_VERIFIED = "not_verified"
    INVALID = "invalid"
    UNTRUSTED = "untrusted"
    VALID = "valid"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One thing that a file says of its own origin.

    Attributes:
        kind: a row of MARKS ("c2pa", "a1111", "exif", ...).
        claim: the origin that it claims; none where it is a remark.
        detail: what it says, by name ("model", "seed", "software", ...); values are at most 200 printable characters.
        trust: what backs it.
    """

    kind: str
    claim: Origin
    detail: Mapping[str, str]
    trust: Trust = Trust.UNSIGNED


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """What a file says of its own origin, true or not; no score or p-value depends on it.

    Attributes:
        origin: the strongest claim of its marks (synthetic, then edited, then camera). None is no evidence of anything:
            a mark is easily removed.
        marks: in the order of MARKS.
    """

    origin: Origin = Origin.NONE
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a calibration says of one image.

    Attributes:
        p_value: share of calibration reals at least as extreme, (1 + #) / (n + 1), in (0, 1].
        verdict: by the rule, or by q-values where a false discovery rate was given.
        tail: the side of the reals on which the image lies: high (unlike the reals) or low (more typical than they).
        calibration: which reals it was compared with.
        stratum: the stratum whose own rule decided; None where all reals did.
        atypical_input: names of the facts outside the calibration images' range, sorted.
        heaviest: the column that weighs most in the verdict; None for rules that do not look at single columns.
        q_value: Benjamini-Hochberg over this run, where a false discovery rate was given, of the adaptive p-values if
            there are any, else of the p-values.
        adaptive_p_value: in (0, 1], by a score learned between calibration reals and this batch, in an adaptive run.
        weighted_p_value: in (0, 1], as `p_value`, where each calibration image counts by how much it resembles this
            batch as a file; it decides in a run that reweights.
    """

    p_value: float
    verdict: Verdict
    tail: Side
    calibration: CalibrationMatch = CalibrationMatch.MATCHED
    stratum: str | None = None
    atypical_input: tuple[str, ...] = ()
    heaviest: str | None = None
    q_value: float | None = None
    adaptive_p_value: float | None = None
    weighted_p_value: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceScore:
    """One face of an image with its verdict.

    Attributes:
        box: left, top, right, bottom, in pixels of the upright image.
        landmarks: eye, eye, tip of the nose, corner and corner of the mouth, from the image's left to its right.
        confidence: of the detector of faces, 0..1.
        tilt: angle of the line between the eyes against the horizontal, -180..180 degrees, clockwise in the image.
        sharpness: standard deviation of the Laplacian of the aligned face, in grey levels.
        score: mean of the columns, nats per dimension.
        column_scores: (S,) one score per column of the detector, nats per dimension.
        p_value: of this face alone, in (0, 1].
        tail: the side of the reals on which the face lies.
        verdict: by its p-value times the number of faces of the image that were scored (Bonferroni).
        atypical_input: names of the facts outside the calibration's range, sorted.
        heaviest: the column that weighs most in the verdict; None for rules that do not look at single columns.
    """

    box: tuple[float, float, float, float]
    landmarks: tuple[Point, Point, Point, Point, Point]
    confidence: float
    tilt: float
    sharpness: float | None
    score: float
    column_scores: tuple[float, ...]
    p_value: float
    tail: Side
    verdict: Verdict
    atypical_input: tuple[str, ...] = ()
    heaviest: str | None = None

    @property
    def face(self) -> Face:
        """Where it lies."""
        return Face(box=self.box, landmarks=self.landmarks, confidence=self.confidence)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One image with its verdict; with faces, score, columns and facts are those of the face that decided.

    That is the face with the least p-value; the image's own p-value is k times as large for k faces (Bonferroni).

    Attributes:
        path: as found.
        facts: custody facts of the bytes that were scored.
        score: mean of the columns, nats per dimension; higher = less like the reals fitted.
        column_scores: (S,) one score per column of the detector, nats per dimension.
        judgement: verdict and p-value.
        declared: what the file says of its own origin; nothing above depends on it.
        duplicate_of: path of the first input with the same bytes in this run.
        group: folder, archive or entry of a list with which it was judged, in a run by groups.
        faces: that were scored, the largest first; empty for a detector of whole images.
        faces_left_out: number of faces that were not scored, since they are too small or too many.
        clip: frames and tracks, where the input is a clip; by a calibration on clips, `column_scores` are the mean and
            the upper quantile of each column over the frames.
    """

    path: str
    facts: Facts
    score: float
    column_scores: tuple[float, ...]
    judgement: Judgement
    declared: Declared = Declared()
    duplicate_of: str | None = None
    group: str | None = None
    faces: tuple[FaceScore, ...] = ()
    faces_left_out: int = 0
    clip: Clip | None = None

    @property
    def flagged(self) -> bool:
        """Whether the verdict is `flagged`."""
        return self.judgement.verdict is Verdict.FLAGGED


# What stands in the place of a verdict where an image has no face.
NO_FACE: Final = "no_face"


@dataclass(frozen=True, kw_only=True, slots=True)
class NoFace:
    """One image without a face that can be scored; its verdict is `no_face`.

    Attributes:
        path: as found.
        facts: custody facts; those of a face are None.
        faces_left_out: number of faces that are too small to be scored.
        declared: what the file says of its own origin.
        duplicate_of: path of the first input with the same bytes in this run.
    """

    path: str
    facts: Facts
    faces_left_out: int = 0
    declared: Declared = Declared()
    duplicate_of: str | None = None

    @property
    def flagged(self) -> bool:
        """False: there is nothing that a rule could flag."""
        return False


# What stands in the place of a verdict where the detector's calibration is on another kind of input.
NOT_JUDGED: Final = "not_judged"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unjudged:
    """A clip that a detector calibrated on stills scored, or a still that one calibrated on clips did.

    It has no p-value, and its verdict is `not_judged`.

    Attributes:
        path: as found.
        facts: custody facts.
        score: mean of the columns over all frames, nats per dimension.
        column_scores: (S,) one score per column of the detector, for a clip the mean over its frames.
        calibration: what the detector was calibrated on.
        clip: frames and tracks; None for a still.
        declared: what the file says of its own origin.
        duplicate_of: path of the first input with the same bytes in this run.
    """

    path: str
    facts: Facts
    score: float
    column_scores: tuple[float, ...]
    calibration: CalibratedOn
    clip: Clip | None = None
    declared: Declared = Declared()
    duplicate_of: str | None = None

    @property
    def flagged(self) -> bool:
        """False: no rule was asked."""
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """One input that could not be scored.

    Attributes:
        path: as found.
        code: a stable word for programs ("truncated", "not_an_image", "empty", "too_large", ...).
        message: one sentence for people.
        sha256: of the bytes, where they were read. They are not where a file is larger than allowed, or large and no
            image by its first bytes (`inputs.HASHED_BYTES`).
        bytes: their number, where it is known.
        declared: what the file says of its own origin, where its bytes were read.
    """

    path: str
    code: str
    message: str
    sha256: str | None = None
    bytes: int | None = None
    declared: Declared = Declared()


Result = Scored | Unjudged | NoFace | Unreadable
