"""Read, decode and cut on worker threads: bounded look-ahead, results in the order of the inputs."""

from __future__ import annotations

import hashlib
import io
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.errors import BadSpec
from muflow_cli.images.decode import decode, pixels_of
from muflow_cli.images.error import ImageError
from muflow_cli.images.inputs import Input, unreadable
from muflow_cli.images.marks import read_marks, with_mark
from muflow_cli.images.read import read_input
from muflow_cli.images.thumbnails import thumbnail_mark
from muflow_cli.images.views import cut_views
from muflow_cli.records import Declared, Facts, Unreadable
from muflow_cli.specs import InputSpec, View, ViewSpec


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image that is ready to be scored.

    Attributes:
        path: as reported.
        facts: with the sharpness of the first view of the first branch.
        views: branch name -> (V, size, size, 3), in the order of the branches.
        thumbnail: a small JPEG, if the specification asks for one.
        declared: what the file says of its own origin.
    """

    path: str
    facts: Facts
    views: Mapping[str, NDArray[np.uint8]]
    thumbnail: bytes | None
    declared: Declared = field(default_factory=Declared)


@dataclass(frozen=True, slots=True)
class Seen:
    """An input whose content is known already: hashed, not decoded."""

    path: str
    sha256: str


_T = TypeVar("_T")
_Task = Callable[[Input | Unreadable], _T]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadSpec:
    """How inputs become views.

    Attributes:
        views: branch name -> how that branch looks at an image; at least one.
        inputs: limits on bytes and pixels.
        workers: decoding threads, at least 1.
        ahead: inputs held beyond the one being consumed, at least 1: the bound on memory.
        crops_seed: draw random crops (for fitting) from this seed and the content of the image, so that neither order
            nor workers matter, nor other branches; None = the even grid of a scan.
        thumbnail: longer side of a JPEG thumbnail, pixels; 0 = none.
        transform: applied to the image, decoded at full scale, before the views are cut.
    """

    views: Mapping[str, ViewSpec]
    inputs: InputSpec
    workers: int
    ahead: int
    crops_seed: int | None = None
    thumbnail: int = 0
    transform: Callable[[Image.Image], Image.Image] | None = None

    def __post_init__(self) -> None:
        if not self.views:
            raise BadSpec("views", "empty", "the view of at least one branch")
        if self.workers < 1:
            raise BadSpec("workers", self.workers, "at least 1")
        if self.ahead < 1:
            raise BadSpec("ahead", self.ahead, "at least 1")

    @property
    def draft_side(self) -> int:
        """Side in pixels that a JPEG of reduced scale must have; 0 where a branch or the transform needs full scale."""
        views = self.views.values()
        if self.transform is not None or any(view.kind is not View.RESIZE or not view.draft for view in views):
            return 0
        return max(view.size for view in views)


def look_ahead(batch_size: int, workers: int) -> int:
    """Inputs to hold so that neither a device with batches of `batch_size` nor the workers wait: `LoadSpec.ahead`."""
    return 2 * (batch_size + workers)


def load(inputs: Iterable[Input | Unreadable], spec: LoadSpec) -> Iterator[Loaded | Unreadable]:
    """Results in the order of the inputs; at most `spec.ahead` inputs are read beyond those handed out.

    `inputs` is iterated in the consumer's thread. An exception that it raises is raised here after the results of
    everything before it. Closing the iterator cancels what waits and returns when the running images are done.
    """

    def task(input_: Input | Unreadable) -> Loaded | Unreadable:
        if isinstance(input_, Unreadable):
            return input_
        try:
            return _decoded(input_.path, read_input(input_, spec.inputs.max_bytes), spec)
        except ImageError as error:
            return unreadable(input_.path, error)

    return _ordered(inputs, spec, task)


def load_unknown(
    inputs: Iterable[Input | Unreadable], spec: LoadSpec, known: Callable[[str], bool]
) -> Generator[Loaded | Seen | Unreadable]:
    """As `load`, but content whose SHA-256 is `known` is only read and hashed; called on the worker threads."""

    def task(input_: Input | Unreadable) -> Loaded | Seen | Unreadable:
        if isinstance(input_, Unreadable):
            return input_
        try:
            data = read_input(input_, spec.inputs.max_bytes)
            sha256 = hashlib.sha256(data).hexdigest()
            return Seen(input_.path, sha256) if known(sha256) else _decoded(input_.path, data, spec, sha256)
        except ImageError as error:
            return unreadable(input_.path, error)

    return _ordered(inputs, spec, task)


def sharpness(view: NDArray[np.uint8]) -> float:
    """Standard deviation of the 4-neighbour Laplacian of the luma, in grey levels.

    Args:
        view: (H, W, 3), RGB, H and W at least 3.
    """
    luma = np.asarray(Image.fromarray(view).convert("L")).astype(np.int32)
    laplacian = luma[1:-1, :-2] + luma[1:-1, 2:] + luma[:-2, 1:-1] + luma[2:, 1:-1] - 4 * luma[1:-1, 1:-1]
    # Sums of integers are exact in any order: every machine reports the same figure.
    mean = int(laplacian.sum(dtype=np.int64)) / laplacian.size
    mean_square = int(np.square(laplacian, out=laplacian).sum(dtype=np.int64)) / laplacian.size
    return math.sqrt(mean_square - mean**2)


def _ordered(inputs: Iterable[Input | Unreadable], spec: LoadSpec, task: _Task[_T]) -> Generator[_T]:
    pool = ThreadPoolExecutor(spec.workers, thread_name_prefix="decode")
    pending: deque[Future[_T]] = deque()

    def submitted() -> Iterator[Future[_T]]:
        try:
            for input_ in inputs:
                yield pool.submit(task, input_)
        except Exception as error:  # noqa: BLE001  result() raises it again, in its place among the results
            failed: Future[_T] = Future()
            failed.set_exception(error)
            yield failed

    futures = submitted()
    try:
        _fill(pending, futures, spec.ahead)
        while pending:
            result = pending.popleft().result()
            _fill(pending, futures, spec.ahead)
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _fill(pending: deque[Future[_T]], futures: Iterator[Future[_T]], ahead: int) -> None:
    while len(pending) < ahead and (future := next(futures, None)) is not None:
        pending.append(future)


def _decoded(path: str, data: bytes, spec: LoadSpec, sha256: str | None = None) -> Loaded | Unreadable:
    limits = spec.inputs
    declared = read_marks(data, limits.c2pa_anchors)
    try:
        decoded = decode(data, limits.max_pixels, draft_side=spec.draft_side, sha256=sha256, damaged=limits.damaged)
    except ImageError as error:
        return replace(unreadable(path, error), declared=declared)
    declared = with_mark(declared, thumbnail_mark(data, decoded.image))
    image = decoded.image if spec.transform is None else spec.transform(decoded.image)
    return replace(_with_views(path, decoded.facts, image, spec), declared=declared)


def _with_views(path: str, facts: Facts, image: Image.Image, spec: LoadSpec) -> Loaded:
    views = {}
    for branch, view in spec.views.items():
        generator = None
        if spec.crops_seed is not None:
            # A generator of its own, so that a branch draws the same crops beside others as alone.
            generator = np.random.default_rng([spec.crops_seed, int(facts.sha256, 16)])
        views[branch] = cut_views(image, view, generator)
    facts = replace(facts, sharpness=sharpness(next(iter(views.values()))[0]))
    thumbnail = None
    if spec.thumbnail:
        scale = min(1.0, spec.thumbnail / max(image.size))
        width, height = (max(1, round(length * scale)) for length in image.size)
        buffer = io.BytesIO()
        small = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        small.save(buffer, "JPEG", quality=80)
        thumbnail = buffer.getvalue()
    return Loaded(path, facts, views, thumbnail)


def from_pixels(label: str, pixels: Image.Image | NDArray[np.uint8], spec: LoadSpec) -> Loaded:
    """An image that is in memory already, as if it had been loaded; its facts are those of its pixels.

    Args:
        label: takes the place of a path.
        pixels: a PIL image of any mode that a file may have, or RGB grey levels (H, W, 3) uint8.
        spec: views and thumbnail.

    Raises:
        BadSpec: for an array of another shape or type, for an image without pixels, or for anything else.
        ImageError: for a mode whose white is not defined, or a file that Pillow opened but cannot read.
    """
    if isinstance(pixels, np.ndarray):
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise BadSpec(f"the array {label}", f"{pixels.dtype} {pixels.shape}", "RGB grey levels, uint8 (H, W, 3)")
        pixels = Image.fromarray(pixels)
    if not isinstance(pixels, Image.Image) or 0 in pixels.size:
        what = f"empty {pixels.size}" if isinstance(pixels, Image.Image) else f"a {type(pixels).__name__}"
        raise BadSpec(f"the image {label}", what, "a path, a PIL image with pixels, or an RGB array, uint8 (H, W, 3)")
    image = pixels_of(pixels)
    data = image.tobytes()
    facts = Facts(
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        format="pixels",
        width=image.width,
        height=image.height,
    )
    return _with_views(label, facts, image, spec)
