"""The published pipeline as its authors run it, beside the preset `paper` of this project.

    python benchmarks/reference.py DETECTOR IMAGE... [--repeats 3] [--json]

The reference follows the paper and its configuration: float32, channels first, torchvision's ResNet-50 with its batch
normalisations, FrEIA's blocks as they are (permutations as dense matrices), trainable LayerNorm, latents averaged over
positions, the covariance inverted in every call, and 16 crops of every image whether they differ or not. It uses the
detector's encoder weights. Its flows have the published shape and random weights, since the script measures speed and
not detection. DETECTOR must have the preset `paper`.

The rows are images per second, medians of interleaved rounds: the reference on its 16 crops, the reference on the
distinct views alone, and the detector's own scorer on these distinct views in float32 and in its own precision.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from FrEIA.framework import SequenceINN
from FrEIA.modules import AllInOneBlock
from torch import Tensor, nn

from muflow_cli.bundle import load
from muflow_cli.engine.branch import Branch
from muflow_cli.engine.devices import place
from muflow_cli.engine.encoders import IMAGENET_MEAN, IMAGENET_STD, chosen_layers
from muflow_cli.images.find import find
from muflow_cli.images.loader import Loaded, LoadSpec
from muflow_cli.images.loader import load as load_images
from muflow_cli.run_specs import InputSpec, Precision, Runtime

CROPS = 16


def coupling_net(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, inputs, 3, padding=1), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, padding=1))


def fast_flow(channels: int, side: int, steps: int) -> SequenceINN:
    flow = SequenceINN(channels, side, side)
    for _ in range(steps):
        flow.append(
            AllInOneBlock,
            subnet_constructor=coupling_net,
            affine_clamping=2.0,
            permute_soft=False,
            global_affine_type="SOFTPLUS",
        )
    return flow


class Reference(nn.Module):
    """Images (B, 3, 256, 256) in 0..1 -> scores (B,)."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        feature = branch.spec.feature
        self.backbone = copy.deepcopy(branch.encoder.backbone)
        shapes = [(layer.channels, 256 // layer.stride) for layer in chosen_layers(feature.encoder, feature.layers)]
        self.norms = nn.ModuleList(nn.LayerNorm([c, side, side]) for c, side in shapes)
        self.flows = nn.ModuleList(fast_flow(c, side, branch.spec.flow.steps) for c, side in shapes)
        self.means = [torch.zeros(c) for c, _ in shapes]
        self.covariances = [torch.eye(c) for c, _ in shapes]

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        maps = self.backbone((images - mean) / std).values()
        scores = []
        for map_, norm, flow, centre, covariance in zip(
            maps, self.norms, self.flows, self.means, self.covariances, strict=True
        ):
            z, log_det = flow(norm(map_))
            gap = z.mean(dim=(2, 3)) - centre
            inverse = torch.linalg.inv(covariance)
            distance = torch.einsum("bi,ij,bj->b", gap, inverse, gap)
            constant = len(centre) * np.log(2 * np.pi) + torch.logdet(covariance)
            scores.append(0.5 * (distance + constant) - log_det)
        return torch.stack(scores).mean(dim=0)


def in_batches_of_one_image(model: Reference, views: list[np.ndarray], *, repeated: bool) -> None:
    """One batch for each image, as published; `repeated` computes identical crops again."""
    for image_views in views:
        batch = torch.from_numpy(image_views).permute(0, 3, 1, 2).float() / 255
        if repeated:
            batch = batch.repeat(-(-CROPS // len(batch)), 1, 1, 1)[:CROPS]
        with torch.inference_mode():
            model(batch.contiguous())


def measure(options: argparse.Namespace) -> dict[str, object]:
    detector = load(options.detector)
    if len(detector.branches) > 1 or detector.spec.preset != "paper":
        raise SystemExit(f"{options.detector} must have the preset paper and one branch")
    ((name, branch),) = detector.branches.items()
    spec = LoadSpec(views=detector.views, inputs=InputSpec(), workers=1, ahead=8)
    images = [i.views for i in load_images(find(options.images, InputSpec()), spec) if isinstance(i, Loaded)]
    views = [image[name] for image in images]
    model = Reference(branch).eval().requires_grad_(False)
    full, auto = (
        detector.scorer(place(Runtime(device="cpu", precision=precision)))
        for precision in (Precision.FP32, Precision.AUTO)
    )
    rows: dict[str, Callable[[], object]] = {
        f"reference, {CROPS} crops of each": lambda: in_batches_of_one_image(model, views, repeated=True),
        "reference, distinct views": lambda: in_batches_of_one_image(model, views, repeated=False),
        "muflow, fp32": lambda: full.submit(images).result(),
        f"muflow, {auto.placement.precision.value}": lambda: auto.submit(images).result(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for repeat in range(options.repeats + 1):
        for name, once in rows.items():
            begun = time.perf_counter()
            once()
            if repeat or options.repeats == 0:  # a first round warms caches and kernels
                seconds[name].append(time.perf_counter() - begun)
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    base = middle["reference, distinct views"]
    return {
        "images": len(views),
        "views": sum(map(len, views)),
        "rows": {
            name: {"images_per_second": len(views) / taken, "ratio": base / taken} for name, taken in middle.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("images", nargs="+", help="files, folders or globs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options)
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{figures['images']} images, {figures['views']} distinct views")
    for name, row in figures["rows"].items():
        print(f"{name:32} {row['images_per_second']:8.3f} images/s   {row['ratio']:6.2f} of the reference")


if __name__ == "__main__":
    main()
