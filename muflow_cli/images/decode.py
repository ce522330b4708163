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

from PIL import Image, ImageFile, JpegImagePlugin

from muflow_cli.images.containers.boxes import brands
from muflow_cli.images.containers.png import PNG_SIGNATURE, still_pixels
from muflow_cli.images.containers.tiff import TIFF_SIGNATURES
from muflow_cli.images.damage import load
from muflow_cli.images.diagnosis import BROKEN, diagnosis
from muflow_cli.images.error import ImageError, reason_of
from muflow_cli.images.formats import (
    AVIF_BRANDS,
    FORMATS,
    HEIF_BRANDS,
    JPEG2000_SIGNATURES,
    SIGNATURE_BYTES,
    unread_format,
)
from muflow_cli.images.frames import frame_count
from muflow_cli.images.jpeg2000 import check_jpeg2000
from muflow_cli.images.jpeg_quality import jpeg_quality
from muflow_cli.images.orientation import orientation_of, upright
from muflow_cli.images.pixels import to_rgb
from muflow_cli.images.tiff import open_tiff
from muflow_cli.records import Facts
from muflow_cli.run_specs import Damaged

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
    frame: int = 1,
) -> DecodedImage:
    """Hash `data` and decode it to 8-bit RGB: one frame of an animation, one page of a document.

    Transparency is laid on white, 16-bit samples keep their high byte, ICC profiles are not applied.

    Args:
        data: the whole file.
        max_pixels: an image with more pixels (width x height) is not decoded.
        draft_side: in pixels; libjpeg decodes a JPEG at the smallest of 1/1, 1/2, 1/4, 1/8 that leaves both sides at
            least this long. 0 = always at full scale.
        sha256: of `data`, if it is known already.
        damaged: what becomes of an image whose coded data is damaged but can be decoded.
        frame: of an animation, or page of a document, from 1.

    Raises:
        ImageError: empty, not_an_image, truncated, corrupt, too_many_pixels, unsupported, unsupported_pixels,
            needs_heif.
    """
    sha256 = sha256 or hashlib.sha256(data).hexdigest()
    try:
        decoded = _decode(data, sha256, max_pixels, draft_side, damaged, frame)
        return replace(decoded, facts=replace(decoded.facts, frame=frame, frames=frame_count(data)))
    except ImageError as error:
        raise ImageError(error.code, error.message, sha256=sha256, size=len(data)) from None
    except BROKEN as error:
        code, message = diagnosis(error, data)
        raise ImageError(code, message, sha256=sha256, size=len(data)) from error


def _decode(data: bytes, sha256: str, max_pixels: int, draft_side: int, damaged: Damaged, frame: int) -> DecodedImage:
    if not data:
        raise ImageError("empty", "the file is empty")
    if data.startswith(TIFF_SIGNATURES):
        tiff = open_tiff(data, frame)
        facts = Facts(sha256=sha256, bytes=len(data), format="TIFF", width=tiff.width, height=tiff.height)
        _check_size(tiff.width, tiff.height, max_pixels)
        return DecodedImage(facts, upright(tiff.pixels(), tiff.orientation))
    with _opened(data, frame) as image:
        _check_size(*image.size, max_pixels)
        # The first table is that of the luminance.
        tables = image.quantization if isinstance(image, JpegImagePlugin.JpegImageFile) else {}
        facts = Facts(
            sha256=sha256,
            bytes=len(data),
            # A multi-image JPEG (MPO: phones, HDR gain maps) is a JPEG followed by further JPEGs.
            format="JPEG" if image.format == "MPO" else str(image.format),
            width=image.width,
            height=image.height,
            jpeg_quality=jpeg_quality(tables[min(tables)]) if tables else None,
        )
        if draft_side:
            image.draft("RGB", (draft_side, draft_side))
        pixels, damage = load(image, data) if frame == 1 else _later(image, frame)
        if damage is not None:
            if damaged is Damaged.REFUSE and not damage.is_slight:
                raise ImageError(damage.code, damage.message)
            facts = replace(facts, damaged=True, missing=damage.missing)
        return DecodedImage(facts, upright(to_rgb(pixels), orientation_of(image)))


def _later(image: ImageFile.ImageFile, frame: int) -> tuple[Image.Image, None]:
    """The pixels of a frame after the first, laid on those before it; raises as Pillow does for damaged data."""
    image.seek(frame - 1)
    image.load()
    return image, None


def _opened(data: bytes, frame: int) -> ImageFile.ImageFile:
    """The image of any file but a TIFF, before its pixels are decoded.

    Raises:
        ImageError: unsupported, needs_heif.
        Exception: of BROKEN.
    """
    head = data[:SIGNATURE_BYTES]
    unread = unread_format(head)
    if unread:
        raise ImageError("unsupported", f"it is {unread}, which muflow does not read; convert it to JPEG or PNG")
    if data.startswith(JPEG2000_SIGNATURES):
        check_jpeg2000(data)
    formats: tuple[str, ...] = FORMATS
    if brands(head) & HEIF_BRANDS and not brands(head) & AVIF_BRANDS:
        _register_heif()
        formats = ("HEIF",)
    is_still = frame == 1 and data.startswith(PNG_SIGNATURE)
    image = Image.open(io.BytesIO(still_pixels(data) if is_still else data), formats=formats)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        # libjpeg cannot pause in arithmetic-coded data, so it must get them all at once.
        image.decodermaxblock = max(image.decodermaxblock, len(data))
    return image


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        message = f"its {width} x {height} pixels are more than the {max_pixels} allowed; raise --max-pixels to read it"
        raise ImageError("too_many_pixels", message)


def pixels_of(image: Image.Image) -> Image.Image:
    """8-bit RGB of a PIL image, turned upright by its EXIF orientation, as `decode` gives it.

    Raises:
        ImageError: unsupported, unsupported_pixels, or corrupt where Pillow opened a file lazily and cannot read its
            pixels.
    """
    try:
        image.load()
        return upright(to_rgb(image), orientation_of(image))
    except BROKEN as error:
        raise ImageError("corrupt", f"the PIL image cannot be read ({reason_of(error)})") from error


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
