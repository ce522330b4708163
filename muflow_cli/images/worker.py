"""Decoding in a process that can be killed: images that may take any time, or all where threads hinder each other."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import BinaryIO, Final, cast

from muflow_cli import system
from muflow_cli.images.budget import Budget
from muflow_cli.images.decode import DecodedImage
from muflow_cli.images.error import ImageError
from muflow_cli.images.inputs import Input, unreadable
from muflow_cli.images.marks import with_mark
from muflow_cli.images.packing import unpacked, unpacked_image
from muflow_cli.images.prepare import Loaded, PrepareSpec, Seen
from muflow_cli.images.protocol import (
    PATIENCE,
    Answer,
    ClipAnswer,
    ClipRequest,
    Closed,
    Failure,
    Found,
    Request,
    Size,
    Source,
    Task,
    receive,
    send,
)
from muflow_cli.records import Declared, Mark, NoFace, Unreadable, frame_key

# What a process decodes, by the module that it runs.
IMAGES: Final = "decoder"
INPUTS: Final = "input_decoder"
CLIPS: Final = "clip_decoder"
_PIPE_BYTES: Final = 2**20  # views pass in one read, where a pipe's own 64 KiB take several
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
        answer, raw = self._ask(data, Request(task=Task(spec=spec), sha256=sha256, limited=True))
        loaded = unpacked(path, answer, raw)
        assert isinstance(loaded, Loaded)  # noqa: S101 - no faces were looked for
        return loaded, answer.mark

    def decode(self, data: bytes, spec: PrepareSpec, sha256: str) -> tuple[DecodedImage, Mark | None]:
        """The image itself and the same mark; raises as `load`."""
        answer, raw = self._ask(data, Request(task=Task(spec=spec, whole=True), sha256=sha256, limited=True))
        return unpacked_image(answer, raw), answer.mark

    def take(
        self, input_: Input, read: Read | None, task: Task, known: Callable[[str], bool]
    ) -> Loaded | NoFace | Whole | Seen | Unreadable | None:
        """What a thread would make of an input; whatever is wrong with it is a record. None for a clip.

        Args:
            input_: which one.
            read: its content; None = the process reads it.
            task: what becomes of it.
            known: whether content with this key (`Facts.key`) is only hashed.
        """
        found = Found()
        try:
            found = self._found(input_, read, task)
            if found.is_clip:
                return None
            key = frame_key(found.sha256 or "", input_.frame)
            if known(key):
                self._reply(b"s")
                return Seen(input_.path, key)
            size = self._size(task.spec) if found.isolated else None
            answer, raw = self._pixels(task.spec, found.needs, size)
        except ImageError as error:
            failure = error
        except (Closed, OSError) as error:
            failure = self._ended(task.spec, error)
        else:
            declared = with_mark(found.declared, answer.mark)
            if "" in answer.shapes:
                return Whole(unpacked_image(answer, raw), declared)
            return replace(unpacked(input_.path, answer, raw), declared=declared)
        record = unreadable(input_.path, failure)
        if found.sha256 is not None:
            record = replace(record, sha256=found.sha256, bytes=found.bytes)
        return replace(record, declared=found.declared)

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
                self._reply(b"g")
                while not complete:
                    with self._time_limit(seconds):
                        answer, raw = receive(answers, ClipAnswer, _largest_answer(request.spec))
                    complete = answer.failure is not None or answer.clip is not None
                    if answer.failure is not None:
                        raise _of(request.sha256, request.size, _failed(answer.failure))
                    if len(raw) != sum(map(prod, answer.shapes.values())) + (answer.thumbnail or 0):
                        raise Closed
                    yield answer, raw
        except (Closed, OSError) as error:
            complete = True
            raise _of(request.sha256, request.size, self._ended(request.spec, error)) from error
        finally:
            if not complete:  # nobody wants the rest, and the process would write on
                self._ended(request.spec, None)

    def close(self) -> None:
        """End the process, in the middle of an image too; whoever waits for it gets an ImageError."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            process.kill()

    def _ask(self, data: bytes, request: Request) -> tuple[Answer, bytes]:
        spec = request.task.spec
        try:
            with self._time_limit(PATIENCE * spec.inputs.max_seconds):
                requests, answers = self._streams(between_images=True)
                send(requests, request, data)
                size, _ = receive(answers, Size, 0)
            return self._pixels(spec, 0, size)
        except (Closed, OSError) as error:
            failure = self._ended(spec, error)
        except ImageError as error:
            failure = error
        raise _of(request.sha256, len(data), failure) from failure

    def _found(self, input_: Input, read: Read | None, task: Task) -> Found:
        """What is known of an input before it is decoded; raises ImageError where it cannot be read."""
        requests, answers = self._streams(between_images=True)
        request = Request(
            task=task,
            limited=False,
            sha256="" if read is None else read.sha256,
            name=os.fsencode(input_.path),
            source=_source(input_) if read is None else None,
        )
        send(requests, request, b"" if read is None else read.data)
        found, _ = receive(answers, Found, 0)
        if found.failure is not None:
            raise ImageError(found.failure.code, found.failure.message, sha256=found.sha256, size=found.bytes)
        if found.sha256 is None:
            raise Closed
        return found

    def _size(self, spec: PrepareSpec) -> Size:
        """The size of an image that is decoded within limits of time and memory."""
        with self._time_limit(PATIENCE * spec.inputs.max_seconds):
            self._reply(b"g")
            size, _ = receive(self._streams()[1], Size, 0)
        return size

    def _reply(self, word: bytes) -> None:
        requests, _ = self._streams()
        requests.write(word)
        requests.flush()

    def _pixels(self, spec: PrepareSpec, needed: int, size: Size | None) -> tuple[Answer, bytes]:
        """Let the process decode what it has, and take the answer.

        Args:
            spec: how the image becomes views.
            needed: bytes of memory that decoding takes, where no size is given.
            size: of an image that is decoded within limits of time and memory; None for others.

        Raises:
            ImageError: of the image.
            Closed, OSError: the process is gone, or talks nonsense.
        """
        limit: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if size is not None:
            needed, limit = _needed(size, spec), self._time_limit(PATIENCE * spec.inputs.max_seconds)
        with self.budget.claim(needed), limit:
            self._reply(b"g")
            answer, raw = receive(self._streams()[1], Answer, _largest_answer(spec))
        if answer.failure is not None:
            raise _failed(answer.failure)
        if answer.facts is None or len(raw) != answer.raw_bytes:
            raise Closed
        return answer, raw

    def _streams(self, *, between_images: bool = False) -> tuple[BinaryIO, BinaryIO]:
        """Both pipes of the process, which is started if there is none; between images also if it has ended."""
        with self._lock:
            if self._closed:
                raise Closed
            if self._process is None or (between_images and self._process.poll() is not None):
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
                system.widen(cast(BinaryIO, self._process.stdout), _PIPE_BYTES)
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

    def _ended(self, spec: PrepareSpec, error: BaseException | None) -> ImageError:
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
        if self._late or any(system.died_of(status, name) for name in ("SIGXCPU", "SIGALRM")):
            seconds = spec.inputs.max_seconds
            return ImageError(
                "too_slow", f"decoding it took longer than the {seconds:g} s allowed; raise --max-seconds"
            )
        message = f"the decoder ended in the middle of it ({_reason(status, error)})"
        return ImageError("decoder_crashed", message)


