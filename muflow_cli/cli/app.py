"""The command `muflow`: its commands, and the one place where errors become sentences and exit statuses."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final, NoReturn

import typer

from muflow_cli import __version__
from muflow_cli.cli.bench_command import bench_command
from muflow_cli.cli.calibrate_command import calibrate_command
from muflow_cli.cli.doctor_command import doctor_command
from muflow_cli.cli.fit_command import fit_command
from muflow_cli.cli.info_command import info_command
from muflow_cli.cli.scan_command import scan_command
from muflow_cli.errors import MuflowError

OK: Final = 0
BAD: Final = 2
INTERRUPTED: Final = 130

app = typer.Typer(
    name="muflow",
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
    """Tell real face photographs from synthetic ones, with a detector fitted to real faces only (µFlow).

    Exit status: 0 done, nothing flagged; 1 something flagged (scan) or a gate failed (bench); 2 wrong usage or bad
    data, nothing produced; 3 scan finished, nothing flagged, some inputs unreadable; 130 interrupted, what was done
    is kept.
    """


app.command("fit")(fit_command)
app.command("calibrate")(calibrate_command)
app.command("scan")(scan_command)
app.command("bench")(bench_command)
app.command("info")(info_command)
app.command("doctor")(doctor_command)


def main() -> NoReturn:
    """Run the command line; every error that is the input's fault is one sentence on stderr."""
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except MuflowError as error:
        _leave(f"muflow: {error}", BAD)
    except typer.Abort:
        _leave("muflow: interrupted", INTERRUPTED)
    except KeyboardInterrupt:
        _leave("muflow: interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave("muflow: the reader of standard output went away: stopped there", INTERRUPTED)
    except OSError as error:
        _leave(f"muflow: {error.filename or 'output'}: {error.strerror}: check the place and its free room", BAD)
    except Exception as error:
        # Click's own usage errors know how to show themselves; anything else is a bug and keeps its traceback.
        if not hasattr(error, "show"):
            raise
        error.show()
        sys.exit(BAD)
    sys.exit(status if isinstance(status, int) else OK)


def _leave(sentence: str, status: int) -> NoReturn:
    typer.echo(sentence, err=True)
    sys.exit(status)
