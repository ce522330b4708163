"""A scan on a GPU, stage by stage: decode, encoder, flow, end to end, and the share of the card's matrix rate.

    python benchmarks/gpu.py --detector faces.safetensors --folder pictures/ [--files 20000] [--json]

Every figure is from one run: each stage is repeated, interleaved, and its median reported. The matrix rate is that of
the same card in the same run (bf16, 8192 x 8192). `--files` repeats the folder's pictures with changed bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from muflow_cli.bundle import load
from muflow_cli.engine.scoring import Placement, Scorer, place
from muflow_cli.pictures.find import find
from muflow_cli.pictures.pool import Loaded, LoadSpec
from muflow_cli.pictures.pool import load as load_pictures
from muflow_cli.scan import Scan, ScanRequest
from muflow_cli.specs import InputSpec, Precision


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall seconds of `work`, the device idle before and after."""
    work()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-add FLOP/s of a large square product."""
    a = torch.randn(8192, 8192, device=device, dtype=dtype)
    return 2 * 8192**3 / median_seconds(lambda: a @ a, 10)


def encoder_rows(scorer: Scorer, views: torch.Tensor) -> dict[str, float]:
    """Pictures per second of encoder and pooling alone, of the whole scorer, and of the rest by their difference.

    The views are on the device already.
    """
    batch = views[: scorer.placement.batch_size].to(scorer.placement.device)
    encoder = median_seconds(lambda: scorer.extractor(batch))
    both = median_seconds(lambda: scorer.position_scores(batch))
    flow = max(both - encoder, 1e-9)
    return {"encoder": len(batch) / encoder, "flow": len(batch) / flow, "encoder + flow": len(batch) / both}


def flops_per_view(scorer: Scorer, views: torch.Tensor) -> float:
    """FLOPs of one view through encoder, flow and target."""
    batch = views[: scorer.placement.batch_size].to(scorer.placement.device)
    with FlopCounterMode(display=False) as counter:
        scorer.position_scores(batch)
    return counter.get_total_flops() / len(batch)


def repeated(folder: Path, files: int, target: Path) -> Path:
    """`files` copies of the pictures in `folder`, each with bytes of its own after the picture's end."""
    sources = sorted(path for path in folder.iterdir() if path.is_file())
    for index in range(files):
        data = sources[index % len(sources)].read_bytes()
        (target / f"{index:06}{sources[index % len(sources)].suffix}").write_bytes(data + index.to_bytes(4, "big"))
    return target


def decode_rate(folder: Path, spec: LoadSpec) -> float:
    """Pictures per second of reading, hashing, decoding and cutting alone."""
    start = time.perf_counter()
    count = sum(isinstance(item, Loaded) for item in load_pictures(find([str(folder)], spec.inputs), spec))
    return count / (time.perf_counter() - start)


def end_to_end(request: ScanRequest, folder: Path) -> float:
    """Pictures per second of a whole scan, from files to verdicts."""
    scan = Scan(request)
    start = time.perf_counter()
    count = sum(1 for _ in scan.results(find([str(folder)], request.inputs)))
    return count / (time.perf_counter() - start)


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """All figures."""
    detector = load(arguments.detector)
    base = place(arguments.device, Precision(arguments.precision))
    spec = LoadSpec(view=detector.spec.view, inputs=InputSpec(), workers=arguments.workers, ahead=1024)
    loaded = [i for i in load_pictures(find([str(arguments.folder)], spec.inputs), spec) if isinstance(i, Loaded)]
    stacked = torch.from_numpy(np.concatenate([i.views for i in loaded])).permute(0, 3, 1, 2)
    views = stacked.repeat(-(-1024 // len(stacked)), 1, 1, 1)
    rate = matrix_rate(base.device, torch.bfloat16)
    rows: dict[str, object] = {"device": torch.cuda.get_device_name(base.device), "matrix TFLOP/s": rate / 1e12}
    for batch in (16, 64, 256, 1024):
        scorer = detector.scorer(Placement(base.device, base.precision, batch))
        speed = encoder_rows(scorer, views)
        flops = flops_per_view(scorer, views)
        share = speed["encoder + flow"] * flops / rate
        rows[f"batch {batch}"] = {**speed, "share of matrix rate": share, "GFLOP per view": flops / 1e9}
    with tempfile.TemporaryDirectory() as name:
        folder = repeated(arguments.folder, arguments.files, Path(name))
        rows["decode alone"] = decode_rate(folder, spec)
        request = ScanRequest(detector=detector, placement=base, inputs=InputSpec(), workers=arguments.workers)
        rows["end to end"] = end_to_end(request, folder)
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="auto", choices=[p.value for p in Precision])
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments)
    print(json.dumps(rows) if arguments.json else "\n".join(f"{name:28} {value}" for name, value in rows.items()))


if __name__ == "__main__":
    main()
