"""Speed of the forensic encoder beside ResNet-18 to layer3 (fp32, NCHW), 256 px pictures in memory.

    python benchmarks/forensic.py [--threads 2] [--batch 16] [--rounds 9] [--json]

Both run in turn, so that whatever else the machine does falls on both; medians of the rounds, and the best one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from muflow_cli.engine.forensic import Forensic


def seconds(encode: Callable[[Tensor], object], pictures: Tensor) -> float:
    start = time.perf_counter()
    encode(pictures)
    return time.perf_counter() - start


def rates(encoders: dict[str, nn.Module], pictures: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Pictures per second: median and best of interleaved rounds."""
    found: dict[str, list[float]] = {name: [] for name in encoders}
    for encoder in encoders.values():
        encoder(pictures)
    for _ in range(rounds):
        for name, encoder in encoders.items():
            found[name].append(len(pictures) / seconds(encoder, pictures))
    return {name: {"median": statistics.median(all_), "best": max(all_)} for name, all_ in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    pictures = torch.rand(asked.batch, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    resnet = create_feature_extractor(torchvision.models.resnet18(weights=None).eval(), ["layer1", "layer2", "layer3"])
    with torch.inference_mode():
        table = rates({"forensic": Forensic().eval(), "resnet18 to layer3": resnet}, pictures, asked.rounds)
    if asked.json:
        print(json.dumps({"threads": asked.threads, "batch": asked.batch, "images_per_second": table}))
        return
    print(f"{asked.threads} threads, batch {asked.batch}, fp32, {asked.rounds} interleaved rounds")
    print(f"{'':20}{'median img/s':>14}{'best img/s':>14}{'ratio':>8}")
    reference = table["resnet18 to layer3"]["median"]
    for name, rate in table.items():
        print(f"{name:20}{rate['median']:14.1f}{rate['best']:14.1f}{rate['median'] / reference:8.2f}")


if __name__ == "__main__":
    main()
