"""A picture -> its square views: the whole picture squashed, or distinct crops at native resolution."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from muflow_cli.specs import View, ViewSpec

RESAMPLING: Final = Image.Resampling.BICUBIC  # antialiased: Pillow's support grows with the reduction


def cut_views(image: Image.Image, spec: ViewSpec, generator: np.random.Generator | None = None) -> NDArray[np.uint8]:
    """Views of a picture, (V, size, size, 3), each distinct one once.

    `resize`: the whole picture squashed to one square, antialiased bicubic; with `draft`, first averaged down by the
    largest power of two that leaves both sides at least `size`. That is what libjpeg's scaled decoding amounts to,
    so a picture's container does not show in its view, and it is several times cheaper.

    `crops`: squares at native resolution on an even grid of at most `count`, or `fit_count` at random where a
    generator is given; a picture smaller than the square in either side is cut to its centre square and resized.

    Args:
        image: RGB.
        spec: kind, size and number of the views.
        generator: draws the offsets of random crops, without replacement.
    """
    square = (spec.size, spec.size)
    if spec.kind is View.RESIZE:
        return np.asarray(_averaged(image, spec).resize(square, RESAMPLING))[None]
    if min(image.size) < spec.size:
        return np.asarray(ImageOps.fit(image, square, RESAMPLING))[None]
    if generator is None:
        corners = _grid(image.size, spec.size, spec.count)
    else:
        corners = _random(image.size, spec.size, spec.fit_count, generator)
    return np.stack([np.asarray(image.crop((x, y, x + spec.size, y + spec.size))) for x, y in corners])


def _averaged(image: Image.Image, spec: ViewSpec) -> Image.Image:
    ratio = min(image.size) // spec.size
    if not spec.draft or ratio < 2:
        return image
    return image.reduce(2 ** (ratio.bit_length() - 1))


def _grid(size: tuple[int, int], side: int, count: int) -> list[tuple[int, int]]:
    """Corners (x, y), row by row; the longer side of the picture gets the more columns or rows."""
    fewer = math.isqrt(count)
    more = count // fewer
    columns, rows = (more, fewer) if size[0] >= size[1] else (fewer, more)
    return [(x, y) for y in _offsets(size[1] - side, rows) for x in _offsets(size[0] - side, columns)]


def _offsets(room: int, count: int) -> list[int]:
    """At most `count` distinct offsets spread evenly over 0..room; a single one sits in the middle."""
    if count == 1:
        return [room // 2]
    return sorted({round(room * step / (count - 1)) for step in range(count)})


def _random(size: tuple[int, int], side: int, count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    columns, rows = size[0] - side + 1, size[1] - side + 1
    picked = generator.choice(columns * rows, size=min(count, columns * rows), replace=False)
    return [(int(corner) % columns, int(corner) // columns) for corner in picked]
