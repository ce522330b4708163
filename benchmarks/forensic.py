"""Speed of the forensic encoder beside ResNet-18 to layer3, fp32, 256 px images in memory.

    python benchmarks/forensic.py [--cores 2] [--batch 32] [--rounds 9] [--json]

All rows run in turn, so other work on the machine slows all of them alike. `threads` shares every operation among the
cores; `workers` gives each core its own images. The forensic encoder's operations take about 10 µs each, so cores that
share them wait for the slower one every time. On a busy machine only `workers` keeps its rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from muflow_cli.engine.forensic import Forensic


def by_threads(encoder: nn.Module, images: Tensor, cores: int) -> None:
    torch.set_num_threads(cores)
    with torch.inference_mode():
        encoder(images)


def by_workers(encoder: nn.Module, images: Tensor, cores: int) -> None:
    def encode(part: Tensor) -> None:
        by_threads(encoder, part, 1)

    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(encode, images.chunk(cores)))


def seconds_of(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rates(runs: dict[str, Callable[[], None]], images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Images per second: median and best of interleaved rounds."""
    for run in runs.values():
        run()
    measured: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            measured[name].append(images / seconds_of(run))
    return {name: {"median": statistics.median(all_), "best": max(all_)} for name, all_ in measured.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    images = torch.rand(options.batch, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    forensic = Forensic().eval()
    resnet = create_feature_extractor(torchvision.models.resnet18(weights=None).eval(), ["layer1", "layer2", "layer3"])
    runs: dict[str, Callable[[], None]] = {
        "forensic, one core": lambda: by_threads(forensic, images, 1),
        f"forensic, {options.cores} workers": lambda: by_workers(forensic, images, options.cores),
        f"forensic, {options.cores} threads": lambda: by_threads(forensic, images, options.cores),
        f"resnet18 to layer3, {options.cores} threads": lambda: by_threads(resnet, images, options.cores),
    }
    table = rates(runs, len(images), options.rounds)
    if options.json:
        print(json.dumps({"cores": options.cores, "batch": options.batch, "images_per_second": table}))
        return
    reference = list(table.values())[-1]["median"]
    print(f"{'batch ' + str(options.batch) + ', fp32':32}{'median img/s':>14}{'best img/s':>14}{'ratio':>8}")
    for name, rate in table.items():
        print(f"{name:32}{rate['median']:14.1f}{rate['best']:14.1f}{rate['median'] / reference:8.2f}")


if __name__ == "__main__":
    main()
