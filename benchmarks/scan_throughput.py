"""Speed of a whole scan beside the bare encoder and flow on the same images in memory.

    python benchmarks/scan_throughput.py DETECTOR FOLDER [--limit 512] [--workers 1 2] [--repeats 5] [--json]

Every round runs each row once, in turn, so other work on the machine slows all of them alike; the table shows medians.
`bare` pushes the images' views through a scorer in full batches, as many ahead as a scan. `scan` finds, reads, hashes
and decodes the files from disk, scores them with the same scorer, judges them, and writes a JSON-lines report. Neither
includes what happens once in a run of any length: loading the detector and preparing the network.
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
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

from muflow_cli.bundle import load
from muflow_cli.detector import Detector
from muflow_cli.engine.devices import Placement, place
from muflow_cli.engine.executor import pipelined
from muflow_cli.engine.scoring import Views
from muflow_cli.files import growing
from muflow_cli.images.find import find
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded, LoadSpec
from muflow_cli.images.loader import load as load_images
from muflow_cli.output.digests import ResultsDigest
from muflow_cli.output.documents import JsonlWriter
from muflow_cli.run_records import RunInfo
from muflow_cli.run_specs import InputSpec, Precision, Runtime
from muflow_cli.scan.tally import Tally
from muflow_cli.scan.workflow import Scan, ScanRequest

RUN = RunInfo(tool="muflow", version="-", argv=(), started="-", device="-", precision="-", versions={})


def first_inputs(folder: Path, limit: int) -> list[Input]:
    """The first readable inputs."""
    inputs = (item for item in find([str(folder)], InputSpec()) if isinstance(item, Input))
    return list(itertools.islice(inputs, limit))


def views_of(inputs: list[Input], detector: Detector) -> list[Views]:
    """The views of the images, in memory."""
    spec = LoadSpec(views=detector.views, inputs=InputSpec(), workers=len(os.sched_getaffinity(0)), ahead=64)
    return [item.views for item in load_images(inputs, spec) if isinstance(item, Loaded)]


def bare(detector: Detector, placement: Placement, views: list[Views]) -> Callable[[], float]:
    """Seconds of encoder and flow alone, in batches as a scan hands them out."""
    scorer = detector.scorer(placement)
    views_each = max(1, sum(len(view) for image in views for view in image.values()) // len(views))
    size = max(1, placement.batch_size // views_each)
    batches = [views[start : start + size] for start in range(0, len(views), size)]

    def once() -> float:
        begun = time.perf_counter()
        for _ in pipelined(batches, scorer.submit):
            pass
        return time.perf_counter() - begun

    return once


def scan(detector: Detector, request: ScanRequest, inputs: list[Input]) -> Callable[[], tuple[float, dict[str, float]]]:
    """Seconds of a scan from disk to report, and of its stages."""
    info = detector.info("-")

    def once() -> tuple[float, dict[str, float]]:
        run, tally, digest = Scan(request), Tally(), ResultsDigest()
        with tempfile.TemporaryDirectory() as name:
            begun = time.perf_counter()
            with growing(Path(name) / "report.jsonl") as stream:
                writer = JsonlWriter(cast("BinaryIO", stream), None)
                writer.begin(RUN, info)
                for result in run.results(inputs):
                    tally.add(result)
                    digest.add(result)
                    writer.write(result)
                writer.end(RUN, tally.summary(results_sha256=digest.hexdigest()))
            return time.perf_counter() - begun, run.seconds

    return once


def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    """One row for the bare scorer, one for each number of workers."""
    detector = load(options.detector)
    runtime = Runtime(device=options.device, precision=options.precision, batch_size=options.batch_size)
    placement = place(runtime)
    inputs = first_inputs(options.folder, options.limit)
    views = views_of(inputs, detector)
    bare_once = bare(detector, placement, views)
    scans = {}
    for workers in options.workers:
        request = ScanRequest(detector=detector, runtime=replace(runtime, workers=workers))
        scans[workers] = scan(detector, request, inputs)
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
    rows: list[dict[str, object]] = [{"row": "bare", "images_per_second": len(views) / reference, "ratio": 1.0}]
    for workers, runs in scan_runs.items():
        middle = statistics.median(seconds for seconds, _ in runs)
        stages = {name: statistics.median(seconds[name] for _, seconds in runs) for name in runs[0][1]}
        rows.append(
            {
                "row": f"scan, {workers} workers",
                "images_per_second": len(views) / middle,
                # The two runs of a pair follow each other: what slowed one slowed the other.
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
    parser.add_argument("--limit", type=int, default=512, help="number of images")
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
        line = f"{row['row']!s:18} {row['images_per_second']:8.1f} images/s   {row['ratio']:6.3f} of bare"
        if "stages" in row:
            stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in row["stages"].items())
            line += f"   {stages}; the bottleneck is {row['bottleneck']}"
        print(line)


if __name__ == "__main__":
    main()
