"""Where results go: stdout and files, several formats at once; a file is whole, or (JSON lines) whole line by line."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from muflow_cli.errors import BadSpec, CannotWrite, OutputExists
from muflow_cli.output.writers import Writer
from muflow_cli.records import DetectorInfo, Result, RunInfo, Summary

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@dataclass(frozen=True, kw_only=True, slots=True)
class Destination:
    """One output.

    Attributes:
        make: the writer over an open stream.
        path: its file, replaced where it exists; None = stdout.
        grows: the file is useful line by line and written in place; otherwise it appears when it is whole.
        resumed: a growing file that the writer goes on with.
    """

    make: Callable[[BinaryIO], Writer]
    path: Path | None
    grows: bool = False
    resumed: bool = False

    @property
    def name(self) -> str:
        """For sentences."""
        return "standard output" if self.path is None else str(self.path)


class Outputs:
    """Every writer of a run, written to in step. Nothing that exists is touched before `begin`.

    Args:
        destinations: what is written where.
    """

    def __init__(self, destinations: Sequence[Destination]) -> None:
        self._destinations = destinations
        self._stack = ExitStack()
        self._writers: list[tuple[Writer, str]] = []
        self._begin: list[Callable[[], object]] = []
        self._finish: list[tuple[Callable[[], None], str]] = []
        self._begun = False

    def __enter__(self) -> Outputs:
        with ExitStack() as stack:
            for destination in self._destinations:
                with naming(destination.name):
                    writer = destination.make(self._open(destination, stack))
                self._writers.append((writer, destination.name))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, destination: Destination, stack: ExitStack) -> BinaryIO:
        path = destination.path
        if path is None:
            return sys.stdout.buffer
        if path.exists() and not path.is_file():  # a device or a pipe
            return cast(BinaryIO, stack.enter_context(WholeFile(path, "wb")))
        if destination.grows:
            return self._open_growing(path, stack, resumed=destination.resumed)
        part = path.with_name(f".{path.name}.part")
        stack.callback(part.unlink, missing_ok=True)
        stream = stack.enter_context(WholeFile(part, "wb"))

        def finish() -> None:
            settle(stream)
            part.replace(path)

        self._finish.append((finish, destination.name))
        return cast(BinaryIO, stream)

    def _open_growing(self, path: Path, stack: ExitStack, *, resumed: bool) -> BinaryIO:
        created = not path.exists()
        stream = stack.enter_context(WholeFile(path, "r+b" if not created else "x+b"))
        if created:
            stack.callback(lambda: None if self._begun else path.unlink(missing_ok=True))
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotWrite(str(path), "another run is writing it") from None
        if not resumed:
            self._begin.append(stream.truncate)
        self._finish.append((lambda: settle(stream), str(path)))
        return cast(BinaryIO, stream)

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:
        """Pass on to every writer."""
        self._begun = True
        for begin in self._begin:
            begin()
        for writer, name in self._writers:
            with naming(name):
                writer.begin(run, detector)

    def write(self, result: Result) -> None:
        """Pass on to every writer."""
        for writer, name in self._writers:
            with naming(name):
                writer.write(result)

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Pass on to every writer; files get their names."""
        for writer, name in self._writers:
            with naming(name):
                writer.end(run, summary)
        for finish, name in self._finish:
            with naming(name):
                finish()


class WholeFile(io.FileIO):
    """An unbuffered file that takes each write whole or, where the disk has no room for all of it, not at all."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of `data`; OSError with the file as long as it was."""
        start = self.tell() if self.seekable() else None
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[super().write(rest) or 0 :]
        except OSError:
            if start is not None:
                with contextlib.suppress(OSError):  # a device has no length
                    self.truncate(start)
            raise
        return size


def settle(stream: io.FileIO) -> None:
    """Wait until what was written is on the disk."""
    os.fsync(stream.fileno())


def silence_stdout() -> None:
    """Send what is still buffered for stdout nowhere; Python would complain when it flushes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def check_paths(paths: Sequence[Path], *, force: bool, resumed: Path | None) -> None:
    """Refuse early what would be refused, or be regretted, after hours.

    Args:
        paths: of all outputs.
        force: existing files may be replaced.
        resumed: the one that may exist anyway.

    Raises:
        BadSpec: where two outputs are one file.
        CannotWrite: for a folder.
        OutputExists: for a file that is there.
    """
    taken: set[Path] = set()
    for path in paths:
        if path.resolve() in taken:
            raise BadSpec("an output", f"{path}, given twice", "a file of its own")
        taken.add(path.resolve())
        if path.is_dir():
            raise CannotWrite(str(path), "it is a folder")
        if path.is_file() and not force and path != resumed:
            raise OutputExists(str(path))


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Turn the system's refusal to write into a sentence that names the output; a closed reader passes through."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if name == "standard output":
            silence_stdout()
        raise CannotWrite(name, error.strerror or str(error)) from None
