"""A scan on a GPU, stage by stage: decode, encoder, flow, end to end, and the share of the card's matrix rate.

    python benchmarks/gpu.py --detector faces.safetensors --folder images/ [--files 20000] [--json]
    python benchmarks/gpu.py --detector faces.safetensors --folder images/ --check

All figures come from one run: each stage is repeated, and the table shows its median. The matrix rate is that of the
same card in the same run (bf16, 8192 x 8192). The encoder is measured as it is, replayed as a CUDA graph, and compiled
(torch.compile); its share is that of the matrix rate. Decoding and the whole scan are measured with threads and with
processes. The script fills a folder with `--files` copies of the images, each with other bytes behind the image's end.
Needs a CUDA device; without one it says so and ends with status 2. `--check` runs every path that a processor can run,
with a tiny size: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from muflow_cli.bundle import load
from muflow_cli.engine.branch import Branch
from muflow_cli.engine.devices import Placement, place
from muflow_cli.engine.inference import for_inference
from muflow_cli.images.find import find
from muflow_cli.images.loader import Loaded, LoadSpec
from muflow_cli.images.loader import load as load_images
from muflow_cli.run_specs import InputSpec, Precision, Runtime
from muflow_cli.scan.workflow import Scan, ScanRequest

BATCHES = (16, 64, 256, 1024)
SIDE = 8192  # of the matrices
# With --check.
TINY_BATCHES, TINY_SIDE, TINY_FILES = (2,), 64, 4


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall time of `work` in seconds; the device is idle before and after."""
    work()
    seconds = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def wait() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int = SIDE) -> float:
    """Operations per second of a large square product, two for each multiply-add."""
    a = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / median_seconds(lambda: a @ a, 10)


@torch.inference_mode()
def stage_rates(branch: Branch, batch: Tensor) -> dict[str, float]:
    """Views per second of the encoder with its pooling, of the whole branch, and of the rest as their difference.

    Args:
        branch: on the device.
        batch: (B, 3, H, W) uint8 on the device.
    """
    encoder = median_seconds(lambda: branch.encoder(batch))
    whole = median_seconds(lambda: branch.maps(batch))
    flow = max(whole - encoder, 1e-9)
    return {"encoder": len(batch) / encoder, "flow": len(batch) / flow, "encoder + flow": len(batch) / whole}


@torch.inference_mode()
def encoder_ways(branch: Branch, batch: Tensor) -> dict[str, float]:
    """Views per second of the encoder with its pooling: as it is, replayed as a CUDA graph, compiled.

    Args:
        branch: on the device.
        batch: (B, 3, H, W) uint8 on the device.
    """
    ways: dict[str, Callable[[], object]] = {"eager": lambda: branch.encoder(batch)}
    if batch.is_cuda:
        ways["CUDA graph"] = captured(branch, batch).replay
    compiled = torch.compile(branch.encoder, mode="max-autotune" if batch.is_cuda else "default", dynamic=False)
    ways["compiled"] = lambda: compiled(batch)
    return {name: len(batch) / median_seconds(way) for name, way in ways.items()}


def captured(branch: Branch, batch: Tensor) -> torch.cuda.CUDAGraph:
    """The encoder's kernels for this batch as one graph, captured after a warm-up on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            branch.encoder(batch)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        branch.encoder(batch)
    return graph


@torch.inference_mode()
def encoder_flops(branch: Branch, batch: Tensor) -> float:
    """Operations of one view through the encoder."""
    with FlopCounterMode(display=False) as counter:
        branch.encoder(batch)
    return counter.get_total_flops() / len(batch)


@torch.inference_mode()
def flops_per_view(branch: Branch, batch: Tensor) -> float:
    """Operations of one view through encoder, flow and target."""
    with FlopCounterMode(display=False) as counter:
        branch.maps(batch)
    return counter.get_total_flops() / len(batch)


def fill(target: Path, folder: Path, files: int) -> None:
    """Write `files` copies of the images in `folder`, each with other bytes after the image's end."""
    sources = sorted(path for path in folder.iterdir() if path.is_file())
    for index in range(files):
        source = sources[index % len(sources)]
        (target / f"{index:06}{source.suffix}").write_bytes(source.read_bytes() + index.to_bytes(4, "big"))


def decode_rate(folder: Path, spec: LoadSpec) -> float:
    """Images per second of reading, hashing, decoding and cutting alone."""
    start = time.perf_counter()
    count = sum(isinstance(item, Loaded) for item in load_images(find([str(folder)], spec.inputs), spec))
    return count / (time.perf_counter() - start)


def end_to_end(request: ScanRequest, folder: Path) -> float:
    """Images per second of a whole scan, from files to verdicts."""
    scan = Scan(request)
    start = time.perf_counter()
    count = sum(1 for _ in scan.results(find([str(folder)], request.inputs)))
    return count / (time.perf_counter() - start)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """All figures of the detector's first branch."""
    detector = load(options.detector)
    runtime = Runtime(device=options.device, precision=options.precision, workers=options.workers)
    base = place(runtime)
    name = next(iter(detector.branches))
    spec = LoadSpec(views=detector.views, inputs=InputSpec(), workers=options.workers, ahead=1024)
    loaded = [i for i in load_images(find([str(options.folder)], spec.inputs), spec) if isinstance(i, Loaded)]
    stacked = torch.from_numpy(np.concatenate([image.views[name] for image in loaded])).permute(0, 3, 1, 2)
    sizes = TINY_BATCHES if options.check else BATCHES
    views = stacked.repeat(-(-max(sizes) // len(stacked)), 1, 1, 1)
    rate = matrix_rate(base.device, torch.bfloat16, TINY_SIDE if options.check else SIDE)
    card = torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else "a processor"
    rows: dict[str, object] = {"device": card, "matrix TFLOP/s": rate / 1e12}
    for size in sizes:
        branch = for_inference(detector.branches[name], Placement(base.device, base.precision, size))
        batch = views[:size].to(base.device)
        speed, flops = stage_rates(branch, batch), flops_per_view(branch, batch)
        share = speed["encoder + flow"] * flops / rate
        rows[f"batch {size}"] = {**speed, "share of matrix rate": share, "GFLOP per view": flops / 1e9}
        alone = encoder_flops(branch, batch)
        for way, views_per_second in encoder_ways(branch, batch).items():
            figures = {"views per second": views_per_second, "share of matrix rate": views_per_second * alone / rate}
            rows[f"encoder, batch {size}, {way}"] = figures
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fill(folder, options.folder, options.files)
        for kind, processes in (("threads", False), ("processes", True)):
            request = ScanRequest(detector=detector, runtime=replace(runtime, processes=processes))
            rows[f"decode alone, {kind}"] = decode_rate(folder, replace(spec, processes=processes))
            rows[f"end to end, {kind}"] = end_to_end(request, folder)
    return rows


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", type=Precision, default=Precision.AUTO, choices=list(Precision))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="run the paths of a processor with a tiny size")
    options = parser.parse_args()
    if options.check:
        options.files, options.device = TINY_FILES, "cpu"
    elif not torch.cuda.is_available():
        print("gpu.py needs a CUDA device; use roofline.py and scan_throughput.py on a processor", file=sys.stderr)
        sys.exit(2)
    rows = measure(options)
    print(json.dumps(rows) if options.json else "\n".join(f"{name:28} {value}" for name, value in rows.items()))


if __name__ == "__main__":
    main()
