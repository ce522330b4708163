"""Fit the built-in default detector to folders of real faces, one folder per source.

    python weights/build_default.py REALS_FOLDER... -o weights/default.safetensors --kept-out kept_out.csv

Content alone decides where an image goes; file names do not matter. Near duplicates are left out: the first image, in
the order of the folders, stays. A fifth of each source (by content hash) and everything beyond the cap take no part;
`--kept-out` lists them in a CSV that `muflow bench --data` reads. `fit` splits the rest into training, validation and
calibration images. The script reads no synthetic image.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from muflow_cli.fit import FitRequest, FitSummary, fit
from muflow_cli.images.near import near_duplicate_groups, perceptual_hash
from muflow_cli.presets import LIGHT
from muflow_cli.progress import NoProgress
from muflow_cli.run_specs import Precision, Runtime
from muflow_cli.settings import override

# Chosen on real images alone; weights/README.md lists the candidates and the reasons.
SETTINGS: Final = (
    "view.kind=crops",
    "view.size=128",
    "view.count=9",
    "view.fit_count=4",
    "view.draft=false",
    "feature.encoder=forensic",
    "feature.dimensions=0",
    "feature.grid=4",
    "flow.steps=0",
    "target.images_per_average=1",
    "target.n_averages=2000",
    "target.components=1",
    "train.epochs=0",
    "train.calibration_share=0.3",
    "rule.method=fisher",
)


def distinct(folders: list[Path]) -> dict[Path, list[Path]]:
    """Images of each folder without near duplicates of earlier ones, sorted by content hash."""
    files = [(folder, path) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    hashes = []
    for _, path in files:
        with Image.open(path) as image:
            hashes.append(perceptual_hash(np.asarray(image.convert("RGB"))))
    seen: set[int] = set()
    sources: dict[Path, list[Path]] = {folder: [] for folder in folders}
    for (folder, path), group in zip(files, near_duplicate_groups(hashes).tolist(), strict=True):
        if group not in seen:
            sources[folder].append(path)
        seen.add(group)
    print(f"{len(files)} images, {len(files) - len(seen)} left out as near duplicates")
    return {folder: sorted(paths, key=_digest) for folder, paths in sources.items()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def deal(sources: dict[Path, list[Path]], share: float, cap: int) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Images to fit and calibrate with, and (image, source) for those that take no part."""
    fitted: list[Path] = []
    kept_out: list[tuple[Path, str]] = []
    for folder, paths in sources.items():
        last = max(round(len(paths) * share), len(paths) - cap)
        kept_out += [(path, folder.name) for path in paths[:last]]
        fitted += paths[last:]
        print(f"{folder.name}: {len(paths) - last} to fit and calibrate, {last} kept out")
    return fitted, kept_out


def write_kept_out(path: Path, kept_out: list[tuple[Path, str]]) -> None:
    """Write the images that take no part as a CSV that `muflow bench --data` reads."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(("path", "label", "group", "source"))
        table.writerows((image.absolute(), "real", source, source) for image, source in kept_out)


def fit_default(fitted: list[Path], output: Path, seed: int) -> FitSummary:
    """Fit and write the bundle, replacing an earlier one; with device and precision fixed, everybody gets the same."""
    spec = override(LIGHT, (*SETTINGS, f"train.seed={seed}"))
    reals = tuple(str(path) for path in fitted)
    runtime = Runtime(device="cpu", precision=Precision.FP32)
    request = FitRequest(reals=reals, output=output, spec=spec, runtime=runtime, force=True)
    return fit(request, NoProgress())


def main() -> None:
    """Read the arguments, fit, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "reals", nargs="+", type=Path, metavar="REALS_FOLDER", help="folder with real faces from one source"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("default.safetensors"))
    parser.add_argument("--kept-out", type=Path, help="CSV to write: the images that take no part")
    parser.add_argument("--share", type=float, default=0.2, help="share of each source that takes no part")
    parser.add_argument(
        "--cap", type=int, default=500, help="most images to use from one source, so that no source dominates"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    fitted, kept_out = deal(distinct(arguments.reals), arguments.share, arguments.cap)
    if arguments.kept_out:
        write_kept_out(arguments.kept_out, kept_out)
    summary = fit_default(fitted, arguments.output, arguments.seed)
    for name, value in asdict(summary).items():
        print(f"{name}: {value}")
    print(f"sha256: {_digest(arguments.output)}, {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
