"""What a detector's stages achieve of what this machine can do.

    python benchmarks/roofline.py DETECTOR [--views 64] [--repeats 5] [--precision auto] [--json]

The machine: the rate of square matrix products in the scorer's precision (the best of three sizes, one product on
each core at the same time) and the bandwidth of copying memory. The stages, in memory, on all cores: the encoder, and
encoder, projection, flow and target together. For each: operations (two per multiply-add, counted on the plain float32
network), bytes that its operations read and write, the bound min(rate, bandwidth * operations / bytes), and what was
achieved of both. Machine and stages are measured in turn, in every round, stages from their second pass; medians are
shown. Processors only; gpu.py is for GPUs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from muflow_cli.bundle import load
from muflow_cli.engine.cores import Cores, pipelined
from muflow_cli.engine.scoring import place
from muflow_cli.specs import Precision

SIDES = (512, 1024, 2048)
COPIED = 256 * 2**20


class BytesMoved(TorchDispatchMode):
    """Bytes of the tensors that every operation reads and writes; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(t.nbytes for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor))
        return out


def seconds_of(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def matrix_rate(cores: Cores, dtype: torch.dtype, side: int) -> float:
    """Operations per second of products of two (side, side) matrices, one on each core at the same time."""
    a, b = torch.randn(2, side, side).to(dtype)
    times = max(4, int(2e10 / side**3))

    def products() -> None:
        for _ in range(times):
            torch.mm(a, b)

    taken = seconds_of(lambda: [future.result() for future in [cores.submit(products) for _ in range(cores.count)]])
    return 2 * side**3 * times * cores.count / taken


def bandwidth(cores: Cores) -> float:
    """Bytes per second read and written by copying, on all cores at the same time."""
    pairs = [
        (torch.zeros(COPIED, dtype=torch.uint8), torch.zeros(COPIED, dtype=torch.uint8)) for _ in range(cores.count)
    ]

    def copied() -> None:
        for future in [cores.submit(to.copy_, source) for to, source in pairs]:
            future.result()

    copied()
    return 2 * COPIED * cores.count / seconds_of(copied)


def counted(work: Callable[[], object], plain: Callable[[], object]) -> tuple[int, int]:
    """(operations, bytes) of a stage: operations from its plain form, since the counter does not know fused ones."""
    with FlopCounterMode(display=False) as operations:
        plain()
    with torch.inference_mode(False), torch.no_grad(), BytesMoved() as moved:
        work()
    return int(operations.get_total_flops()), moved.total


def measure(options: argparse.Namespace) -> dict[str, Any]:
    detector = load(options.detector)
    placement = place("cpu", options.precision)
    scorer, plain = detector.scorer(placement), detector.scorer(place("cpu", Precision.FP32))
    dtype = torch.bfloat16 if placement.precision is Precision.BF16 else torch.float32
    side = detector.spec.view.size
    views = list(np.random.default_rng(0).integers(0, 256, (options.views, 1, side, side, 3), dtype=np.uint8))
    batches = torch.from_numpy(np.concatenate(views)).permute(0, 3, 1, 2).split(placement.batch_size)
    one = batches[0][: scorer.extractor.piece]
    stages = {
        "encoder": (lambda: list(pipelined(batches, scorer.extractor.submit)), lambda s: s.extractor(one)),
        "encoder, flow, target": (lambda: scorer.scale_scores(views), lambda s: s.position_scores(one)),
    }
    cores = Cores(torch.device("cpu"))
    rates: dict[int, list[float]] = {size: [] for size in SIDES}
    copies: list[float] = []
    taken: dict[str, list[float]] = {name: [] for name in stages}
    for work, _ in stages.values():
        work()
    for _ in range(options.repeats):
        for size in SIDES:
            rates[size].append(matrix_rate(cores, dtype, size))
        copies.append(bandwidth(cores))
        for name, (work, _) in stages.items():
            work()  # what was measured before has taken the caches, and given memory back
            taken[name].append(seconds_of(work))
    machine = Machine(max(statistics.median(found) for found in rates.values()), statistics.median(copies))
    rows = []
    for name, (_, piece) in stages.items():
        operations, moved = counted(partial(piece, scorer), partial(piece, plain))
        speed = options.views / statistics.median(taken[name])
        rows.append({"stage": name, **machine.share(speed, operations / len(one), moved / len(one))})
    return {
        "precision": placement.precision.value,
        "cores": cores.count,
        "matrix_rate_gflops": machine.rate / 1e9,
        "bandwidth_gbytes": machine.bandwidth / 1e9,
        "stages": rows,
    }


@dataclass(frozen=True)
class Machine:
    """Operations and bytes per second."""

    rate: float
    bandwidth: float

    def share(self, speed: float, operations: float, moved: float) -> dict[str, float]:
        """What `speed` views per second of so many operations and bytes are of what is possible."""
        achieved = operations * speed
        return {
            "views_per_second": speed,
            "gflop_per_view": operations / 1e9,
            "mbytes_per_view": moved / 1e6,
            "achieved_gflops": achieved / 1e9,
            "of_matrix_rate": achieved / self.rate,
            "of_bound": achieved / min(self.rate, self.bandwidth * operations / moved),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("--views", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", type=Precision, default=Precision.AUTO)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options)
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"{found['cores']} cores, {found['precision']}: {found['matrix_rate_gflops']:.0f} GFLOP/s of matrix products, "
        f"{found['bandwidth_gbytes']:.1f} GB/s of copying"
    )
    for stage in found["stages"]:
        print(
            f"{stage['stage']:22} {stage['views_per_second']:7.1f} views/s  {stage['gflop_per_view']:6.2f} GFLOP and "
            f"{stage['mbytes_per_view']:6.1f} MB a view  {stage['achieved_gflops']:6.0f} GFLOP/s  "
            f"{stage['of_matrix_rate']:.2f} of the matrix rate  {stage['of_bound']:.2f} of the bound"
        )


if __name__ == "__main__":
    main()
