"""Fit the embedded default detector to folders of real faces, one folder a source.

    python weights/build_default.py REALS_FOLDER... -o weights/default.safetensors --kept-out kept_out.csv

Every picture is judged by its content alone. Of pictures that are nearly the same only the first is used, in the order
of the folders. A fifth of each source (by content hash), and whatever is beyond the cap, takes no part and is listed in
`--kept-out`, which `muflow bench --data` reads. `fit` splits the others: train, validate, calibrate. No synthetic
picture is read.
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
from muflow_cli.pictures.split import near_duplicate_groups, perceptual_hash
from muflow_cli.settings import override
from muflow_cli.specs import LIGHT, Precision
from muflow_cli.watch import Silent

# Chosen on real pictures alone; weights/README.md shows what else was tried and why these.
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
    "target.mean_size=1",
    "target.means=2000",
    "target.components=1",
    "train.epochs=0",
    "train.calibration_share=0.3",
    "rule.method=fisher",
)


def distinct(folders: list[Path]) -> dict[Path, list[Path]]:
    """Pictures of each folder, without those nearly the same as an earlier one, in the order of their content."""
    files = [(folder, path) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    hashes = []
    for _, path in files:
        with Image.open(path) as picture:
            hashes.append(perceptual_hash(np.asarray(picture.convert("RGB"))))
    seen: set[int] = set()
    kept: dict[Path, list[Path]] = {folder: [] for folder in folders}
    for (folder, path), group in zip(files, near_duplicate_groups(hashes).tolist(), strict=True):
        if group not in seen:
            kept[folder].append(path)
        seen.add(group)
    print(f"{len(files)} pictures, {len(files) - len(seen)} left out as nearly the same as another")
    return {folder: sorted(paths, key=_digest) for folder, paths in kept.items()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def deal(kept: dict[Path, list[Path]], share: float, cap: int) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Pictures to fit with, and those kept out with their source."""
    fitted: list[Path] = []
    kept_out: list[tuple[Path, str]] = []
    for folder, paths in kept.items():
        last = max(round(len(paths) * share), len(paths) - cap)
        kept_out += [(path, folder.name) for path in paths[:last]]
        fitted += paths[last:]
        print(f"{folder.name}: {len(paths) - last} to fit and calibrate, {last} kept out")
    return fitted, kept_out


def write_kept_out(path: Path, kept_out: list[tuple[Path, str]]) -> None:
    """A table that `muflow bench --data` reads."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(("path", "label", "group", "source"))
        table.writerows((picture.absolute(), "real", source, source) for picture, source in kept_out)


def fit_default(fitted: list[Path], output: Path, seed: int) -> FitSummary:
    """Fit and write the bundle, replacing the one before; one device and precision, so that all get the same."""
    spec = override(LIGHT, (*SETTINGS, f"train.seed={seed}"))
    reals = tuple(str(path) for path in fitted)
    request = FitRequest(reals=reals, output=output, spec=spec, device="cpu", precision=Precision.FP32, force=True)
    return fit(request, Silent())


def main() -> None:
    """Read the arguments, fit, and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reals", nargs="+", type=Path, metavar="REALS_FOLDER", help="real faces of one source")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("default.safetensors"))
    parser.add_argument("--kept-out", type=Path, help="CSV of the pictures that took no part")
    parser.add_argument("--share", type=float, default=0.2, help="of each source that is kept out")
    parser.add_argument("--cap", type=int, default=500, help="most pictures of one source, so that none outweighs all")
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
