"""The tags of a TIFF stream (an EXIF block, or a whole TIFF file) that say something of its origin.

Pillow reads every tag it finds, whatever their sizes add up to; this reads a few, each within a bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from itertools import islice
from typing import Final

from muflow_cli.images.containers.tiff import TIFF_SIGNATURES, Reader

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


_WANTED: Final = frozenset(Tag)


def read_tags(stream: bytes) -> dict[Tag, bytes]:
    """The raw value of each tag of the first image and of its EXIF directory; empty where the stream is no TIFF."""
    reader = Reader(stream)
    if not stream.startswith(TIFF_SIGNATURES):
        return {}
    tags = _tags(stream, reader, reader.first)
    return _tags(stream, reader, _number(reader, tags, Tag.EXIF)) | tags


def thumbnail(stream: bytes) -> bytes:
    """The JPEG that the second directory of an EXIF block points to; empty where there is none."""
    reader = Reader(stream)
    if not stream.startswith(TIFF_SIGNATURES):
        return b""
    tags = _tags(stream, reader, reader.following(reader.first))
    start, size = (_number(reader, tags, tag) for tag in (Tag.THUMBNAIL_AT, Tag.THUMBNAIL_SIZE))
    jpeg = stream[start : start + min(size, MAX_VALUE)]
    return jpeg if jpeg.startswith(b"\xff\xd8") else b""


def _tags(stream: bytes, reader: Reader, at: int) -> dict[Tag, bytes]:
    """The first value of each tag of the directory at a position."""
    tags: dict[Tag, bytes] = {}
    for tag, _, start, end in islice(reader.fields(at), MAX_ENTRIES):
        if tag in _WANTED and tag not in tags:
            tags[Tag(tag)] = stream[start : min(end, start + MAX_VALUE)]
    return tags


def _number(reader: Reader, tags: Mapping[Tag, bytes], tag: Tag) -> int:
    return reader.number(tags.get(tag, b"")[:8])
