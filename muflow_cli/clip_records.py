"""What a result says of a clip: its frames, the faces that were followed, and how it was judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from muflow_cli.canonical import ADDED
from muflow_cli.verdicts import Side, Verdict

# Of a clip, how many of its worst frames are named.
MOST_SHOWN: Final = 5


class CalibratedOn(StrEnum):
    """Whose scores a calibration holds: those of single images, or those of whole clips."""

    STILLS = "stills"
    CLIPS = "clips"


class JudgedBy(StrEnum):
    """How the verdict on a clip came about.

    `clip`: by a calibration on clips. `frame`: each frame as if it were a still, with Bonferroni over the frames.
    """

    CLIP = "clip"
    FRAME = "frame"


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameScore:
    """One frame of a clip.

    Attributes:
        time: at which it is shown, seconds from the start of the clip.
        sharpness: standard deviation of the Laplacian of its first view, in grey levels.
        score: mean of the columns, nats per dimension.
        column_scores: (S,) one score per column of the detector, nats per dimension.
        p_value: of this frame alone, in (0, 1]; None where frames are not judged as stills.
        tail: the side of the reals on which it lies; None likewise.
        verdict: by its p-value times the number of frames (Bonferroni); None likewise.
        track: number of the face that is followed, from 0; 0 where whole frames are scored.
        box: of the face, pixels of the upright frame; None where whole frames are scored.
    """

    time: float
    sharpness: float | None
    score: float
    column_scores: tuple[float, ...]
    p_value: float | None = None
    tail: Side | None = None
    verdict: Verdict | None = None
    track: int = 0
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Track:
    """One face that is followed through a clip, with its verdict; its frames are those with its number.

    Attributes:
        first: time of its first frame, seconds.
        last: time of its last frame, seconds.
        frames: how many frames show it.
        score: mean over its frames and columns, nats per dimension.
        column_scores: of the clip calibration's columns, or of its decisive frame.
        p_value: of this face alone, in (0, 1]; None without a verdict.
        tail: the side of the reals on which it lies; None likewise.
        verdict: by its p-value times the number of tracks (Bonferroni); None likewise.
    """

    first: float
    last: float
    frames: int
    score: float
    column_scores: tuple[float, ...]
    p_value: float | None = None
    tail: Side | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """Where a video lies inside the file of a motion photo, whose hash and length are those of the result.

    Attributes:
        offset: of its first byte.
        bytes: its length.
        sha256: of it alone, lower-case hexadecimal.
    """

    offset: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipFacts:
    """What was read of a clip besides the facts of its file.

    Attributes:
        container: as FFmpeg names the format of the file.
        seconds: length of the clip; None where the file does not say.
        rotation: degrees, counter-clockwise, by which frames are turned to be upright: 0, 90, 180 or 270.
        failed: number of frames that were looked for and could not be decoded.
        converted_from: transfer function of HDR, PQ or HLG, that the frames were converted from; None of SDR.
        embedded: where it lies in a motion photo; None of a file that is a video.
    """

    container: str
    seconds: float | None
    rotation: int = 0
    failed: int = 0
    converted_from: str | None = field(default=None, metadata=ADDED)
    embedded: Embedded | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """What a result says of a clip beside its verdict.

    Attributes:
        facts: of the clip.
        frames: that were scored, in the order of their times, and faces of one frame in the order of their tracks.
        worst: times of the frames that are the most unlike the reals, the worst first, seconds; at most five.
        judged_by: how the verdict came about; None without one.
        tracks: faces that were followed, the one that shows the most first; empty where whole frames are scored.
    """

    facts: ClipFacts
    frames: tuple[FrameScore, ...]
    worst: tuple[float, ...]
    judged_by: JudgedBy | None = None
    tracks: tuple[Track, ...] = ()
