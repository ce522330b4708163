"""What a codec raised -> the code and the sentence of the record."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

from PIL import UnidentifiedImageError

from muflow_cli.images import avif, boxes, gif, jpeg2000, jpeg_kind, tiff
from muflow_cli.images.formats import (
    AVIF_BRANDS,
    JPEG2000_SIGNATURES,
    SIGNATURE_BYTES,
    TIFF_SIGNATURES,
    brands,
    is_image,
)

# What Pillow and its codecs raise on damaged files, collected by fuzzing: OSError (codec errors, truncation),
# SyntaxError (bad headers), ValueError (bad sizes, modes), struct.error (short headers), EOFError (no more frames),
# MemoryError (absurd sizes), zlib.error (PNG text and ICC chunks), LookupError (tags, palettes that are missing),
# TypeError and AttributeError (tags of the wrong type), ArithmeticError (zero or overflowing sizes),
# RuntimeError and NotImplementedError (libavif, libheif, unknown TIFF variants), AssertionError (Pillow's own checks).
BROKEN: Final = (
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

# Signature -> whether a file that could not be decoded was cut: it lacks its end mark or the length that it announces.
_IS_CUT: Final[tuple[tuple[tuple[bytes, ...], Callable[[bytes], bool]], ...]] = (
    ((b"\xff\xd8\xff",), jpeg_kind.lacks_its_end),
    ((b"\x89PNG",), lambda data: b"IEND" not in data),
    ((b"GIF8",), gif.lacks_its_end),
    ((b"RIFF",), lambda data: int.from_bytes(data[4:8], "little") + 8 > len(data)),
    (TIFF_SIGNATURES, tiff.lacks_data),
    (JPEG2000_SIGNATURES, jpeg2000.lacks_its_end),
)


def diagnosis(error: BaseException, data: bytes) -> tuple[str, str]:
    """Code and message for an exception of BROKEN that was raised while `data` was decoded."""
    reason = "".join(c if c.isprintable() else "?" for c in str(error))[:160]
    begins_like_an_image = is_image(data[:SIGNATURE_BYTES])
    if _is_cut(error, data, reason):
        return "truncated", "the image is cut short; bytes are missing at its end"
    unsupported = _unsupported(data, reason) if begins_like_an_image else None
    if unsupported:
        return "unsupported", unsupported
    if isinstance(error, UnidentifiedImageError):
        if begins_like_an_image:
            return "corrupt", "it begins like an image, but its header cannot be read"
        return "not_an_image", "its bytes are not in an image format that muflow reads"
    if "truncated" in reason:  # so Pillow says of all data that end before the last pixel
        reason = "the coded data hold less than the image"
    return "corrupt", f"the image data is damaged ({reason or type(error).__name__})"


def _unsupported(data: bytes, reason: str) -> str | None:
    """The message for a valid kind of image that its decoder does not read; None for any other."""
    kind = jpeg_kind.unread_kind(data) if data.startswith(b"\xff\xd8\xff") else None
    if kind:
        return f"a {kind} JPEG is not read; convert it to an ordinary 8-bit JPEG or to PNG"
    if brands(data[:SIGNATURE_BYTES]) & AVIF_BRANDS and avif.alpha_lacks_its_size(data):
        return "its transparency plane has no size (property ispe), so libavif refuses it; convert it to PNG"
    if "unsupported" in reason.lower():
        return f"this kind of image is not read ({reason}); convert it to PNG or JPEG"
    return None


def _is_cut(error: BaseException, data: bytes, reason: str) -> bool:
    for signatures, is_cut in _IS_CUT:
        if data.startswith(signatures):
            return is_cut(data)
    if brands(data[:SIGNATURE_BYTES]):
        return boxes.is_cut(data, needed=b"mdat")
    return isinstance(error, EOFError) or any(word in reason.lower() for word in ("truncated", "unexpected end"))
