"""The process that decodes clips: it opens the file itself, gives one frame after the other, and keeps none."""

from __future__ import annotations

import io
import math
import os
import traceback
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from muflow_cli import system
from muflow_cli.clip_records import ClipFacts
from muflow_cli.files import NotAFile, open_regular
from muflow_cli.images.clip_formats import HEAD_BYTES, clip_format
from muflow_cli.images.decoder import limit, serve_requests
from muflow_cli.images.error import ImageError
from muflow_cli.images.frame_times import parts
from muflow_cli.images.packing import Parts, parts_of, shapes_of
from muflow_cli.images.prepare import with_views
from muflow_cli.images.protocol import PATIENCE, ClipAnswer, ClipRequest, Closed, Failure, Size, send
from muflow_cli.images.video import ClipFrame, OpenClip
from muflow_cli.records import Facts
from muflow_cli.run_specs import ClipSpec, Damaged

_Answered = tuple[ClipAnswer, Parts]


def serve() -> None:
    """Answer requests for clips until stdin ends."""
    serve_requests(ClipRequest, _answer)


def _answer(request: ClipRequest, data: bytes, requests: BinaryIO, answers: BinaryIO) -> None:
    limit(request.spec.inputs, len(data))
    seconds = math.ceil(PATIENCE * request.spec.inputs.max_seconds) + 5
    work = _Work(request, data)
    with system.ending_with(requests, seconds):
        work.open()
    send(answers, work.size)
    if requests.read(1) != b"g":
        raise Closed
    frames = work.frames()
    while True:
        with system.ending_with(requests, seconds):  # for each frame
            answered = next(frames, None)
            if answered is None:
                break
            send(answers, answered[0], *answered[1])
    # Only now: the owner may write its next request as soon as it has this.
    send(answers, work.end())


class _Work:
    """One clip: opened first, and then its frames."""

    def __init__(self, request: ClipRequest, data: bytes) -> None:
        self._request, self._data = request, data
        self._source: BinaryIO = io.BytesIO(data)
        self._clip: OpenClip | None = None
        self._end: ClipAnswer | None = None
        self.size = Size(width=0, height=0)

    def open(self) -> None:
        """Read the headers; what is wrong with them is the first answer."""
        try:
            if self._request.path:
                self._source = self._opened()
            self._clip = self._headers()
            self.size = Size(width=self._clip.width, height=self._clip.height)
        except ImageError as error:
            self._fail(error.code, error.message)
        except Exception:  # noqa: BLE001 - the owner raises it
            self._fail("bug", traceback.format_exc())

    def _opened(self) -> BinaryIO:
        try:
            source = open_regular(os.fsdecode(self._request.path))
        except (OSError, NotAFile):
            raise _changed() from None
        self._check(source)
        return io.BufferedReader(source)

    def _check(self, source: BinaryIO | io.FileIO) -> None:
        status = os.fstat(source.fileno())
        if (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) != self._request.identity:
            raise _changed()

    def _headers(self) -> OpenClip:
        self._source.seek(0)
        format_ = clip_format(self._source.read(HEAD_BYTES), animations=True)
        if format_ is None:
            raise _changed()
        self._source.seek(0)
        return OpenClip(self._source, format_, self._request.spec.inputs.max_pixels)

    def frames(self) -> Iterator[_Answered]:
        """Every frame; `end` then says what the clip is, or why there is none."""
        try:
            if self._clip is not None:
                yield from self._frames(self._clip)
        except ImageError as error:
            self._fail(error.code, error.message)
        except MemoryError:
            self._fail("out_of_memory", "there is not enough memory to decode it; scan it alone on a machine with more")
        except Exception:  # noqa: BLE001 - the owner raises it
            self._fail("bug", traceback.format_exc())
        finally:
            if self._clip is not None:
                self._clip.close()
            self._source.close()

    def end(self) -> ClipAnswer:
        """The last answer."""
        assert self._end is not None  # noqa: S101 - `frames` sets it or fails
        return self._end

    def _fail(self, code: str, message: str) -> None:
        self._end = ClipAnswer(failure=Failure(code=code, message=message))

    def _frames(self, clip: OpenClip) -> Iterator[_Answered]:
        request = self._request
        seconds, count = clip.seconds(), 0
        for measured in (False, True):
            if measured:  # no frame where the container says that there are some
                seconds = clip.measured_seconds()
            for frame in clip.frames(parts(seconds, _sampling(request), request.sha256)):
                count += 1
                yield self._answered(clip, frame)
            if count:
                break
        if request.path:
            self._check(self._source)
        if not count:
            raise ImageError("corrupt", "none of its frames can be decoded")
        if clip.failed and request.spec.inputs.damaged is Damaged.REFUSE:
            what = "1 frame" if clip.failed == 1 else f"{clip.failed} frames"
            raise ImageError("truncated", f"{what} of {count + clip.failed} are missing or cannot be decoded")
        facts = ClipFacts(
            container=clip.container,
            seconds=seconds or None,
            rotation=clip.rotation,
            failed=clip.failed,
            converted_from=clip.converted_from,
        )
        self._end = ClipAnswer(facts=_facts(request, clip), clip=facts)

    def _answered(self, clip: OpenClip, frame: ClipFrame) -> _Answered:
        facts = _facts(self._request, clip)
        if self._request.whole:
            pixels = np.asarray(frame.image)
            return ClipAnswer(time=frame.time, facts=facts, shapes={"": pixels.shape}), [pixels.data.cast("B")]
        loaded = with_views("", facts, frame.image, self._request.spec)
        length = None if loaded.thumbnail is None else len(loaded.thumbnail)
        answer = ClipAnswer(time=frame.time, facts=loaded.facts, shapes=shapes_of(loaded.views), thumbnail=length)
        return answer, parts_of(loaded.views, loaded.thumbnail)


def _sampling(request: ClipRequest) -> ClipSpec:
    return request.spec.inputs.clips or ClipSpec()


def _facts(request: ClipRequest, clip: OpenClip) -> Facts:
    return Facts(
        sha256=request.sha256,
        bytes=request.size,
        # Nothing that is calibrated on SDR is known to hold for what was converted: another format.
        format=clip.codec if clip.converted_from is None else f"{clip.codec} {clip.converted_from}",
        width=clip.width,
        height=clip.height,
        damaged=clip.failed > 0,
    )


def _changed() -> ImageError:
    return ImageError("changed", "the file changed while it was read")
