"""Finished reports as files, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from output_samples import DETECTOR, FINISHED, RUN

from muflow_cli.output.digests import ResultsDigest, sealed
from muflow_cli.output.documents import JsonlWriter
from muflow_cli.records import Result
from muflow_cli.run_records import DetectorInfo, RunInfo, Summary
from muflow_cli.scan.tally import Tally


def report(
    path: Path,
    results: list[Result],
    *,
    shard: str | None = None,
    run_: RunInfo = RUN,
    detector: DetectorInfo = DETECTOR,
    change: Callable[[Summary], Summary] = lambda summary: summary,
) -> Path:
    """A finished report with these results."""
    options = {**(run_.options or {}), **({} if shard is None else {"shard": shard})}
    head, ended = (replace(one, options=options, versions=run_.versions) for one in (run_, FINISHED))
    tally, digest = Tally(), ResultsDigest()
    with path.open("wb") as stream:
        writer = JsonlWriter(stream, None)
        writer.begin(head, detector)
        for result in results:
            writer.write(result)
            tally.add(result)
            digest.add(result)
        summary = change(tally.summary(results_sha256=digest.hexdigest()))
        writer.end(ended, sealed(summary, ended, detector))
    return path
