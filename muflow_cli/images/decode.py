"""Bytes -> SHA-256 and 8-bit RGB, both of the same read; whatever is wrong with the bytes is one ImageError."""

from __future__ import annotations

import ctypes
import hashlib
import io
import logging
import threading
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin

from muflow_cli.images.damage import load
from muflow_cli.images.diagnosis import BROKEN, diagnosis
from muflow_cli.images.error import ImageError
from muflow_cli.images.formats import AVIF_BRANDS, FORMATS, HEIF_BRANDS, SIGNATURE_BYTES, brands
from muflow_cli.images.jpeg_quality import jpeg_quality
from muflow_cli.images.orientation import upright
from muflow_cli.images.pixels import to_rgb
from muflow_cli.records import Facts
from muflow_cli.specs import Damaged

# `max_pixels` is checked against every header before a pixel is decoded; Pillow's own limit would overrule a larger one
# and warn on stderr below it.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns about damaged metadata (EXIF, TIFF tags, MPO index) of images that decode well. The filter covers
# Pillow's modules only and is set once, since `warnings.catch_warnings` would swap the filters of all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it also raises what it logs as an error


def _silence_libtiff() -> None:
    """Stop libtiff from printing to stderr what Pillow raises as well, if the library can be located."""
    try:
        with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps:
            for library in {line.split()[-1] for line in maps if "libtiff" in line}:
                ctypes.CDLL(library).TIFFSetErrorHandler(None)
    except (OSError, AttributeError):
        return


_silence_libtiff()

_heif_lock: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image in 8-bit RGB, turned upright by its EXIF orientation."""

    facts: Facts
    image: Image.Image


def decode(
    data: bytes,
    max_pixels: int,
    *,
    draft_side: int = 0,
    sha256: str | None = None,
    damaged: Damaged = Damaged.REFUSE,
) -> DecodedImage:
    """Hash `data` and decode it to 8-bit RGB: the first frame of an animation, the first page of a document.

    Transparency is laid on white, 16-bit samples keep their high byte, ICC profiles are not applied.

    Args:
        data: the whole file.
        max_pixels: an image with more pixels (width x height) is not decoded.
        draft_side: in pixels; libjpeg decodes a JPEG at the smallest of 1/1, 1/2, 1/4, 1/8 that leaves both sides at
            least this long. 0 = always at full scale.
        sha256: of `data`, if it is known already.
        damaged: what becomes of an image whose coded data is damaged but can be decoded.

    Raises:
        ImageError: empty, not_an_image, truncated, corrupt, too_many_pixels, unsupported_pixels, needs_heif.
    """
    sha256 = sha256 or hashlib.sha256(data).hexdigest()
    try:
        return _decode(data, sha256, max_pixels, draft_side, damaged)
    except ImageError as error:
        raise ImageError(error.code, error.message, sha256=sha256, size=len(data)) from None
    except BROKEN as error:
        code, message = diagnosis(error, data)
        raise ImageError(code, message, sha256=sha256, size=len(data)) from error


def _decode(data: bytes, sha256: str, max_pixels: int, draft_side: int, damaged: Damaged) -> DecodedImage:
    if not data:
        raise ImageError("empty", "the file is empty")
    formats: tuple[str, ...] = FORMATS
    kinds = brands(data[:SIGNATURE_BYTES])
    if kinds & HEIF_BRANDS and not kinds & AVIF_BRANDS:
        _register_heif()
        formats = ("HEIF",)
    with Image.open(io.BytesIO(data), formats=formats) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Pillow reports the size of a TIFF as turned, since it turns the pixels itself when it loads them.
            width, height = (int(image.tag_v2[tag]) for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength))
        if width * height > max_pixels:
            raise ImageError("too_many_pixels", f"its {width} x {height} pixels are more than the {max_pixels} allowed")
        # The first table is that of the luminance.
        tables = image.quantization if isinstance(image, JpegImagePlugin.JpegImageFile) else {}
        facts = Facts(
            sha256=sha256,
            bytes=len(data),
            # A multi-image JPEG (MPO: phones, HDR gain maps) is a JPEG followed by further JPEGs.
            format="JPEG" if image.format == "MPO" else str(image.format),
            width=width,
            height=height,
            jpeg_quality=jpeg_quality(tables[min(tables)]) if tables else None,
        )
        if draft_side:
            image.draft("RGB", (draft_side, draft_side))
        pixels, damage = load(image, data)
        if damage is not None:
            if damaged is Damaged.REFUSE and not damage.is_slight:
                raise ImageError(damage.code, damage.message)
            facts = replace(facts, damaged=True, missing=damage.missing)
        return DecodedImage(facts, upright(to_rgb(pixels), image))


def pixels_of(image: Image.Image) -> Image.Image:
    """8-bit RGB of a PIL image, turned upright by its EXIF orientation, as `decode` gives it.

    Raises:
        ImageError: unsupported_pixels, or corrupt where Pillow opened a file lazily and cannot read its pixels.
    """
    try:
        image.load()
        return upright(to_rgb(image), image)
    except BROKEN as error:
        reason = "".join(c if c.isprintable() else "?" for c in str(error))[:160]
        raise ImageError("corrupt", f"the PIL image cannot be read ({reason})") from error


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(
            "needs_heif", "HEIC needs an extra decoder; install it with pip install 'muflow-cli[heif]'"
        ) from None
    with _heif_lock:
        if "HEIF" not in Image.OPEN:
            pillow_heif.register_heif_opener()
