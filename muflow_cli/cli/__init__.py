"""The Typer app: options -> spec -> one call -> writer. The last layer; nothing imports it back."""

from muflow_cli.cli.app import app, main

__all__ = ["app", "main"]
