"""The published pipeline as its authors run it, beside the preset `paper` as it is run here.

    python benchmarks/reference.py DETECTOR PICTURE... [--repeats 3] [--json]

The reference is written from the paper and its configuration: float32, channels first, torchvision's ResNet-50 with
its batch normalisations, FrEIA's blocks as they are (permutations as dense matrices), trainable LayerNorm, latents
averaged over positions, the covariance inverted anew in every call, and 16 crops of every picture whether they differ
or not. It has the detector's encoder, and flows of the published shape drawn at random: this is about speed, not about
detection. DETECTOR is one of preset `paper`.

Rows, in pictures per second, medians of interleaved rounds: the reference on its 16 crops; the reference on the
distinct views alone; the detector's own scorer on these distinct views, in float32 and in its own precision.
"""

from __future__ import annotations

import argparse
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
from muflow_cli.detector import Detector
from muflow_cli.engine.encoders import IMAGENET_MEAN, IMAGENET_STD, encoder_row, load_trunk
from muflow_cli.engine.scoring import place
from muflow_cli.pictures.find import find
from muflow_cli.pictures.pool import Loaded, LoadSpec
from muflow_cli.pictures.pool import load as load_pictures
from muflow_cli.specs import InputSpec, Precision

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
    """Pictures (B, 3, 256, 256) in 0..1 -> scores (B,)."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        encoder = detector.spec.feature.encoder
        cuts = encoder_row(encoder).cuts
        self.trunk = load_trunk(encoder, cuts, detector.model.weights)
        sides = [256 // cut.stride for cut in cuts]
        shapes = list(zip((cut.channels for cut in cuts), sides, strict=True))
        self.norms = nn.ModuleList(nn.LayerNorm([c, side, side]) for c, side in shapes)
        self.flows = nn.ModuleList(fast_flow(c, side, detector.spec.flow.steps) for c, side in shapes)
        self.means = [torch.zeros(c) for c, _ in shapes]
        self.covariances = [torch.eye(c) for c, _ in shapes]

    def forward(self, pictures: Tensor) -> Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        maps = self.trunk((pictures - mean) / std).values()
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


def in_batches_of_one_picture(model: Reference, views: list[np.ndarray], *, repeated: bool) -> None:
    """One batch for each picture, as published; `repeated`: identical crops are computed again."""
    for of_one in views:
        batch = torch.from_numpy(of_one).permute(0, 3, 1, 2).float() / 255
        if repeated:
            batch = batch.repeat(-(-CROPS // len(batch)), 1, 1, 1)[:CROPS]
        with torch.inference_mode():
            model(batch.contiguous())


def measure(options: argparse.Namespace) -> dict[str, object]:
    detector = load(options.detector)
    spec = LoadSpec(view=detector.spec.view, inputs=InputSpec(), workers=1, ahead=8)
    found = load_pictures(find(options.pictures, InputSpec()), spec)
    views = [item.views for item in found if isinstance(item, Loaded)]
    model = Reference(detector).eval().requires_grad_(False)
    full, auto = (detector.scorer(place(precision=p)) for p in (Precision.FP32, Precision.AUTO))
    rows: dict[str, Callable[[], object]] = {
        f"reference, {CROPS} crops of each": lambda: in_batches_of_one_picture(model, views, repeated=True),
        "reference, distinct views": lambda: in_batches_of_one_picture(model, views, repeated=False),
        "muflow, fp32": lambda: full.scale_scores(views),
        f"muflow, {auto.placement.precision.value}": lambda: auto.scale_scores(views),
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
        "pictures": len(views),
        "views": sum(map(len, views)),
        "rows": {
            name: {"pictures_per_second": len(views) / taken, "ratio": base / taken} for name, taken in middle.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("pictures", nargs="+", help="files, folders or globs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{found['pictures']} pictures, {found['views']} distinct views")
    for name, row in found["rows"].items():
        print(f"{name:32} {row['pictures_per_second']:8.3f} pictures/s   {row['ratio']:6.2f} of the reference")


if __name__ == "__main__":
    main()
