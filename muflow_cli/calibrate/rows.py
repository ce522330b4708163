"""What calibrates: one row of scores for each image, or for each clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration.pvalues import Scores
from muflow_cli.clip_results import FrameUnit, ScoredClip, clip_row, frame_units
from muflow_cli.engine.scoring import ScoredUnit
from muflow_cli.errors import BadData
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.loader import Loaded
from muflow_cli.images.near import near_hash
from muflow_cli.records import Facts

Scorable = Loaded | FrameUnit


def units(items: Iterable[Loaded | LoadedClip]) -> Iterator[Scorable]:
    """What is scored: an image by its largest face if faces are looked for, and every frame of a clip."""
    for item in items:
        if isinstance(item, LoadedClip):
            yield from frame_units(item)
        else:
            yield item


class Rows:
    """The rows of a calibration, of images or of clips.

    Args:
        stream: what `score_stream` makes of `units`.

    Attributes:
        scores: columns of each row, nats per dimension.
        features: of each row; of a clip the mean over its frames.
        facts: of each row.
        near: perceptual hash of each row; of a clip that of the frame in its middle.

    Raises:
        BadData: where there are images and clips.
    """

    def __init__(self, stream: Iterable[ScoredUnit[Scorable] | Scorable]) -> None:
        self.scores: list[Scores] = []
        self.features: list[NDArray[np.float16]] = []
        self.facts: list[Facts] = []
        self.near: list[int] = []
        self._clips = 0
        frames: list[ScoredUnit[FrameUnit]] = []
        for scored in stream:
            if not isinstance(scored, ScoredUnit):
                continue
            unit = scored.unit
            if isinstance(unit, Loaded):
                self._add(scored.columns, scored.features, unit.facts, near_hash(unit.views))
                continue
            frames.append(ScoredUnit(unit, scored.columns, scored.maps, scored.features))
            if unit.is_last:
                self._add_clip(ScoredClip(unit.clip, frames))
                frames = []

    @property
    def are_clips(self) -> bool:
        """Whether the rows are clips."""
        return self._clips > 0

    def _add_clip(self, clip: ScoredClip) -> None:
        self._clips += 1
        row, facts = clip_row(clip)
        middle = clip.clip.frames[len(clip.clip.frames) // 2]
        self._add(row, clip.features, facts, near_hash(middle.views))

    def _add(self, row: Scores, features: NDArray[np.float16], facts: Facts, near: int) -> None:
        self.scores.append(row)
        self.features.append(features)
        self.facts.append(facts)
        self.near.append(near)
        if 0 < self._clips < len(self.scores):
            what = "the real faces are images and videos, and a calibration is of one kind"
            raise BadData(what, "calibrate on images alone, or on videos alone")
