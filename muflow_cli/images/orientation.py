"""EXIF orientation -> upright pixels."""

from __future__ import annotations

from typing import Final

from PIL import ExifTags, Image

from muflow_cli.images.diagnosis import BROKEN

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(pixels: Image.Image, source: Image.Image) -> Image.Image:
    """`pixels` turned by the EXIF orientation of the image that they were read from."""
    turn = _TURNS.get(_orientation(source))
    return pixels if turn is None else pixels.transpose(turn)  # FLIP_LEFT_RIGHT is 0


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8; 1 if the metadata cannot be read, since the pixels can."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except BROKEN:
        return 1
