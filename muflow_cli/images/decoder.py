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
from typing import BinaryIO, Final, TypeVar

import numpy as np
from PIL import Image

from muflow_cli import system
from muflow_cli.images.containers.boxes import largest_extent
from muflow_cli.images.containers.tiff import TIFF_SIGNATURES
from muflow_cli.images.error import ImageError
from muflow_cli.images.formats import FORMATS
from muflow_cli.images.prepare import decoded, out_of_memory, with_views
from muflow_cli.images.protocol import PATIENCE, Answer, Closed, Failure, Request, Size, receive, send
from muflow_cli.images.thumbnails import thumbnail_mark
from muflow_cli.images.tiff import open_tiff
from muflow_cli.run_specs import InputSpec

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
    limit(request.spec.inputs, len(data))
    seconds = math.ceil(PATIENCE * request.spec.inputs.max_seconds) + 5
    with system.ending_with(requests, seconds):
        size = _announced_size(data, request.spec.frame)
    send(answers, size)
    if requests.read(1) != b"g":
        raise Closed
    with system.ending_with(requests, seconds):
        try:
            answer, parts = _image(request, data)
        except ImageError as error:
            answer, parts = Answer(failure=Failure(code=error.code, message=error.message), shapes={}), []
        except Exception:  # noqa: BLE001 - the owner raises it
            answer, parts = Answer(failure=Failure(code="bug", message=traceback.format_exc()), shapes={}), []
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


def _image(request: Request, data: bytes) -> tuple[Answer, list[bytes | memoryview]]:
    try:
        image = decoded(data, request.spec, request.sha256)
        mark = thumbnail_mark(data, image.image)
        if request.whole:
            pixels = np.asarray(image.image)
            return Answer(facts=image.facts, shapes={"": pixels.shape}, mark=mark), [pixels.data.cast("B")]
        loaded = with_views("", image.facts, image.image, request.spec)
    except MemoryError as error:
        raise out_of_memory(data, request.sha256) from error
    parts: list[bytes | memoryview] = [np.ascontiguousarray(views).data.cast("B") for views in loaded.views.values()]
    if loaded.thumbnail is not None:
        parts.append(loaded.thumbnail)
    shapes = {branch: views.shape for branch, views in loaded.views.items()}
    length = None if loaded.thumbnail is None else len(loaded.thumbnail)
    return Answer(facts=loaded.facts, shapes=shapes, thumbnail=length, mark=mark), parts
