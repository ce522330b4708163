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
from tiny import encoded, image, make_detector

CONTAINERS = ("JPEG", "PNG", "WEBP")


MODES = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "L", "P", "RGBA", "1"), "WEBP": ("RGB", "RGBA")}


def seeds(generator: np.random.Generator) -> dict[str, list[bytes]]:
    """Whole files of each container, in several modes and sizes."""
    return {
        container: [
            encoded(image(generator, side).convert(mode), container)
            for mode in MODES[container]
            for side in (40, 96, 200)
        ]
        for container in CONTAINERS
    }


def mutate(data: bytes, others: list[bytes], generator: np.random.Generator) -> bytes:
    """A file after one to eight mutations."""
    mutated = bytearray(data)
    for _ in range(generator.integers(1, 9)):
        if len(mutated) >= 2:
            change(mutated, others, generator)
    return bytes(mutated)


def change(data: bytearray, others: list[bytes], generator: np.random.Generator) -> None:
    """One mutation in place."""
    # Headers decide most: half of the mutations start in the first 200 bytes.
    top = min(len(data), 200) if generator.random() < 0.5 else len(data)
    at = int(generator.integers(0, top))
    size = int(generator.integers(1, 33))
    flipped = bytes([data[at] ^ (1 << int(generator.integers(0, 8)))])
    other = others[int(generator.integers(0, len(others)))]
    # (start, stop, what replaces the bytes between them)
    changes = (
        (at, at + 1, flipped),
        (at, at + size, generator.bytes(min(size, len(data) - at))),
        (max(1, at), len(data), b""),
        (at, at, generator.bytes(size)),
        (at, at, bytes(data[at : at + 20 * size])),
        (at, len(data), other[at:]),
        (at, at + 4, bytes([int(generator.choice([0, 255, 127]))]) * min(4, len(data) - at)),
    )
    start, stop, replacement = changes[int(generator.integers(0, len(changes)))]
    data[start:stop] = replacement


def write_mutated(folder: Path, files: int, generator: np.random.Generator) -> None:
    """Write mutated files, a third of each container."""
    folder.mkdir()
    whole = seeds(generator)
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
