"""A face by its landmarks -> an aligned square, resampled from the image's own pixels; or the upright square around it.

The frame is that of FFHQ (Karras et al. 2019, CVPR; appendix A): centred a little below the eyes, turned with the line
from the eyes to the mouth, about two and a half times as wide as the face. An image that is aligned so already keeps
its frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.records import Face

# Half a side of FFHQ's frame: the longer of these multiples of the distances between the eyes, and from eyes to mouth.
_BY_EYES: Final = 2.0
_BY_MOUTH: Final = 1.8
# Its centre lies below the eyes by this share of the distance from eyes to mouth.
_BELOW: Final = 0.1
# Landmarks that lie on one spot, as of a false face, would ask for an enlargement without bounds; a frame is never
# smaller than the face.
_LEAST_OF_BOX: Final = 1.0


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
    return Frame(float(centre[0]), float(centre[1]), max(half, _LEAST_OF_BOX * face.side / 2), unit)


def aligned(image: Image.Image, face: Face, size: int) -> Image.Image:
    """The aligned square of a face, (size, size), antialiased; outside the image lies its mirror image.

    Args:
        image: RGB, upright, at full scale.
        face: in pixels of that image.
        size: side of the square, pixels.
    """
    frame = frame_of(face)
    # Averaging whole pixels first bounds memory and time; between one and two pixels per pixel remain.
    step = max(1, math.floor(2 * frame.half / size))
    region, left, top = _around(image, frame, step)
    corners = [((x - left) / step, (y - top) / step) for x, y in frame.corners]
    # Twice as fine, then averaged in pairs, since Pillow's bicubic transform does not antialias.
    fine = 2 * size
    quad = tuple(coordinate for corner in corners for coordinate in corner)
    square = region.transform((fine, fine), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)
    return square.reduce(2)


def _around(image: Image.Image, frame: Frame, step: int) -> tuple[Image.Image, int, int]:
    """The region that a frame touches, reduced by `step`, and where it begins in the image.

    Beyond the edges of the image lies its mirror image.
    """
    xs, ys = zip(*frame.corners, strict=True)
    margin = 4 * step  # more than the reach of the bicubic kernel
    box = [
        math.floor(min(xs)) - margin,
        math.floor(min(ys)) - margin,
        math.ceil(max(xs)) + margin,
        math.ceil(max(ys)) + margin,
    ]
    width, height = (math.ceil((box[axis + 2] - box[axis]) / step) for axis in (0, 1))
    inside = (max(0, box[0]), max(0, box[1]), min(image.width, box[2]), min(image.height, box[3]))
    if inside == tuple(box):
        return image.reduce(step, box=inside) if step > 1 else image.crop(inside), box[0], box[1]
    # The part inside begins a whole number of steps after the region, so that both have the same grid.
    before = [math.ceil((inside[axis] - box[axis]) / step) for axis in (0, 1)]
    begin = [box[axis] + before[axis] * step for axis in (0, 1)]
    if begin[0] >= inside[2] or begin[1] >= inside[3]:  # the face lies outside: its mirror image is a grey nothing
        return Image.new("RGB", (width, height), (128, 128, 128)), box[0], box[1]
    part = image.reduce(step, box=(begin[0], begin[1], inside[2], inside[3]))
    after = [max(0, total - start - own) for total, start, own in zip((width, height), before, part.size, strict=True)]
    pixels = np.asarray(part)
    padded: NDArray[np.uint8] = np.pad(pixels, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="symmetric")
    return Image.fromarray(padded[:height, :width]), box[0], box[1]


def upright_square(image: Image.Image, face: Face) -> Image.Image:
    """The square around a face with the image's own pixels, as far as it lies within the image, and not turned."""
    frame = frame_of(face)
    xs, ys = zip(*frame.corners, strict=True)
    side = round(min(2 * frame.half, *image.size))
    left = min(max(0, round((min(xs) + max(xs)) / 2 - side / 2)), image.width - side)
    top = min(max(0, round((min(ys) + max(ys)) / 2 - side / 2)), image.height - side)
    return image.crop((left, top, left + side, top + side))
