"""How fast a detector is: end to end and per stage, on a fixed set of pictures, medians after a warm-up."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from muflow_cli.bench.data import Picture
from muflow_cli.bench.scoring import Scoring
from muflow_cli.engine.cores import pipelined
from muflow_cli.engine.scoring import place
from muflow_cli.errors import NothingToDo
from muflow_cli.pictures.pool import Loaded, load
from muflow_cli.pictures.sources import Source
from muflow_cli.scan import Scan, ScanRequest
from muflow_cli.specs import InputSpec, Precision
from muflow_cli.watch import Watch

ROUNDS: Final = 5
PICTURES: Final = 64


def throughput(
    scoring: Scoring, pictures: Sequence[Picture], bundle: Path, inputs: InputSpec, workers: int, watch: Watch
) -> dict[str, float | int | str]:
    """Figures of speed and size, for JSON.

    The first PICTURES pictures are the input set. The four figures per second are pictures, each stage alone; the first
    result is timed from a scan's start, the bundle being loaded and the model not yet on its device; peak memory is
    that of the whole process so far, on a GPU that of the GPU.

    Raises:
        NothingToDo: where no picture of the set can be decoded.
    """
    chosen = pictures[:PICTURES]
    sources = [picture.sample.input for picture in chosen]
    views = [item.views for item in load(sources, scoring.load_spec()) if isinstance(item, Loaded)]
    if not views:
        raise NothingToDo("no picture can be decoded, so that nothing can be timed: check the data")
    request = ScanRequest(detector=scoring.detector, placement=scoring.placement, inputs=inputs, workers=workers)
    first: list[float] = []
    batches = _batches(views, scoring.placement.batch_size)
    stages: dict[str, Callable[[], float]] = {
        "end_to_end": lambda: _scanned(request, sources, first),
        "read_decode_cut": lambda: _timed(lambda: sum(1 for _ in load(sources, scoring.load_spec()))),
        "encode": lambda: _timed(lambda: list(pipelined(batches, scoring.scorer.extractor.submit))),
        "encode_flow_target": lambda: _timed(lambda: scoring.scorer.scale_scores(views)),
    }
    watch.stage("throughput", len(stages) * (ROUNDS + 1))
    speeds = {name: len(views) / _median_seconds(stage, watch) for name, stage in stages.items()}
    return {
        **_setting(views, scoring, workers),
        **{f"{name}_per_second": round(speed, 3) for name, speed in speeds.items()},
        "first_result_seconds": round(median(first[1:]), 4),
        "peak_memory_bytes": _peak_memory(scoring.placement.device),
        "bundle_bytes": bundle.stat().st_size,
        "flops_per_view": flops_per_view(scoring, views[0][:1]),
    }


def _scanned(request: ScanRequest, sources: Sequence[Source], first: list[float]) -> float:
    """Seconds of a scan; those to its first result are added to `first`."""
    # A scan scores a content once: each round takes a new one.
    made = time.perf_counter()
    results = Scan(request).results(sources)
    begun = time.perf_counter()
    next(results)
    first.append(time.perf_counter() - made)
    for _ in results:
        pass
    return time.perf_counter() - begun


def _setting(views: Sequence[NDArray[np.uint8]], scoring: Scoring, workers: int) -> dict[str, float | int | str]:
    return {
        "pictures": len(views),
        "views": sum(map(len, views)),
        "rounds": ROUNDS,
        "device": str(scoring.placement.device),
        "precision": scoring.placement.precision.value,
        "threads": torch.get_num_threads(),
        "workers": workers,
    }


def _timed(stage: Callable[[], object]) -> float:
    begun = time.perf_counter()
    stage()
    return time.perf_counter() - begun


def _median_seconds(stage: Callable[[], float], watch: Watch) -> float:
    """Median of ROUNDS runs after one that warms up."""
    taken = []
    for _ in range(ROUNDS + 1):
        taken.append(stage())
        watch.advance()
    return median(taken[1:])


def _batches(views: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]], size: int) -> list[Tensor]:
    stacked = torch.from_numpy(np.concatenate(list(views))).permute(0, 3, 1, 2)
    return list(stacked.split(size))


def _peak_memory(device: torch.device) -> int:
    if device.type != "cpu":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def flops_per_view(scoring: Scoring, view: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> int:
    """Operations, two per multiply-add, of convolutions and matrix products for one view (1, H, W, 3)."""
    (batch,) = _batches([view], 1)
    # Plain operations, which the counter knows: bfloat16 on a processor runs fused ones.
    scorer = scoring.detector.scorer(place("cpu", Precision.FP32))
    with FlopCounterMode(display=False) as counter:
        scorer.position_scores(batch)
    return int(counter.get_total_flops())
