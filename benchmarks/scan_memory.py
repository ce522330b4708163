"""Peak resident memory of a scan over a growing number of files.

    python benchmarks/scan_memory.py --files 1000 5000 20000 [--detector FILE] [--side 256] [--json]

The files are copies of a few images with other bytes behind their end mark, so each has its own SHA-256 and is decoded
and scored. The kernel reports the peak (`ru_maxrss`) of the whole process, libraries included.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tiny import encoded, image, make_detector


def add_files(folder: Path, base: list[bytes], start: int, stop: int) -> None:
    """Write the files `start` to `stop`, 1000 in each folder."""
    for index in range(start, stop):
        subfolder = folder / f"{index // 1000:03}"
        subfolder.mkdir(parents=True, exist_ok=True)
        (subfolder / f"{index:06}.jpg").write_bytes(base[index % len(base)] + index.to_bytes(8, "big"))


def peak(folder: Path, detector: Path, report: Path) -> tuple[float, float, dict[str, object]]:
    """(MiB, seconds, summary) of one scan in a separate process."""
    arguments = [
        sys.executable,
        "-m",
        "muflow_cli",
        "scan",
        folder,
        "--detector",
        detector,
        "-o",
        report,
        "--force",
        "-q",
    ]
    begun = time.monotonic()
    process = os.posix_spawn(sys.executable, [str(word) for word in arguments], dict(os.environ))
    _, status, usage = os.wait4(process, 0)
    # Python ends a crash with status 1, which is also that of a scan that flagged something.
    if os.waitstatus_to_exitcode(status) not in (0, 1) or not report.is_file():
        sys.exit(f"the scan failed with status {os.waitstatus_to_exitcode(status)}")
    summary = json.loads(report.read_bytes().splitlines()[-1])["summary"]
    return usage.ru_maxrss / 1024, time.monotonic() - begun, summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--detector", type=Path, help="detector to scan with (default: a tiny one, fitted here)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    base = [encoded(image(generator, options.side)) for _ in range(20)]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        detector = options.detector or make_detector(folder)
        made = 0
        for count in sorted(options.files):
            add_files(folder / "files", base, made, count)
            made = count
            mebibytes, seconds, summary = peak(folder / "files", detector, folder / "report.jsonl")
            rows.append(
                {
                    "files": count,
                    "scored": summary["scored"],
                    "peak_mib": mebibytes,
                    "seconds": round(seconds, 1),
                }
            )
            if not options.json:
                more = mebibytes - float(str(rows[0]["peak_mib"]))
                print(f"{count:7} files  {mebibytes:8.1f} MiB  {more:+7.1f} MiB  {seconds:7.1f} s", flush=True)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
