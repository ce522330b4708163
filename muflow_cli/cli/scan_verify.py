"""`muflow scan --verify`: the differences on stdout, what was checked on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from muflow_cli.errors import IncompatibleOptions
from muflow_cli.output.inert import escape, inert


def verify_report(
    report: Path | None, signers: Path | None, paths: Sequence[str] | None, outputs: object, console: Console
) -> int:
    """Exit status of --verify, which goes with no PATH and no outputs."""
    if report is None:
        raise IncompatibleOptions("--signers", "--verify REPORT", "it says whose signature counts there", needs=True)
    if paths:
        raise IncompatibleOptions("--verify", "PATH", "the report names its files")
    if outputs:
        raise IncompatibleOptions("--verify", "-o", "it writes no results")
    from muflow_cli.verify import verify

    verification = verify(report, signers)
    count = 0
    for count, difference in enumerate(verification.differences, start=1):  # noqa: B007 - the count is printed afterwards
        typer.echo(f"{escape(difference.path)}: {inert(difference.message)}")
    for note in verification.notes:
        console.print(note)
    results = verification.report.contents.counts["inputs"]
    console.print(
        f"{results} result{'' if results == 1 else 's'}, {count or 'no'} difference{'' if count == 1 else 's'}"
    )
    return 1 if count else 0
