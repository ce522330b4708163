"""One read: the SHA-256 and the picture come from the same bytes; whatever is wrong with them is one PictureError."""

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
from muflow_cli.specs import View, ViewSpec

# The limit that counts is `max_pixels`, checked on every header before a pixel is decoded; Pillow's own would
# overrule a larger one, and warn on stderr below it.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns about damaged metadata (EXIF, TIFF tags, MPO index) of pictures that decode well. The filter names
# Pillow's modules only and is set once: `warnings.catch_warnings` would swap the filters of all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what it logs as an error it raises, too
Image.init()


def _silence_libtiff() -> None:
    """Stop libtiff from printing on stderr what Pillow raises as well; best effort, where the library can be found."""
    try:
        with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps:
            for library in {line.split()[-1] for line in maps if "libtiff" in line}:
                ctypes.CDLL(library).TIFFSetErrorHandler(None)
    except (OSError, AttributeError):
        return


_silence_libtiff()

# What cameras, phones and generators write. Left out: containers that start other programs (EPS), that have no
# signature (TGA) or that hold no photographs.
FORMATS: Final = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM", "MPO")
    if name in Image.OPEN
)

# What Pillow and its codecs raise on damaged files, found by fuzzing: OSError (codec errors, truncation),
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


class PictureError(Exception):
    """One input that cannot be scored: becomes an Unreadable record.

    Attributes:
        code: a stable word for programs.
        message: one sentence for people, without the path.
        sha256: of the bytes, where they were read.
        bytes: their number, where it is known.
    """

    def __init__(self, code: str, message: str, *, sha256: str | None = None, size: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.sha256 = sha256
        self.bytes = size


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: RGB, 8 bits, turned as its EXIF orientation says."""

    facts: Facts
    image: Image.Image


def decode(data: bytes, view: ViewSpec, max_pixels: int, sha256: str | None = None) -> Picture:
    """Hash `data` and decode it to 8-bit RGB, the first frame of an animation or a multi-page file.

    Transparency is laid on white, 16-bit samples keep their high byte, ICC profiles are not applied. With the view
    `resize` and `draft`, libjpeg decodes a JPEG at the smallest of 1/1, 1/2, 1/4, 1/8 that leaves both sides at
    least `view.size`; `cut_views` averages pictures of other containers down by the same factor.

    Args:
        data: the whole file.
        view: decides whether a reduced scale will do.
        max_pixels: width x height above which nothing is decoded.
        sha256: of `data`, where it is known already.

    Raises:
        PictureError: empty, not_a_picture, truncated, corrupt, too_many_pixels, unsupported_pixels, needs_heif.
    """
    sha256 = sha256 or hashlib.sha256(data).hexdigest()
    try:
        return _decode(data, sha256, view, max_pixels)
    except PictureError as error:
        raise PictureError(error.code, error.message, sha256=sha256, size=len(data)) from None
    except _BROKEN as error:
        code, message = _diagnosis(error, data)
        raise PictureError(code, message, sha256=sha256, size=len(data)) from error


def is_picture(head: bytes) -> bool:
    """Whether the first SIGNATURE_BYTES bytes of a file carry the signature of a picture container read here."""
    return (
        head.startswith(_SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS)
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace())
        or bool(_brands(head) & (_HEIF_BRANDS | _AVIF_BRANDS))
    )


def jpeg_quality(luminance: list[int]) -> int:
    """Quality 1..100 whose IJG luminance table is nearest in squared difference; exact for files the IJG library wrote.

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


def _decode(data: bytes, sha256: str, view: ViewSpec, max_pixels: int) -> Picture:
    if not data:
        raise PictureError("empty", "the file has no bytes")
    with _open(data) as image:
        width, height = _stored_size(image)
        if width * height > max_pixels:
            raise PictureError("too_many_pixels", f"{width} x {height} pixels are more than the {max_pixels} allowed")
        facts = Facts(
            sha256=sha256,
            bytes=len(data),
            # A multi-picture JPEG (MPO: phones, HDR gain maps) is a JPEG with further JPEGs behind it.
            format="JPEG" if image.format == "MPO" else str(image.format),
            width=width,
            height=height,
            jpeg_quality=_quality(image),
        )
        if view.kind is View.RESIZE and view.draft:
            image.draft("RGB", (view.size, view.size))
        image.load()
        return Picture(facts, _turned(_rgb(image), _orientation(image)))


def _open(data: bytes) -> Image.Image:
    formats: tuple[str, ...] = FORMATS
    if _brands(data[:SIGNATURE_BYTES]) & _HEIF_BRANDS and not _brands(data[:SIGNATURE_BYTES]) & _AVIF_BRANDS:
        _register_heif()
        formats = ("HEIF",)
    return Image.open(io.BytesIO(data), formats=formats)


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        message = "HEIC needs an extra decoder: pip install 'muflow-cli[heif]'"
        raise PictureError("needs_heif", message) from None
    with _heif_lock:
        if "HEIF" not in Image.OPEN:
            pillow_heif.register_heif_opener()


def _brands(head: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO base media file (ISO/IEC 14496-12, box `ftyp`)."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}


def _stored_size(image: Image.Image) -> tuple[int, int]:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow reports a TIFF's size as turned, since it turns the pixels itself when they are loaded.
        return int(image.tag_v2[ExifTags.Base.ImageWidth]), int(image.tag_v2[ExifTags.Base.ImageLength])
    return image.size


def _quality(image: Image.Image) -> int | None:
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or not image.quantization:
        return None
    return jpeg_quality(image.quantization[min(image.quantization)])


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.mode == "F":
        raise PictureError("unsupported_pixels", "floating-point pixels have no defined white: convert to 8 or 16 bits")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    """8-bit RGB of 9- to 16-bit grey: the high byte, as Pillow does for 16-bit colour."""
    bits = 16
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = int(image.tag_v2.get(ExifTags.Base.BitsPerSample, (16,))[0])
    if image.mode == "I" and image.format != "PPM":
        raise PictureError("unsupported_pixels", "32-bit pixels have no defined white: convert to 8 or 16 bits")
    samples = np.asarray(image)
    grey = (samples >> max(0, bits - 8)).clip(0, 255).astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):
        grey[samples == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8; 1 where the metadata cannot be read, since the pixels can."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _BROKEN:
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _diagnosis(error: BaseException, data: bytes) -> tuple[str, str]:
    reason = "".join(c if c.isprintable() else "?" for c in str(error))[:160]
    cut = isinstance(error, EOFError) or any(word in reason.lower() for word in ("truncated", "unexpected end"))
    if cut or _lacks_its_end(data):
        return "truncated", "the picture is cut short: bytes are missing at its end"
    if isinstance(error, UnidentifiedImageError):
        if is_picture(data[:SIGNATURE_BYTES]):
            return "corrupt", "it begins like a picture, but its header cannot be read"
        return "not_a_picture", "its bytes are of no picture format that is read here"
    return "corrupt", f"the picture's data are damaged ({reason or type(error).__name__})"


def _lacks_its_end(data: bytes) -> bool:
    """Whether a file that could not be decoded was cut: its container's end mark, or announced length, is missing."""
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    for start, end in _ENDS:
        if data.startswith(start):
            return end not in data
    return False
