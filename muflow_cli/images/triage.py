"""Headers -> where an image is decoded: on a thread, if that is proved cheap, or in a process that can be killed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from muflow_cli.images.containers import png
from muflow_cli.images.containers.jpeg import jpeg_layout
from muflow_cli.images.error import ImageError
from muflow_cli.images.formats import SIGNATURE_BYTES, is_image, unread_format

# What a thread decodes in a few seconds at most, in C code that lets go of Python's lock.
_PIXELS: Final = 40_000_000
_SIDE: Final = 65_535  # a longer side, which no camera makes, costs gigabytes when it is resized
_FILE_BYTES: Final = 64 * 2**20
_HEADER_BYTES: Final = 4 * 2**20  # Pillow reads what stands before the pixels in Python
_PIXELS_TIMES_SCANS: Final = 400_000_000

_BYTES_PER_PIXEL: Final = 20  # at the peak: decoded, as RGBA, on white, as RGB, turned upright
_JPEG_BYTES_PER_PIXEL: Final = 12
_JPEG_COEFFICIENTS: Final = 6  # bytes per pixel that a JPEG of several scans keeps while it is decoded


@dataclass(frozen=True, slots=True)
class Triage:
    """Where an image is decoded.

    Attributes:
        isolated: in a process of its own.
        bytes: of memory that decoding takes on a thread, estimated; 0 where it is isolated, since the process itself
            announces the size of the image.
    """

    isolated: bool
    bytes: int = 0


_ISOLATED: Final = Triage(isolated=True)


def triage(data: bytes, draft_side: int) -> Triage:
    """Where to decode a file.

    JPEG, PNG, WebP and uncompressed BMP of ordinary size and structure are decoded on a thread; so is what is no image,
    which the decoder refuses at once. Everything else is isolated: decoders that are partly written in Python (PPM,
    GIF, run lengths in BMP), whose time or memory per byte has no small bound (TIFF, JPEG 2000, AVIF, HEIC), and files
    with an unusual number of segments.

    Args:
        data: the whole file.
        draft_side: as for `decode`: a JPEG may be decoded at reduced scale.

    Raises:
        ImageError: too_many_scans; truncated or corrupt for a JPEG without a frame.
    """
    head = data[:SIGNATURE_BYTES]
    if unread_format(head):
        return Triage(isolated=False)
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg(data, draft_side)
    if head.startswith(png.PNG_SIGNATURE):
        return _png(data)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _by_size(data, *_webp_size(head))
    if head[:2] == b"BM":
        return _bmp(data, head)
    return _ISOLATED if is_image(head) or head[:1] == b"P" else Triage(isolated=False)


def _by_size(data: bytes, width: int, height: int) -> Triage:
    ordinary = 0 < width <= _SIDE and 0 < height <= _SIDE and width * height <= _PIXELS and len(data) <= _FILE_BYTES
    return Triage(isolated=False, bytes=_BYTES_PER_PIXEL * width * height) if ordinary else _ISOLATED


def _jpeg(data: bytes, draft_side: int) -> Triage:
    layout = jpeg_layout(data)
    pixels = layout.width * layout.height
    if layout.plain and not layout.width:
        # Pillow would look for a frame byte by byte.
        code = "corrupt" if b"\xff\xd9" in data else "truncated"
        raise ImageError(code, "it begins like a JPEG, but holds no frame with pixels")
    if not layout.plain or layout.header_bytes > _HEADER_BYTES or pixels * layout.scans > _PIXELS_TIMES_SCANS:
        return _ISOLATED
    by_size = _by_size(data, layout.width, layout.height)
    if by_size.isolated:
        return by_size
    scale = 1
    while draft_side and scale < 8 and min(layout.width, layout.height) // (2 * scale) >= draft_side:
        scale *= 2
    kept = _JPEG_COEFFICIENTS if layout.scans > 1 else 0
    return Triage(isolated=False, bytes=pixels * kept + pixels * _JPEG_BYTES_PER_PIXEL // scale**2)


def _png(data: bytes) -> Triage:
    others = 0
    for number, (name, _, start, end) in enumerate(png.chunks(data), 1):
        if number >= 2000 + len(data) // 2048:
            return _ISOLATED  # far more chunks than bytes to fill them
        if name != b"IDAT":
            others += end - start
    width, height = (int.from_bytes(data[n : n + 4], "big") for n in (16, 20))
    return _ISOLATED if others > _HEADER_BYTES else _by_size(data, width, height)


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height by the first chunk (RFC 9649); zeros where it is of another kind."""
    kind, body = head[12:16], head[20:]
    if kind == b"VP8X" and len(body) >= 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(body) >= 10:
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return 0, 0


def _bmp(data: bytes, head: bytes) -> Triage:
    header = int.from_bytes(head[14:18], "little")
    compression = int.from_bytes(data[30:34], "little") if header >= 40 else 0
    if header < 40 or compression not in (0, 3):
        return _ISOLATED
    width, height = (int.from_bytes(data[n : n + 4], "little", signed=True) for n in (18, 22))
    return _by_size(data, width, abs(height))
