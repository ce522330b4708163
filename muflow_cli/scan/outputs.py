"""Outputs of a scan: stdout and files, several formats at once; a file is complete, or (JSON lines) so line by line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

from muflow_cli.files import growing, replacing, standard_output
from muflow_cli.output.writers import WRITERS, OutputFormat, Writer, WriterContext
from muflow_cli.records import Result
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary
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

    @property
    def can_draft(self) -> bool:
        """Whether it is a file that is useful line by line, and no pipe or device."""
        file = self.file
        return WRITERS[self.format].grows and file is not None and (file.is_file() or not file.exists())


class Outputs:
    """Every writer of a run, written to in step.

    Args:
        writers: one per destination.
        drafts: writers of the first pass, whose results a killed run leaves behind; the final ones replace them.
        before: steps to run before the first byte is written.
    """

    def __init__(
        self, writers: Sequence[Writer], drafts: Sequence[Writer], before: Sequence[Callable[[], object]]
    ) -> None:
        self._writers, self._drafts = writers, drafts
        self._before = list(before)

    def begin_drafts(self, run: RunInfo, detector: DetectorInfo) -> None:
        """Pass on to every draft."""
        self._prepare()
        for draft in self._drafts:
            draft.begin(run, detector)

    def draft(self, result: Result) -> None:
        """Pass on to every draft."""
        for draft in self._drafts:
            draft.write(result)

    def _prepare(self) -> None:
        while self._before:
            self._before.pop(0)()

    def begin(self, run: RunInfo, detector: DetectorInfo) -> None:
        """Pass on to every writer."""
        self._prepare()
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
def open_outputs(
    destinations: Sequence[Destination], context: WriterContext, *, drafts: bool = False
) -> Iterator[Outputs]:
    """Writers for all destinations. No existing file is touched before `begin` or `begin_drafts`.

    With `drafts`, a JSON-lines file of whole results has a draft: it holds the results of the first pass until the
    final ones are known.

    Files get their names when the block ends; if it raises, only JSON-lines files that were begun stay.

    Raises:
        CannotWrite: with the system's reason.
    """
    with ExitStack() as stack:
        writers: list[Writer] = []
        first: list[Writer] = []
        before: list[Callable[[], object]] = []
        for destination in destinations:
            stream, file = _open(destination, stack, before), destination.file
            make, own = WRITERS[destination.format].make, replace(context, file=file)
            if drafts and destination.can_draft and context.fields is None and file is not None:
                first.append(ResumedWriter(stream, file) if destination.resumed else make(stream, own))
                writers.append(ResumedWriter(stream, file))
            elif destination.resumed and file is not None:
                writers.append(ResumedWriter(stream, file))
            else:
                writers.append(make(stream, own))
        yield Outputs(writers, first, before)


def _open(destination: Destination, stack: ExitStack, before: list[Callable[[], object]]) -> BinaryIO:
    file = destination.file
    if file is None:
        stream = stack.enter_context(standard_output())
    elif destination.can_draft:
        stream = stack.enter_context(growing(file))
        if not destination.resumed:
            before.append(stream.truncate)
    else:
        stream = stack.enter_context(replacing(file))
    return cast(BinaryIO, stream)
