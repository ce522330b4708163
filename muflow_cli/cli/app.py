"""The command `muflow`: its commands, and the one place where errors become sentences and exit statuses."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Final

import typer

from muflow_cli import __version__
from muflow_cli.cli import log_file
from muflow_cli.cli.ablate_command import ablate_command
from muflow_cli.cli.bench_command import bench_command
from muflow_cli.cli.calibrate_command import calibrate_command
from muflow_cli.cli.config import Group
from muflow_cli.cli.diff_command import diff_command
from muflow_cli.cli.doctor_command import doctor_command
from muflow_cli.cli.export_command import export_command
from muflow_cli.cli.faces_command import faces_command
from muflow_cli.cli.fit_command import fit_command
from muflow_cli.cli.help import Command, help_command
from muflow_cli.cli.info_command import info_command
from muflow_cli.cli.merge_command import merge_command
from muflow_cli.cli.scan_command import scan_command
from muflow_cli.cli.schema_command import schema_command
from muflow_cli.default_detector import config_file
from muflow_cli.errors import CannotWrite, MuflowError
from muflow_cli.output.inert import inert
from muflow_cli.system import OF_A_STREAM

OK: Final = 0
BAD: Final = 2
_DEBUG: Final = "MUFLOW_DEBUG"
_LONGEST: Final = 300  # characters of another library's error


app = typer.Typer(
    name="muflow",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"muflow {__version__}")
        raise typer.Exit


def _debug(value: bool) -> None:
    if value:
        os.environ[_DEBUG] = "1"


@app.callback()
def root(
    _debug: Annotated[
        bool, typer.Option("--debug", callback=_debug, is_eager=True, hidden=True, help="Show tracebacks.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Tell synthetic faces from real photographs with a detector that was fitted to real faces only (µFlow).

    Exit status: 0 done, nothing flagged; 1 something flagged (scan) or a gate failed (bench); 2 wrong usage, bad data,
    a path that does not exist or a closed pipe; 3 scan finished, nothing flagged, some inputs unreadable; 130
    interrupted, finished work is kept.
    """


app.command("fit", cls=Command)(fit_command)
app.command("calibrate", cls=Command)(calibrate_command)
app.command("scan", cls=Command)(scan_command)
app.command("merge", cls=Command)(merge_command)
app.command("diff", cls=Command)(diff_command)
app.command("faces", cls=Command)(faces_command)
app.command("bench", cls=Command)(bench_command)
app.command("ablate", cls=Command)(ablate_command)
app.command("info", cls=Command)(info_command)
app.command("export", cls=Command)(export_command)
app.command("doctor", cls=Command)(doctor_command)
app.command("schema", cls=Command)(schema_command)
app.command("help", cls=Command)(help_command)


def run() -> int:
    """Run the command line and return its exit status; every error is one sentence."""
    typed = len(sys.argv)
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise  # an exit that is meant
        if os.environ.get(_DEBUG):
            traceback.print_exc()
        show = getattr(error, "show", None)  # Typer's own usage errors know how to show themselves
        if show is not None:
            error.message = inert(error.message)  # type: ignore[union-attr]
            show()
            if len(sys.argv) > typed:
                sys.stderr.write(inert(f"The configuration file {config_file()} adds options to the command.") + "\n")
        else:
            sentence = f"muflow: {_sentence(error)}"
            log_file.note(sentence)
            sys.stderr.write(f"{sentence}\n")
        return BAD
    finally:
        log_file.close()
    return status if isinstance(status, int) else OK


def _sentence(error: BaseException) -> str:
    """The sentence for an error."""
    match error:
        case MuflowError():
            return inert(str(error))
        case OSError(filename=str() | bytes() as name, strerror=reason):
            return f"cannot use {inert(os.fsdecode(name))} ({reason}): check its name, its permissions and the disk"
        case BrokenPipeError() | SystemExit():  # Typer and Rich answer a closed pipe with an exit of status 1
            _let_go_of_stdout()
            return "stopped, because the reader of the output closed the pipe"
        case OSError(errno=number, strerror=reason) if number in OF_A_STREAM:
            _let_go_of_stdout()
            return str(CannotWrite("standard output", reason or "no reason given"))
        case MemoryError():
            return "there is not enough memory: use fewer --workers, a smaller --batch-size or a larger machine"
    said = inert(" ".join(str(error).replace(": ", ", ").split())[:_LONGEST])
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}, line {where.lineno}"
    return (
        f"unexpected {type(error).__name__} in {place} ({said or 'without a message'}): "
        "this is a fault of muflow; repeat the command as `muflow --debug ...` for its traceback"
    )


def _let_go_of_stdout() -> None:
    """Send what is still buffered for stdout nowhere, since Python would complain when it flushes it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
