"""Speed of the forensic encoder beside ResNet-18 to layer3, fp32, 256 px pictures in memory.

    python benchmarks/forensic.py [--cores 2] [--batch 32] [--rounds 9] [--json]

All rows run in turn, so that whatever else the machine does falls on each. `threads` shares every operation among the
cores; `workers` gives each core its own pictures. The forensic encoder's operations are so short (10 us) that sharing
them waits for the slower core at each: on a machine with other work only `workers` holds its rate.
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


def by_threads(encoder: nn.Module, pictures: Tensor, cores: int) -> None:
    torch.set_num_threads(cores)
    with torch.inference_mode():
        encoder(pictures)


def by_workers(encoder: nn.Module, pictures: Tensor, cores: int) -> None:
    def encode(part: Tensor) -> None:
        by_threads(encoder, part, 1)

    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(encode, pictures.chunk(cores)))


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rates(runs: dict[str, Callable[[], None]], pictures: int, rounds: int) -> dict[str, dict[str, float]]:
    """Pictures per second: median and best of interleaved rounds."""
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(pictures / seconds(run))
    return {name: {"median": statistics.median(all_), "best": max(all_)} for name, all_ in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    pictures = torch.rand(asked.batch, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    forensic = Forensic().eval()
    resnet = create_feature_extractor(torchvision.models.resnet18(weights=None).eval(), ["layer1", "layer2", "layer3"])
    runs: dict[str, Callable[[], None]] = {
        "forensic, one core": lambda: by_threads(forensic, pictures, 1),
        f"forensic, {asked.cores} workers": lambda: by_workers(forensic, pictures, asked.cores),
        f"forensic, {asked.cores} threads": lambda: by_threads(forensic, pictures, asked.cores),
        f"resnet18 to layer3, {asked.cores} threads": lambda: by_threads(resnet, pictures, asked.cores),
    }
    table = rates(runs, len(pictures), asked.rounds)
    if asked.json:
        print(json.dumps({"cores": asked.cores, "batch": asked.batch, "images_per_second": table}))
        return
    reference = list(table.values())[-1]["median"]
    print(f"{'batch ' + str(asked.batch) + ', fp32':32}{'median img/s':>14}{'best img/s':>14}{'ratio':>8}")
    for name, rate in table.items():
        print(f"{name:32}{rate['median']:14.1f}{rate['best']:14.1f}{rate['median'] / reference:8.2f}")


if __name__ == "__main__":
    main()
