"""What a user of `muflow scan` is told on stderr besides progress and the summary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from muflow_cli.cli import log_file
from muflow_cli.errors import NoSuchInput
from muflow_cli.output.inert import escape, inert
from muflow_cli.skipped import Skipped


@dataclass(frozen=True, slots=True)
class Told:
    """What a user is told on stderr.

    Attributes:
        console: of stderr.
        absent: paths of the command line that name nothing.
        list_skipped: name everything that is not read.
        verbose: name every unreadable input when it comes.
    """

    console: Console
    absent: Sequence[str]
    list_skipped: bool = False
    verbose: bool = False

    def skip(self, skipped: Skipped) -> None:
        """Name something that is not read."""
        if self.list_skipped:
            self.console.print(f"skipped {escape(skipped.path)} ({skipped})")

    def end(self) -> bool:
        """Name the paths that are missing, with --quiet too; whether there are any."""
        if self.absent:
            sentence = f"muflow: {inert(str(NoSuchInput(self.absent)))}"
            log_file.note(sentence)
            sys.stderr.write(f"{sentence}\n")
        return bool(self.absent)
