"""Kill resumed scans with SIGKILL at random moments; every report must end like that of an unbroken run.

    python benchmarks/scan_kill.py --kills 60 --images 300

Each run is a separate process, forked from one that has only loaded the libraries, so it spends most of its time
scanning. After each kill the report must hold a prefix of the unbroken run's results, and no fewer than before.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tiny import make_detector, write_images


def start(arguments: list[str]) -> int:
    """Run `muflow ARGUMENTS` in a new process and return its id."""
    process = os.fork()
    if process:
        return process
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    from muflow_cli.cli import main

    sys.argv = ["muflow", *arguments]
    try:
        main()
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    finally:
        os._exit(99)


def results(report: Path) -> tuple[list[bytes], bool]:
    """The whole result lines, and whether the last line is torn."""
    data = report.read_bytes() if report.exists() else b""
    whole = [line for line in data.split(b"\n")[:-1] if line.startswith(b'{"type":"result"')]
    return whole, not data.endswith(b"\n") and bool(data)


def wait(report: Path, before: int, seconds: float) -> None:
    """Wait until a random moment: one time in four anywhere in a run, else soon after its first new result."""
    until = time.monotonic() + random.uniform(0, seconds)
    if random.random() < 0.75:
        last = time.monotonic() + 10 * seconds
        while time.monotonic() < last and len(results(report)[0]) <= before:
            time.sleep(0.001)
        until = time.monotonic() + random.uniform(0, seconds / 20)
    time.sleep(max(0.0, until - time.monotonic()))


def kill_loop(words: list[str], report: Path, unbroken: list[bytes], seconds: float, kills: int) -> dict[str, int]:
    names = ("kills", "kills after new results", "torn lines", "reports finished", "lost", "doubled", "wrong")
    count = dict.fromkeys(names, 0)
    before = 0
    while count["kills"] < kills:
        process = start(words)
        wait(report, before, seconds)
        os.kill(process, signal.SIGKILL)
        killed = os.WIFSIGNALED(os.waitpid(process, 0)[1])
        lines, torn = results(report)
        count["kills"] += killed
        count["kills after new results"] += killed and len(lines) > before
        count["torn lines"] += torn
        count["lost"] += max(0, before - len(lines))
        count["doubled"] += len(lines) - len(set(lines))
        count["wrong"] += lines != unbroken[: len(lines)]
        before = len(lines)
        if before == len(unbroken):
            count["reports finished"] += 1
            report.unlink()
            before = 0
    if os.waitpid(start(words), 0)[1] not in (0, 256):
        count["wrong"] += 1
    count["wrong"] += results(report)[0] != unbroken
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        detector = make_detector(folder)
        write_images(folder / "images", options.images, seed=2)
        import torch

        import muflow_cli.bundle
        import muflow_cli.cli
        import muflow_cli.scan.workflow  # noqa: F401 - loaded before the forks

        torch.set_num_threads(1)
        settings = [
            "--detector",
            str(detector),
            "--precision",
            "fp32",
            "--workers",
            "1",
            "--batch-size",
            "4",
            "--resume",
        ]
        words = ["scan", str(folder / "images"), *settings]
        begun = time.monotonic()
        os.waitpid(start([*words, "-o", str(folder / "unbroken.jsonl")]), 0)
        seconds = time.monotonic() - begun
        unbroken = results(folder / "unbroken.jsonl")[0]
        print(f"unbroken: {len(unbroken)} results in {seconds:.1f} s")
        report = folder / "report.jsonl"
        counts = kill_loop([*words, "-o", str(report)], report, unbroken, seconds, options.kills)
    print(", ".join(f"{number} {name}" for name, number in counts.items()))
    sys.exit(1 if counts["lost"] + counts["doubled"] + counts["wrong"] else 0)


if __name__ == "__main__":
    main()
