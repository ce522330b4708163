"""A detector's branches in torch, ONNX Runtime and OpenVINO, one after the other in each round, on a processor.

    python benchmarks/backends.py NAME=DETECTOR... [--paper WEIGHTS] [--images FOLDER] [--views 8] [--rounds 5] [--json]

Each way to compute gets the same views in the same pieces as in a scan. The table gives the median of the rounds, and
the largest difference of a column from plain torch, in standard deviations of the calibration (of the views' own scores
where there is none). `--paper` adds the preset `paper` over these ResNet-50 weights with an untrained flow, which takes
as long as a trained one. Caps for other processors: ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2.

- eager: the branch as it is stored, in plain torch
- folded: batch normalisations folded, channels last
- torch: what muflow computes with by default (folded, with the kernels of engine/cpu)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from muflow_cli.bundle import load
from muflow_cli.engine.backends import compute, library
from muflow_cli.engine.branch import Branch, Encoder, Head
from muflow_cli.engine.devices import instructions_of, place
from muflow_cli.engine.encoders import layers_of
from muflow_cli.engine.executor import PieceExecutor
from muflow_cli.engine.flow import build_flow, plain
from muflow_cli.engine.inference import for_inference
from muflow_cli.engine.mixture import Mixture
from muflow_cli.engine.probes import probe_images
from muflow_cli.engine.projection import Projection
from muflow_cli.engine.weights import find_weights
from muflow_cli.images.find import find
from muflow_cli.images.loader import Loaded, LoadSpec
from muflow_cli.images.loader import load as load_images
from muflow_cli.presets import PAPER
from muflow_cli.run_specs import Backend, InputSpec, Precision, Runtime
from muflow_cli.specs import ViewSpec

Work = Callable[[Tensor], list[Tensor]]


def paper_branch(weights: Path) -> Branch:
    """The branch of the preset `paper`, with an untrained flow and N(0, I) as its target."""
    spec = PAPER.branches[0]
    encoder = Encoder.load(spec.feature, find_weights(spec.feature.encoder, weights).tensors)
    heads = []
    for index, layer in enumerate(layers_of(spec.feature, spec.view.size)):
        channels = layer.channels
        projection = Projection(torch.zeros(channels), torch.ones(channels), torch.zeros(channels, 0))
        flow = plain(build_flow(channels, spec.flow, index))
        heads.append(Head(projection, flow, Mixture.normal(channels), spec.target.score_kind))
    return Branch(spec, encoder, heads).requires_grad_(False).eval()


def views_of(view: ViewSpec, folder: Path | None, count: int) -> Tensor:
    """(count, 3, H, W) uint8: views of the images in a folder, or of the probes."""
    if folder is None:
        stack = probe_images(view.size)
    else:
        spec = LoadSpec(views={"main": view}, inputs=InputSpec(), workers=1, ahead=count)
        loaded = [item for item in load_images(find([str(folder)], InputSpec()), spec) if isinstance(item, Loaded)]
        stack = np.concatenate([item.views["main"][:1] for item in loaded[:count]])
    stack = np.concatenate([stack] * -(-count // len(stack)))[:count]
    return torch.from_numpy(stack).permute(0, 3, 1, 2)


def works_of(branch: Branch) -> dict[str, Work]:
    """Each way to compute the branch, by its name."""
    fp32 = place(Runtime(device="cpu", precision=Precision.FP32))
    folded = for_inference(branch, fp32, faster=False)
    works: dict[str, Work] = {"eager": branch.maps, "folded": folded.maps}
    for backend in Backend:
        placed = compute(branch, place(Runtime(backend=backend, device="cpu", precision=Precision.FP32)))
        works[backend.value] = lambda images, placed=placed: placed(images, features=False)  # type: ignore[misc]
    return {name: _without_gradients(work) for name, work in works.items()}


def _without_gradients(work: Work) -> Work:
    def run(images: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            return work(images)

    return run


def measure(branch: Branch, spread: np.ndarray | None, views: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Views per second of each way to compute, its ratio to two of them, and its largest difference from the first."""
    works = works_of(branch)
    executor = PieceExecutor(place(Runtime(device="cpu", precision=Precision.FP32)))
    columns = {}
    for name, work in works.items():  # the first call prepares: graphs, packed weights
        maps = executor.submit(work, views, padded=True).result()
        columns[name] = np.stack([own.mean(dim=(1, 2)).numpy() for own in maps], axis=1)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            begun = time.perf_counter()
            executor.submit(work, views, padded=True).result()
            seconds[name].append(time.perf_counter() - begun)
    spread = columns["eager"].std(axis=0) if spread is None else spread
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    return {
        name: {
            "views_per_second": len(views) / medians[name],
            "to_eager": medians["eager"] / medians[name],
            "to_torch": medians["torch"] / medians[name],
            "deviation": float((np.abs(columns[name] - columns["eager"]) / spread).max()),
        }
        for name in works
    }


def subjects(options: argparse.Namespace) -> Mapping[str, tuple[Branch, np.ndarray | None]]:
    """Name -> branch and the standard deviation of each of its columns, one at a time from the command line."""
    found: dict[str, tuple[Branch, np.ndarray | None]] = {}
    for given in options.detectors:
        name, _, path = given.partition("=")
        detector = load(path)
        spreads = detector.calibration.scores.std(axis=0)
        for branch in detector.branches.values():
            own = [detector.columns.index(column) for column in branch.columns]
            found[name] = branch, spreads[own]
    if options.paper is not None:
        found["paper"] = paper_branch(options.paper), None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="*", metavar="NAME=DETECTOR")
    parser.add_argument("--paper", type=Path, help="ResNet-50 weights")
    parser.add_argument("--images", type=Path, help="folder of the views; without it, the probe images")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    libraries = ", ".join(map(library, Backend))
    print(f"{instructions_of(torch.device('cpu'))}, {torch.get_num_threads()} threads, {libraries}", flush=True)
    for name, (branch, spread) in subjects(options).items():
        before = os.getloadavg()[0]
        rows = measure(branch, spread, views_of(branch.spec.view, options.images, options.views), options.rounds)
        load_text = f"load {before:.1f} to {os.getloadavg()[0]:.1f}"
        if options.json:
            print(json.dumps({"detector": name, "load": load_text, "rows": rows}), flush=True)
            continue
        print(f"{name}, {load_text}", flush=True)
        for way, row in rows.items():
            print(
                f"  {way:12} {row['views_per_second']:8.2f} views/s {row['to_eager']:6.2f} of eager "
                f"{row['to_torch']:6.2f} of torch, deviation {row['deviation']:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
