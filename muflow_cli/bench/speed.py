"""How fast a detector is: end to end and per stage, on a fixed set of images, medians after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from muflow_cli.bench.data import HashedSample
from muflow_cli.bench.records import Throughput
from muflow_cli.bench.scoring import Scoring
from muflow_cli.engine.branch import Branch
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.executor import pipelined
from muflow_cli.engine.scoring import score_stream
from muflow_cli.errors import NothingToDo
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded, load
from muflow_cli.progress import ProgressListener
from muflow_cli.scan.workflow import Scan, ScanRequest
from muflow_cli.system import peak_memory

ROUNDS: Final = 5
IMAGES: Final = 64


def measure_speed(
    scoring: Scoring, images: Sequence[HashedSample], bundle: Path, progress: ProgressListener
) -> Throughput:
    """Speed, memory and size of a detector.

    The first IMAGES images are the input. The four figures per second are images, each stage alone. The first result is
    timed from the start of a scan, with the bundle loaded and the model not yet on its device. Peak memory is that of
    the whole process so far, on a GPU that of the GPU.

    Args:
        scoring: the detector on its device.
        images: of the benchmark.
        bundle: the detector's file.
        progress: told of every round.

    Raises:
        NothingToDo: where no image of the input can be decoded.
    """
    inputs = [image.sample.input for image in images[:IMAGES]]
    loaded = [item for item in load(inputs, scoring.load_spec()) if isinstance(item, Loaded)]
    if not loaded:
        raise NothingToDo("no image can be decoded, so nothing can be timed", "check the data")
    request = ScanRequest(detector=scoring.detector, runtime=scoring.runtime, inputs=scoring.inputs)
    first: list[float] = []
    encoders = {
        PlacedEncoder(branch.encoder, scoring.placement): _stacked(loaded, name).split(scoring.placement.batch_size)
        for name, branch in scoring.detector.branches.items()
    }
    stages: dict[str, Callable[[], float]] = {
        "end_to_end": lambda: _scan_seconds(request, inputs, first),
        "read_decode_cut": lambda: _seconds(lambda: list(load(inputs, scoring.load_spec()))),
        "encode": lambda: _seconds(
            lambda: [list(pipelined(views, encoder.submit)) for encoder, views in encoders.items()]
        ),
        "encode_flow_target": lambda: _seconds(lambda: list(score_stream(loaded, scoring.scorer))),
    }
    progress.stage("speed", len(stages) * (ROUNDS + 1))
    per_second = {name: round(len(loaded) / _median(stage, progress), 3) for name, stage in stages.items()}
    return Throughput(
        images=len(loaded),
        views=sum(len(views) for item in loaded for views in item.views.values()),
        rounds=ROUNDS,
        device=str(scoring.placement.device),
        precision=scoring.placement.precision.value,
        threads=torch.get_num_threads(),
        workers=scoring.runtime.threads,
        end_to_end_per_second=per_second["end_to_end"],
        read_decode_cut_per_second=per_second["read_decode_cut"],
        encode_per_second=per_second["encode"],
        encode_flow_target_per_second=per_second["encode_flow_target"],
        first_result_seconds=round(median(first[1:]), 4),
        peak_memory_bytes=_peak_memory(scoring.placement.device),
        bundle_bytes=bundle.stat().st_size,
        flops_per_view=flops_per_view(scoring.detector.branches, loaded[0]),
    )


def _stacked(loaded: Sequence[Loaded], branch: str) -> Tensor:
    """(V of all images, 3, H, W) uint8 views of one branch."""
    return torch.from_numpy(np.concatenate([item.views[branch] for item in loaded])).permute(0, 3, 1, 2)


def _scan_seconds(request: ScanRequest, inputs: Sequence[Input], first: list[float]) -> float:
    """Seconds of a scan; those to its first result are added to `first`."""
    # A scan scores each content once, and a detector prepares its branches once, so every round takes new ones.
    request = replace(request, detector=replace(request.detector))
    made = time.perf_counter()
    results = Scan(request).results(inputs)
    begun = time.perf_counter()
    next(results)
    first.append(time.perf_counter() - made)
    for _ in results:
        pass
    return time.perf_counter() - begun


def _median(stage: Callable[[], float], progress: ProgressListener) -> float:
    """Median seconds of ROUNDS runs after one that warms up."""
    taken = []
    for _ in range(ROUNDS + 1):
        taken.append(stage())
        progress.advance()
    return median(taken[1:])


def _seconds(stage: Callable[[], object]) -> float:
    begun = time.perf_counter()
    stage()
    return time.perf_counter() - begun


def _peak_memory(device: torch.device) -> int:
    if device.type != "cpu":
        return torch.cuda.max_memory_allocated(device)
    return peak_memory()


@torch.inference_mode()
def flops_per_view(branches: Mapping[str, Branch], image: Loaded) -> int:
    """Operations, two per multiply-add, of convolutions and matrix products for one view of every branch."""
    # The branches as fitted compute with plain operations, which the counter knows; placed ones may be fused.
    with FlopCounterMode(display=False) as counter:
        for name, branch in branches.items():
            branch.maps(_stacked([image], name)[:1])
    return int(counter.get_total_flops())
