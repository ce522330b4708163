"""Reading, hashing, decoding and cutting: threads against processes, in interleaved rounds of one run.

    python benchmarks/decoding.py [--folder images/] [--files 400] [--side 1024] [--workers 1,2] [--rounds 3] [--json]

Without a folder the script makes JPEGs of smooth noise. Each line gives images per second and the processor time of an
image: in this process, whose Python is what all threads share, and everywhere. One second divided by the former is the
rate that no number of cores exceeds. `start` is the time to the first image where no process runs yet. Run it under
`taskset -c 0,1` to see what few cores give.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from muflow_cli.images import worker
from muflow_cli.images.find import find
from muflow_cli.images.loader import Loaded, LoadSpec, load
from muflow_cli.run_specs import InputSpec
from muflow_cli.specs import ViewSpec


def make(folder: Path, files: int, side: int) -> None:
    """Write JPEGs of `side` pixels, all different."""
    generator = np.random.default_rng(0)
    for index in range(files):
        small = generator.integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8)
        large = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
        large.save(folder / f"{index:06}.jpg", quality=90)


def processor_seconds(pids: list[int]) -> float:
    """Processor time of other processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def idle_processes() -> list[int]:
    """Decoding processes that wait for work."""
    return [each._process.pid for each in worker._POOLS[worker.INPUTS] if each._process is not None]


def measured(folder: Path, spec: LoadSpec) -> dict[str, float]:
    """One pass over the folder."""
    own, theirs, start = time.process_time(), processor_seconds(idle_processes()), time.perf_counter()
    count = sum(isinstance(item, Loaded) for item in load(find([str(folder)], spec.inputs), spec))
    wall, own = time.perf_counter() - start, time.process_time() - own
    everywhere = own + processor_seconds(idle_processes()) - theirs
    return {"images_per_second": count / wall, "own_ms": 1e3 * own / count, "all_ms": 1e3 * everywhere / count}


def start_seconds(folder: Path, spec: LoadSpec) -> float:
    """Time to the first image, with every process to be started."""
    worker._end_idle()
    start = time.perf_counter()
    results = load(find([str(folder)], spec.inputs), spec)
    next(results)
    seconds = time.perf_counter() - start
    for _ in results:
        pass
    return seconds


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """Medians of the rounds, one row for each number of workers and each kind."""
    base = LoadSpec(views={"main": ViewSpec(size=256, draft=not options.full)}, inputs=InputSpec(), workers=1, ahead=64)
    kinds = [(count, processes) for count in options.workers for processes in (False, True)]
    specs = {kind: replace(base, workers=kind[0], processes=kind[1]) for kind in kinds}
    starts = {kind: start_seconds(folder, spec) for kind, spec in specs.items()}
    rounds = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        for kind, spec in specs.items():
            rounds[kind].append(measured(folder, spec))
    return [
        {
            "workers": count,
            "kind": "processes" if processes else "threads",
            **{name: round(statistics.median(each[name] for each in own), 3) for name in own[0]},
            "start": round(starts[count, processes], 2),
        }
        for (count, processes), own in rounds.items()
    ]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--full", action="store_true", help="decode JPEGs at full scale")
    parser.add_argument("--workers", type=lambda text: [int(word) for word in text.split(",")], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.folder is None:
            make(Path(temporary), options.files, options.side)
        rows = measure(options, options.folder or Path(temporary))
    cores = len(os.sched_getaffinity(0))
    text = [f"{cores} cores", *map(str, rows)]
    print(json.dumps({"cores": cores, "rows": rows}) if options.json else "\n".join(text))


if __name__ == "__main__":
    main()
