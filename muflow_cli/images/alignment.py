"""A face by its landmarks -> an aligned square, resampled from the image's own pixels; or the upright square around it.

The frame is that of FFHQ (Karras et al. 2019, CVPR; appendix A): centred a little below the eyes, turned with the line
from the eyes to the mouth, about two and a half times as wide as the face. An image that is aligned so already keeps
its frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from muflow_cli.records import Face

# Half a side of FFHQ's frame: the longer of these multiples of the distances between the eyes, and from eyes to mouth.
_BY_EYES: Final = 2.0
_BY_MOUTH: Final = 1.8
# Its centre lies below the eyes by this share of the distance from eyes to mouth.
_BELOW: Final = 0.1
# Pixels of the image for one of the square, along a side, that a bicubic filter bridges without visible aliasing.
_UNFILTERED: Final = 1.25


@dataclass(frozen=True, slots=True)
class Frame:
    """A square in an image: centre and half a side, pixels, and the unit vector along its upper edge."""

    x: float
    y: float
    half: float
    across: tuple[float, float]

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """Upper left, lower left, lower right and upper right corner, pixels."""
        ux, uy = (component * self.half for component in self.across)
        return tuple(
            (self.x + right * ux - down * uy, self.y + right * uy + down * ux)
            for right, down in ((-1, -1), (-1, 1), (1, 1), (1, -1))
        )


def frame_of(face: Face) -> Frame:
    """The frame of a face, whose sides are at least as long as those of its box."""
    left_eye, right_eye, _, *mouth = (np.array(point) for point in face.landmarks)
    eyes, lips = (left_eye + right_eye) / 2, (mouth[0] + mouth[1]) / 2
    across, down = right_eye - left_eye, lips - eyes
    # The line between the eyes and the one at right angles to that from eyes to mouth, each as long as it is certain.
    axis = across + np.array([down[1], -down[0]])
    length = float(np.hypot(*axis))
    unit = (float(axis[0]) / length, float(axis[1]) / length) if length > 0 else (1.0, 0.0)
    half = max(_BY_EYES * float(np.hypot(*across)), _BY_MOUTH * float(np.hypot(*down)))
    centre = eyes + _BELOW * down
    # Landmarks that lie on one spot, as of a false face, would ask for an enlargement without bounds.
    return Frame(float(centre[0]), float(centre[1]), max(half, face.side / 2), unit)


def aligned(image: Image.Image, face: Face, size: int) -> Image.Image:
    """The aligned square of a face, (size, size); outside the image lies its mirror image.

    Bicubic, from the image's own pixels; where it has more than _UNFILTERED of them for one of the square, they are
    first averaged down to so many, antialiased.

    Args:
        image: RGB, upright, at full scale.
        face: in pixels of that image.
        size: side of the square, pixels.
    """
    frame = frame_of(face)
    shrink = max(1.0, 2 * frame.half / size / _UNFILTERED)
    across, down = (
        _span(places, length, shrink)
        for places, length in zip(zip(*frame.corners, strict=True), image.size, strict=True)
    )
    region = image.crop((across.begin, down.begin, across.end, down.end))
    if shrink > 1:
        region = region.resize((across.reduced, down.reduced), Image.Resampling.BICUBIC, reducing_gap=1.5)
    if any((*across.beyond, *down.beyond)):
        region = Image.fromarray(np.pad(np.asarray(region), (down.beyond, across.beyond, (0, 0)), mode="symmetric"))
    quad = tuple(place for x, y in frame.corners for place in (across.place(x), down.place(y)))
    return region.transform((size, size), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)


@dataclass(frozen=True, slots=True)
class _Span:
    """What a frame touches of an image along one axis.

    Attributes:
        begin: first pixel of the image.
        end: one past the last.
        reduced: number of pixels that these become.
        beyond: reduced pixels of the mirror image before and behind them.
    """

    begin: int
    end: int
    reduced: int
    beyond: tuple[int, int]

    def place(self, position: float) -> float:
        """A position in the image as one in the reduced region."""
        return (position - self.begin) * self.reduced / (self.end - self.begin) + self.beyond[0]


def _span(places: Sequence[float], length: int, shrink: float) -> _Span:
    margin = math.ceil(4 * shrink)  # more than the reach of the filters
    first, last = math.floor(min(places)) - margin, math.ceil(max(places)) + margin
    # A frame that lies outside, around a face that no detector finds, shows the edge.
    begin = min(max(0, first), length - 1)
    end = max(min(length, last), begin + 1)
    reduced = max(1, round((end - begin) / shrink))
    share = reduced / (end - begin)
    beyond = max(0, math.ceil((begin - first) * share)), max(0, math.ceil((last - end) * share))
    return _Span(begin, end, reduced, beyond)


def upright_square(image: Image.Image, face: Face) -> Image.Image:
    """The square around a face with the image's own pixels, as far as it lies within the image, and not turned."""
    frame = frame_of(face)
    xs, ys = zip(*frame.corners, strict=True)
    side = round(min(2 * frame.half, *image.size))
    left = min(max(0, round((min(xs) + max(xs)) / 2 - side / 2)), image.width - side)
    top = min(max(0, round((min(ys) + max(ys)) / 2 - side / 2)), image.height - side)
    return image.crop((left, top, left + side, top + side))
