"""The video that a motion photo holds behind its image: where it lies, by the structure of the file.

A JPEG names it in its XMP (Google) or in a directory at the end of the file (Samsung), or the video follows the image
at once; HEIC and AVIF have a box `mpvd` for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from muflow_cli.images.clip_formats import HEAD_BYTES, clip_format
from muflow_cli.images.containers.boxes import boxes, brands
from muflow_cli.images.containers.jpeg import image_end
from muflow_cli.images.error import ImageError
from muflow_cli.images.formats import AVIF_BRANDS, HEIF_BRANDS
from muflow_cli.images.metadata.pieces import read_metadata
from muflow_cli.images.metadata.xmp import read_appended

_JPEG: Final = b"\xff\xd8\xff"
_MOST_IMAGES: Final = 20  # previews, depth and gain maps, which stand one behind the other
_MOST_BOXES: Final = 1000
_MOST_PACKETS: Final = 4
# Samsung's directory: an entry has the kind of its block, how far before the directory it begins, and its length.
_MOST_ENTRIES: Final = 1000
_ENTRY: Final = 12
_VIDEO_KIND: Final = 0x0A30
_LEAST: Final = 8  # bytes: a box


class Span(NamedTuple):
    """Part of a file: its first byte and the byte behind its last."""

    start: int
    end: int


def may_embed(head: bytes) -> bool:
    """Whether a file that begins with these bytes is of a kind that can hold a video."""
    return head.startswith(_JPEG) or bool(brands(head) & (HEIF_BRANDS | AVIF_BRANDS))


def embedded_video(data: bytes) -> Span | None:
    """Where the video of a motion photo lies; None in any other file.

    Editors cut off a video and keep the metadata that names it: such a file has none.

    Raises:
        ImageError: no_video, where something else than a video lies at the place that is named.
    """
    if data.startswith(_JPEG):
        end = _images_end(data)
        if end is None or len(data) - end < _LEAST:
            return None
        named = [*_samsung(data), *_google(data)]
        places = [place for place in (*named, Span(end, len(data))) if end <= place.start < place.end <= len(data)]
    elif may_embed(data[:HEAD_BYTES]):
        found = (box for box in islice(boxes(data), _MOST_BOXES) if box.type == b"mpvd")
        places = named = [Span(box.start, min(box.end, len(data))) for box in islice(found, 1)]
    else:
        return None
    video = next((place for place in places if _is_video(data, place)), None)
    if video is None and named:
        raise ImageError("no_video", "the file names a video inside it, but there is none at that place")
    return video


def _is_video(data: bytes, place: Span) -> bool:
    format_ = clip_format(data[place.start : min(place.end, place.start + HEAD_BYTES)])
    return format_ is not None and format_.demuxer == "mov"


def _images_end(data: bytes) -> int | None:
    """Where the image of a JPEG ends, and those of the same format that follow it; None where it has no end."""
    end = image_end(data)
    for _ in range(_MOST_IMAGES):
        if end is None or not data.startswith(_JPEG, end):
            break
        end = image_end(data, end) or end
    return end


def _google(data: bytes) -> Iterator[Span]:
    """Places that XMP names, counted from the end of the file."""
    for packet in islice(read_metadata(data).xmp, _MOST_PACKETS):
        appended = read_appended(packet)
        for number, (length, meaning) in enumerate(appended.items):
            if meaning == "MotionPhoto":
                start = len(data) - sum(own for own, _ in appended.items[number:])
                yield Span(start, start + length)
        if appended.video_offset:
            yield Span(len(data) - appended.video_offset, len(data))


def _samsung(data: bytes) -> Iterator[Span]:
    """Places that the directory at the end of the file names."""
    if data[-4:] != b"SEFT":
        return
    directory = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if directory < 0 or not data.startswith(b"SEFH", directory):
        return
    count = int.from_bytes(data[directory + 8 : directory + 12], "little")
    for number in range(min(count, _MOST_ENTRIES)):
        at = directory + 12 + number * _ENTRY
        kind, back, length = (int.from_bytes(data[at + a : at + b], "little") for a, b in ((2, 4), (4, 8), (8, 12)))
        block = directory - back
        if kind == _VIDEO_KIND:
            name = int.from_bytes(data[block + 4 : block + 8], "little")
            yield Span(block + 8 + name, block + length)
