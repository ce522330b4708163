"""Where results go: stdout and files, several formats at once; a file is whole, or (JSON lines) whole line by line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from muflow_cli.errors import CannotWrite, OutputExists
from muflow_cli.output.writers import WRITERS, OutputFormat, Writer
from muflow_cli.records import DetectorInfo, Result, RunInfo, Summary


@dataclass(frozen=True, slots=True)
class Destination:
    """One output: a format and a file, None = stdout."""

    format: OutputFormat
    path: Path | None


class Outputs:
    """Every writer of a run, written to in step.

    Args:
        destinations: formats and files.
        fields: the `--fields` selection.
        force: replace files that exist.
    """

    def __init__(self, destinations: Sequence[Destination], fields: tuple[str, ...] | None, *, force: bool) -> None:
        for destination in destinations:
            _check(destination.path, force=force)
        self._destinations, self._fields = destinations, fields
        self._stack = ExitStack()
        self._writers: list[tuple[Writer, str]] = []
        self._finish: list[Callable[[], None]] = []

    def __enter__(self) -> Outputs:
        for destination in self._destinations:
            with naming(destination.path):
                stream = self._open(destination)
                writer = WRITERS[destination.format](stream, self._fields)
                self._writers.append((writer, str(destination.path or "standard output")))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, destination: Destination) -> BinaryIO:
        path = destination.path
        if path is None:
            return sys.stdout.buffer
        if destination.format is OutputFormat.JSONL:
            return self._stack.enter_context(path.open("wb"))
        part = path.with_name(f".{path.name}.part")
        stream = self._stack.enter_context(part.open("wb"))

        def finish() -> None:
            settle(stream)
            part.replace(path)

        self._stack.callback(part.unlink, missing_ok=True)
        self._finish.append(finish)
        return stream

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:
        """Pass on to every writer."""
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
        for finish in self._finish:
            finish()


def settle(stream: IO[bytes]) -> None:
    """Flush `stream` to the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def _check(path: Path | None, *, force: bool) -> None:
    if path is None:
        return
    if path.is_dir():
        raise CannotWrite(str(path), "it is a folder")
    if path.exists() and not force:
        raise OutputExists(str(path))


@contextlib.contextmanager
def naming(path: Path | str | None) -> Iterator[None]:
    """Turn the system's refusal to write into a sentence that names the output; a closed reader passes through."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotWrite(str(path or "standard output"), error.strerror or str(error)) from None
