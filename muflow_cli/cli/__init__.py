"""The Typer app: options -> spec -> one call -> writer. The last layer; nothing imports it back."""

import os
import signal
import sys

from muflow_cli.system import ENDING


def main() -> None:
    """Run the command line; an interruption is one line from the first moment, while the commands are imported too."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    from muflow_cli.cli.interruption import end_at_once

    end_at_once()
    from muflow_cli.cli.streams import prepare

    prepare()
    from muflow_cli.cli.app import run

    sys.exit(run())


def _end(*_: object) -> None:
    """As `interruption` ends a process, for the moments until that is imported."""
    try:
        os.write(2, b"muflow: interrupted\n")
    finally:
        os._exit(130)
