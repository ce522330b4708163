"""`muflow merge`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from muflow_cli.claims import claimed
from muflow_cli.cli import options
from muflow_cli.cli.progress import stderr_console
from muflow_cli.cli.scan_outputs import choose_outputs
from muflow_cli.cli.scan_text import summary_lines
from muflow_cli.errors import IncompatibleOptions
from muflow_cli.output.writers import WRITERS, WriterContext
from muflow_cli.run_specs import Atypical


def merge_command(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="JSON or JSON-lines reports of scans.")],
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write FILE by its suffix, as scan does (repeatable)."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Merge although shards are missing or were interrupted.")
    ] = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Merge the reports of several scans, such as shards, into one.

    The reports must be of one detector and the same settings, and hold each input once. Results follow each other in
    the order of the reports. Verdicts by --fdr, --adaptive, --reweight and --groups depend on all images of their run,
    so such reports are refused.

    **Exit status**: 0 merged; 2 nothing was written.

    **Example**

    ```sh
    muflow scan /archive --shard 1/2 -o a.jsonl
    muflow scan /archive --shard 2/2 -o b.jsonl
    muflow merge a.jsonl b.jsonl -o all.json
    ```
    """
    chosen = choose_outputs(output, {}, None, as_json=False)
    for path, format_ in chosen.files:
        if WRITERS[format_].shows_images:
            why = "a page shows images and calibration scores, which no report holds"
            raise IncompatibleOptions(f"-o {path}", "muflow merge", why)
    from muflow_cli.scan.merge import read_parts, write_merged
    from muflow_cli.scan.outputs import open_outputs

    console = stderr_console(quiet)
    with claimed(chosen.paths, force=force, inputs=reports):
        merged = read_parts(reports, tuple(sys.argv), partial=partial)
        with open_outputs(chosen.destinations(None), WriterContext()) as outputs:
            summary = write_merged(merged, outputs)
    if merged.missing:
        console.print(f"shards that are missing: {', '.join(map(str, merged.missing))}")
    atypical = Atypical(str((merged.head.options or {}).get("atypical", Atypical.INCONCLUSIVE.value)))
    detector = merged.reports[0].detector
    for line in summary_lines(summary, detector.alpha, atypical, detector.calibrated_on):
        console.print(line)
