"""What a codec raised -> the code and the sentence of the record."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

from PIL import UnidentifiedImageError

from muflow_cli.images import jpeg2000, tiff
from muflow_cli.images.containers import boxes, gif, jpeg, riff
from muflow_cli.images.containers.boxes import brands, child
from muflow_cli.images.containers.tiff import TIFF_SIGNATURES
from muflow_cli.images.error import reason_of
from muflow_cli.images.formats import (
    AVIF_BRANDS,
    JPEG2000_SIGNATURES,
    SIGNATURE_BYTES,
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

_ALPHA: Final = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")

# Signature -> whether a file that could not be decoded was cut: it lacks its end mark or the length that it announces.
_IS_CUT: Final[tuple[tuple[tuple[bytes, ...], Callable[[bytes], bool]], ...]] = (
    ((b"\xff\xd8\xff",), jpeg.lacks_its_end),
    ((b"\x89PNG",), lambda data: b"IEND" not in data),
    ((b"GIF8",), gif.lacks_its_end),
    ((b"RIFF",), riff.is_cut),
    (TIFF_SIGNATURES, tiff.lacks_data),
    (JPEG2000_SIGNATURES, jpeg2000.lacks_its_end),
)


def diagnosis(error: BaseException, data: bytes) -> tuple[str, str]:
    """Code and message for an exception of BROKEN that was raised while `data` was decoded."""
    reason = reason_of(error)
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
    return "corrupt", f"the image data is damaged ({reason})"


def _unsupported(data: bytes, reason: str) -> str | None:
    """The message for a valid kind of image that its decoder does not read; None for any other."""
    kind = jpeg.unread_kind(data) if data.startswith(b"\xff\xd8\xff") else None
    if kind:
        return f"a {kind} JPEG is not read; convert it to an ordinary 8-bit JPEG or to PNG"
    if brands(data[:SIGNATURE_BYTES]) & AVIF_BRANDS and _alpha_lacks_its_size(data):
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


def _alpha_lacks_its_size(data: bytes) -> bool:
    """Whether a transparency plane has no `ispe` property, as early versions of cavif wrote it."""
    meta = next((box for box in boxes.boxes(data) if box.type == b"meta"), None)
    properties = meta and child(data, meta, b"iprp", skip=4)
    container = properties and child(data, properties, b"ipco")
    association = properties and child(data, properties, b"ipma")
    if not container or not association:
        return False
    kinds = list(boxes.boxes(data, container.start, container.end))
    alpha = {
        number for number, box in enumerate(kinds, 1) if box.type == b"auxC" and data.startswith(_ALPHA, box.start + 4)
    }
    sizes = {number for number, box in enumerate(kinds, 1) if box.type == b"ispe"}
    return any(alpha.intersection(item) and sizes.isdisjoint(item) for _, item in boxes.associations(data, association))
