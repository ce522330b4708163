"""Evidence of damaged or cut coded data that decoders pass over in silence."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from muflow_cli.images.containers import png, riff
from muflow_cli.images.containers.boxes import coded_items
from muflow_cli.images.error import Damage, missing_part
from muflow_cli.images.hevc import first_warning, units
from muflow_cli.images.jpeg import decode_jpeg

_ZEROS_IN_AV1: Final = 32
_ZEROS_IN_WEBP: Final = re.compile(rb"\0{64,}")
# Adam7 (PNG 1.2, 2.6): first row and column, step of rows and columns of each pass.
_PASSES: Final = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def load(image: Image.Image, data: bytes) -> tuple[Image.Image, Damage | None]:
    """The pixels of an image that Pillow has opened, and what is wrong with its coded data.

    Args:
        image: opened, not loaded.
        data: the whole file.

    Raises:
        whatever Pillow raises on damaged files.
    """
    if image.format in ("JPEG", "MPO"):
        pixels, damage = decode_jpeg(data, image)
        if pixels is not None:
            return pixels, damage
        image.load()
        return image, damage
    image.load()
    check = _CHECKS.get(str(image.format))
    return image, check(data, image) if check else None


def _png(data: bytes, image: Image.Image) -> Damage | None:
    """Checksums of the critical chunks, and rows that the pixel data do not hold; Pillow looks at neither."""
    view, coded = memoryview(data), list[memoryview]()
    for name, at, start, end in png.chunks(data):
        if end + 4 > len(data) or (coded and name != b"IDAT"):
            break
        is_critical = not name[0] & 0x20
        if is_critical and zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return Damage("corrupt", "a part of the image may be wrong; the checksum of its pixel data does not match")
        if name == b"IDAT":
            coded.append(view[start:end])
    interlaced = isinstance(image, PngImagePlugin.PngImageFile) and bool(image.info.get("interlace"))
    last = image.height - 1 - (interlaced and image.height % 2)  # the last pass of Adam7 holds the odd rows
    row = image.crop((0, last, image.width, last + 1))
    if last and row.tobytes().strip(b"\0"):
        return None  # rows that are not read stay zero
    header = data[data.index(b"IHDR") + 4 :][:13]
    sizes = _row_sizes(header)
    needed, held = sum(sizes), _inflated(coded, sum(sizes))
    if held >= needed:
        return None
    share = 1 - held / needed
    return Damage("truncated", f"{missing_part(share)}; its pixel data ends early", missing=share)


def _row_sizes(header: bytes) -> list[int]:
    """Bytes of each row of each pass, filter byte included, from the content of IHDR."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[header[9]]
    passes = _PASSES if header[12] else ((0, 0, 1, 1),)
    sizes = []
    for top, left, down, right in passes:
        rows, columns = -(-(height - top) // down), -(-(width - left) // right)
        if rows > 0 and columns > 0:
            sizes.append(rows * (1 + (columns * bits + 7) // 8))
    return sizes


def _inflated(coded: list[memoryview], most: int) -> int:
    """Number of bytes, at most about `most`, that the pixel data unpack to."""
    inflate, total = zlib.decompressobj(), 0
    try:
        for chunk in coded:
            rest: bytes | memoryview = chunk
            while len(rest) and total < most:
                total += len(inflate.decompress(rest, 2**20))
                rest = inflate.unconsumed_tail
    except zlib.error:
        pass
    return total


def _webp(data: bytes, image: Image.Image) -> Damage | None:
    """A run of zeros in the payload that no flat or smooth part of an image explains.

    The arithmetic coder of VP8 writes zeros for macroblocks that only continue their neighbours: 25 ends of a block, of
    -log2(f) bits each if a share f of all blocks are such. That is at most 13.3 bits for each macroblock of the image.
    Where libwebp does not adapt its probabilities (method 0, noise above a flat part) it takes up to 30, but then a
    share of the payload below 0.4 times that of flat macroblocks. Damage exceeds both.

    In VP8L the four prefix codes of a pixel that a share f of all n pixels have take at most 1 - log2(f) bits each, so
    that a run of them has at most 4.3 n bits for any f.
    """
    lossy, payload = _webp_payload(data)
    longest = max(_ZEROS_IN_WEBP.finditer(payload), key=lambda run: run.end() - run.start(), default=None)
    if longest is None:
        return None
    zeros = longest.end() - longest.start()
    if lossy:
        flat = _flat(image)
        explained = max(2 * flat.size, 0.5 * flat.mean() * len(payload))
    else:
        explained = 4.3 * image.width * image.height / 8
    if zeros <= explained:
        return None
    share = 1 - longest.start() / len(payload)
    part = missing_part(share, is_lower=longest.end() == len(payload))
    return Damage("corrupt", f"{part}; zeros stand in the place of its coded data", missing=share)


def _webp_payload(data: bytes) -> tuple[bool, bytes]:
    """Whether the first frame is lossy, and its coded data; empty if there is none."""
    first = next((chunk for chunk in riff.chunks(data) if chunk.name in (b"VP8 ", b"VP8L", b"ANMF")), None)
    if first is not None and first.name == b"ANMF":
        within = riff.chunks(data, first.start + 16)
        first = next((chunk for chunk in within if chunk.name in (b"VP8 ", b"VP8L")), None)
    return (False, b"") if first is None else (first.name == b"VP8 ", data[first.start : first.end])


def _flat(image: Image.Image) -> NDArray[np.bool_]:
    """Which macroblocks have one colour to within two grey levels, (H / 16, W / 16), parts at the edges left out."""
    pixels = np.asarray(image.convert("RGB"))
    rows, columns = max(1, pixels.shape[0] // 16), max(1, pixels.shape[1] // 16)
    height, width = min(pixels.shape[0], 16 * rows), min(pixels.shape[1], 16 * columns)
    blocks = pixels[:height, :width].reshape(rows, height // rows, columns, width // columns, 3)
    flat: NDArray[np.bool_] = (np.ptp(blocks, axis=(1, 3)) <= 2).all(axis=-1)
    return flat


def _avif(data: bytes, image: Image.Image) -> Damage | None:  # noqa: ARG001  one signature for all checks
    """A run of zeros in the coded data: AV1's range coder writes none, not even for flat images."""
    try:
        items = coded_items(data)
    except (EOFError, IndexError):
        return None
    for item in items:
        start = item.data.find(bytes(_ZEROS_IN_AV1))
        if start >= 0:
            return _zeros(1 - start / len(item.data), alone=len(items) == 1)
    return None


def _heif(data: bytes, image: Image.Image) -> Damage | None:  # noqa: ARG001
    """Three zeros in a NAL unit, which HEVC forbids (H.265, 7.4.2), or data that libde265 warns of."""
    try:
        items = coded_items(data)
        for item in items:
            for unit in units(item):
                start = unit.find(b"\0\0\0")
                if start >= 0:
                    return _zeros(1 - start / len(unit), alone=len(items) == 1)
            warning = first_warning(item)
            if warning:
                return Damage("corrupt", f"a part of the image is wrong; its coded data is damaged ({warning})")
    except (EOFError, IndexError):
        return None
    return None


def _jpeg2000(data: bytes, image: Image.Image) -> Damage | None:
    """A run of zeros longer than the packets of the image can explain, of which each empty one is a zero byte.

    A packet belongs to a layer, a component and a precinct; a precinct smaller than 32 x 32 is of no use. Two thirds
    more than the precincts of the full resolution are enough for all smaller ones.
    """
    start, style = data.find(b"\xff\x4f\xff\x51"), data.find(b"\xff\x52")
    layers = int.from_bytes(data[style + 6 : style + 8], "big")
    packets = layers * len(image.getbands()) * image.width * image.height * 5 // (3 * 32 * 32)
    zeros = data.find(bytes(64 + packets), start)
    if min(start, style, zeros) < 0:
        return None
    end = len(data) - len(data[zeros:].lstrip(b"\0"))
    share = (end - zeros) / (len(data) - start)
    part = missing_part(share, is_lower=False)
    return Damage("corrupt", f"{part}; zeros stand in the place of its coded data", missing=share)


def _zeros(share: float, *, alone: bool) -> Damage:
    """Damage by zeros to a share of an item that is the whole image or a tile of it."""
    part = missing_part(share) if alone else "a part of the image is missing"
    missing = share if alone else None
    return Damage("corrupt", f"{part}; zeros stand in the place of its coded data", missing=missing)


_CHECKS: Final[Mapping[str, Callable[[bytes, Image.Image], Damage | None]]] = {
    "PNG": _png,
    "WEBP": _webp,
    "AVIF": _avif,
    "HEIF": _heif,
    "JPEG2000": _jpeg2000,
}
