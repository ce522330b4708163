"""`muflow schema`."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files
from typing import Annotated

import typer

from muflow_cli.errors import MuflowError


def schema_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A schema; without it, the names of all.")
    ] = None,
) -> None:
    """Print a JSON schema of a report, or the names of all schemas.

    **Example**

    ```sh
    muflow schema scan-2 > scan-2.schema.json
    ```
    """
    folder = files("muflow_cli.output") / "schemas"
    names = sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))
    if name is None:
        typer.echo("\n".join(names))
        return
    if name not in names:
        near = get_close_matches(name, names, n=1)
        raise MuflowError(f"there is no schema {name!a}", f"use {near[0] if near else ', '.join(names)}")
    typer.echo((folder / f"{name}.json").read_text(encoding="utf-8"), nl=False)
