"""Faces followed through the frames of a clip, by where their boxes lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.records import Face, Facts

# Of the area that two boxes cover together, the part that both cover, from which they are of one face.
_SAME: Final = 0.3


@dataclass(frozen=True, slots=True)
class LoadedFrame:
    """A frame, or a face in it, that is ready to be scored.

    Attributes:
        time: seconds from the start of the clip.
        facts: of the file, with the sharpness of this frame.
        views: branch name -> (V, size, size, 3).
        thumbnail: a small JPEG, if the specification asks for one.
        track: number of the face that is followed, from 0; 0 for whole frames.
        face: where it lies in the upright frame; None for whole frames.
    """

    time: float
    facts: Facts
    views: Mapping[str, NDArray[np.uint8]]
    thumbnail: bytes | None = None
    track: int = 0
    face: Face | None = None


class Tracks:
    """Numbers the faces of a clip: a face has the number of that of an earlier frame whose box it overlaps most.

    A face that no box of the last frame in which a track was seen overlaps begins a track of its own, so whoever moves
    far between two frames, or is filmed again after a cut, counts as another face.
    """

    def __init__(self) -> None:
        self._last: list[tuple[float, float, float, float]] = []

    def followed(self, faces: Sequence[LoadedFrame]) -> list[LoadedFrame]:
        """The faces of the next frame with the numbers of their tracks; those without a box are of track 0."""
        pairs = sorted(
            (
                (_overlap(face.face.box, box), track, index)
                for index, face in enumerate(faces)
                if face.face is not None
                for track, box in enumerate(self._last)
            ),
            reverse=True,
        )
        track_of: dict[int, int] = {}
        for overlap, track, index in pairs:
            if overlap >= _SAME and index not in track_of and track not in track_of.values():
                track_of[index] = track
        numbered = []
        for index, face in enumerate(faces):
            if face.face is not None:
                if index not in track_of:
                    track_of[index] = len(self._last)
                    self._last.append(face.face.box)
                self._last[track_of[index]] = face.face.box
            numbered.append(replace(face, track=track_of.get(index, 0)))
        return numbered

    @staticmethod
    def numbered(frames: Sequence[LoadedFrame]) -> list[LoadedFrame]:
        """All frames, the longest track having the number 0; of one time in the order of their tracks."""
        sizes = Counter(frame.track for frame in frames)
        order = {track: number for number, track in enumerate(sorted(sizes, key=lambda track: (-sizes[track], track)))}
        renamed = [replace(frame, track=order[frame.track]) for frame in frames]
        return sorted(renamed, key=lambda frame: (frame.time, frame.track))


def _overlap(box: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes, 0..1."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    areas = sum((right - left) * (bottom - top) for left, top, right, bottom in (box, other))
    return common / (areas - common) if areas > common else 0.0
