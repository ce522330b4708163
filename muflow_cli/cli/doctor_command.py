"""`muflow doctor`."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muflow_cli.default_detector import find_detector
from muflow_cli.output.inert import inert

if TYPE_CHECKING:
    pass


def doctor_command(
    detector: Annotated[
        Path | None,
        typer.Option("--detector", metavar="FILE", help="Detector to test.", envvar="MUFLOW_DETECTOR"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this installation: versions, device, decoders, cache and detector; each problem comes with a remedy.

    Exit status: 0 everything needed works (optional parts may be missing), 2 something needed does not work.

    **Example**

    ```sh
    muflow doctor --json
    ```
    """
    from muflow_cli.doctor import State, examine

    findings = []
    for finding in examine(lambda: find_detector(detector)):
        findings.append(finding)
        if not as_json:
            typer.echo(f"{finding.state.value:8}  {finding.name:11}  {_wrapped(inert(finding.found))}")
            if finding.remedy:
                typer.echo(f"{'':8}  {'':11}  -> {_wrapped(inert(finding.remedy))}")
    problems = sum(finding.state is State.PROBLEM for finding in findings)
    if as_json:
        document = {
            "schema": "muflow.doctor/1",
            "ok": not problems,
            "findings": [asdict(finding) for finding in findings],
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        typer.echo(f"{problems} problem{'' if problems == 1 else 's'} found" if problems else "everything needed works")
    raise typer.Exit(2 if problems else 0)


def _wrapped(text: str) -> str:
    """The text in lines of at most 96 columns, to be printed behind the two columns of a finding."""
    margin = " " * 23
    filled = textwrap.fill(
        text, 96, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )
    return filled.removeprefix(margin)
