"""Bytes -> SHA-256 and 8-bit RGB, both of the same read; whatever is wrong with the bytes is one ImageError."""

from __future__ import annotations

import ctypes
import hashlib
import io
import logging
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from muflow_cli.records import Facts

# `max_pixels` is checked against every header before a pixel is decoded; Pillow's own limit would overrule a larger one
# and warn on stderr below it.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns about damaged metadata (EXIF, TIFF tags, MPO index) of images that decode well. The filter covers
# Pillow's modules only and is set once, since `warnings.catch_warnings` would swap the filters of all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it also raises what it logs as an error
Image.init()


def _silence_libtiff() -> None:
    """Stop libtiff from printing to stderr what Pillow raises as well, if the library can be located."""
    try:
        with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps:
            for library in {line.split()[-1] for line in maps if "libtiff" in line}:
                ctypes.CDLL(library).TIFFSetErrorHandler(None)
    except (OSError, AttributeError):
        return


_silence_libtiff()

# What cameras, phones and generators write. Containers that start other programs (EPS), have no signature (TGA) or
# hold no photographs are left out.
FORMATS: Final = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM", "MPO")
    if name in Image.OPEN
)

# What Pillow and its codecs raise on damaged files, collected by fuzzing: OSError (codec errors, truncation),
# SyntaxError (bad headers), ValueError (bad sizes, modes), struct.error (short headers), EOFError (no more frames),
# MemoryError (absurd sizes), zlib.error (PNG text and ICC chunks), LookupError (tags, palettes that are missing),
# TypeError and AttributeError (tags of the wrong type), ArithmeticError (zero or overflowing sizes),
# RuntimeError and NotImplementedError (libavif, libheif, unknown TIFF variants), AssertionError (Pillow's own checks).
_BROKEN: Final = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    EOFError,
    MemoryError,
    zlib.error,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
)

_HEIF_BRANDS: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_AVIF_BRANDS: Final = frozenset((b"avif", b"avis"))
_BMP_HEADERS: Final = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
_SIGNATURES: Final = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
)
_ENDS: Final = ((b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG", b"IEND"))
SIGNATURE_BYTES: Final = 32

# Annex K of ITU-T T.81, Table K.1: the luminance table that the IJG library scales by its quality.
_LUMINANCE: Final = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=np.int64,
).ravel()

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_heif_lock: Final = threading.Lock()


class ImageError(Exception):
    """An input cannot be scored; it becomes an Unreadable record.

    Attributes:
        code: a stable word for programs.
        message: one sentence for people, without the path.
        sha256: of the bytes; None if they were not read.
        bytes: number of bytes; None if it is not known.
    """

    def __init__(self, code: str, message: str, *, sha256: str | None = None, size: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.sha256 = sha256
        self.bytes = size


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image in 8-bit RGB, turned upright by its EXIF orientation."""

    facts: Facts
    image: Image.Image


def decode(data: bytes, max_pixels: int, *, draft_side: int = 0, sha256: str | None = None) -> DecodedImage:
    """Hash `data` and decode it to 8-bit RGB: the first frame of an animation, the first page of a document.

    Transparency is laid on white, 16-bit samples keep their high byte, ICC profiles are not applied.

    Args:
        data: the whole file.
        max_pixels: an image with more pixels (width x height) is not decoded.
        draft_side: in pixels; libjpeg decodes a JPEG at the smallest of 1/1, 1/2, 1/4, 1/8 that leaves both sides at
            least this long. 0 = always at full scale.
        sha256: of `data`, if it is known already.

    Raises:
        ImageError: empty, not_an_image, truncated, corrupt, too_many_pixels, unsupported_pixels, needs_heif.
    """
    sha256 = sha256 or hashlib.sha256(data).hexdigest()
    try:
        return _decode(data, sha256, max_pixels, draft_side)
    except ImageError as error:
        raise ImageError(error.code, error.message, sha256=sha256, size=len(data)) from None
    except _BROKEN as error:
        code, message = _diagnosis(error, data)
        raise ImageError(code, message, sha256=sha256, size=len(data)) from error


def is_image(head: bytes) -> bool:
    """Whether the first SIGNATURE_BYTES bytes of a file are the signature of a container that `decode` reads."""
    return (
        head.startswith(_SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS)
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace())
        or bool(_brands(head) & (_HEIF_BRANDS | _AVIF_BRANDS))
    )


def jpeg_quality(luminance: list[int]) -> int:
    """Quality 1..100 whose IJG luminance table is nearest in squared difference; exact for files of the IJG library.

    Args:
        luminance: 64 quantisation steps in natural (not zigzag) order.
    """
    distance = ((_ijg_tables() - np.asarray(luminance, dtype=np.int64)) ** 2).sum(axis=1)
    return int(distance.argmin()) + 1


@cache
def _ijg_tables() -> NDArray[np.int64]:
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.clip((_LUMINANCE[None, :] * scale[:, None] + 50) // 100, 1, 255)


def _decode(data: bytes, sha256: str, max_pixels: int, draft_side: int) -> DecodedImage:
    if not data:
        raise ImageError("empty", "the file is empty")
    formats: tuple[str, ...] = FORMATS
    if _brands(data[:SIGNATURE_BYTES]) & _HEIF_BRANDS and not _brands(data[:SIGNATURE_BYTES]) & _AVIF_BRANDS:
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
        return DecodedImage(facts, _upright(image))


def pixels_of(image: Image.Image) -> Image.Image:
    """8-bit RGB of a PIL image, turned upright by its EXIF orientation, as `decode` gives it.

    Raises:
        ImageError: unsupported_pixels, or corrupt where Pillow opened a file lazily and cannot read its pixels.
    """
    try:
        return _upright(image)
    except _BROKEN as error:
        reason = "".join(c if c.isprintable() else "?" for c in str(error))[:160]
        raise ImageError("corrupt", f"the PIL image cannot be read ({reason})") from error


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    upright = to_rgb(image)
    turn = _TURNS.get(_orientation(image))
    return upright if turn is None else upright.transpose(turn)  # FLIP_LEFT_RIGHT is 0


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


def _brands(head: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO base media file (ISO/IEC 14496-12, box `ftyp`)."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of a decoded image: transparency is laid on white, 9- to 16-bit samples keep their high byte.

    Raises:
        ImageError: unsupported_pixels, for floating-point and 32-bit pixels.
    """
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.mode == "F":
        raise ImageError(
            "unsupported_pixels", "floating-point pixels have no defined white; convert the image to 8 or 16 bits"
        )
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    transparent = image.convert("RGBA")
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


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8; 1 if the metadata cannot be read, since the pixels can."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _BROKEN:
        return 1


def _diagnosis(error: BaseException, data: bytes) -> tuple[str, str]:
    reason = "".join(c if c.isprintable() else "?" for c in str(error))[:160]
    cut = isinstance(error, EOFError) or any(word in reason.lower() for word in ("truncated", "unexpected end"))
    if cut or _lacks_its_end(data):
        return "truncated", "the image is cut short; bytes are missing at its end"
    if isinstance(error, UnidentifiedImageError):
        if is_image(data[:SIGNATURE_BYTES]):
            return "corrupt", "it begins like an image, but its header cannot be read"
        return "not_an_image", "its bytes are not in an image format that muflow reads"
    return "corrupt", f"the image data is damaged ({reason or type(error).__name__})"


def _lacks_its_end(data: bytes) -> bool:
    """Whether a file that could not be decoded was cut: it lacks its end mark or the length that it announces."""
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    for start, end in _ENDS:
        if data.startswith(start):
            return end not in data
    return False
