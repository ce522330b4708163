"""Options of `muflow scan` on the head and the page of its report."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from muflow_cli.output.writers import Printed

_PANEL: Final = "Results"

Case = Annotated[
    str | None,
    typer.Option(
        "--case",
        metavar="NUMBER",
        help="Number or name of the case, for the head of the report.",
        rich_help_panel=_PANEL,
        hidden=True,
    ),
]
Examiner = Annotated[
    str | None,
    typer.Option(
        "--examiner",
        metavar="NAME",
        help="Who examines the images, for the head of the report.",
        rich_help_panel=_PANEL,
        hidden=True,
    ),
]
PrintOption = Annotated[
    Printed,
    typer.Option(
        "--print",
        help="Images that the .html page prints, all or the flagged ones.",
        rich_help_panel=_PANEL,
        hidden=True,
    ),
]
