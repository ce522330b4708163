"""The tags of a TIFF stream (an EXIF block, or a whole TIFF file) that say something of its origin.

Pillow reads every tag it finds, whatever their sizes add up to; this reads a few, each within a bound.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

MAX_ENTRIES: Final = 1_000
MAX_VALUE: Final = 4 * 2**20


class Tag(IntEnum):
    """Numbers of the tags that are read."""

    DESCRIPTION = 0x010E
    MAKE = 0x010F
    MODEL = 0x0110
    SOFTWARE = 0x0131
    ARTIST = 0x013B
    XMP = 0x02BC
    EXPOSURE = 0x829A
    F_NUMBER = 0x829D
    IPTC = 0x83BB
    PHOTOSHOP = 0x8649
    EXIF = 0x8769
    MAKER_NOTE = 0x927C
    USER_COMMENT = 0x9286
    XP_COMMENT = 0x9C9C
    C2PA = 0xCD41
    THUMBNAIL_AT = 0x0201
    THUMBNAIL_SIZE = 0x0202


# Bytes of one value of each type (TIFF 6.0, section 2; 13 and 16 to 18 of the supplements).
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def read_tags(stream: bytes) -> dict[Tag, bytes]:
    """The raw value of each tag of the first image and of its EXIF directory; empty where the stream is no TIFF."""
    reader = _Reader(stream)
    tags, _ = reader.directory(reader.first)
    inner, _ = reader.directory(reader.number(tags.get(Tag.EXIF, b"")))
    return inner | tags


def thumbnail(stream: bytes) -> bytes:
    """The JPEG that the second directory of an EXIF block points to; empty where there is none."""
    reader = _Reader(stream)
    _, second = reader.directory(reader.first)
    tags, _ = reader.directory(second)
    start, size = (reader.number(tags.get(tag, b"")) for tag in (Tag.THUMBNAIL_AT, Tag.THUMBNAIL_SIZE))
    jpeg = stream[start : start + min(size, MAX_VALUE)]
    return jpeg if jpeg.startswith(b"\xff\xd8") else b""


class _Reader:
    def __init__(self, stream: bytes) -> None:
        self._stream = stream
        self._order: Final = "<" if stream[:2] == b"II" else ">"
        self._big = stream[2:4] in (b"+\0", b"\0+")
        known = stream[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
        self.first = self.number(stream[8:16] if self._big else stream[4:8]) if known else 0

    def number(self, raw: bytes) -> int:
        return int.from_bytes(raw[:8], "little" if self._order == "<" else "big")

    def directory(self, at: int) -> tuple[dict[Tag, bytes], int]:
        """Tags of the directory at an offset, and the offset of the next; nothing for offset 0 or one outside."""
        count_size, entry, short = (
            (8, struct.Struct(self._order + "HHQ8s"), 8) if self._big else (2, struct.Struct(self._order + "HHI4s"), 4)
        )
        count = self.number(self._stream[at : at + count_size])
        begin = at + count_size
        if at < 8 or begin + entry.size > len(self._stream):
            return {}, 0
        room = (len(self._stream) - begin) // entry.size
        tags: dict[Tag, bytes] = {}
        for index in range(min(count, room, MAX_ENTRIES)):
            tag, kind, values, raw = entry.unpack_from(self._stream, begin + index * entry.size)
            if tag not in _WANTED or tag in tags:
                continue
            size = min(values * _SIZES.get(kind, 0), MAX_VALUE)
            offset = self.number(raw)
            tags[Tag(tag)] = raw[:size] if size <= short else self._stream[offset : offset + size]
        end = begin + count * entry.size
        return tags, self.number(self._stream[end : end + short])


_WANTED: Final = frozenset(Tag)
