"""The decoding process itself: one image after the other from stdin to stdout, within limits; ends with its owner."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import BinaryIO, Final, TypeVar

from PIL import Image

from muflow_cli import system
from muflow_cli.images.clip_formats import HEAD_BYTES, clip_format
from muflow_cli.images.containers.boxes import largest_extent
from muflow_cli.images.containers.tiff import TIFF_SIGNATURES
from muflow_cli.images.error import ImageError
from muflow_cli.images.formats import FORMATS, check_name
from muflow_cli.images.marks import read_marks
from muflow_cli.images.packing import Parts, packed, packed_image
from muflow_cli.images.prepare import FaceSearch, decoded, face_search, out_of_memory, with_faces, with_views
from muflow_cli.images.protocol import PATIENCE, Answer, Closed, Failure, Found, Request, Size, receive, send
from muflow_cli.images.read import read_input
from muflow_cli.images.thumbnails import thumbnail_mark
from muflow_cli.images.tiff import open_tiff
from muflow_cli.images.triage import Triage, triage
from muflow_cli.records import Declared
from muflow_cli.run_specs import InputSpec
from muflow_cli.specs import FaceSpec

# Address space beyond what the process has at its start: for the threads and tables of the codecs, and for an image.
_SPARE: Final = 2**30
_PER_PIXEL: Final = 24  # bytes; the costliest legitimate image takes 20
_MAX_REQUEST: Final = 2**40

_Request = TypeVar("_Request")


def serve() -> None:
    """Answer requests for images until stdin ends."""
    serve_requests(Request, _answer)


def serve_requests(kind: type[_Request], answer: Callable[[_Request, bytes, BinaryIO, BinaryIO], None]) -> None:
    """Answer requests of a kind until stdin ends; `answer` is given the raw bytes, stdin and stdout beside each."""
    for number in system.ENDING:
        signal.signal(number, signal.SIG_IGN)  # the owner decides when work ends
    system.leave_no_core()
    system.go_first_without_memory()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(Closed, OSError):
        while True:
            request, data = receive(requests, kind, _MAX_REQUEST)
            answer(request, data, requests, answers)


def _answer(request: Request, data: bytes, requests: BinaryIO, answers: BinaryIO) -> None:
    if request.limited:
        _decode_within_limits(request, data, requests, answers)
        return
    system.lift_limits()
    try:
        if request.source is not None:
            data = read_input(request.source.input, request.task.spec.inputs.max_bytes)
    except ImageError as error:
        failure = Failure(code=error.code, message=error.message)
        send(answers, Found(sha256=error.sha256, bytes=error.bytes, failure=failure))
    except MemoryError:
        send(answers, Found(failure=Failure(code="out_of_memory", message="there is not enough memory to read it")))
    else:
        sha256 = request.sha256 or hashlib.sha256(data).hexdigest()
        _decode(replace(request, sha256=sha256), data, requests, answers)


def _may_go_on(requests: BinaryIO) -> bool:
    """Whether the owner wants the next answer; it does not where it knows the content."""
    reply = requests.read(1)
    if not reply:
        raise Closed
    return reply == b"g"


def _decode_within_limits(request: Request, data: bytes, requests: BinaryIO, answers: BinaryIO) -> None:
    spec = request.task.spec
    limit(spec.inputs, len(data))
    seconds = math.ceil(PATIENCE * spec.inputs.max_seconds) + 5
    with system.ending_with(requests, seconds):
        size = _announced_size(data, spec.frame)
    send(answers, size)
    if _may_go_on(requests):
        # A search for faces may take longer than decoding is allowed, so the owner makes it.
        whole = request.task.whole or request.task.faces is not None
        with system.ending_with(requests, seconds):
            answer, parts = _result(replace(request, task=replace(request.task, whole=whole)), data)
        send(answers, answer, *parts)


def _decode(request: Request, data: bytes, requests: BinaryIO, answers: BinaryIO) -> None:
    """What a thread of the owner would do with the bytes of an input."""
    clips = request.task.spec.inputs.clips
    if clip_format(data[:HEAD_BYTES], animations=clips is not None and clips.animations) is not None:
        send(answers, Found(sha256=request.sha256, bytes=len(data), is_clip=True))
        return
    found, refused = _looked_through(request, data)
    send(answers, found)
    if not _may_go_on(requests):
        return
    if found.isolated:
        _decode_within_limits(request, data, requests, answers)
        return
    with system.ending_with(requests, 0):
        answer, parts = (refused, []) if refused else _result(request, data)
    send(answers, answer, *parts)


def _looked_through(request: Request, data: bytes) -> tuple[Found, Answer | None]:
    """What is known of an image before it is decoded, and the answer where it is not going to be."""
    declared, where, refused = Declared(), Triage(isolated=False), None
    spec = request.task.spec
    try:
        declared = read_marks(data, spec.inputs.c2pa_anchors)
        check_name(os.fsdecode(request.name), data)
        where = triage(data, spec.draft_side)
    except MemoryError:
        refused = _failed(out_of_memory(data, request.sha256))
    except ImageError as error:
        refused = _failed(error)
    except Exception:  # noqa: BLE001 - the owner raises it
        refused = _bug()
    isolated = refused is None and (where.isolated or spec.frame > 1)
    found = Found(
        sha256=request.sha256,
        bytes=len(data),
        declared=declared,
        needs=0 if isolated else where.bytes,
        isolated=isolated,
    )
    return found, refused


def limit(inputs: InputSpec, file_bytes: int) -> None:
    """Limit processor time and address space to what an input may take that has so many bytes in memory."""
    # Processor time, so that no verdict depends on what else the machine does.
    system.limit_time(math.ceil(time.process_time() + inputs.max_seconds))
    system.limit_memory(_SPARE + file_bytes + _PER_PIXEL * inputs.max_pixels)


def _announced_size(data: bytes, frame: int) -> Size:
    if data[4:8] == b"ftyp":
        width, height = largest_extent(data)
        return Size(width=width, height=height)
    try:
        if data.startswith(TIFF_SIGNATURES):
            tiff = open_tiff(data, frame)
            return Size(width=tiff.width, height=tiff.height)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return Size(width=image.width, height=image.height)
    except Exception:  # noqa: BLE001 - `decode` says what is wrong
        return Size(width=0, height=0)


def _result(request: Request, data: bytes) -> tuple[Answer, Parts]:
    try:
        return _image(request, data)
    except ImageError as error:
        return _failed(error), []
    except Exception:  # noqa: BLE001 - the owner raises it
        return _bug(), []


def _failed(error: ImageError) -> Answer:
    return Answer(failure=Failure(code=error.code, message=error.message), shapes={})


def _bug() -> Answer:
    return Answer(failure=Failure(code="bug", message=traceback.format_exc()), shapes={})


def _image(request: Request, data: bytes) -> tuple[Answer, Parts]:
    spec = request.task.spec
    try:
        image = decoded(data, spec, request.sha256)
        mark = thumbnail_mark(data, image.image)
        if request.task.whole:
            return packed_image(image, mark)
        search = _search(request.task.faces, spec.inputs)
        if search is None:
            return packed(with_views("", image.facts, image.image, spec), mark)
        return packed(with_faces("", image.facts, image.image, spec, search), mark)
    except MemoryError as error:
        raise out_of_memory(data, request.sha256) from error


@lru_cache(maxsize=1)
def _search(faces: FaceSpec | None, inputs: InputSpec) -> FaceSearch | None:
    return face_search(faces, inputs)
