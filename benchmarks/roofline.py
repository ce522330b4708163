"""How close a detector's stages come to what this machine can do.

    python benchmarks/roofline.py DETECTOR [--views 64] [--repeats 5] [--precision auto] [--branch NAME] [--json]

The machine's limits are the rate of square matrix products in the scorer's precision (the best of three sizes, one
product on each core at the same time) and the bandwidth of copying memory. The stages run in memory on all cores: the
encoder, and then encoder, projection, flow and target together. The script prints for each stage its operations (two
per multiply-add, counted on the plain float32 network), the bytes that they read and write, the bound
min(rate, bandwidth * operations / bytes), and the share of both that it achieves. Every round measures the machine and
the stages in turn, the stages from their second pass; the table shows medians. For processors; gpu.py is for GPUs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from muflow_cli.engine.branch import Branch
from muflow_cli.engine.devices import Placement, place
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.executor import PieceExecutor, pipelined
from muflow_cli.engine.inference import for_inference
from muflow_cli.engine.scoring import Scorer
from muflow_cli.run_specs import Precision, Runtime

SIDES = (512, 1024, 2048)
COPIED = 256 * 2**20


class BytesMoved(TorchDispatchMode):
    """Counts the bytes of the tensors that every operation reads and writes; views move nothing."""

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


class Cores:
    """One thread per core, each with torch on one thread."""

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.count, initializer=torch.set_num_threads, initargs=(1,))

    def run(self, work: list[Callable[[], object]]) -> None:
        """Run all of `work` at the same time and wait for it."""
        for future in [self._pool.submit(part) for part in work]:
            future.result()


def matrix_rate(cores: Cores, dtype: torch.dtype, side: int) -> float:
    """Operations per second of products of two (side, side) matrices, one on each core at the same time."""
    a, b = torch.randn(2, side, side).to(dtype)
    times = max(4, int(2e10 / side**3))

    def products() -> None:
        for _ in range(times):
            torch.mm(a, b)

    taken = seconds_of(lambda: cores.run([products] * cores.count))
    return 2 * side**3 * times * cores.count / taken


def bandwidth(cores: Cores) -> float:
    """Bytes per second read and written by copying, on all cores at the same time."""
    pairs = [
        (torch.zeros(COPIED, dtype=torch.uint8), torch.zeros(COPIED, dtype=torch.uint8)) for _ in range(cores.count)
    ]

    def copy_all() -> None:
        cores.run([partial(target.copy_, source) for target, source in pairs])

    copy_all()
    return 2 * COPIED * cores.count / seconds_of(copy_all)


def counted(work: Callable[[], object], plain: Callable[[], object]) -> tuple[int, int]:
    """(operations, bytes) of a stage; operations of its plain form, since the counter does not know fused ones."""
    with torch.no_grad(), FlopCounterMode(display=False) as operations:
        plain()
    with torch.inference_mode(False), torch.no_grad(), BytesMoved() as moved:
        work()
    return int(operations.get_total_flops()), moved.total


def measure(options: argparse.Namespace) -> dict[str, Any]:
    branches = load(options.detector).branches
    name = options.branch or next(iter(branches))
    if name not in branches:
        raise SystemExit(f"no branch {name!r}: use one of {', '.join(branches)}")
    placement = place(Runtime(device="cpu", precision=options.precision))
    cores = Cores()
    stages = stages_of(branches[name], placement, options.views)
    dtype = torch.bfloat16 if placement.precision is Precision.BF16 else torch.float32
    rates: dict[int, list[float]] = {size: [] for size in SIDES}
    copies: list[float] = []
    taken: dict[str, list[float]] = {stage.name: [] for stage in stages}
    for stage in stages:
        stage.work()
    for _ in range(options.repeats):
        for size in SIDES:
            rates[size].append(matrix_rate(cores, dtype, size))
        copies.append(bandwidth(cores))
        for stage in stages:
            stage.work()  # the measurement before has filled the caches and given memory back
            taken[stage.name].append(seconds_of(stage.work))
    machine = Machine(max(statistics.median(values) for values in rates.values()), statistics.median(copies))
    rows = [
        {"stage": stage.name, **machine.share(options.views / statistics.median(taken[stage.name]), *stage.per_view())}
        for stage in stages
    ]
    return {
        "precision": placement.precision.value,
        "cores": cores.count,
        "matrix_rate_gflops": machine.rate / 1e9,
        "bandwidth_gbytes": machine.bandwidth / 1e9,
        "stages": rows,
    }


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of scoring.

    Attributes:
        name: in the table.
        work: runs it on all views.
        on_piece: runs it on one piece of views with the fast network.
        plain: the same with the plain float32 network.
        views: number of views in the piece.
    """

    name: str
    work: Callable[[], object]
    on_piece: Callable[[], object]
    plain: Callable[[], object]
    views: int

    def per_view(self) -> tuple[float, float]:
        """Operations and bytes of one view."""
        operations, moved = counted(self.on_piece, self.plain)
        return operations / self.views, moved / self.views


def stages_of(branch: Branch, placement: Placement, count: int) -> list[Stage]:
    """The encoder alone and the whole branch, on `count` random views."""
    name, side = branch.spec.name, branch.spec.view.size
    only = {name: branch}
    scorer, slow = Scorer(only, placement), place(Runtime(device="cpu", precision=Precision.FP32))
    encoder = PlacedEncoder(branch.encoder, placement)
    views = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    batches = torch.from_numpy(views).permute(0, 3, 1, 2).split(placement.batch_size)
    images = [{name: view[None]} for view in views]
    units = [images[start : start + placement.batch_size] for start in range(0, count, placement.batch_size)]
    piece = batches[0][: PieceExecutor(placement).piece]
    fast, plain = for_inference(branch, placement), for_inference(branch, slow)
    return [
        Stage(
            name="encoder",
            work=lambda: list(pipelined(batches, encoder.submit)),
            on_piece=lambda: fast.encoder(piece),
            plain=lambda: plain.encoder(piece),
            views=len(piece),
        ),
        Stage(
            name="encoder, flow, target",
            work=lambda: list(pipelined(units, scorer.submit)),
            on_piece=lambda: fast.maps(piece),
            plain=lambda: plain.maps(piece),
            views=len(piece),
        ),
    ]


@dataclass(frozen=True)
class Machine:
    """Operations and bytes per second."""

    rate: float
    bandwidth: float

    def share(self, speed: float, operations: float, moved: float) -> dict[str, float]:
        """Figures of a stage that scores `speed` views per second with these operations and bytes for each."""
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
    parser.add_argument("--branch", metavar="NAME", help="the branch to measure (default: the first)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options)
    if options.json:
        print(json.dumps(figures))
        return
    rate, copying = figures["matrix_rate_gflops"], figures["bandwidth_gbytes"]
    print(
        f"{figures['cores']} cores, {figures['precision']}, {rate:.0f} GFLOP/s of products, {copying:.1f} GB/s copied"
    )
    for stage in figures["stages"]:
        print(
            f"{stage['stage']:22} {stage['views_per_second']:7.1f} views/s  {stage['gflop_per_view']:6.2f} GFLOP and "
            f"{stage['mbytes_per_view']:6.1f} MB a view  {stage['achieved_gflops']:6.0f} GFLOP/s  "
            f"{stage['of_matrix_rate']:.2f} of the matrix rate  {stage['of_bound']:.2f} of the bound"
        )


if __name__ == "__main__":
    main()
