"""The Typer app: options -> spec -> one call -> writer. The last layer; nothing imports it back."""

from __future__ import annotations

import sys

from muflow_cli.cli.interruption import end_at_once


def main() -> None:
    """Run the command line; an interruption is one line from the first moment, while the commands are imported too."""
    end_at_once()
    from muflow_cli.cli.streams import prepare

    prepare()
    from muflow_cli.cli.app import run

    sys.exit(run())
