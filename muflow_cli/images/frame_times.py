"""Where in a clip frames are looked for: one in each of its equal parts, at a place that its content hash decides."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from muflow_cli.run_specs import MOST_FRAMES, ClipSpec


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a clip, in seconds from its start: a keyframe between `start` and `end` will do, else `target`."""

    start: float
    target: float
    end: float


def parts(seconds: float, spec: ClipSpec, sha256: str) -> list[Part]:
    """The parts of a clip in their order, at most MOST_FRAMES of them, each of which gives one frame.

    Args:
        seconds: length of the clip; 0 = a single frame.
        spec: number of parts, or their length.
        sha256: of the file; two scans of a clip look at the same frames, and clips are not all cut at the same places.
    """
    if not seconds > 0:
        return [Part(0.0, 0.0, 0.0)]
    count = min(MOST_FRAMES, math.ceil(seconds / spec.every)) if spec.every else spec.frames
    length = seconds / count
    places = np.random.default_rng([spec.seed, int(sha256, 16)]).random(count)
    return [
        Part(index * length, (index + place) * length, (index + 1) * length)
        for index, place in enumerate(places.tolist())
    ]
