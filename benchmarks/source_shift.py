"""What a detector says of sources that it was not made of, all in one container.

Every image becomes its central square, 256 px, JPEG q75, so that neither format nor size tells the sources apart. The
images that the detector was fitted or calibrated on are left out by their bytes. The rest of each folder is scanned as
one run: the share flagged at the rule's alpha, the share outside the calibration's ranges, and what the test of the run
as a group says (calibration/shift.py), of all images and of batches of 50 drawn from them.

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
from muflow_cli.records import Scored, Verdict

SIDE = 256
QUALITY = 75
BATCH = 50
BATCHES = 100


def contained(path: Path, copy: Path) -> bool:
    """Write an image in the container; False for what is no image."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            square = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    except OSError:
        return False
    square.save(copy, quality=QUALITY)
    return True


def fresh_images(detector: Detector, folder: Path, limit: int, target: Path) -> list[Path]:
    """Copies of the images of a folder that the detector was not made of, drawn by content hash."""
    known = {bytes(row).hex() for row in detector.fitted_on} | {image.sha256 for image in detector.calibration.facts}
    files = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in folder.rglob("*") if path.is_file()}
    target.mkdir()
    copies = []
    for digest in sorted(files.keys() - known)[:limit]:
        copy = target / f"{digest}.jpg"
        if contained(files[digest], copy):
            copies.append(copy)
    return copies


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
    for _ in range(BATCHES if len(results) > BATCH else 0):
        chosen = generator.choice(len(results), BATCH, replace=False)
        one = detector.shift([results[index] for index in chosen])
        warned += [one is not None and not one.alike]
    batches = f"{np.mean(warned):.0%}" if warned else "-"
    return f"| {name} | {len(results)} | {flagged:.1%} | {atypical:.1%} | {told} | {batches} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--limit", type=int, default=150, help="most images of a folder")
    given = parser.parse_args()
    detector = muflow.load(given.detector)
    print(f"| images | n | flagged | atypical | unlike the calibration | batches of {BATCH} |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as target:
        for folder in given.folders:
            paths = fresh_images(detector, folder, given.limit, Path(target) / folder.name)
            if paths:
                print(row(detector, folder.name, paths), flush=True)


if __name__ == "__main__":
    main()
