"""Options of `muflow scan` on what becomes of its results."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from muflow_cli.cli.scan_outputs import ChosenOutputs
from muflow_cli.errors import BadSpec, IncompatibleOptions
from muflow_cli.output.writers import OutputFormat
from muflow_cli.scan.selection import Kind, Order, Selection

_RESULTS: Final = "Results"

Only = Annotated[
    str | None,
    typer.Option(
        "--only",
        metavar="A,B,...",
        help="Write only flagged, inconclusive, not_flagged, no_face, declared or error; all are counted.",
        rich_help_panel=_RESULTS,
        hidden=True,
    ),
]
Sort = Annotated[
    Order | None,
    typer.Option(
        "--sort",
        help="Write results by p-value, by score (highest first) or by path, at the end of the run.",
        rich_help_panel=_RESULTS,
        hidden=True,
    ),
]


def selection_of(only: str | None, order: Order | None, outputs: ChosenOutputs, *, resume: bool) -> Selection:
    """The options --only and --sort as one.

    Raises:
        BadSpec: for an unknown or empty kind.
        IncompatibleOptions: where a report could then not be continued.
    """
    names = () if only is None else [name.strip() for name in only.split(",")]
    if not set(names) <= set(Kind):
        raise BadSpec("--only", only, f"one or several of {', '.join(Kind)}, separated by commas")
    selection = Selection(only=frozenset(map(Kind, names)), order=order)
    if resume and not selection.whole:
        option = "--only" if only is not None else "--sort"
        why = "only a report of all results in the order of the inputs can be continued"
        raise IncompatibleOptions("--resume", option, why)
    if order is not None and any(format_ is OutputFormat.JSONL for _, format_ in outputs.files):
        raise IncompatibleOptions("--sort", "-o FILE.jsonl", "such a file grows with every result; use .json")
    return selection
