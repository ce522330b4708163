"""Outputs of a scan: stdout and files, several formats at once; a file is complete, or (JSON lines) so line by line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from muflow_cli.files import growing, replacing, standard_output
from muflow_cli.output.writers import WRITERS, OutputFormat, Writer, WriterContext
from muflow_cli.records import DetectorInfo, Result, RunInfo, Summary
from muflow_cli.scan.resume import ResumedWriter


@dataclass(frozen=True, slots=True)
class Destination:
    """One output.

    Attributes:
        format: a row of WRITERS.
        file: replaced where it exists; None = stdout.
        resumed: continue the JSON-lines report at that path.
    """

    format: OutputFormat
    file: Path | None
    resumed: bool = False


class Outputs:
    """Every writer of a run, written to in step.

    Args:
        writers: one per destination.
        before: steps to run before the first byte is written.
    """

    def __init__(self, writers: Sequence[Writer], before: Sequence[Callable[[], object]]) -> None:
        self._writers, self._before = writers, before

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:
        """Pass on to every writer."""
        for step in self._before:
            step()
        for writer in self._writers:
            writer.begin(run, detector)

    def write(self, result: Result) -> None:
        """Pass on to every writer."""
        for writer in self._writers:
            writer.write(result)

    def end(self, run: RunInfo, summary: Summary) -> None:
        """Pass on to every writer."""
        for writer in self._writers:
            writer.end(run, summary)


@contextlib.contextmanager
def open_outputs(destinations: Sequence[Destination], context: WriterContext) -> Iterator[Outputs]:
    """Writers for all destinations. No existing file is touched before `begin`.

    Files get their names when the block ends; if it raises, only JSON-lines files that were begun stay.

    Raises:
        CannotWrite: with the system's reason.
    """
    with ExitStack() as stack:
        writers: list[Writer] = []
        before: list[Callable[[], object]] = []
        for destination in destinations:
            stream = _open(destination, stack, before)
            if destination.resumed and destination.file is not None:
                writers.append(ResumedWriter(stream, destination.file))
            else:
                writers.append(WRITERS[destination.format].make(stream, context))
        yield Outputs(writers, before)


def _open(destination: Destination, stack: ExitStack, before: list[Callable[[], object]]) -> BinaryIO:
    file = destination.file
    if file is None:
        stream = stack.enter_context(standard_output())
    elif WRITERS[destination.format].grows and (file.is_file() or not file.exists()):
        stream = stack.enter_context(growing(file))
        if not destination.resumed:
            before.append(stream.truncate)
    else:
        stream = stack.enter_context(replacing(file))
    return cast(BinaryIO, stream)
