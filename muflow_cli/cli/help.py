"""Help: `--help-all` for the options that are seldom needed, and `muflow help`."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from muflow_cli.errors import MuflowError

HELP_ALL: Final = "--help-all"
_NOTE: Final = f"Some options are seldom needed; {HELP_ALL} shows them too."


class Command(TyperCommand):
    """A command whose `--help-all` also shows its hidden options; former spellings, which have no help, stay hidden."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self._rare():
            self.epilog = _NOTE

    def _rare(self) -> list[Any]:
        return [option for option in self.params if getattr(option, "hidden", False) and getattr(option, "help", None)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As any command, but `--help-all` prints the whole help and ends."""
        if HELP_ALL in args[: args.index("--") if "--" in args else None]:
            for option in self._rare():
                option.hidden = False
            self.epilog = None
            typer.echo(ctx.get_help())
            raise typer.Exit
        return super().parse_args(ctx, args)


def help_command(
    context: typer.Context,
    command: Annotated[str | None, typer.Argument(metavar="[COMMAND]", help="A command of muflow.")] = None,
) -> None:
    """Show the help of muflow, or of one of its commands.

    **Example**

    ```sh
    muflow help scan
    ```
    """
    root = context.find_root()
    if command is None:
        typer.echo(root.get_help())
        return
    commands: dict[str, Any] = root.command.commands  # type: ignore[attr-defined] # the root is a group
    if command not in commands:
        near = get_close_matches(command, commands, n=1)
        remedy = f"use muflow help {near[0]}" if near else f"use one of {', '.join(commands)}"
        raise MuflowError(f"there is no command {command!a}", remedy)
    with type(context)(commands[command], info_name=command, parent=root) as own:
        typer.echo(own.get_help())
