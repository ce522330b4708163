"""What a decoding process and its owner say to each other: a header in MessagePack, then raw bytes.

No pickles: a decoder that a crafted image has taken over must not be able to run code in the owner.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Final, TypeVar

import msgspec

from muflow_cli.clip_records import ClipFacts
from muflow_cli.images.prepare import PrepareSpec
from muflow_cli.records import Facts, Mark

# An image may take its seconds of processor time, and this many times as long on a busy machine.
PATIENCE: Final = 4

_LENGTHS: Final = struct.Struct(">QQ")
_MAX_HEADER: Final = 2**24

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """An image to decode; the raw bytes are the file.

    Attributes:
        spec: how it becomes views.
        sha256: of the file.
        whole: give the decoded image itself instead of its views.
    """

    spec: PrepareSpec
    sha256: str
    whole: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The first answer: pixels as the header announces them, or zeros. The owner replies with one byte."""

    width: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An ImageError as data; `bug` stands for any other exception, whose text is the message."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The second answer; the raw bytes are the arrays one after the other, then the thumbnail.

    Attributes:
        facts: of the image; None beside a failure.
        failure: why there is no image.
        shapes: of the uint8 arrays: branch name -> (V, H, W, 3), or "" -> (H, W, 3), the whole image.
        thumbnail: its length in bytes; None if there is none.
        mark: of a thumbnail within the file that shows another picture.
    """

    facts: Facts | None = None
    failure: Failure | None = None
    shapes: Mapping[str, tuple[int, ...]]
    thumbnail: int | None = None
    mark: Mark | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRequest:
    """A clip of which frames are wanted.

    Attributes:
        spec: how each frame becomes views, and which frames.
        sha256: of the file.
        size: its length in bytes.
        path: of the file, which the process opens itself; empty where the raw bytes are the file.
        identity: device, inode, length and time of change in ns of the file that was hashed.
        whole: give the frames themselves instead of their views.
    """

    spec: PrepareSpec
    sha256: str
    size: int
    path: bytes = b""
    identity: tuple[int, int, int, int] = (0, 0, 0, 0)
    whole: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipAnswer:
    """A frame, whose raw bytes are as those of an Answer; the last answer has a clip or a failure and no frame.

    Attributes:
        time: of the frame, seconds.
        facts: of the file, with the sharpness of the frame.
        shapes: as in Answer.
        thumbnail: as in Answer.
        clip: what the clip is.
        failure: why there is no clip.
    """

    time: float = 0.0
    facts: Facts | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    thumbnail: int | None = None
    clip: ClipFacts | None = None
    failure: Failure | None = None


class Closed(Exception):
    """The other side has gone, or talks nonsense."""


def send(stream: BinaryIO, header: object, *parts: bytes | memoryview) -> None:
    """Write a header and the raw bytes that follow it.

    Raises:
        OSError: the other side has gone.
    """
    encoded = msgspec.msgpack.encode(header)
    stream.write(_LENGTHS.pack(len(encoded), sum(len(part) for part in parts)) + encoded)
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: BinaryIO, kind: type[_T], max_bytes: int) -> tuple[_T, bytes]:
    """A header of this kind and at most `max_bytes` raw bytes.

    Raises:
        Closed: at the end of the stream, and for anything that `send` would not have written.
    """
    header_bytes, raw_bytes = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    if header_bytes > _MAX_HEADER or raw_bytes > max_bytes:
        raise Closed
    try:
        header = msgspec.msgpack.decode(_exactly(stream, header_bytes), type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Closed from error
    return header, _exactly(stream, raw_bytes)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise Closed
    return data
