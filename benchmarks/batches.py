"""What a batch knows: power and realised rates of adaptive p-values and of groups, and what both cost.

    python benchmarks/batches.py found --weights resnet50.safetensors --real ffhq=DIR --fake sd21=DIR
    python benchmarks/batches.py found --weights resnet50.safetensors --real a=DIR --real b=DIR --pool --fake sd21=DIR
    python benchmarks/batches.py cost DETECTOR --images 100000

`found` brings every image into one container (centre square, 256 px, JPEG quality 90), takes the channel statistics of
an encoder, deals the reals of each source (of all with --pool) into calibration and held-out ones, and judges batches
that are drawn from held-out reals and fakes. It calls the functions that `scan` calls. `cost` times passes with and
without features in turn, and measures time and memory of learning on a file of features of so many images.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors.torch import load_file
from scipy.stats import false_discovery_control
from sklearn.metrics import roc_auc_score

from muflow_cli.bundle import load
from muflow_cli.calibration.batch import adaptive_p_values
from muflow_cli.calibration.components import Sample
from muflow_cli.calibration.groups import group_p_values
from muflow_cli.detector import Detector
from muflow_cli.engine.branch import Encoder
from muflow_cli.engine.devices import place
from muflow_cli.engine.inference import encoder_for_inference
from muflow_cli.engine.scoring import Extras
from muflow_cli.engine.statistics import channel_statistics
from muflow_cli.scan.evidence import open_evidence
from muflow_cli.specs import FeatureSpec

CELLS = ((50, 0.0), (50, 0.2), (50, 0.5), (200, 0.0), (200, 0.05), (200, 0.2), (200, 0.5), (1000, 0.2))
RATES = (0.05, 0.1, 0.2)
GROUPS = (5, 10, 20, 50)
CALIBRATED = 400  # reals that groups are compared with


def container(path: Path) -> NDArray[np.uint8] | None:
    """(256, 256, 3) grey levels after one pipeline; None for what is no image."""
    try:
        with Image.open(path) as image:
            square = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (256, 256), Image.Resampling.LANCZOS)
    except OSError:
        return None
    buffer = io.BytesIO()
    square.save(buffer, "JPEG", quality=90)
    return np.asarray(Image.open(buffer).convert("RGB"))


def encoded(folder: Path, encoder: Encoder) -> Sample:
    """The features of a folder's images in one container; their content hashes are those of their pixels."""
    views = [view for path in sorted(folder.rglob("*")) if path.is_file() and (view := container(path)) is not None]
    rows = []
    with torch.inference_mode():
        for start in range(0, len(views), 16):
            images = torch.from_numpy(np.stack(views[start : start + 16])).permute(0, 3, 1, 2)
            rows.append(torch.cat([channel_statistics(map_) for map_ in encoder.layer_maps(images)], dim=1))
    return Sample([hashlib.sha256(view).hexdigest() for view in views], torch.cat(rows).numpy().astype(np.float16))


def part(sample: Sample, rows: NDArray[np.int64]) -> Sample:
    """Some of the images."""
    return Sample([sample.digests[row] for row in rows], sample.features[rows])


def joined(samples: Sequence[Sample]) -> Sample:
    """The images of all samples."""
    digests = [digest for sample in samples for digest in sample.digests]
    return Sample(digests, np.concatenate([sample.features for sample in samples]))


def adaptive_rows(calibration: Sample, held_out: Sample, fakes: Sample | None, repeats: int) -> Iterator[str]:
    """One line for each size and share of fakes that there are images for."""
    generator = np.random.default_rng(7)
    for size, share in CELLS:
        count = round(size * share)
        if (fakes is None) != (count == 0) or size - count > len(held_out) or (fakes and count > len(fakes)):
            continue
        rows = []
        for deal in range(repeats):
            batch = [part(held_out, generator.choice(len(held_out), size - count, replace=False))]
            batch += [part(fakes, generator.choice(len(fakes), count, replace=False))] if fakes else []
            p_values = adaptive_p_values(calibration, joined(batch), 0.1, seed=deal).p_values
            fake, q_values = np.arange(size) >= size - count, false_discovery_control(p_values)
            figures = [roc_auc_score(fake, -p_values) if count else float("nan")]
            for rate in RATES:
                flagged = q_values <= rate
                figures += [flagged[fake].mean() if count else 0, flagged[~fake].sum() / max(1, flagged.sum())]
            rows.append(figures)
        means, ends = np.mean(rows, axis=0), 1.96 * np.std(rows, axis=0) / repeats**0.5
        found = [f"{means[1 + 2 * i]:.2f}, FDP {means[2 + 2 * i]:.2f} +- {ends[2 + 2 * i]:.2f}" for i in range(3)]
        yield f"{size:5} {share:5.0%}  AUC {means[0]:.2f}  power at 5 / 10 / 20 %: {' / '.join(found)}"


