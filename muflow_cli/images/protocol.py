"""What a decoding process and its owner say to each other: a header in MessagePack, then raw bytes.

No pickles: a decoder that a crafted image has taken over must not be able to run code in the owner.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import BinaryIO, Final, TypeVar

import msgspec

from muflow_cli.clip_records import ClipFacts
from muflow_cli.images.prepare import PrepareSpec
from muflow_cli.records import Declared, Face, Facts, Mark
from muflow_cli.specs import FaceSpec

# An image may take its seconds of processor time, and this many times as long on a busy machine.
PATIENCE: Final = 4

_LENGTHS: Final = struct.Struct(">QQ")
_MAX_HEADER: Final = 2**24

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a process does to every input of a run.

    Attributes:
        spec: how an image becomes views, and what may vouch for the signer of a manifest.
        faces: look for faces and cut the views of each; None = views of the whole image.
        whole: give the decoded image itself instead of its views.
    """

    spec: PrepareSpec
    faces: FaceSpec | None = None
    whole: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An input that the process reads itself, as Input has it; names are bytes, since they need not be UTF-8."""

    kind: str
    path: bytes
    location: bytes
    member: bytes
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """An image to decode; the raw bytes are the file, unless the process reads it.

    With limits of time and memory the answers are a Size and an Answer. Without, the process hashes the input, looks it
    through for marks and decodes it as a thread of the owner would: the answers are a Found, a Size where the image
    turns out to need limits, and an Answer. After each but the last the owner sends one byte, `g` to go on.

    Attributes:
        task: what becomes of it.
        limited: decode it within limits.
        sha256: of the file; empty where the process finds it out.
        name: of the input, as reported; files with some names are refused.
        source: where to read it; None where its bytes follow.
    """

    task: Task
    limited: bool
    sha256: str = ""
    name: bytes = b""
    source: Source | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What is known of an input before it is decoded.

    Attributes:
        sha256: of its bytes; None where they were not read.
        bytes: their number; None where it is not known.
        declared: what the file says of its own origin.
        needs: bytes of memory that decoding takes, estimated.
        isolated: it is decoded within limits of time and memory.
        is_clip: it is no image, which ends the exchange.
        failure: why it cannot be read, which ends the exchange.
    """

    sha256: str | None = None
    bytes: int | None = None
    declared: Declared = field(default_factory=Declared)
    needs: int = 0
    isolated: bool = False
    is_clip: bool = False
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Pixels as the header announces them, or zeros. The owner replies with one byte."""

    width: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An ImageError as data; `bug` stands for any other exception, whose text is the message."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An image; the raw bytes are the arrays one after the other, then the thumbnail, then those of each face.

    Attributes:
        facts: of the image; None beside a failure.
        failure: why there is no image.
        shapes: of the uint8 arrays: branch name -> (V, H, W, 3), or "" -> (H, W, 3), the whole image.
        thumbnail: its length in bytes; None if there is none.
        mark: of a thumbnail within the file that shows another picture.
        faces: that are scored; an image that has some has no arrays of its own.
        faces_left_out: as in Loaded.
        upright: width and height of the upright image, where faces were looked for and views were cut.
        no_face: no face was found, so there is nothing else.
    """

    facts: Facts | None = None
    failure: Failure | None = None
    shapes: Mapping[str, tuple[int, ...]]
    thumbnail: int | None = None
    mark: Mark | None = None
    faces: tuple[FaceAnswer, ...] = ()
    faces_left_out: int = 0
    upright: tuple[int, int] | None = None
    no_face: bool = False

    @property
    def raw_bytes(self) -> int:
        """Number of raw bytes that follow."""
        parts: tuple[Answer | FaceAnswer, ...] = (self, *self.faces)
        return sum(sum(map(prod, part.shapes.values())) + (part.thumbnail or 0) for part in parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceAnswer:
    """A face of an image; shapes and thumbnail as in Answer."""

    face: Face
    facts: Facts
    shapes: Mapping[str, tuple[int, ...]]
    thumbnail: int | None = None


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
