"""The command `muflow`: its commands, and the one place where errors become sentences and exit statuses."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from muflow_cli import __version__
from muflow_cli.cli.ablate_command import ablate_command
from muflow_cli.cli.bench_command import bench_command
from muflow_cli.cli.calibrate_command import calibrate_command
from muflow_cli.cli.doctor_command import doctor_command
from muflow_cli.cli.fit_command import fit_command
from muflow_cli.cli.info_command import info_command
from muflow_cli.cli.interruption import INTERRUPTED
from muflow_cli.cli.scan_command import scan_command
from muflow_cli.errors import CannotWrite, MuflowError

OK: Final = 0
BAD: Final = 2


class _Group(TyperGroup):
    """The commands; an interruption comes out of them as `typer.Abort`, which Typer passes on in silence."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Read the command line."""
        try:
            return super().make_context(*args, **extra)
        except KeyboardInterrupt:
            raise typer.Abort from None

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None


app = typer.Typer(
    name="muflow",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"muflow {__version__}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Tell synthetic faces from real photographs with a detector that was fitted to real faces only (µFlow).

    Exit status: 0 done, nothing flagged; 1 something flagged (scan) or a gate failed (bench); 2 wrong usage, bad data
    or a closed pipe; 3 scan finished, nothing flagged, some inputs unreadable; 130 interrupted, finished work is kept.
    """


app.command("fit")(fit_command)
app.command("calibrate")(calibrate_command)
app.command("scan")(scan_command)
app.command("bench")(bench_command)
app.command("ablate")(ablate_command)
app.command("info")(info_command)
app.command("doctor")(doctor_command)


def run() -> int:
    """Run the command line and return its exit status; every error that a user can put right is one sentence."""
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except (Exception, SystemExit) as error:
        sentence = _sentence(error)
        show = getattr(error, "show", None)  # Typer's own usage errors know how to show themselves
        if sentence is not None:
            with contextlib.suppress(OSError):  # stderr may be the pipe that was closed
                sys.stderr.write(f"muflow: {sentence}\n")
                sys.stderr.flush()
        elif show is not None:
            show()
        else:  # a bug, which keeps its traceback, or an exit that is meant
            raise
        return INTERRUPTED if isinstance(error, typer.Abort) else BAD
    return status if isinstance(status, int) else OK


def _sentence(error: BaseException) -> str | None:
    """The sentence for an error; None for a bug or an exit that Typer handles."""
    match error:
        case MuflowError():
            return str(error)
        case typer.Abort():
            return "interrupted"
        case OSError(filename=str() | bytes() as name, strerror=reason):
            return f"cannot use {os.fsdecode(name)} ({reason}): check its name, its permissions and the disk"
        case OSError() | SystemExit(__context__=BrokenPipeError()):
            # What is still buffered for stdout goes nowhere, since Python would complain when it flushes it at exit.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            # Typer and Rich answer a closed pipe with status 1, which means "flagged" here.
            if isinstance(error, BrokenPipeError | SystemExit):
                return "stopped, because the reader of the output closed the pipe"
            return str(CannotWrite("standard output", error.strerror or str(error)))
    return None
