"""Scan mutated JPEG, PNG and WebP files in one run; each must become a score or one error record.

    python benchmarks/scan_fuzz.py --files 3000 [--detector FILE]

Mutations: flipped bits, overwritten runs, cuts, inserted and repeated pieces, swapped containers, 0 or 0xFF over the
header. The run fails on a crash, a hang (--limit seconds for the whole), a traceback, or a result that is missing.
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
from tiny import encoded, make_detector, picture

CONTAINERS = ("JPEG", "PNG", "WEBP")


def seeds(generator: np.random.Generator) -> dict[str, list[bytes]]:
    """Whole files of each container, in several modes."""
    found: dict[str, list[bytes]] = {container: [] for container in CONTAINERS}
    for container, kept in found.items():
        modes = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "L", "P", "RGBA", "1"), "WEBP": ("RGB", "RGBA")}[
            container
        ]
        for mode in modes:
            for side in (40, 96, 200):
                kept.append(encoded(picture(generator, side).convert(mode), container))
    return found


def mutate(data: bytes, others: list[bytes], generator: np.random.Generator) -> bytes:
    """One to eight mutations of a file."""
    found = bytearray(data)
    for _ in range(generator.integers(1, 9)):
        if len(found) >= 2:
            change(found, others, generator)
    return bytes(found)


def change(found: bytearray, others: list[bytes], generator: np.random.Generator) -> None:
    """One mutation in place."""
    # Headers decide most: half of the places are among the first 200 bytes.
    top = min(len(found), 200) if generator.random() < 0.5 else len(found)
    at = int(generator.integers(0, top))
    size = int(generator.integers(1, 33))
    flipped = bytes([found[at] ^ (1 << int(generator.integers(0, 8)))])
    other = others[int(generator.integers(0, len(others)))]
    # What stands between two places of the file is replaced by something else.
    changes = (
        (at, at + 1, flipped),
        (at, at + size, generator.bytes(min(size, len(found) - at))),
        (max(1, at), len(found), b""),
        (at, at, generator.bytes(size)),
        (at, at, bytes(found[at : at + 20 * size])),
        (at, len(found), other[at:]),
        (at, at + 4, bytes([int(generator.choice([0, 255, 127]))]) * min(4, len(found) - at)),
    )
    start, stop, put = changes[int(generator.integers(0, len(changes)))]
    found[start:stop] = put


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=1800)
    parser.add_argument("--detector", type=Path, help="default: a tiny one, made here")
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        detector = options.detector or make_detector(folder)
        (folder / "files").mkdir()
        whole = seeds(generator)
        everything = [data for kept in whole.values() for data in kept]
        for index in range(options.files):
            container = CONTAINERS[index % 3]
            data = whole[container][int(generator.integers(0, len(whole[container])))]
            mutated = mutate(data, everything, generator)
            (folder / "files" / f"{index:05}.{container.lower()}").write_bytes(mutated)
        report = folder / "report.jsonl"
        command = [sys.executable, "-m", "muflow_cli", "scan", folder / "files", "--detector", detector, "-o", report]
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, timeout=options.limit, check=False)  # noqa: S603
        seconds = time.monotonic() - begun
        lines = [json.loads(line) for line in report.read_bytes().splitlines()]
    codes = collections.Counter(one["error"]["code"] if "error" in one else "scored" for one in lines[1:-1])
    print(f"{options.files} files, {len(lines) - 2} results in {seconds:.1f} s, exit status {done.returncode}")
    print(", ".join(f"{count} {code}" for code, count in codes.most_common()))
    said = done.stderr.decode()
    print(said.strip())
    failed = done.returncode not in (0, 1, 3) or len(lines) - 2 != options.files or "Traceback" in said
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
