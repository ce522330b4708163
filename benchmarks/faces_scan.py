"""A scan with a detector of faces: what finding and aligning cost of it, and how well an aligned face keeps its score.

    python benchmarks/faces_scan.py DETECTOR FOLDER [--count 60]

Shares are of processor time, each part alone on one thread against a whole scan of the same images, three rounds in
turn. The second table compares the score of each image with that of its largest face, aligned and saved as PNG, in
standard deviations of the calibration's scores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muflow_cli.bundle import load
from muflow_cli.detector import Detector
from muflow_cli.images.alignment import aligned
from muflow_cli.images.decode import decode
from muflow_cli.images.faces import face_finder, find_faces
from muflow_cli.images.find import find
from muflow_cli.records import Scored
from muflow_cli.run_specs import InputSpec, Runtime
from muflow_cli.scan.workflow import Scan, ScanRequest

LIMITS = InputSpec()


def scan(detector: Detector, files: Sequence[Path]) -> dict[str, Scored]:
    request = ScanRequest(detector=detector, runtime=Runtime())
    results = Scan(request).results(find(map(str, files), LIMITS))
    return {result.path: result for result in results if isinstance(result, Scored)}


def processor_seconds(part: Callable[[], Any]) -> float:
    begun = time.process_time()
    part()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("detector", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60)
    arguments = parser.parse_args()
    detector = load(arguments.detector)
    if detector.spec.faces is None:
        parser.error("the detector scores whole images")
    finder = face_finder(detector.spec.faces)
    size = next(iter(detector.views.values())).size
    files = sorted(path for path in arguments.folder.iterdir() if path.is_file())[: arguments.count]
    images = [decode(path.read_bytes(), LIMITS.max_pixels).image for path in files]
    found = [(image, faces[0]) for image in images if (faces := find_faces(image, finder))]
    parts = {
        "whole scan": lambda: scan(detector, files),
        "finding faces": lambda: [find_faces(image, finder) for image in images],
        "aligning the largest": lambda: [aligned(image, face, size) for image, face in found],
    }
    rounds = [{name: processor_seconds(part) for name, part in parts.items()} for _ in range(3)]
    print("| part | ms per image | share of the scan |\n| --- | --- | --- |")
    for name in parts:
        milliseconds = 1000 * np.median([one[name] for one in rounds]) / len(files)
        print(f"| {name} | {milliseconds:.1f} | {np.median([one[name] / one['whole scan'] for one in rounds]):.1%} |")

    spread = detector.calibration.mean_scores.std()
    whole = scan(detector, files)
    with tempfile.TemporaryDirectory() as folder:
        crops = {str(path): Path(folder) / f"{index:05}.png" for index, path in enumerate(files)}
        for path, image in zip(files, images, strict=True):
            if str(path) in whole and len(whole[str(path)].faces) == 1:
                aligned(image, whole[str(path)].faces[0].face, size).save(crops[str(path)])
        cut = scan(detector, [crop for crop in crops.values() if crop.exists()])
        pairs = [(whole[path], cut[str(crop)]) for path, crop in crops.items() if str(crop) in cut]
    moved = [abs(one.score - other.score) / spread for one, other in pairs]
    print(f"\n{len(pairs)} aligned faces: the score moves by {np.median(moved):.2f} (median), ", end="")
    print(f"{np.percentile(moved, 95):.2f} (95th percentile) and at most {max(moved):.2f} standard deviations")


if __name__ == "__main__":
    main()
