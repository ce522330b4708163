"""An image -> its square views: the whole image squashed, or distinct crops at native resolution."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from muflow_cli.specs import View, ViewSpec

RESAMPLING: Final = Image.Resampling.BICUBIC  # antialiased: Pillow's support grows with the reduction


def cut_views(image: Image.Image, spec: ViewSpec, generator: np.random.Generator | None = None) -> NDArray[np.uint8]:
    """Views of an image, (V, size, size, 3), each distinct one once.

    `resize`: the whole image squashed to one square, antialiased bicubic; with `draft`, first averaged down by the
    largest power of two that leaves both sides at least `size`. libjpeg's scaled decoding amounts to the same, so the
    container of an image does not show in its view. It is also several times cheaper.

    `crops`: at most `count` squares at native resolution on an even grid or, with a generator, `fit_count` at random.
    An image with a side shorter than the square is cut to its centre square and resized.

    `face`, for an image without one: as `resize`.

    Args:
        image: RGB.
        spec: kind, size and number of the views.
        generator: draws the offsets of random crops, without replacement; None = the even grid.
    """
    square = (spec.size, spec.size)
    if spec.kind is not View.CROPS:
        ratio = min(image.size) // spec.size
        if spec.draft and ratio >= 2:
            image = image.reduce(2 ** (ratio.bit_length() - 1))
        return np.asarray(image.resize(square, RESAMPLING))[None]
    if min(image.size) < spec.size:
        return np.asarray(ImageOps.fit(image, square, RESAMPLING))[None]
    if generator is None:
        # The longer side of the image gets more crops.
        short = math.isqrt(spec.count)
        long = spec.count // short
        columns, rows = (long, short) if image.width >= image.height else (short, long)
        across, down = _offsets(image.width - spec.size, columns), _offsets(image.height - spec.size, rows)
        corners = [(x, y) for y in down for x in across]
    else:
        width, height = image.width - spec.size + 1, image.height - spec.size + 1
        drawn = generator.choice(width * height, size=min(spec.fit_count, width * height), replace=False)
        corners = [(int(corner) % width, int(corner) // width) for corner in drawn]
    return np.stack([np.asarray(image.crop((x, y, x + spec.size, y + spec.size))) for x, y in corners])


def _offsets(room: int, count: int) -> list[int]:
    """At most `count` distinct offsets, spread evenly over 0..room; a single one lies in the middle."""
    if count == 1:
        return [room // 2]
    return sorted({round(room * step / (count - 1)) for step in range(count)})
