"""Options of `muflow scan` on what becomes of its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from muflow_cli.claims import check_new_folder
from muflow_cli.cli.scan_outputs import ChosenOutputs
from muflow_cli.errors import BadSpec, IncompatibleOptions
from muflow_cli.output.writers import OutputFormat
from muflow_cli.scan.selection import Kind, Order, Selection
from muflow_cli.scan.settings import Comparison
from muflow_cli.scan.shard import Shard, parse_shard

if TYPE_CHECKING:
    from muflow_cli.images.hash_lists import HashLists

_RESULTS: Final = "Results"

Only = Annotated[
    str | None,
    typer.Option(
        "--only",
        metavar="A,B,...",
        help="Write only flagged, inconclusive, not_flagged, not_judged, no_face, declared or error; all are counted.",
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


CopyFlagged = Annotated[
    Path | None,
    typer.Option(
        "--copy-flagged",
        metavar="DIR",
        help="Copy flagged images to the new folder DIR, with a manifest; originals stay as they are.",
        rich_help_panel=_RESULTS,
        hidden=True,
    ),
]


Known = Annotated[
    list[Path] | None,
    typer.Option(
        "--known",
        metavar="HASHES",
        help="Count but do not score files on this list: hashes, hashdeep, NSRL RDSv3 (repeatable).",
        hidden=True,
    ),
]


ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Scan the I-th of N parts of the inputs, chosen by their paths; muflow merge joins the reports.",
        rich_help_panel="Run",
        hidden=True,
    ),
]


CsvBom = Annotated[
    bool,
    typer.Option(
        "--csv-bom",
        help="Begin a CSV with a byte order mark, by which Excel knows that it is UTF-8.",
        rich_help_panel=_RESULTS,
        hidden=True,
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultOptions:
    """What becomes of the results.

    Attributes:
        selection: which of them are written, and in which order.
        copy_flagged: folder for copies of flagged images.
        hash_lists: files that are counted, not scored.
        shard: part of the inputs.
    """

    selection: Selection
    copy_flagged: Path | None
    hash_lists: HashLists | None
    shard: Shard | None


def result_options(
    only: str | None,
    order: Order | None,
    copy_flagged: Path | None,
    known: Sequence[Path] | None,
    shard: str | None,
    outputs: ChosenOutputs,
    paths: Sequence[str],
    comparison: Comparison,
    *,
    resume: bool,
) -> ResultOptions:
    """The options on results as one.

    Raises:
        MuflowError: where they contradict each other or the other options.
    """
    if copy_flagged is not None:
        check_new_folder(copy_flagged, paths)
    selection = selection_of(only, order, outputs, resume=resume)
    part = None if shard is None else parse_shard(shard)
    if part is not None and comparison.any:
        option = next(f"--{name}" for name in ("fdr", "groups", "reweight") if getattr(comparison, name))
        raise IncompatibleOptions("--shard", option, "its verdicts depend on all images, and a shard has some of them")
    hash_lists = None
    if known:
        from muflow_cli.images.hash_lists import HashLists

        hash_lists = HashLists(known)
    return ResultOptions(selection=selection, copy_flagged=copy_flagged, hash_lists=hash_lists, shard=part)


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
