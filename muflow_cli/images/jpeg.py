"""JPEG pixels by libjpeg-turbo together with its warnings, which Pillow hides: the same pixels and what is wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.images.containers.jpeg import FRAMES, SCAN, segments
from muflow_cli.images.error import Damage, missing_part

# TurboJPEG's names of the pixels that Pillow gives for a mode. CMYK stays with Pillow, which converts it otherwise.
_COLOURS: Final = {"L": "GRAY", "RGB": "RGB"}

# Segments that the coded data need; comments and what applications store raise warnings of their own.
_NEEDED: Final = FRAMES | {0xC4, 0xCC, 0xDB, 0xDD}
_ZEROS: Final = re.compile(rb"\0{64,}")
_LINE_FEEDS: Final = 8  # so many, each behind a carriage return, are no chance: 1 in 256 ** 8
_RESTARTS: Final = tuple(f"0x{marker:02x}" for marker in range(0xD0, 0xD8))
# Where an image has restart markers, the end mark stands in the place of one.
_EARLY_ENDS: Final = ("premature end", "found marker 0xd9 instead of RST")
_FILL: Final = 128  # what libjpeg leaves where it has read nothing
_EXTRA_BYTES: Final = 2
# The largest `_step` of an image that is cut. Measured on face JPEGs that lack at most their last row of MCUs: 95 % of
# 496 cuts are below 3.0; 90 % of 32 wrong bits and 318 losses of 64 to 512 bytes are above 2.8, half of them above 5.
_STEP_OF_A_CUT: Final = 3.1


@dataclass(frozen=True, slots=True)
class _Coded:
    """The segments of a JPEG that its coded data need, with an end mark.

    Attributes:
        data: SOI, tables, frame header, scans, EOI.
        scans: index in `data` behind the header of the first scan.
        rows: height of a row of MCUs in blocks.
    """

    data: bytes
    scans: int
    rows: int


def decode_jpeg(data: bytes, image: Image.Image) -> tuple[Image.Image | None, Damage | None]:
    """Pixels of a JPEG as Pillow decodes them, and what is wrong with its coded data.

    One pass over a whole file; a file that libjpeg warns of is read again to find out what it lacks. No pixels for
    CMYK, and where libjpeg refuses the file: Pillow converts the former and says why of the latter.

    Args:
        data: the whole file.
        image: opened by Pillow, not loaded; its size says at which of libjpeg's scales to decode.
    """
    colours = _COLOURS.get(image.mode)
    try:
        if colours is not None:
            return _pixels(data, image, colours), None
        simplejpeg.decode_jpeg(data, "CMYK", min_height=1, min_width=1)
    except ValueError:
        return _again(data, image, colours)
    return None, None


def _again(data: bytes, image: Image.Image, colours: str | None) -> tuple[Image.Image | None, Damage | None]:
    """The slow path: for damage the whole file is looked at, for pixels libjpeg goes on behind its warnings."""
    try:
        damage = find_damage(data)
    except ValueError:
        return None, None
    try:
        return (None if colours is None else _salvaged_pixels(data, image, colours)), damage
    except ValueError:  # odd metadata, which Pillow passes over
        return None, damage


def _pixels(data: bytes, image: Image.Image, colours: str) -> Image.Image | None:
    pixels = simplejpeg.decode_jpeg(data, colours, min_height=image.height, min_width=image.width)
    return _image(pixels, image)


def _salvaged_pixels(data: bytes, image: Image.Image, colours: str) -> Image.Image | None:
    """None also where nothing was decoded."""
    pixels = _salvaged(data, colours, image.height, image.width)
    return None if (pixels == _FILL).all() else _image(pixels, image)


def _image(pixels: NDArray[np.uint8], image: Image.Image) -> Image.Image | None:
    if pixels.shape[:2] != (image.height, image.width):
        return None
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _salvaged(data: bytes, colours: str, height: int, width: int) -> NDArray[np.uint8]:
    """What libjpeg decodes behind its warnings, at its smallest scale of at least this size.

    Where it gives up in the middle, it leaves the rest of the pixels as they were in memory: grey here, as it leaves
    what it has not read.
    """
    shape = simplejpeg.decode_jpeg_header(data, min_height=height, min_width=width, strict=False)[:2]
    buffer = np.full((*shape, 1 if colours == "GRAY" else 3), _FILL, np.uint8)
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, colours, min_height=height, min_width=width, buffer=buffer, strict=False
    )
    return pixels


def find_damage(data: bytes) -> Damage | None:
    """What libjpeg's warnings within the scans mean; None if it warns of nothing there.

    Bytes between the segments before the first scan, odd metadata and a missing end mark harm no pixel. Bytes between
    the last row and the end mark are padding if all are alike or if they are no more than two, as webcams write them;
    others are coded data without a place in the image.

    Args:
        data: a file that libjpeg warns of or refuses.

    Raises:
        ValueError: if libjpeg refuses it.
    """
    lines = data.count(b"\n")
    if lines >= _LINE_FEEDS and data.count(b"\r\n") == lines:
        message = "a transfer in text mode has put a carriage return before every line feed; copy it in binary mode"
        return Damage("corrupt", message)
    coded = _coded(data)
    if coded is None:
        return None
    warning = _warning(coded.data)
    return None if warning is None else _meaning(warning, coded)


def _warning(data: bytes) -> str | None:
    """What libjpeg warns of first, or why it refuses the data."""
    try:
        simplejpeg.decode_jpeg(data, "RGB", min_height=1, min_width=1)
    except ValueError as error:
        return str(error)
    return None


def _meaning(warning: str, coded: _Coded) -> Damage | None:
    reason = warning.removeprefix("Corrupt JPEG data: ")
    zeros = _ZEROS.search(coded.data, coded.scans)
    before = coded.data[: zeros.start()] + b"\xff\xd9" if zeros else b""
    if before and _warning(before) is not None:  # else they stand behind the last row
        share, is_lower = _missing(_blocks(before))
        part = missing_part(share, is_lower=is_lower) if share else "a part of the image is wrong"
        return Damage("corrupt", f"{part}; zeros stand in the place of its coded data", missing=share or None)
    if "extraneous bytes" in warning and not reason.endswith(_RESTARTS):
        count = int(reason.split()[0])
        end = coded.data.find(b"\xff" + bytes([int(reason[-2:], 16)]), coded.scans)
        if count <= _EXTRA_BYTES or len(set(coded.data[end - count : end])) == 1:
            return None
        return Damage("corrupt", f"a part of the image is wrong; {count} bytes of coded data are left over at its end")
    blocks = _blocks(coded.data)
    if reason.startswith(_EARLY_ENDS):
        return _early_end(blocks, coded.rows)
    share, is_lower = _missing(blocks)
    part = missing_part(share, is_lower=is_lower) if share > 0.02 else "a part of the image is wrong"
    return Damage("corrupt", f"{part}; its coded data is damaged ({reason})", missing=share or None)


def _early_end(blocks: NDArray[np.uint8], rows: int) -> Damage:
    """What coded data that end before the last block mean: a cut, or a wrong bit.

    A cut leaves all before it in place, so an image that lacks at most its last row of MCUs can be scored. A wrong bit
    moves and recolours all that follows and, since Huffman codes fall into step again, loses a few blocks at the end.
    """
    share, is_lower = _missing(blocks)
    row = (len(blocks) - 1) % rows + 1  # height of the last, perhaps incomplete row of MCUs, in blocks
    cut = share * len(blocks) / row
    if cut > 1 or 8 * row > len(blocks):
        return Damage(
            "truncated", f"{missing_part(share, is_lower=is_lower)}; its coded data ends early", missing=share
        )
    if cut and _step(blocks, rows) <= _STEP_OF_A_CUT:
        return Damage("truncated", "a part of the last row of blocks is missing", missing=share, is_slight=True)
    return Damage("corrupt", "a part of the image is wrong; its coded data is damaged")


def _coded(data: bytes) -> _Coded | None:
    """The segments that the coded data need; None if no scan follows a frame header."""
    parts, rows = [b"\xff\xd8"], 0
    for marker, at, _, end in segments(data):
        if marker in FRAMES and end >= at + 13:
            rows = max((factors & 15 for factors in data[at + 11 : end : 3]), default=1)
        if marker == SCAN:
            header = b"".join(parts) + data[at:end]
            return _Coded(header + data[end:] + b"\xff\xd9", len(header), rows) if rows else None
        if marker in _NEEDED:
            parts.append(data[at:end])
    return None


def _blocks(data: bytes) -> NDArray[np.uint8]:
    """One pixel for each block of 8 x 8: (H / 8, W / 8, 3), its average colour."""
    return _salvaged(data, "RGB", 1, 1)


def _missing(blocks: NDArray[np.uint8]) -> tuple[float, bool]:
    """Share of the blocks that libjpeg has filled, and whether they are the lower rows."""
    filled = (blocks == _FILL).all(axis=-1)
    share = float(filled.mean())
    whole = np.flatnonzero(~filled.any(axis=1))
    below = filled[whole[-1] + 1 :].sum() if len(whole) else filled.sum()
    return share, bool(below >= 0.9 * filled.sum())


def _step(blocks: NDArray[np.uint8], rows: int) -> float:
    """The sharpest step between two rows of MCUs along one width of the image in scan order, relative to the median.

    From a wrong bit on, blocks have another place or colour: the edge is the boundary above them to the right of the
    bit and the boundary below those before it to the left, one width in all.
    """
    filled = (blocks == _FILL).all(axis=-1)
    steps = np.abs(np.diff(blocks.astype(np.int64), axis=0)).sum(axis=-1)
    steps[filled[1:] | filled[:-1]] = 0
    edges = steps[rows - 1 :: rows]
    left = np.pad(np.cumsum(edges, axis=1), ((0, 0), (1, 0)))
    widths = (left[:-1, -1:] - left[:-1] + left[1:]) / edges.shape[1]
    return float(widths.max() / (np.median(widths) + 1)) if widths.size else np.inf
