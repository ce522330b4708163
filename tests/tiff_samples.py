"""TIFF files of every kind, written from scratch."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Page:
    """One image of a TIFF: its samples (H, W, S), how they are stored, and tags that override the usual ones."""

    samples: np.ndarray
    photometric: int = 2
    is_planar: bool = False
    is_deflated: bool = False
    tile: int = 0
    rows: int = 0
    tags: Mapping[int, Sequence[int]] = field(default_factory=dict)
    children: Sequence[Page] = ()


def tiff(*pages: Page, order: str = "<", is_big: bool = False) -> bytes:
    """The bytes of a TIFF or BigTIFF whose directories stand behind their pixels."""
    data = bytearray(b"II" if order == "<" else b"MM")
    data += struct.pack(f"{order}HHHQ", 43, 8, 0, 0) if is_big else struct.pack(f"{order}HI", 42, 0)
    link = 8 if is_big else 4
    for page in pages:
        at, link_of_next = _append(data, page, order, is_big)
        struct.pack_into(order + ("Q" if is_big else "I"), data, link, at)
        link = link_of_next
    return bytes(data)


def _append(data: bytearray, page: Page, order: str, is_big: bool) -> tuple[int, int]:
    """Position of the page's directory, and of its link to the next one."""
    children = [_append(data, child, order, is_big)[0] for child in page.children]
    height, width, count = page.samples.shape
    planes = [page.samples[..., [plane]] for plane in range(count)] if page.is_planar else [page.samples]
    offsets, lengths = [], []
    for part in [part for plane in planes for part in _parts(plane, page.tile, page.rows)]:
        raw = part.astype(part.dtype.newbyteorder(order)).tobytes()
        raw = zlib.compress(raw) if page.is_deflated else raw
        offsets.append(len(data))
        lengths.append(len(raw))
        data += raw + bytes(len(raw) % 2)
    places = {273: offsets, 278: [page.rows or height], 279: lengths}
    if page.tile:
        places = {322: [page.tile], 323: [page.tile], 324: offsets, 325: lengths}
    bits = [8 * page.samples.itemsize] * count
    tags: dict[int, Sequence[int]] = {
        256: [width],
        257: [height],
        258: bits,
        259: [8 if page.is_deflated else 1],
        262: [page.photometric],
        277: [count],
        284: [2 if page.is_planar else 1],
        **places,
        **page.tags,
    }
    if children:
        tags[330] = children
    entry, number, inline = ("QQ", "Q", 8) if is_big else ("HI", "I", 4)
    at = len(data)
    tail = at + struct.calcsize("=" + entry[0]) + len(tags) * (4 + 2 * inline) + inline
    directory, values = struct.pack(order + entry[0], len(tags)), b""
    for tag, numbers in sorted(tags.items()):
        kind, code = (3, "H") if max(numbers) < 2**16 else (4, "I")
        raw = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        directory += struct.pack(f"{order}HH{number}", tag, kind, len(numbers))
        if len(raw) > inline:
            directory += struct.pack(order + number, tail + len(values))
            values += raw + bytes(len(raw) % 2)
        else:
            directory += raw.ljust(inline, b"\0")
    data += directory + bytes(inline) + values
    return at, at + len(directory)


def _parts(plane: np.ndarray, tile: int, rows: int) -> list[np.ndarray]:
    height, width = plane.shape[:2]
    if not tile:
        return [plane[y : y + (rows or height)] for y in range(0, height, rows or height)]
    padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
    return [padded[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)]
