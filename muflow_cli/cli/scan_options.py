"""Options of `muflow scan` alone, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from muflow_cli.output.writers import OutputFormat

_RESULTS: Final = "Results"
_RUN: Final = "Run"

Paths = Annotated[
    list[str] | None,
    typer.Argument(metavar="PATH...", help="Images, folders, globs, archives or URLs; - is stdin."),
]

Detector = Annotated[
    Path | None, typer.Option("--detector", metavar="FILE", help="Detector to scan with.", envvar="MUFLOW_DETECTOR")
]

Output = Annotated[
    list[Path] | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Write FILE by its suffix: .jsonl, .json, .csv, .groups.csv, .sarif, .xml (JUnit), .html, .txt "
        "(repeatable).",
        rich_help_panel=_RESULTS,
    ),
]

AsJson = Annotated[
    bool, typer.Option("--json", help="Write JSON to stdout; the same as --format json.", rich_help_panel=_RESULTS)
]

Format = Annotated[
    OutputFormat | None,
    typer.Option(
        "--format",
        help="Format on stdout; by default a table on a terminal and JSON lines in a pipe.",
        rich_help_panel=_RESULTS,
    ),
]

Fields = Annotated[
    str | None,
    typer.Option(
        "--fields", metavar="A,B,...", help="Write only these fields, in this order.", rich_help_panel=_RESULTS
    ),
]

Force = Annotated[bool, typer.Option("--force", help="Replace existing output files.", rich_help_panel=_RESULTS)]

FilesFrom = Annotated[
    Path | None,
    typer.Option("--files-from", metavar="FILE", help="Read paths from FILE, one per line; - is stdin."),
]

Null = Annotated[bool, typer.Option("-0", "--null", help="Paths in --files-from end with NUL.")]

FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Follow symbolic links inside folders.", hidden=True)]

Fdr = Annotated[
    float | None,
    typer.Option(
        "--fdr",
        metavar="RATE",
        help="Flag by Benjamini-Hochberg q-values over this run at this false discovery rate, not by alpha.",
        rich_help_panel=_RUN,
    ),
]

Adaptive = Annotated[
    bool,
    typer.Option(
        "--adaptive",
        help="With --fdr, learn what sets these images apart from the calibration's real ones, and flag by that.",
        rich_help_panel=_RUN,
    ),
]

Groups = Annotated[
    bool,
    typer.Option(
        "--groups",
        help="Also compare each folder or archive (--group-by COLUMN: group of a CSV list) with the calibration.",
        rich_help_panel=_RUN,
    ),
]

Reweight = Annotated[
    bool,
    typer.Option(
        "--reweight",
        help="Flag by p-values that count a calibration image the more, the more it is like these as a file.",
        rich_help_panel=_RUN,
        hidden=True,
    ),
]

GroupBy = Annotated[
    str | None,
    typer.Option(
        "--group-by",
        metavar="COLUMN",
        help="As --groups, with the groups in this column of --files-from, a CSV file that has a column path.",
        rich_help_panel=_RUN,
        hidden=True,
    ),
]

Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue -o FILE.jsonl and score only what it does not contain.", rich_help_panel=_RUN
    ),
]

Verify = Annotated[
    Path | None,
    typer.Option(
        "--verify",
        metavar="REPORT",
        help="Scan nothing; hash the files of a JSON or JSON-lines report again and list the differences.",
        rich_help_panel=_RUN,
    ),
]

BatchSize = Annotated[
    int, typer.Option("--batch-size", min=0, help="Views per batch; 0 = chosen for the device.", hidden=True)
]

FailOn = Annotated[
    str,
    typer.Option(
        "--fail-on",
        metavar="A,B,...",
        help="Exit with 1 on flagged images, on images declared synthetic, on errors.",
        rich_help_panel=_RUN,
    ),
]

C2paTrust = Annotated[
    Path | None,
    typer.Option(
        "--c2pa-trust",
        metavar="FILE",
        help="Certificates (PEM) that may vouch for the signer of content credentials.",
        rich_help_panel=_RUN,
        hidden=True,
    ),
]

Sign = Annotated[
    Path | None,
    typer.Option(
        "--sign", metavar="KEY", help="Sign each output file with this key of ssh-keygen, in FILE.sig.", hidden=True
    ),
]

Signers = Annotated[
    Path | None,
    typer.Option(
        "--signers", metavar="FILE", help="With --verify, whose signature counts (allowed_signers).", hidden=True
    ),
]

ExitZero = Annotated[
    bool, typer.Option("--exit-zero", help="Exit with 0 even if images were flagged or unreadable.", hidden=True)
]

Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also name each unreadable input on stderr.", hidden=True)
]
