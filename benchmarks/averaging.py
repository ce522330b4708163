"""Time and memory of averaging, beside a naive reference (index the members of each average, take the mean).

Each side runs in a process of its own, so that its peak memory is its own. The reference reads every member of every
average, which is slow, so it makes only `--reference-averages` of them, and its time is scaled up.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from muflow_cli.engine.averaging import average, draw_members, overlap

CHUNK = 64


def pool(path: Path, images: int, side: int) -> Tensor:
    """(P, 3, side, side) uint8, mapped from a file so that it does not count as the process's own memory."""
    values = images * 3 * side * side
    return torch.from_file(str(path), shared=True, size=values, dtype=torch.uint8).view(images, 3, side, side)


def blocked(images: Tensor, members: Tensor) -> Tensor:
    return average(images.split(CHUNK), members, len(images))


def naive(images: Tensor, members: Tensor) -> Tensor:
    return torch.stack([images[row].float().mean(dim=0) for row in members])


def measure(side: str, path: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak resident memory of one side, in this process."""
    images = pool(path, options.images, options.side)
    members = draw_members(options.images, options.averages, options.size, torch.Generator().manual_seed(0))
    start = time.perf_counter()
    if side == "blocked":
        blocked(images, members)
    else:
        naive(images, members[: options.reference_averages])
    seconds = time.perf_counter() - start
    scale = 1.0 if side == "blocked" else options.averages / options.reference_averages
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": seconds * scale, "measured_seconds": seconds, "peak_gib": peak}


def in_child(side: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--side-only", side, "--pool", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this very script
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def compare(options: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool"
        pool(path, options.images, options.side).random_(0, 256)
        ours, reference = in_child("blocked", path), in_child("naive", path)
    members = draw_members(options.images, options.averages, options.size, torch.Generator().manual_seed(0))
    overlapping = overlap(members, options.images)
    return {
        "images": options.images,
        "averages": options.averages,
        "images_per_average": options.size,
        "side": options.side,
        "threads": torch.get_num_threads(),
        "blocked": ours,
        "naive": reference,
        "speedup": reference["seconds"] / ours["seconds"],
        "overlap": overlapping.shared,
        "effective_sample_size": overlapping.effective_sample_size,
    }


def table(result: dict[str, object]) -> str:
    lines = [f"{'':<10}{'seconds':>10}{'peak GiB':>10}"]
    for side in ("blocked", "naive"):
        row = result[side]
        assert isinstance(row, dict)  # noqa: S101 - narrows a type for the reader, in a script
        lines.append(f"{side:<10}{row['seconds']:>10.2f}{row['peak_gib']:>10.2f}")
    lines.append(f"naive / blocked: {result['speedup']:.1f} ({result['threads']} threads)")
    lines.append(f"overlap {result['overlap']:.3f}, effective sample size {result['effective_sample_size']:.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1100)
    parser.add_argument("--averages", type=int, default=1000)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--reference-averages", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side-only", choices=("blocked", "naive"), help=argparse.SUPPRESS)
    parser.add_argument("--pool", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side_only:
        print(json.dumps(measure(options.side_only, options.pool, options)))
        return
    result = compare(options)
    print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
