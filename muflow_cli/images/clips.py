"""A clip -> the views of its frames, as images have theirs; the decoding is done in a process of its own."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
from PIL import Image

from muflow_cli.clip_records import ClipFacts, Embedded
from muflow_cli.images.clip_formats import HEAD_BYTES, clip_format
from muflow_cli.images.embedded import embedded_video
from muflow_cli.images.error import ImageError
from muflow_cli.images.inputs import Input, InputKind, file_error, has_image_name, open_regular, too_large
from muflow_cli.images.packing import unpacked_part
from muflow_cli.images.prepare import FaceSearch, PrepareSpec, with_faces
from muflow_cli.images.protocol import ClipAnswer, ClipRequest
from muflow_cli.images.tracks import LoadedFrame, Tracks
from muflow_cli.images.video import can_read_clips
from muflow_cli.images.worker import Worker
from muflow_cli.records import EMBEDDED, Declared, Facts, NoFace
from muflow_cli.run_specs import InputSpec


@dataclass(frozen=True, slots=True)
class LoadedClip:
    """A clip that is ready to be scored.

    Attributes:
        path: as reported.
        facts: of the file, with the median sharpness of its frames.
        clip: what it is.
        frames: in the order of their times, at least one.
        declared: what the file says of its own origin.
    """

    path: str
    facts: Facts
    clip: ClipFacts
    frames: tuple[LoadedFrame, ...]
    declared: Declared = field(default_factory=Declared)

    @property
    def held_bytes(self) -> int:
        """Memory that its views take."""
        return sum(views.nbytes for frame in self.frames for views in frame.views.values())


@dataclass(frozen=True, slots=True)
class ClipSource:
    """A clip whose bytes were hashed.

    Attributes:
        path: as reported.
        sha256: of the file.
        size: its length in bytes.
        data: its content, where no other process can open it; empty otherwise.
        identity: as in ClipRequest.
    """

    path: str
    sha256: str
    size: int
    data: bytes = b""
    identity: tuple[int, int, int, int] = (0, 0, 0, 0)


def is_clip(path: str, spec: InputSpec) -> bool:
    """Whether a file begins like a clip; False if it cannot be read."""
    try:
        with open_regular(path) as file:
            head = file.read(HEAD_BYTES) or b""
    except (OSError, ImageError, ValueError):
        return False
    return clip_format(head, animations=spec.clips is not None and spec.clips.animations) is not None


def file_source(input_: Input, spec: InputSpec) -> ClipSource | None:
    """The clip at the path of an input, hashed in blocks and not held in memory; None for anything else.

    A file with the name of an image is not opened here, since it nearly always is one: `data_source` has the last word
    on what is then read whole.

    Raises:
        ImageError: needs_video, is_clip, too_large; read_error and others as the operating system reports them.
    """
    is_part = input_.frame != 1  # whose path is no file's
    if input_.kind is not InputKind.FILE or is_part or has_image_name(input_.path) or not is_clip(input_.path, spec):
        return None
    try:
        with open_regular(input_.path) as file:
            status = os.fstat(file.fileno())
            _check_wanted(file.read(HEAD_BYTES) or b"", status.st_size, spec)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise file_error(error) from error
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return ClipSource(input_.path, sha256, status.st_size, identity=identity)


def data_source(path: str, data: bytes, sha256: str, spec: InputSpec) -> ClipSource | None:
    """The clip that was read whole, such as a member of an archive; None for anything else.

    Raises:
        ImageError: needs_video, is_clip.
    """
    animations = spec.clips is not None and spec.clips.animations
    if clip_format(data[:HEAD_BYTES], animations=animations) is None:
        return None
    _check_wanted(data[:HEAD_BYTES], len(data), spec)
    return ClipSource(path, sha256, len(data), data)


def embedded_source(path: str, data: bytes, spec: InputSpec) -> tuple[ClipSource, Embedded]:
    """The video inside a motion photo, and where it lies.

    Args:
        path: as reported.
        data: the whole file.
        spec: as for any clip.

    Raises:
        ImageError: no_video, changed, needs_video, is_clip, too_large.
    """
    span = embedded_video(data)
    if span is None:
        raise ImageError("changed", "the file changed while it was read")
    video = data[span.start : span.end]
    _check_wanted(video[:HEAD_BYTES], len(video), spec)
    sha256 = hashlib.sha256(video).hexdigest()
    return ClipSource(path, sha256, len(video), video), Embedded(offset=span.start, bytes=len(video), sha256=sha256)


def in_file(clip: LoadedClip | NoFace, place: Embedded, sha256: str, size: int) -> LoadedClip | NoFace:
    """A clip that lies inside a file, whose hash and length become its facts."""

    def own(facts: Facts) -> Facts:
        return replace(facts, sha256=sha256, bytes=size, frame=EMBEDDED)

    if isinstance(clip, NoFace):
        return replace(clip, facts=own(clip.facts))
    frames = tuple(replace(frame, facts=own(frame.facts)) for frame in clip.frames)
    return replace(clip, facts=own(clip.facts), clip=replace(clip.clip, embedded=place), frames=frames)


def digests_of(source: ClipSource, kinds: Collection[str]) -> dict[str, bytes]:
    """Hashes of a clip of the given kinds, as hashlib names them.

    Raises:
        ImageError: as the operating system reports it.
    """
    digests = {"sha256": bytes.fromhex(source.sha256)}
    try:
        for kind in {*kinds} - digests.keys():
            with io.BytesIO(source.data) if source.data else open_regular(source.path) as file:
                digests[kind] = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).digest()  # noqa: B023 - called here
    except OSError as error:
        raise file_error(error) from error
    return digests


def _check_wanted(head: bytes, size: int, spec: InputSpec) -> None:
    format_ = clip_format(head, animations=True)
    name = "a video" if format_ is None else format_.name
    if spec.clips is None:
        raise ImageError("is_clip", f"it is {name}, and only still images are read here", size=size)
    if not can_read_clips():
        message = f"it is {name}, which needs a decoder; install it with pip install 'muflow-cli[video]'"
        raise ImageError("needs_video", message, size=size)
    if size > spec.clips.max_bytes:
        raise too_large(size, spec.clips.max_bytes)


def load_clip(
    source: ClipSource, worker: Worker, prepare: PrepareSpec, search: FaceSearch | None
) -> LoadedClip | NoFace:
    """The frames of a clip with their views, or a record that no frame shows a face where faces are looked for.

    Raises:
        ImageError: as `Worker.clip`.
    """
    request = ClipRequest(
        spec=prepare,
        sha256=source.sha256,
        size=source.size,
        path=b"" if source.data else os.fsencode(os.path.abspath(source.path)),
        identity=source.identity,
        whole=search is not None,
    )
    frames: list[LoadedFrame] = []
    tracks = Tracks()
    for answer, raw in worker.clip(source.data, request):
        if answer.clip is not None and answer.facts is not None:
            return _loaded(source.path, answer.facts, answer.clip, tracks.numbered(frames))
        if search is None:
            frames.append(_frame(answer, raw))
        else:
            frames += tracks.followed(_faces(answer, raw, prepare, search))
    raise ImageError("decoder_crashed", "the decoder ended in the middle of it", sha256=source.sha256)


def _frame(answer: ClipAnswer, raw: bytes) -> LoadedFrame:
    assert answer.facts is not None  # noqa: S101 - only a last answer has none
    views, thumbnail, _ = unpacked_part(answer, raw)
    return LoadedFrame(answer.time, answer.facts, views, thumbnail)


def _faces(answer: ClipAnswer, raw: bytes, prepare: PrepareSpec, search: FaceSearch) -> list[LoadedFrame]:
    """The faces of a frame, the largest first; the frame itself where that is wanted of one without a face."""
    assert answer.facts is not None  # noqa: S101 - as above
    image = Image.fromarray(np.frombuffer(raw, np.uint8).reshape(answer.shapes[""]))
    loaded = with_faces("", answer.facts, image, prepare, search)
    if isinstance(loaded, NoFace):
        return []
    if not loaded.faces:
        return [LoadedFrame(answer.time, loaded.facts, loaded.views, loaded.thumbnail)]
    return [LoadedFrame(answer.time, face.facts, face.views, face.thumbnail, face=face.face) for face in loaded.faces]


def _loaded(path: str, facts: Facts, clip: ClipFacts, frames: Sequence[LoadedFrame]) -> LoadedClip | NoFace:
    if not frames:
        return NoFace(path=path, facts=facts)
    known = [frame.facts.sharpness for frame in frames if frame.facts.sharpness is not None]
    return LoadedClip(path, replace(facts, sharpness=median(known) if known else None), clip, tuple(frames))
