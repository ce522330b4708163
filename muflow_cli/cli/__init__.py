"""The Typer app: options -> spec -> one call -> writer. The last layer; nothing imports it back."""

from __future__ import annotations

import sys

from muflow_cli.cli.interruption import INTERRUPTED, SENTENCE, end_at_once


def main() -> None:
    """Run the command line; an interruption is one line from the first moment, while the commands are imported too."""
    try:
        end_at_once()
        from muflow_cli.cli.app import run

        status = run()
    except KeyboardInterrupt:
        sys.stderr.write(SENTENCE)
        status = INTERRUPTED
    except Exception:  # noqa: BLE001 - a bug; Python's own status, 1, would mean "flagged"
        sys.excepthook(*sys.exc_info())
        status = 2
    sys.exit(status)
