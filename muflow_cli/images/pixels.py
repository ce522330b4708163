"""Decoded samples of any kind -> 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from muflow_cli.images.error import ImageError


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of a decoded image: transparency is laid on white, 9- to 16-bit samples keep their high byte.

    Raises:
        ImageError: unsupported_pixels, for floating-point and 32-bit pixels; unsupported, where nothing is opaque.
    """
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.mode == "F":
        raise ImageError(
            "unsupported_pixels", "floating-point pixels have no defined white; convert the image to 8 or 16 bits"
        )
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    # Pillow knows no direct way from premultiplied grey.
    transparent = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    if transparent.getchannel("A").getextrema() == (0, 0):
        raise ImageError("unsupported", "every pixel is fully transparent, so there is nothing to see")
    white = Image.new("RGBA", transparent.size, "white")
    return Image.alpha_composite(white, transparent).convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    """8-bit RGB of 9- to 16-bit grey: the high byte, which Pillow also keeps of 16-bit colour."""
    bits = 16
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = int(image.tag_v2.get(ExifTags.Base.BitsPerSample, (16,))[0])
    if image.mode == "I" and image.format != "PPM":
        raise ImageError("unsupported_pixels", "32-bit pixels have no defined white; convert the image to 8 or 16 bits")
    samples = np.asarray(image)
    grey = (samples >> max(0, bits - 8)).clip(0, 255).astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):
        grey[samples == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")
