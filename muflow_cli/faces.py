"""The pass of `muflow faces`: inputs -> decoded as a scan decodes them -> the faces of each, in input order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from muflow_cli.images.faces import FaceFinder, find_faces
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded, LoadSpec, load
from muflow_cli.records import Face, Facts, Unreadable
from muflow_cli.run_specs import InputSpec
from muflow_cli.specs import ViewSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class FacesFound:
    """One image and its faces.

    Attributes:
        path: as found.
        facts: of the file.
        width: of the upright image, in whose pixels the faces are given.
        height: the same.
        faces: the largest first.
        thumbnail: a small JPEG of the upright image, where one was asked for.
    """

    path: str
    facts: Facts
    width: int
    height: int
    faces: tuple[Face, ...]
    thumbnail: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FacesRequest:
    """What to look for.

    Attributes:
        finder: finds the faces.
        min_side: pixels; smaller faces are left out.
        inputs: limits on what is read.
        workers: threads; 0 = one per core.
        thumbnail: longer side of the thumbnails, pixels; 0 = none.
    """

    finder: FaceFinder
    min_side: int
    inputs: InputSpec
    workers: int = 0
    thumbnail: int = 0


def faces_of(inputs: Iterable[Input | Unreadable], request: FacesRequest) -> Iterator[FacesFound | Unreadable]:
    """The faces of each input, in the order of the inputs; whatever is wrong with one is a record."""
    workers = request.workers or os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers, thread_name_prefix="faces")
    pending: deque[Future[FacesFound | Unreadable]] = deque()
    try:
        for input_ in inputs:
            pending.append(pool.submit(_faces_in, input_, request))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _faces_in(input_: Input | Unreadable, request: FacesRequest) -> FacesFound | Unreadable:
    size: tuple[int, int] = (0, 0)
    faces: tuple[Face, ...] = ()

    def look(image: Image.Image) -> Image.Image:
        nonlocal size, faces
        size, faces = image.size, find_faces(image, request.finder)
        return image

    # A scan's own way through damaged, hostile and huge files; its views are made as small as they may be.
    spec = LoadSpec(
        views={"image": ViewSpec(size=16)},
        inputs=request.inputs,
        workers=1,
        ahead=1,
        thumbnail=request.thumbnail,
        transform=look,
    )
    (loaded,) = load([input_], spec)
    if not isinstance(loaded, Loaded):
        return loaded
    large = tuple(face for face in faces if face.side >= request.min_side)
    return FacesFound(
        path=loaded.path,
        facts=loaded.facts,
        width=size[0],
        height=size[1],
        faces=large,
        thumbnail=loaded.thumbnail,
    )
