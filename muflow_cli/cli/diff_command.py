"""`muflow diff`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muflow_cli.cli import options
from muflow_cli.cli.progress import stderr_console
from muflow_cli.output.inert import escape

if TYPE_CHECKING:
    from muflow_cli.output.report_reader import Report
    from muflow_cli.scan.diff import Difference, Entry


def diff_command(
    before: Annotated[Path, typer.Argument(metavar="A", help="The earlier report, JSON or JSON lines.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The later report.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare two reports of scans: other verdicts, other contents, inputs that are new or gone.

    Inputs are matched by path, and by SHA-256 where only one report has the path, so a file that was moved is the same.
    Scores and p-values may differ where the verdict is the same.

    **Exit status**: 0 both say the same; 1 something differs; 2 a file is no whole report.

    **Example**

    ```sh
    muflow diff monday.jsonl tuesday.jsonl
    ```
    """
    from muflow_cli.scan.diff import Differences, read_whole

    reports = [read_whole(before), read_whole(after)]
    comparison = Differences(*reports)
    found = comparison.found()
    counts: Counter[str] = Counter()
    objects = []
    for difference in found:
        counts[difference.change.value] += 1
        if as_json:
            objects.append(_object(difference))
        else:
            typer.echo(_line(difference))
    if as_json:
        named = {name: _report(path, one) for name, path, one in zip("ab", (before, after), reports, strict=True)}
        document = {"schema": "muflow.diff/1", **named, "same": comparison.same, "changes": objects}
        typer.echo(json.dumps(document, indent=2))
    console = stderr_console(quiet)
    if reports[0].detector.fingerprint != reports[1].detector.fingerprint:
        console.print("the reports are of different detectors")
    parts = ", ".join(f"{number} {change}" for change, number in sorted(counts.items()))
    console.print(f"{comparison.same} the same{', ' if parts else ''}{parts}")
    raise typer.Exit(1 if counts else 0)


def _line(difference: Difference) -> str:
    old, new = difference.before, difference.after
    entry = new or old
    assert entry is not None  # noqa: S101 - one of them is there
    said = " -> ".join(dict.fromkeys(_said(one) for one in (old, new) if one is not None))
    moved = f"  (was {escape(old.path)})" if old is not None and new is not None and old.path != new.path else ""
    return f"{difference.change:8} {said:28} {escape(entry.path)}{moved}"


def _said(entry: Entry) -> str:
    declared = "" if entry.declared == "none" else f", declared {entry.declared}"
    return f"{escape(entry.verdict)}{declared}"


def _object(difference: Difference) -> dict[str, Any]:
    def entry(one: Entry | None) -> dict[str, Any] | None:
        names = ("path", "sha256", "verdict", "declared", "p_value")
        return None if one is None else {name: getattr(one, name) for name in names}

    return {
        "change": difference.change.value,
        "before": entry(difference.before),
        "after": entry(difference.after),
    }


def _report(path: Path, report: Report) -> dict[str, Any]:
    return {
        "path": str(path),
        "detector": report.detector.fingerprint,
        "calibration": report.detector.calibration_fingerprint,
        "started": report.run.started,
    }
