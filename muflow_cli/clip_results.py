"""Clips -> what is scored of them (their frames, or the faces in them), and the scores -> one result for each clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.clips import aggregated
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.pvalues import Scores, over_tests
from muflow_cli.clip_records import MOST_SHOWN, CalibratedOn, Clip, FrameScore, JudgedBy, Track
from muflow_cli.engine.scoring import ScoredUnit
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.tracks import LoadedFrame
from muflow_cli.records import Facts, Judgement, Scored, Unjudged
from muflow_cli.run_specs import ClipSpec, InputSpec
from muflow_cli.specs import Tail
from muflow_cli.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class FrameUnit:
    """A frame of a clip, or a face in it, which gets scores of its own.

    Attributes:
        clip: that it belongs to.
        index: of the frame among those of the clip.
    """

    clip: LoadedClip
    index: int

    @property
    def views(self) -> Mapping[str, NDArray[np.uint8]]:
        """(V, H, W, 3) of each branch."""
        return self.clip.frames[self.index].views

    @property
    def is_last(self) -> bool:
        """Whether no other frame of its clip follows."""
        return self.index == len(self.clip.frames) - 1


@dataclass(frozen=True, slots=True)
class ScoredClip:
    """A clip whose frames all have their scores, in their order.

    Attributes:
        clip: the views of its frames may be left out, where another machine scored it.
        units: its frames.
        near: perceptual hash of the views of its middle frame, where they are left out and it is wanted.
    """

    clip: LoadedClip
    units: Sequence[ScoredUnit[FrameUnit]]
    near: int | None = None

    @property
    def frame_scores(self) -> Scores:
        """(T, S) one row for each frame."""
        return np.stack([unit.columns for unit in self.units])

    @property
    def features(self) -> NDArray[np.float16]:
        """(F,) the mean over its frames."""
        mean: NDArray[np.float32] = np.stack([unit.features for unit in self.units]).mean(axis=0, dtype=np.float32)
        return mean.astype(np.float16)


def frame_units(clip: LoadedClip) -> list[FrameUnit]:
    """The frames of a clip."""
    return [FrameUnit(clip, index) for index in range(len(clip.frames))]


def clip_result(scored: ScoredClip, calibration: Calibration, judge: Judge, *, per_frame: bool) -> Scored | Unjudged:
    """The result of a clip.

    By a calibration on clips the clip is judged, or each face that was followed, by the mean and the upper quantile of
    its frames. One on stills judges each frame as a still where that is wanted, with Bonferroni over the frames; it
    says nothing of a clip otherwise.

    Args:
        scored: the clip.
        calibration: of the detector.
        judge: that it makes.
        per_frame: judge each frame as a still.
    """
    if calibration.clips is not None:
        return _by_clip(scored, calibration, judge)
    if per_frame:
        return _by_frame(scored, calibration, judge)
    columns = scored.frame_scores
    return Unjudged(
        path=scored.clip.path,
        facts=scored.clip.facts,
        score=float(columns.mean()),
        column_scores=tuple(columns.mean(axis=0).tolist()),
        calibration=CalibratedOn.STILLS,
        clip=_clip(scored, calibration),
        declared=scored.clip.declared,
    )


def clip_row(scored: ScoredClip) -> tuple[Scores, Facts]:
    """The columns and the facts by which a clip calibrates: those of the face that it shows most, or of all frames."""
    rows, facts = _track_rows(scored)
    return rows[0], facts[0]


def _by_clip(scored: ScoredClip, calibration: Calibration, judge: Judge) -> Scored:
    rows, facts = _track_rows(scored)
    judgements = judge.judge(np.stack(rows), facts, tests=len(rows))
    decisive = min(range(len(rows)), key=lambda track: judgements[track].p_value)
    tracks = [
        replace(track, column_scores=tuple(row.tolist()), p_value=own.p_value, tail=own.tail, verdict=own.verdict)
        for track, row, own in zip(_tracks(scored), rows, judgements, strict=False)
    ]
    clip = replace(_clip(scored, calibration), judged_by=JudgedBy.CLIP, tracks=tuple(tracks))
    return _scored(scored, facts[decisive], rows[decisive], _together(judgements, decisive), clip)


def _by_frame(scored: ScoredClip, calibration: Calibration, judge: Judge) -> Scored:
    columns = scored.frame_scores
    facts = [frame.facts for frame in scored.clip.frames]
    judgements = judge.judge(columns, facts, tests=len(facts))
    decisive = min(range(len(facts)), key=lambda index: judgements[index].p_value)
    clip = _clip(scored, calibration)
    frames = [
        replace(frame, p_value=own.p_value, tail=own.tail, verdict=own.verdict)
        for frame, own in zip(clip.frames, judgements, strict=True)
    ]
    clip = replace(clip, frames=tuple(frames), judged_by=JudgedBy.FRAME)
    return _scored(scored, facts[decisive], columns[decisive], _together(judgements, decisive), clip)


def _scored(scored: ScoredClip, facts: Facts, columns: Scores, judgement: Judgement, clip: Clip) -> Scored:
    return Scored(
        path=scored.clip.path,
        facts=facts,
        score=float(columns.mean()),
        column_scores=tuple(columns.tolist()),
        judgement=judgement,
        declared=scored.clip.declared,
        clip=clip,
    )


def _together(judgements: Sequence[Judgement], decisive: int) -> Judgement:
    """The judgement of a clip by those of its tracks or frames: the decisive one's, with Bonferroni's p-value."""
    own = judgements[decisive]
    flagged = any(judgement.verdict is Verdict.FLAGGED for judgement in judgements)
    p_value = over_tests(own.p_value, len(judgements))
    return replace(own, p_value=p_value, verdict=Verdict.FLAGGED if flagged else own.verdict)


def _members(scored: ScoredClip) -> list[list[int]]:
    """Positions of the frames of each track, by its number."""
    count = 1 + max(frame.track for frame in scored.clip.frames)
    return [[i for i, frame in enumerate(scored.clip.frames) if frame.track == track] for track in range(count)]


def _track_rows(scored: ScoredClip) -> tuple[list[Scores], list[Facts]]:
    """Columns and facts of each track."""
    columns, frames = scored.frame_scores, scored.clip.frames
    members = _members(scored)
    facts = [_typical(scored.clip.facts, [frames[index] for index in own]) for own in members]
    return [aggregated(columns[own]) for own in members], facts


def _typical(facts: Facts, frames: Sequence[LoadedFrame]) -> Facts:
    """The facts of a clip with the medians of what its frames differ in."""

    def middle(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return median(known) if known else None

    return replace(
        facts,
        sharpness=middle([frame.facts.sharpness for frame in frames]),
        face_side=middle([frame.facts.face_side for frame in frames]),
        face_tilt=middle([frame.facts.face_tilt for frame in frames]),
    )


def _tracks(scored: ScoredClip) -> list[Track]:
    """The faces that were followed, without a verdict; none where whole frames are scored."""
    frames, columns = scored.clip.frames, scored.frame_scores
    if all(frame.face is None for frame in frames):
        return []
    return [
        Track(
            first=frames[own[0]].time,
            last=frames[own[-1]].time,
            frames=len(own),
            score=float(columns[own].mean()),
            column_scores=tuple(columns[own].mean(axis=0).tolist()),
        )
        for own in _members(scored)
    ]


def _clip(scored: ScoredClip, calibration: Calibration) -> Clip:
    """Frames and tracks of a clip, without verdicts."""
    columns = scored.frame_scores
    frames = tuple(
        FrameScore(
            time=frame.time,
            sharpness=frame.facts.sharpness,
            score=float(own.mean()),
            column_scores=tuple(own.tolist()),
            track=frame.track,
            box=None if frame.face is None else frame.face.box,
        )
        for frame, own in zip(scored.clip.frames, columns, strict=True)
    )
    worst = tuple(frames[index].time for index in worst_frames(frames, calibration))
    return Clip(facts=scored.clip.clip, frames=frames, worst=worst, tracks=tuple(_tracks(scored)))


def worst_frames(frames: Sequence[FrameScore], calibration: Calibration) -> list[int]:
    """Positions of the frames that are the most unlike the reals, the worst first: one of each time, at most five.

    Args:
        frames: of one clip, at least one.
        calibration: from whose median score they are far, on the side or sides that its rule flags.
    """
    # Of a calibration on clips, the first half of the columns are means over frames.
    middle = float(np.median(calibration.scores[:, : len(frames[0].column_scores)].mean(axis=1)))
    both = calibration.rule.tail is Tail.BOTH

    def likeness(index: int) -> tuple[float, float]:
        above = frames[index].score - middle
        return -abs(above) if both else -above, frames[index].time

    of_time: dict[float, int] = {}
    for index in sorted(range(len(frames)), key=likeness):
        of_time.setdefault(frames[index].time, index)
    return list(of_time.values())[:MOST_SHOWN]


def reading_clips(inputs: InputSpec, calibration: Calibration) -> InputSpec:
    """Inputs with clips among them, sampled as those of the calibration were where it is on clips."""
    clips, calibrated = inputs.clips or ClipSpec(), calibration.clips
    if calibrated is not None:
        clips = replace(clips, frames=calibrated.frames, every=calibrated.every)
    return replace(inputs, clips=clips)
