"""The thumbnail that a camera or an editor left in the EXIF block, against the image: is it of the same picture?"""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.images.metadata.pieces import read_metadata
from muflow_cli.images.metadata.tiff import thumbnail
from muflow_cli.records import Mark, Origin

_SIDE: Final = 24
_MAX_PIXELS: Final = 1_000_000
# Grey levels: a darker border is a letterbox, and a flatter picture has nothing to compare.
_BLACK: Final = 24
_FLAT: Final = 6.0
# Correlation below which two pictures differ. The least of 129 thumbnails beside their own image was 0.88; of 3,000
# beside another one, 96 % were below 0.5.
_SAME: Final = 0.5


def thumbnail_mark(data: bytes, image: Image.Image) -> Mark | None:
    """A mark where the embedded thumbnail shows another picture, as an editor leaves it; None otherwise.

    Args:
        data: the whole file.
        image: of that file, at any scale, turned upright or not.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    jpeg = next(filter(None, map(thumbnail, read_metadata(data).exif[:4])), b"")
    correlation = likeness(jpeg, image) if jpeg else None
    if correlation is None or correlation >= _SAME:
        return None
    detail = {"correlation": f"{correlation:.2f}", "reason": "the embedded thumbnail shows another picture"}
    return Mark(kind="thumbnail", claim=Origin.EDITED, detail=detail)


def likeness(jpeg: bytes, image: Image.Image) -> float | None:
    """Greatest correlation of the luma of a thumbnail, in any of four turns, and of an image; None where it has none.

    Args:
        jpeg: the thumbnail; black borders are cut off.
        image: the image it may belong to.
    """
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                return None
            small = opened.convert("L")
    except (OSError, ValueError, SyntaxError):
        return None
    inside = _without_borders(np.asarray(small))
    whole = _without_borders(np.asarray(image.reduce(max(1, min(image.size) // 96)).convert("L")))
    first, second = _grid(inside), _grid(whole)
    if min(first.std(), second.std()) < _FLAT:
        return None
    return max(float(np.corrcoef(np.rot90(first, turns).ravel(), second.ravel())[0, 1]) for turns in range(4))


def _without_borders(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    bright = grey > _BLACK
    rows, columns = (np.flatnonzero(bright.mean(axis=axis) > 0.05) for axis in (1, 0))
    if not rows.size or not columns.size:
        return grey
    return grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _grid(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    small = Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)
