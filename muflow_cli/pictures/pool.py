"""Read, decode and cut on worker threads: bounded look-ahead, results in the order of the inputs."""

from __future__ import annotations

import hashlib
import io
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.errors import BadSpec
from muflow_cli.pictures.decode import PictureError, decode
from muflow_cli.pictures.sources import Source, unreadable
from muflow_cli.pictures.views import cut_views
from muflow_cli.records import Facts, Unreadable
from muflow_cli.specs import InputSpec, ViewSpec


@dataclass(frozen=True, slots=True)
class Loaded:
    """One picture ready to be scored.

    Attributes:
        path: as found.
        facts: with the sharpness of the first view.
        views: (V, size, size, 3).
        thumbnail: a small JPEG, where asked for.
    """

    path: str
    facts: Facts
    views: NDArray[np.uint8]
    thumbnail: bytes | None


@dataclass(frozen=True, slots=True)
class Seen:
    """An input whose content is known already: hashed, not decoded."""

    path: str
    sha256: str


_T = TypeVar("_T")
_Task = Callable[[Source | Unreadable], _T]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadSpec:
    """How inputs become views.

    Attributes:
        view: the detector's views.
        inputs: limits on bytes and pixels.
        workers: decoding threads, at least 1.
        ahead: inputs held beyond the one being consumed, at least 1: the bound on memory.
        crops_seed: random crops for fitting, drawn from (seed, content), so that neither order nor workers matter.
        thumbnail: longer side of a JPEG thumbnail, pixels; 0 = none.
        transform: applied to the picture before the views are cut, always decoded at full scale.
    """

    view: ViewSpec
    inputs: InputSpec
    workers: int
    ahead: int
    crops_seed: int | None = None
    thumbnail: int = 0
    transform: Callable[[Image.Image], Image.Image] | None = None

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("ahead", self.ahead)):
            if value < 1:
                raise BadSpec(name, value, "at least 1")


def load(sources: Iterable[Source | Unreadable], spec: LoadSpec) -> Iterator[Loaded | Unreadable]:
    """Results in the order of the sources, at most `spec.ahead` inputs read beyond those handed out.

    Sources are drawn in the consumer's thread. An exception of `sources` is raised in its place, after the results
    of everything before it. Closing the iterator cancels what waits and returns when the running pictures are done.
    """
    return _ordered(sources, spec, partial(_load_one, spec=spec))


def load_unknown(
    sources: Iterable[Source | Unreadable], spec: LoadSpec, known: Callable[[str], bool]
) -> Generator[Loaded | Seen | Unreadable]:
    """As `load`, but content that is `known` by its SHA-256 is read and hashed only; asked on the worker threads."""
    return _ordered(sources, spec, partial(_load_one_unknown, spec=spec, known=known))


def _ordered(sources: Iterable[Source | Unreadable], spec: LoadSpec, task: _Task[_T]) -> Generator[_T]:
    pool = ThreadPoolExecutor(spec.workers, thread_name_prefix="decode")
    pending: deque[Future[_T]] = deque()
    tasks = _submitted(iter(sources), task, pool)
    try:
        _fill(pending, tasks, spec.ahead)
        while pending:
            result = pending.popleft().result()
            _fill(pending, tasks, spec.ahead)
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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


def _submitted(
    sources: Iterator[Source | Unreadable], task: _Task[_T], pool: ThreadPoolExecutor
) -> Iterator[Future[_T]]:
    try:
        for source in sources:
            yield pool.submit(task, source)
    except Exception as error:  # noqa: BLE001  re-raised by result(), in its place among the results
        failed: Future[_T] = Future()
        failed.set_exception(error)
        yield failed


def _fill(pending: deque[Future[_T]], tasks: Iterator[Future[_T]], ahead: int) -> None:
    while len(pending) < ahead and (task := next(tasks, None)) is not None:
        pending.append(task)


def _load_one(source: Source | Unreadable, spec: LoadSpec) -> Loaded | Unreadable:
    if isinstance(source, Unreadable):
        return source
    try:
        return _views_of(source.path, source.read(spec.inputs.max_bytes), spec)
    except PictureError as error:
        return unreadable(source.path, error)


def _load_one_unknown(
    source: Source | Unreadable, spec: LoadSpec, known: Callable[[str], bool]
) -> Loaded | Seen | Unreadable:
    if isinstance(source, Unreadable):
        return source
    try:
        data = source.read(spec.inputs.max_bytes)
        sha256 = hashlib.sha256(data).hexdigest()
        return Seen(source.path, sha256) if known(sha256) else _views_of(source.path, data, spec, sha256)
    except PictureError as error:
        return unreadable(source.path, error)


def _views_of(path: str, data: bytes, spec: LoadSpec, sha256: str | None = None) -> Loaded:
    as_decoded = spec.view if spec.transform is None else replace(spec.view, draft=False)
    picture = decode(data, as_decoded, spec.inputs.max_pixels, sha256)
    image = picture.image if spec.transform is None else spec.transform(picture.image)
    generator = None
    if spec.crops_seed is not None:
        generator = np.random.default_rng([spec.crops_seed, int(picture.facts.sha256, 16)])
    views = cut_views(image, spec.view, generator)
    facts = replace(picture.facts, sharpness=sharpness(views[0]))
    return Loaded(path, facts, views, _thumbnail(image, spec.thumbnail))


def _thumbnail(image: Image.Image, side: int) -> bytes | None:
    if side == 0:
        return None
    scale = min(1.0, side / max(image.size))
    width, height = (max(1, round(length * scale)) for length in image.size)
    buffer = io.BytesIO()
    small = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