def group_row(calibration: Sample, images: Sample, draws: int = 20) -> str:
    """Share of groups with a p-value of at most 0.05."""
    generator = np.random.default_rng(0)
    shares = []
    for size in (size for size in GROUPS if size <= len(images)):
        found = 0
        for seed in range(draws):
            reals = part(
                calibration, generator.choice(len(calibration), min(CALIBRATED, len(calibration)), replace=False)
            )
            group = part(images, generator.choice(len(images), size, replace=False))
            found += group_p_values(reals, group, {"": range(size)}, seed=seed)[""] <= 0.05
        shares.append(f"n = {size}: {found / draws:.2f}")
    return ", ".join(shares)


def found(arguments: argparse.Namespace) -> None:
    """Print both tables for every source of reals, or for all of them together."""
    encoder = encoder_for_inference(
        Encoder.load(FeatureSpec(encoder=arguments.encoder), load_file(arguments.weights)), place()
    )
    named = {name: encoded(Path(folder), encoder) for name, folder in arguments.real + arguments.fake}
    generator = np.random.default_rng(1)
    orders = {name: generator.permutation(len(named[name])) for name, _ in arguments.real}
    ends = {name: round(len(order) * arguments.share) for name, order in orders.items()}
    held_out = {name: part(named[name], order[ends[name] :]) for name, order in orders.items()}
    calibrations = {name: part(named[name], order[: ends[name]]) for name, order in orders.items()}
    settings = {name: (calibrations[name], held_out[name]) for name in orders}
    if arguments.pool:
        settings = {"all": (joined([*calibrations.values()]), joined([*held_out.values()]))}
    for name, (calibration, own) in settings.items():
        print(f"## {name}: {len(calibration)} calibration images, {len(own)} held-out reals", flush=True)
        for fake in (None, *(fake for fake, _ in arguments.fake)):
            for line in adaptive_rows(calibration, own, named.get(fake), arguments.repeats):
                print(f"{fake or 'reals alone':20} {line}", flush=True)
        for other, images in ({f"real {key}": value for key, value in held_out.items()} | named).items():
            if other not in orders:
                print(f"groups of {other:20} {group_row(calibration, images)}", flush=True)


def anonymous() -> int:
    """Memory of this process that is no mapped file, KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def cost(arguments: argparse.Namespace) -> None:
    """Print the time of features in a pass, and time and memory of learning."""
    detector = load(arguments.detector)
    pass_cost(detector)
    learning_cost(detector.feature_count, arguments.images)


def pass_cost(detector: Detector) -> None:
    """The same images with and without features in turn."""
    scorer, generator = detector.scorer(place()), np.random.default_rng(0)
    view = next(iter(detector.views.items()))
    shape = (1, view[1].size, view[1].size, 3)
    units = [{view[0]: generator.integers(0, 256, shape, dtype=np.uint8)} for _ in range(16)]
    ratios = []
    for _ in range(12):
        seconds = []
        for extras in (Extras(), Extras(features=True)):
            begun = time.perf_counter()
            scorer.submit(units, extras).result()
            seconds.append(time.perf_counter() - begun)
        ratios.append(seconds[1] / seconds[0])
    print(f"a pass with features takes {statistics.median(ratios):.3f} of the time of one without")


def learning_cost(count: int, images: int) -> None:
    """A batch of drawn features on a file, against 1,000 reals."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(64, count))
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(images)]
    reals = Sample([hashlib.sha256(f"real {n}".encode()).hexdigest() for n in range(1000)],
                   generator.normal(size=(1000, count)).astype(np.float16))  # fmt: skip
    with open_evidence(None, b"", count, resumed=False) as evidence:
        for number, digest in enumerate(digests):
            row = centres[number % 64] + 0.1 * generator.standard_normal(count, dtype=np.float32)
            evidence.add(digest, number, row.astype(np.float16))
        before, peak, ended = anonymous(), [0], threading.Event()

        def watch() -> None:
            while not ended.wait(0.05):
                peak[0] = max(peak[0], anonymous())

        watcher = threading.Thread(target=watch)
        watcher.start()
        begun = time.perf_counter()
        adaptive_p_values(reals, evidence.sample(digests), 0.1)
        seconds = time.perf_counter() - begun
        ended.set()
        watcher.join()
    print(f"{images} images: {seconds:.1f} s to learn, {(peak[0] - before) / 1024:.0f} MiB at the peak")


def named_folder(text: str) -> tuple[str, str]:
    """NAME=DIR."""
    name, _, folder = text.partition("=")
    return name, folder


def main() -> None:
    """Run one of the two measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    tables = commands.add_parser("found")
    tables.add_argument("--encoder", default="resnet50")
    tables.add_argument("--weights", required=True)
    tables.add_argument("--real", action="append", type=named_folder, required=True)
    tables.add_argument("--fake", action="append", type=named_folder, default=[])
    tables.add_argument("--share", type=float, default=0.7, help="of the reals of a source that calibrate")
    tables.add_argument("--repeats", type=int, default=10)
    tables.add_argument("--pool", action="store_true")
    tables.set_defaults(run=found)
    costs = commands.add_parser("cost")
    costs.add_argument("detector")
    costs.add_argument("--images", type=int, default=100_000)
    costs.set_defaults(run=cost)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
