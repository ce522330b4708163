"""Scan mutated JPEG, PNG and WebP files in one run; each must give a score or one error record.

    python benchmarks/scan_fuzz.py --files 3000 [--detector FILE]

The mutations are flipped bits, overwritten runs, cuts, inserted and repeated pieces, swapped containers, and 0 or 0xFF
written over the header. The run fails on a crash, a hang (more than --limit seconds in all), a traceback or a missing
result.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fuzz_images import whole_files
from mutations import mutate
from tiny import make_detector

CONTAINERS = ("JPEG", "PNG", "WEBP")


def write_mutated(folder: Path, files: int, generator: np.random.Generator) -> None:
    """Write mutated files, a third of each container."""
    folder.mkdir()
    whole = whole_files(generator, CONTAINERS)
    everything = [data for datas in whole.values() for data in datas]
    for index in range(files):
        container = CONTAINERS[index % 3]
        data = whole[container][int(generator.integers(0, len(whole[container])))]
        (folder / f"{index:05}.{container.lower()}").write_bytes(mutate(data, everything, generator))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=1800)
    parser.add_argument("--detector", type=Path, help="detector to scan with (default: a tiny one, fitted here)")
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        detector = options.detector or make_detector(folder)
        write_mutated(folder / "files", options.files, generator)
        report = folder / "report.jsonl"
        command = [sys.executable, "-m", "muflow_cli", "scan", folder / "files", "--detector", detector, "-o", report]
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, timeout=options.limit, check=False)  # noqa: S603
        seconds = time.monotonic() - begun
        if not report.is_file():
            sys.exit(f"the scan failed with status {done.returncode}\n{done.stderr.decode()}")
        lines = [json.loads(line) for line in report.read_bytes().splitlines()]
    codes = collections.Counter(line["error"]["code"] if "error" in line else "scored" for line in lines[1:-1])
    print(f"{options.files} files, {len(lines) - 2} results in {seconds:.1f} s, exit status {done.returncode}")
    print(", ".join(f"{count} {code}" for code, count in codes.most_common()))
    messages = done.stderr.decode()
    print(messages.strip())
    failed = done.returncode not in (0, 1, 3) or len(lines) - 2 != options.files or "Traceback" in messages
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
