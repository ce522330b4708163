"""Decoding in a process that can be killed: for images that may take any time or memory, or crash their codec."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from math import prod
from typing import BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muflow_cli import system
from muflow_cli.images.budget import Budget
from muflow_cli.images.decode import DecodedImage
from muflow_cli.images.error import ImageError
from muflow_cli.images.prepare import Loaded, PrepareSpec
from muflow_cli.images.protocol import (
    PATIENCE,
    Answer,
    ClipAnswer,
    ClipRequest,
    Closed,
    Failure,
    Request,
    Size,
    receive,
    send,
)
from muflow_cli.records import Mark

# What a process decodes, by the module that it runs.
IMAGES: Final = "decoder"
CLIPS: Final = "clip_decoder"
_BYTES_PER_PIXEL: Final = 20  # at the peak, as in triage
_BYTES_PER_SIDE: Final = 64  # of each pixel of a side: the weights with which it is resized
# -P: the folder in which muflow is started may hold anybody's files, and none of them is a module of ours.
_PROGRAM: Final = "import sys; sys.path[:] = {path!r}; from muflow_cli.images.{module} import serve; serve()"
# One thread each: there are as many processes as threads that decode. Each heap of glibc reserves address space.
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class Worker:
    """A process that decodes one image at a time, started with the first one.

    Args:
        budget: shared with all that decodes at the same time: bytes of decoded pixels.
        module: of this package, whose `serve` the process runs.
    """

    def __init__(self, budget: Budget, module: str = IMAGES) -> None:
        self.budget, self._module = budget, module
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._late = False

    def load(self, path: str, data: bytes, spec: PrepareSpec, sha256: str) -> tuple[Loaded, Mark | None]:
        """The views of an image, as `prepare.with_views` gives them, and the mark of its embedded thumbnail.

        Raises:
            ImageError: as `prepare.decoded`; too_slow, decoder_crashed.
        """
        answer, raw = self._ask(data, Request(spec=spec, sha256=sha256, whole=False))
        assert answer.facts is not None  # noqa: S101 - _ask raises where there is no image
        views, at = {}, 0
        for branch, shape in answer.shapes.items():
            views[branch] = _array(raw, at, shape)
            at += prod(shape)
        return Loaded(path, answer.facts, views, None if answer.thumbnail is None else raw[at:]), answer.mark

    def decode(self, data: bytes, spec: PrepareSpec, sha256: str) -> tuple[DecodedImage, Mark | None]:
        """The image itself and the same mark; raises as `load`."""
        answer, raw = self._ask(data, Request(spec=spec, sha256=sha256, whole=True))
        assert answer.facts is not None  # noqa: S101 - as above
        return DecodedImage(answer.facts, Image.fromarray(_array(raw, 0, answer.shapes[""]))), answer.mark

    def clip(self, data: bytes, request: ClipRequest) -> Iterator[tuple[ClipAnswer, bytes]]:
        """The frames of a clip, one answer each with its raw bytes, and a last answer that says what the clip is.

        Args:
            data: the file, where the request names none.
            request: which frames.

        Raises:
            ImageError: as `video.OpenClip`; changed, too_slow, decoder_crashed.
        """
        complete = False
        seconds = PATIENCE * request.spec.inputs.max_seconds
        try:
            requests, answers = self._streams()
            with self._time_limit(seconds):
                send(requests, request, data)
                size, _ = receive(answers, Size, 0)
            with self.budget.claim(_needed(size, request.spec)):
                requests.write(b"g")
                requests.flush()
                while not complete:
                    with self._time_limit(seconds):
                        answer, raw = receive(answers, ClipAnswer, _largest_answer(request.spec))
                    complete = answer.failure is not None or answer.clip is not None
                    if answer.failure is not None:
                        raise _failed(answer.failure, request.sha256, request.size)
                    if len(raw) != sum(map(prod, answer.shapes.values())) + (answer.thumbnail or 0):
                        raise Closed
                    yield answer, raw
        except (Closed, OSError) as error:
            complete = True
            raise self._ended(request.size, request, error) from error
        finally:
            if not complete:  # nobody wants the rest, and the process would write on
                self._ended(request.size, request, None)

    def close(self) -> None:
        """End the process, in the middle of an image too; whoever waits for it gets an ImageError."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            process.kill()

    def _ask(self, data: bytes, request: Request) -> tuple[Answer, bytes]:
        try:
            answer, raw = self._exchange(data, request)
        except (Closed, OSError) as error:
            raise self._ended(len(data), request, error) from error
        if answer.failure is not None:
            raise _failed(answer.failure, request.sha256, len(data))
        if len(raw) != sum(map(prod, answer.shapes.values())) + (answer.thumbnail or 0):
            raise self._ended(len(data), request, None)
        return answer, raw

    def _exchange(self, data: bytes, request: Request) -> tuple[Answer, bytes]:
        requests, answers = self._streams()
        seconds = PATIENCE * request.spec.inputs.max_seconds
        with self._time_limit(seconds):
            send(requests, request, data)
            size, _ = receive(answers, Size, 0)
        with self.budget.claim(_needed(size, request.spec)), self._time_limit(seconds):
            requests.write(b"g")
            requests.flush()
            return receive(answers, Answer, _largest_answer(request.spec))

    def _streams(self) -> tuple[BinaryIO, BinaryIO]:
        with self._lock:
            if self._closed:
                raise Closed
            if self._process is None:
                self._late = False
                program = _PROGRAM.format(module=self._module, path=[os.path.abspath(entry) for entry in sys.path])
                self._process = subprocess.Popen(  # noqa: S603 - this Python and a text of ours
                    [sys.executable, "-P", "-c", program],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=os.environ | _ENVIRONMENT,
                    start_new_session=True,  # Ctrl-C is for the owner
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
                )
            return cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)

    @contextlib.contextmanager
    def _time_limit(self, seconds: float) -> Iterator[None]:
        def end() -> None:
            self._late = True
            if self._process is not None:
                self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _ended(self, size: int, request: Request | ClipRequest, error: BaseException | None) -> ImageError:
        """The error for an image whose process is gone or talks nonsense; the next image gets a new process."""
        with self._lock:
            process, self._process = self._process, None
        status = None
        if process is not None:
            process.kill()
            status = process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    cast(BinaryIO, stream).close()
        if self._late or system.died_of(status, "SIGXCPU"):
            seconds = request.spec.inputs.max_seconds
            code, message = "too_slow", f"decoding it took longer than the {seconds:g} s allowed; raise --max-seconds"
        else:
            code, message = "decoder_crashed", f"the decoder ended in the middle of it ({_reason(status, error)})"
        return ImageError(code, message, sha256=request.sha256, size=size)