@dataclass(frozen=True, slots=True)
class Read:
    """The content of an input, and its SHA-256."""

    data: bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class Whole:
    """A decoded image, and what its file says of its own origin."""

    image: DecodedImage
    declared: Declared


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
_POOLS: Final = {IMAGES: _idle, INPUTS: list[Worker](), CLIPS: list[Worker]()}


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


def _source(input_: Input) -> Source:
    """The place of an input; its content does not come along."""
    path, location, member = map(os.fsencode, (input_.path, input_.location, input_.member))
    place = {"path": path, "location": location, "member": member}
    return Source(kind=input_.kind.value, **place, offset=input_.offset, size=input_.size)


def _failed(failure: Failure) -> ImageError:
    """The error that a process reports; RuntimeError where that is a mistake of ours."""
    if failure.code == "bug":
        raise RuntimeError(f"the decoding process failed\n{failure.message}")
    return ImageError(failure.code, failure.message)


def _of(sha256: str, size: int, error: ImageError) -> ImageError:
    """An error as that of a file."""
    return ImageError(error.code, error.message, sha256=sha256, size=size)


def _needed(size: Size, spec: PrepareSpec) -> int:
    """Bytes that an image of an announced size takes at its peak."""
    pixels = min(size.width * size.height, spec.inputs.max_pixels)
    return _BYTES_PER_PIXEL * pixels + _BYTES_PER_SIDE * max(size.width, size.height)


def _largest_answer(spec: PrepareSpec) -> int:
    views = sum(max(view.count, view.fit_count) * view.size**2 * 3 for view in spec.views.values())
    return views * spec.inputs.max_faces + 3 * spec.inputs.max_pixels + 2**24


def _reason(status: int | None, error: BaseException | None) -> str:
    if status is None or status >= 0:
        return str(error) if isinstance(error, OSError) and str(error) else "its answer makes no sense"
    if system.died_of(status, "SIGKILL"):
        return "killed, perhaps because the machine ran out of memory"
    return signal.Signals(-status).name
