"""A tiny detector and seeded images, made on the spot, for benchmarks of everything except computing."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SETTINGS = (
    "view.size=64",
    "feature.encoder=resnet18",
    "feature.layers=layer1,layer2",
    "feature.dimensions=6",
    "feature.grid=2",
    "flow.steps=2",
    "target.images_per_average=8",
    "target.n_averages=30",
    "target.components=1",
    "train.selection=held-out",
    "train.epochs=2",
    "train.batch_size=16",
    "train.calibration_share=0.4",
    "rule.alpha=0.1",
)


def image(generator: np.random.Generator, side: int) -> Image.Image:
    """A blob on a gradient with grain: not a face, but with the statistics of a photograph."""
    y, x = np.mgrid[0:side, 0:side] / side
    blob = np.exp(-((x - generator.normal(0.5, 0.1)) ** 2 + (y - generator.normal(0.5, 0.1)) ** 2) / 0.1)
    levels = generator.uniform(60, 180, 3) + 70 * blob[..., None] + generator.normal(0, 6, (side, side, 3))
    levels += generator.normal(scale=40, size=3) * x[..., None]
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, container: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container, quality=90)
    return buffer.getvalue()


def write_images(folder: Path, count: int, seed: int, side: int = 72) -> None:
    """`count` different JPEG images."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(count):
        (folder / f"{index:05}.jpg").write_bytes(encoded(image(generator, side)))


def make_detector(folder: Path) -> Path:
    """Fit the tiny detector (random ResNet-18 weights) in a separate process and return the path of its bundle."""
    subprocess.run([sys.executable, __file__, str(folder)], check=True)  # noqa: S603 - this file
    return folder / "tiny.safetensors"


def _fit(folder: Path) -> None:
    import torch
    import torchvision
    from safetensors.torch import save_file

    from muflow_cli.fit import FitRequest, fit
    from muflow_cli.presets import LIGHT
    from muflow_cli.progress import NoProgress
    from muflow_cli.run_specs import Precision, Runtime
    from muflow_cli.settings import override

    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    trunk = {name: tensor for name, tensor in state.items() if not name.startswith(("layer3", "layer4", "fc"))}
    save_file(trunk, folder / "weights.safetensors")
    write_images(folder / "reals", 80, seed=1)
    request = FitRequest(
        reals=(str(folder / "reals"),),
        output=folder / "tiny.safetensors",
        spec=override(LIGHT, SETTINGS),
        weights={"main": folder / "weights.safetensors"},
        runtime=Runtime(precision=Precision.FP32),
    )
    fit(request, NoProgress())


if __name__ == "__main__":
    _fit(Path(sys.argv[1]))
