"""Seeded images, weights and a tiny detector, all made here: no test needs anything from outside the repository."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

# Before NumPy and torch look: as many workers as cores, each with as many threads as cores, wait for each other. Tests
# that are about threads set their number.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from fork_server import executable
from PIL import Image

from muflow_cli.presets import LIGHT
from muflow_cli.run_specs import Precision, Runtime
from muflow_cli.settings import override
from muflow_cli.specs import DetectorSpec

FP32 = Runtime(device="cpu", precision=Precision.FP32)

SHARED = Path(__file__).parents[2] / "shared"

# Small enough to fit in a second or two, large enough that every part has something to do.
# Tests compare scores to the last digit, so they do not depend on what a machine computes fastest with.
os.environ["MUFLOW_BACKEND"] = "torch"

TINY_SETTINGS = (
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
    "train.epochs=3",
    "train.batch_size=16",
    "train.checkpoint_every=1",
    "train.calibration_share=0.4",
    "rule.alpha=0.1",
)


# They begin first, so that no worker is left alone with one of them at the end.
LONGEST = (
    "test_readme.py",
    "test_fit.py",
    "test_fit_work.py",
    "test_api_docs.py",
    "test_bench_kept.py",
    "test_running.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, not what is in them."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def tiny_spec() -> DetectorSpec:
    """The tiny detector's specification."""
    return override(LIGHT, TINY_SETTINGS)


def draw_face(generator: np.random.Generator, side: int = 72) -> Image.Image:
    """A smooth random blob on a gradient with some grain: no face, but with an image's statistics."""
    y, x = np.mgrid[0:side, 0:side] / side
    centre = 0.5 + 0.1 * generator.normal(size=2)
    width = 0.2 + 0.1 * generator.random()
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / width**2)
    tint = generator.uniform(60, 180, size=3)
    slope = generator.normal(scale=40, size=3)
    grain = generator.normal(scale=generator.uniform(1, 8), size=(side, side, 3))
    levels = tint + slope * x[..., None] + 70 * blob[..., None] * generator.uniform(0.5, 1.2, size=3) + grain
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def write_faces(folder: Path, count: int, seed: int) -> list[Path]:
    """`count` different JPEG images in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    paths = []
    for index in range(count):
        path = folder / f"{index:04}.jpg"
        draw_face(generator).save(path, quality=90)
        paths.append(path)
    return paths


@pytest.fixture(scope="session")
def reals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 80 images to fit to."""
    folder = tmp_path_factory.mktemp("reals")
    write_faces(folder, 80, seed=1)
    return folder


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random ResNet-18 weights to layer2, torchvision's names."""
    import torch
    import torchvision
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = torchvision.models.resnet18().state_dict()
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file({k: v for k, v in state.items() if not k.startswith(("layer3", "layer4", "fc"))}, path)
    return path


def fit_arguments(reals: Path, weights: Path, output: Path) -> list[str]:
    """Arguments of `muflow fit` for the tiny detector."""
    settings = [word for setting in TINY_SETTINGS for word in ("--set", setting)]
    return ["fit", str(reals), "-o", str(output), "--encoder-weights", str(weights), "--precision", "fp32", *settings]


@pytest.fixture(scope="session")
def tiny_bundle(
    tmp_path_factory: pytest.TempPathFactory, reals: Path, tiny_weights: Path, tiny_spec: DetectorSpec
) -> Path:
    """A bundle fitted to `reals`."""
    from muflow_cli.fit import FitRequest, fit

    output = tmp_path_factory.mktemp("bundle") / "tiny.safetensors"
    fit(FitRequest(reals=(str(reals),), output=output, spec=tiny_spec, weights={"main": tiny_weights}, runtime=FP32))
    return output


@pytest.fixture(scope="session")
def portrait() -> Image.Image:
    """A photograph of one face, in the public domain."""
    with Image.open(Path(__file__).parent.parent / "examples" / "eileen_collins.jpg") as image:
        return image.convert("RGB")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (development images and encoder weights), which is not here")
    return SHARED


Muflow = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def muflow(tmp_path: Path) -> Muflow:
    """Run the real command in a process of its own, one thread, with an empty home; returns what it printed."""

    def run(*arguments: str | Path, **more: object) -> subprocess.CompletedProcess[bytes]:
        words: Sequence[str] = [str(executable()), *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "COLUMNS": "200"}
        environment.pop("MUFLOW_DETECTOR", None)
        environment |= more.pop("env", {})  # type: ignore[arg-type] # a mapping of strings
        return subprocess.run(words, capture_output=True, env=environment, timeout=240, **more)  # type: ignore[call-overload] # noqa: PLW1510 # the status is what tests look at

    return run
