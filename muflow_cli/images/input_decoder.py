"""The process that takes whole inputs: it reads, hashes, looks for marks and decodes, as a thread would."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import BinaryIO

from muflow_cli import system
from muflow_cli.images.clip_formats import HEAD_BYTES, clip_format
from muflow_cli.images.decoder import bug, decode_within_limits, failed, may_go_on, result, serve_requests
from muflow_cli.images.error import ImageError
from muflow_cli.images.formats import check_name
from muflow_cli.images.inputs import Input, InputKind
from muflow_cli.images.marks import read_marks
from muflow_cli.images.prepare import out_of_memory
from muflow_cli.images.protocol import Answer, Failure, Found, Request, Source, send
from muflow_cli.images.read import read_input
from muflow_cli.images.triage import Triage, triage
from muflow_cli.records import Declared


def serve() -> None:
    """Answer requests for inputs and images until stdin ends."""
    serve_requests(Request, _answer)


def _answer(request: Request, data: bytes, requests: BinaryIO, answers: BinaryIO) -> None:
    if request.limited:
        decode_within_limits(request, data, requests, answers)
        return
    system.lift_limits()
    try:
        if request.source is not None:
            data = read_input(_input(request.source), request.task.spec.inputs.max_bytes)
    except ImageError as error:
        failure = Failure(code=error.code, message=error.message)
        send(answers, Found(sha256=error.sha256, bytes=error.bytes, failure=failure))
    except MemoryError:
        send(answers, Found(failure=Failure(code="out_of_memory", message="there is not enough memory to read it")))
    else:
        sha256 = request.sha256 or hashlib.sha256(data).hexdigest()
        _decode(replace(request, sha256=sha256), data, requests, answers)


def _input(source: Source) -> Input:
    return Input(
        os.fsdecode(source.path),
        InputKind(source.kind),
        os.fsdecode(source.location),
        os.fsdecode(source.member),
        offset=source.offset,
        size=source.size,
    )


def _decode(request: Request, data: bytes, requests: BinaryIO, answers: BinaryIO) -> None:
    """What a thread of the owner would do with the bytes of an input."""
    clips = request.task.spec.inputs.clips
    if clip_format(data[:HEAD_BYTES], animations=clips is not None and clips.animations) is not None:
        send(answers, Found(sha256=request.sha256, bytes=len(data), is_clip=True))
        return
    found, refused = _looked_through(request, data)
    send(answers, found)
    if not may_go_on(requests):
        return
    if found.isolated:
        decode_within_limits(request, data, requests, answers)
        return
    with system.ending_with(requests, 0):
        answer, parts = (refused, []) if refused else result(request, data)
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
        refused = failed(out_of_memory(data, request.sha256))
    except ImageError as error:
        refused = failed(error)
    except Exception:  # noqa: BLE001 - the owner raises it
        refused = bug()
    isolated = refused is None and (where.isolated or spec.frame > 1)
    found = Found(
        sha256=request.sha256,
        bytes=len(data),
        declared=declared,
        needs=0 if isolated else where.bytes,
        isolated=isolated,
    )
    return found, refused
