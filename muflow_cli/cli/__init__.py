"""The Typer app: options -> spec -> one call -> writer. The last layer; nothing imports it back."""


def main() -> None:
    """Run the command line."""
