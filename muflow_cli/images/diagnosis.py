"""What a codec raised -> the code and the sentence of the record."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from PIL import UnidentifiedImageError

from muflow_cli.images.formats import SIGNATURE_BYTES, is_image

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

_ENDS: Final = ((b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG", b"IEND"))


def diagnosis(error: BaseException, data: bytes) -> tuple[str, str]:
    """Code and message for an exception of BROKEN that was raised while `data` was decoded."""
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
