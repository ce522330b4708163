"""What a detector says of sources that it was not made of, all in one container.

Every image becomes its central square, 256 px, JPEG q75, so that neither format nor size tells the sources apart. The
images that the detector was fitted or calibrated on are left out, and so are near copies of them and of each other.
The rest of each folder is scanned as one run: the share flagged at the rule's alpha, the share outside the
calibration's ranges, and what the test of the run as a group says (calibration/shift.py), of all images and of batches.

Example: python benchmarks/source_shift.py weights/default.safetensors real/ffhq_256 real/celebahq_256 fake/sd21_768
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import muflow_cli as muflow
from muflow_cli.detector import Detector
from muflow_cli.errors import MuflowError
from muflow_cli.images.near import near_duplicate_groups, perceptual_hash
from muflow_cli.records import Scored, Verdict

SIDE = 256
QUALITY = 75
BATCH = 50
BATCHES = 200


def contained(path: Path, folder: Path) -> tuple[str, int, Path] | None:
    """Content hash of an image, perceptual hash, and its copy in the container; None for what is no image."""
    data = path.read_bytes()
    try:
        with Image.open(path) as image:
            square = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    except OSError:
        return None
    digest = hashlib.sha256(data).hexdigest()
    copy = folder / f"{digest}.jpg"
    square.save(copy, quality=QUALITY)
    return digest, perceptual_hash(np.asarray(square)), copy


def fresh_images(detector: Detector, folders: Sequence[Path], target: Path) -> dict[str, list[Path]]:
    """Folder -> copies of its images that the detector does not know, ordered by content hash."""
    known = {bytes(row).hex() for row in detector.fitted_on} | {image.sha256 for image in detector.calibration.facts}
    images = []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        (target / folder.name).mkdir()
        images += [(folder.name, *one) for path in files if (one := contained(path, target / folder.name)) is not None]
    groups = near_duplicate_groups([near for _, _, near, _ in images]).tolist()
    taken = {group for group, (_, digest, _, _) in zip(groups, images, strict=True) if digest in known}
    fresh: dict[str, list[Path]] = {folder.name: [] for folder in folders}
    for group, (name, _, _, copy) in sorted(zip(groups, images, strict=True), key=lambda pair: pair[1][1]):
        if group not in taken:
            taken.add(group)
            fresh[name].append(copy)
    return fresh


def row(detector: Detector, name: str, paths: Sequence[Path]) -> str:
    """One line of the table."""
    results = [one for one in muflow.scan(paths, detector, atypical="report") if isinstance(one, Scored)]
    flagged = np.mean([one.judgement.verdict is Verdict.FLAGGED for one in results])
    atypical = np.mean([bool(one.judgement.atypical_input) for one in results])
    shift = detector.shift(results)
    told = (
        "too few"
        if shift is None
        else f"{'no' if shift.alike else 'yes'} (p = {shift.p_value:.2g}, D = {shift.distance:.2f})"
    )
    generator, warned = np.random.default_rng(0), []
    for _ in range(BATCHES if len(results) >= 2 * BATCH else 0):
        chosen = generator.choice(len(results), BATCH, replace=False)
        one = detector.shift([results[index] for index in chosen])
        warned += [one is not None and not one.alike]
    batches = f"{np.mean(warned):.0%}" if warned else "-"
    return f"| {name} | {len(results)} | {flagged:.1%} | {atypical:.1%} | {told} | {batches} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    given = parser.parse_args()
    detector = muflow.load(given.detector)
    print(f"| images | n | flagged | atypical | unlike the calibration | batches of {BATCH} |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, paths in fresh_images(detector, given.folders, Path(folder)).items():
            try:
                print(row(detector, name, paths), flush=True)
            except MuflowError as error:
                print(f"| {name} | 0 | {error.problem} | | | |")


if __name__ == "__main__":
    main()
