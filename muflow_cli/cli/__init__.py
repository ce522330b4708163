"""The Typer app: options -> spec -> one call -> writer. The last layer; nothing imports it back."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; an interruption is one line from the first moment, while the commands are imported too."""
    try:
        from muflow_cli.cli.app import run

        status = run()
    except KeyboardInterrupt:
        sys.stderr.write("muflow: interrupted\n")
        status = 130
    sys.exit(status)
