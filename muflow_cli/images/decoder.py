"""The decoding process itself: one image after the other from stdin to stdout, within limits; ends with its owner."""

from __future__ import annotations

import contextlib
import io
import math
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
from muflow_cli.images.containers.boxes import largest_extent
from muflow_cli.images.containers.tiff import TIFF_SIGNATURES
from muflow_cli.images.error import ImageError
from muflow_cli.images.formats import FORMATS
from muflow_cli.images.packing import Parts, packed, packed_image
from muflow_cli.images.prepare import FaceSearch, decoded, face_search, out_of_memory, with_faces, with_views
from muflow_cli.images.protocol import PATIENCE, Answer, Closed, Failure, Request, Size, receive, send
from muflow_cli.images.thumbnails import thumbnail_mark
from muflow_cli.images.tiff import open_tiff
from muflow_cli.run_specs import InputSpec
from muflow_cli.specs import FaceSpec

# Address space beyond what the process has at its start: for the threads and tables of the codecs, and for an image.
_SPARE: Final = 2**30
_PER_PIXEL: Final = 24  # bytes; the costliest legitimate image takes 20
_MAX_REQUEST: Final = 2**40

_Request = TypeVar("_Request")


def serve() -> None:
    """Answer requests for images until stdin ends."""
    serve_requests(Request, decode_within_limits)


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


def may_go_on(requests: BinaryIO) -> bool:
    """Whether the owner wants the next answer; it does not where it knows the content."""
    reply = requests.read(1)
    if not reply:
        raise Closed
    return reply == b"g"


def decode_within_limits(request: Request, data: bytes, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer a request for an image with limits: its Size, and if the owner goes on its Answer."""
    spec = request.task.spec
    limit(spec.inputs, len(data))
    seconds = math.ceil(PATIENCE * spec.inputs.max_seconds) + 5
    with system.ending_with(requests, seconds):
        size = _announced_size(data, spec.frame)
    send(answers, size)
    if may_go_on(requests):
        # A search for faces may take longer than decoding is allowed, so the owner makes it.
        whole = request.task.whole or request.task.faces is not None
        with system.ending_with(requests, seconds):
            answer, parts = result(replace(request, task=replace(request.task, whole=whole)), data)
        send(answers, answer, *parts)


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


def result(request: Request, data: bytes) -> tuple[Answer, Parts]:
    """The answer for an image, whatever becomes of it, and its raw bytes."""
    try:
        return _image(request, data)
    except ImageError as error:
        return failed(error), []
    except Exception:  # noqa: BLE001 - the owner raises it
        return bug(), []


def failed(error: ImageError) -> Answer:
    """The answer for an image that cannot be scored."""
    return Answer(failure=Failure(code=error.code, message=error.message), shapes={})


def bug() -> Answer:
    """The answer where an exception is caught that is a mistake of ours; the owner raises it."""
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