class Workers:
    """Workers that are lent to the threads that decode, as many as there are threads at most; idle ones are kept."""

    def __init__(self, budget: Budget, module: str = IMAGES) -> None:
        self._budget, self._module = budget, module
        self._lent: set[Worker] = set()
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def one(self) -> Iterator[Worker]:
        """A worker that no other thread uses inside the block."""
        with self._lock:
            idle = _POOLS[self._module]
            worker = idle.pop() if idle else Worker(self._budget, self._module)
            worker.budget = self._budget
            self._lent.add(worker)
        if self._closed:
            worker.close()
        try:
            yield worker
        finally:
            with self._lock:
                self._lent.discard(worker)
                if not self._closed:
                    _POOLS[self._module].append(worker)

    def close(self) -> None:
        """End those that are at work."""
        with self._lock:
            self._closed = True
            lent = list(self._lent)
        for worker in lent:
            worker.close()


_idle: Final[list[Worker]] = []  # of earlier runs in this process too, since a start takes 0.2 s
_POOLS: Final = {IMAGES: _idle, CLIPS: list[Worker]()}


def _end_idle() -> None:
    for pool in _POOLS.values():
        while pool:
            pool.pop().close()


def _forget_idle() -> None:
    """A forked process must not share the pipes of its parent's workers."""
    for pool in _POOLS.values():
        pool.clear()


atexit.register(_end_idle)
system.after_fork(_forget_idle)


def _failed(failure: Failure, sha256: str, size: int) -> ImageError:
    """The error that a process reports; RuntimeError where that is a mistake of ours."""
    if failure.code == "bug":
        raise RuntimeError(f"the decoding process failed\n{failure.message}")
    return ImageError(failure.code, failure.message, sha256=sha256, size=size)


def _needed(size: Size, spec: PrepareSpec) -> int:
    """Bytes that an image of an announced size takes at its peak."""
    pixels = min(size.width * size.height, spec.inputs.max_pixels)
    return _BYTES_PER_PIXEL * pixels + _BYTES_PER_SIDE * max(size.width, size.height)


def _array(raw: bytes, at: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(raw, np.uint8, prod(shape), at).reshape(shape)


def _largest_answer(spec: PrepareSpec) -> int:
    views = sum(max(view.count, view.fit_count) * view.size**2 * 3 for view in spec.views.values())
    return views + 3 * spec.inputs.max_pixels + 2**24


def _reason(status: int | None, error: BaseException | None) -> str:
    if status is None or status >= 0:
        return str(error) if isinstance(error, OSError) and str(error) else "its answer makes no sense"
    if system.died_of(status, "SIGKILL"):
        return "killed, perhaps because the machine ran out of memory"
    return signal.Signals(-status).name
