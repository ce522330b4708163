"""Speed of a whole scan beside the bare encoder and flow on the same pictures already in memory.

    python benchmarks/scan_throughput.py DETECTOR FOLDER [--limit 512] [--workers 1 2] [--repeats 5] [--json]

Every repeat runs each row once, in turn, so that whatever else the machine does falls on each; medians are shown.
`bare` pushes the pictures' views through a scorer in full batches, as many ahead as a scan. `scan` finds, reads, hashes
and decodes the files from disk, scores them with the same scorer, judges, and writes a JSON-lines report. What happens
once in a run of any length is left out of both: loading the detector and preparing the network.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import numpy as np

from muflow_cli.bundle import load
from muflow_cli.cli.outputs import Destination, Outputs
from muflow_cli.detector import Detector
from muflow_cli.engine.cores import pipelined
from muflow_cli.engine.scoring import Placement, Scorer, place
from muflow_cli.output.documents import JsonlWriter
from muflow_cli.output.journal import ResultsDigest
from muflow_cli.pictures.find import Source, find
from muflow_cli.pictures.pool import Loaded, LoadSpec
from muflow_cli.pictures.pool import load as load_pictures
from muflow_cli.records import RunInfo
from muflow_cli.scan import Scan, ScanRequest, Tally, detector_info
from muflow_cli.specs import InputSpec, Precision

RUN = RunInfo(tool="muflow", version="-", argv=(), started="-", device="-", precision="-", versions={})


def chosen_sources(folder: Path, limit: int) -> list[Source]:
    """The first readable inputs."""
    return list(itertools.islice((one for one in find([str(folder)], InputSpec()) if isinstance(one, Source)), limit))


def views_of(sources: list[Source], detector: Detector) -> list[np.ndarray]:
    """The views of the pictures, in memory."""
    spec = LoadSpec(view=detector.spec.view, inputs=InputSpec(), workers=len(os.sched_getaffinity(0)), ahead=64)
    return [item.views for item in load_pictures(sources, spec) if isinstance(item, Loaded)]


class Ready(Detector):
    """A detector whose scorer for one placement is made once, and warm."""

    made: ClassVar[dict[Placement, Scorer]] = {}

    def scorer(self, placement: Placement) -> Scorer:
        if placement not in self.made:
            self.made[placement] = super().scorer(placement)
        return self.made[placement]


def bare(detector: Detector, placement: Placement, views: list[np.ndarray]) -> Callable[[], float]:
    """Seconds of encoder and flow alone, as a scan hands out its batches."""
    scorer = detector.scorer(placement)
    size = placement.batch_size
    batches = [views[start : start + size] for start in range(0, len(views), size)]

    def once() -> float:
        begun = time.perf_counter()
        for _ in pipelined(batches, scorer.submit):
            pass
        return time.perf_counter() - begun

    return once


def scan(
    detector: Detector, request: ScanRequest, sources: list[Source]
) -> Callable[[], tuple[float, dict[str, float]]]:
    """Seconds of a scan from disk to report, and of its stages."""
    info = detector_info("-", detector)

    def once() -> tuple[float, dict[str, float]]:
        one, tally, digest = Scan(request), Tally(), ResultsDigest()
        with tempfile.TemporaryDirectory() as name:
            report = Destination(make=lambda s: JsonlWriter(s, None), path=Path(name) / "r.jsonl", grows=True)
            begun = time.perf_counter()
            with Outputs([report]) as outputs:
                outputs.begin(RUN, info)
                for result in one.results(sources):
                    tally.add(result)
                    digest.add(result)
                    outputs.write(result)
                outputs.end(RUN, tally.summary(results_sha256=digest.hexdigest()))
            return time.perf_counter() - begun, one.seconds

    return once


def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    """One row for the bare scorer, one for each number of workers."""
    loaded = load(options.detector)
    detector = Ready(**{field.name: getattr(loaded, field.name) for field in fields(loaded)})
    placement = place(options.device, options.precision, options.batch_size)
    sources = chosen_sources(options.folder, options.limit)
    views = views_of(sources, detector)
    bare_once = bare(detector, placement, views)
    scans = {}
    for workers in options.workers:
        request = ScanRequest(detector=detector, placement=placement, inputs=InputSpec(), workers=workers)
        scans[workers] = scan(detector, request, sources)
    bare_seconds: list[float] = []
    scan_runs: dict[int, list[tuple[float, dict[str, float]]]] = {workers: [] for workers in scans}
    for repeat in range(options.repeats + 1):
        bare_seconds.append(bare_once())
        for workers, once_scan in scans.items():
            scan_runs[workers].append(once_scan())
        if repeat == 0:  # a first round warms caches and kernels
            bare_seconds.clear()
            for runs in scan_runs.values():
                runs.clear()
    reference = statistics.median(bare_seconds)
    rows: list[dict[str, object]] = [{"row": "bare", "pictures_per_second": len(views) / reference, "ratio": 1.0}]
    for workers, runs in scan_runs.items():
        middle = statistics.median(seconds for seconds, _ in runs)
        stages = {name: statistics.median(one[name] for _, one in runs) for name in runs[0][1]}
        rows.append(
            {
                "row": f"scan, {workers} workers",
                "pictures_per_second": len(views) / middle,
                # Of pairs that ran one after the other: what slowed one slowed the other.
                "ratio": statistics.median(b / s for b, (s, _) in zip(bare_seconds, runs, strict=True)),
                "stages": stages,
                "bottleneck": max(stages, key=lambda name: stages[name]),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=512, help="pictures")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", type=Precision, default=Precision.AUTO)
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options)
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        line = f"{row['row']!s:18} {row['pictures_per_second']:8.1f} pictures/s   {row['ratio']:6.3f} of bare"
        if "stages" in row:
            stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in row["stages"].items())
            line += f"   {stages}; the bottleneck is {row['bottleneck']}"
        print(line)


if __name__ == "__main__":
    main()
