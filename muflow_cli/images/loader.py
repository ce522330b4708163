"""Read, decode and cut on threads or in processes: bounded look-ahead and memory, results in the inputs' order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.errors import BadSpec
from muflow_cli.images.budget import Budget
from muflow_cli.images.clips import (
    ClipSource,
    LoadedClip,
    data_source,
    digests_of,
    embedded_source,
    file_source,
    in_file,
    load_clip,
)
from muflow_cli.images.container import contained
from muflow_cli.images.decode import DecodedImage, pixels_of
from muflow_cli.images.error import ImageError
from muflow_cli.images.formats import check_name
from muflow_cli.images.hash_lists import HashLists
from muflow_cli.images.inputs import Input, InputKind, unreadable
from muflow_cli.images.marks import read_marks, with_mark
from muflow_cli.images.prepare import (
    FaceSearch,
    Loaded,
    PrepareSpec,
    Seen,
    decoded,
    out_of_memory,
    with_faces,
    with_views,
)
from muflow_cli.images.protocol import Task
from muflow_cli.images.queued import Queue
from muflow_cli.images.read import announced_bytes, read_input
from muflow_cli.images.thumbnails import thumbnail_mark
from muflow_cli.images.triage import triage
from muflow_cli.images.worker import CLIPS, IMAGES, INPUTS, Read, Whole, Workers
from muflow_cli.records import EMBEDDED, PIXELS, Facts, Mark, NoFace, Unreadable, frame_key
from muflow_cli.run_specs import InputSpec
from muflow_cli.specs import ContainerSpec, View, ViewSpec

__all__ = [
    "Listed",
    "LoadSpec",
    "Loaded",
    "Seen",
    "from_pixels",
    "load",
    "load_unknown",
    "load_with_clips",
    "look_ahead",
]

# Bytes of files that are held at a time, and of what they decode to: those of the costliest image, or more with many
# threads.
_FILES: Final = 512 * 2**20
_DECODED: Final = 2 * 2**30
_DECODED_PER_THREAD: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Listed:
    """An input whose hash is on a list of known files: hashed, not decoded."""

    path: str
    sha256: str


_Result = Loaded | LoadedClip | NoFace | Seen | Listed | Unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadSpec:
    """How inputs become views.

    Attributes:
        views: branch name -> how that branch looks at an image; at least one.
        inputs: limits on bytes and pixels.
        workers: threads or processes that decode, at least 1.
        ahead: inputs held beyond the one being consumed, at least 1: the bound on memory.
        crops_seed: draw random crops (for fitting) from this seed and the content of the image, so that neither order
            nor workers matter, nor other branches; None = the even grid of a scan.
        thumbnail: longer side of a JPEG thumbnail of the image, pixels; 0 = none.
        face_thumbnail: the same of each face, aligned.
        stored_as: every image is first stored in this container, and its facts are those of what is stored.
        transform: applied to the image, decoded at full scale, before faces are looked for and views are cut.
        container: of the detector, as in PrepareSpec.
        faces: look for faces and cut the views of each; None = views of the whole image.
        hash_lists: contents whose hash is on one of them are `Listed`; None = no lists.
        processes: each worker is a process, whose Python holds nobody else up; the results are the same.
    """

    views: Mapping[str, ViewSpec]
    inputs: InputSpec
    workers: int
    ahead: int
    crops_seed: int | None = None
    thumbnail: int = 0
    face_thumbnail: int = 0
    stored_as: ContainerSpec | None = None
    transform: Callable[[Image.Image], Image.Image] | None = None
    container: ContainerSpec | None = None
    faces: FaceSearch | None = None
    hash_lists: HashLists | None = None
    processes: bool = False

    def __post_init__(self) -> None:
        if not self.views:
            raise BadSpec("views", "empty", "the view of at least one branch")
        if self.workers < 1:
            raise BadSpec("workers", self.workers, "at least 1")
        if self.ahead < 1:
            raise BadSpec("ahead", self.ahead, "at least 1")

    @property
    def needs_image(self) -> bool:
        """Whether something here is done to the image itself before views are cut from it."""
        return any(step is not None for step in (self.stored_as, self.transform, self.faces))

    @property
    def task(self) -> Task:
        """The same for a process that decodes; where it cannot do all, it gives the image itself."""
        faces_here = self.faces is not None and self.faces.spec is None
        return Task(
            spec=replace(self.prepare, inputs=self.inputs),
            faces=None if self.faces is None else self.faces.spec,
            whole=self.stored_as is not None or self.transform is not None or faces_here,
        )

    @property
    def draft_side(self) -> int:
        """Side in pixels that a JPEG of reduced scale must have; 0 where anything needs full scale."""
        views, at_full_scale = self.views.values(), self.needs_image or self.container is not None
        if at_full_scale or any(view.kind is not View.RESIZE or not view.draft for view in views):
            return 0
        return max(view.size for view in views)

    @property
    def prepare(self) -> PrepareSpec:
        """What is done to the bytes of one image, short of the transform."""
        return PrepareSpec(
            views=self.views,
            inputs=replace(self.inputs, c2pa_anchors=None),
            draft_side=self.draft_side,
            crops_seed=self.crops_seed,
            thumbnail=self.thumbnail,
            face_thumbnail=self.face_thumbnail,
            container=self.container,
        )


def look_ahead(batch_size: int, workers: int) -> int:
    """Inputs to hold so that neither a device with batches of `batch_size` nor the workers wait: `LoadSpec.ahead`."""
    return 2 * (batch_size + workers)


def load(inputs: Iterable[Input | Unreadable], spec: LoadSpec) -> Iterator[Loaded | Unreadable]:
    """Results in the order of the inputs; at most `spec.ahead` inputs are read beyond those handed out.

    An image without a face, where faces are looked for, is a record with the code `no_face`. Clips are left out.

    `inputs` is iterated in the consumer's thread. An exception that it raises is raised here after the results of
    everything before it. Closing the iterator cancels what waits, ends the processes that decode, and returns when the
    images on the threads are done.
    """
    with closing(load_with_clips(inputs, spec)) as results:
        yield from (result for result in results if not isinstance(result, LoadedClip))


def load_with_clips(
    inputs: Iterable[Input | Unreadable], spec: LoadSpec
) -> Generator[Loaded | LoadedClip | Unreadable]:
    """As `load`, with clips as they are."""
    with closing(load_unknown(inputs, spec, lambda _: False)) as results:
        for result in results:
            if isinstance(result, NoFace):
                yield without_face(result)
            elif not isinstance(result, Seen | Listed):
                yield result


def without_face(image: NoFace) -> Unreadable:
    """The record of an image without a face, for whoever cannot use it."""
    return Unreadable(
        path=image.path,
        code="no_face",
        message="it shows no face that is large enough",
        sha256=image.facts.sha256,
        bytes=image.facts.bytes,
        declared=image.declared,
    )


def load_unknown(
    inputs: Iterable[Input | Unreadable], spec: LoadSpec, known: Callable[[str], bool]
) -> Generator[_Result]:
    """As `load`, but content whose key is `known` (`Facts.key`) is only read and hashed; called on worker threads."""
    crew = _Crew(spec, known)
    pool = ThreadPoolExecutor(spec.workers, thread_name_prefix="decode")
    queue = Queue(pool, crew.result, inputs, spec.ahead, _FILES)
    try:
        queue.fill()
        while queue.pending:
            result = queue.taken()
            queue.fill()
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        crew.workers.close()
        crew.clip_workers.close()
        pool.shutdown(wait=True)


class _Crew:
    """What the threads share: the workers, and the budgets of memory."""

    def __init__(self, spec: LoadSpec, known: Callable[[str], bool]) -> None:
        self._spec, self._prepare, self._task, self._known = spec, spec.prepare, spec.task, known
        # Claimed in this order by every thread, so that none waits for another in a circle.
        self._files = Budget(_FILES)
        self._decoded = Budget(max(_DECODED, spec.workers * _DECODED_PER_THREAD))
        self.workers = Workers(self._decoded, INPUTS if spec.processes else IMAGES)
        self.clip_workers = Workers(self._decoded, CLIPS)

    def result(self, input_: Input | Unreadable) -> _Result:
        """The result for one input; whatever is wrong with it is a record."""
        if isinstance(input_, Unreadable):
            return input_
        try:
            clip = file_source(input_, self._spec.inputs)
            return self._clip(clip) if clip is not None else self._whole(input_)
        except ImageError as error:
            return unreadable(input_.path, error)
        except MemoryError:
            return Unreadable(path=input_.path, code="out_of_memory", message="there is not enough memory to read it")

    def _whole(self, input_: Input) -> _Result:
        """The result for an input that is held in memory."""
        with self._files.claim(announced_bytes(input_)):
            if self._spec.processes and self._can_be_read_elsewhere(input_):
                result = self._from_process(input_)
                if result is not None:
                    return result
            data = read_input(input_, self._spec.inputs.max_bytes)
            sha256 = hashlib.sha256(data).hexdigest()
            if input_.frame == EMBEDDED:
                return self._embedded(input_.path, data, sha256)
            clip = data_source(input_.path, data, sha256, self._spec.inputs)
            if clip is not None:
                return self._clip(clip)
            if self._spec.hash_lists is not None and data in self._spec.hash_lists:
                return Listed(input_.path, sha256)
            key = frame_key(sha256, input_.frame)
            if self._known(key):
                return Seen(input_.path, key)
            result = self._from_process(input_, Read(data, sha256)) if self._spec.processes else None
            return self._loaded(input_, data, sha256) if result is None else result

    def _can_be_read_elsewhere(self, input_: Input) -> bool:
        """Whether the process that decodes an input also reads it."""
        # The directory of a large zip archive takes seconds and much memory, so it is read once and not everywhere; and
        # so are lists of hashes.
        in_place = input_.content is None and input_.kind is not InputKind.ZIP_MEMBER
        return in_place and self._spec.hash_lists is None and input_.frame != EMBEDDED

    def _from_process(self, input_: Input, read: Read | None = None) -> Loaded | NoFace | Seen | Unreadable | None:
        """What a process makes of an input; None for a clip."""
        task = replace(self._task, spec=replace(self._task.spec, frame=input_.frame))
        with self.workers.one() as worker:
            result = worker.take(input_, read, task, self._known)
        if isinstance(result, Whole):
            return replace(self._cut(input_.path, result.image), declared=result.declared)
        return result

    def _embedded(self, path: str, data: bytes, sha256: str) -> LoadedClip | NoFace | Seen | Listed:
        """The result for the video inside a motion photo; the file is known by its own hash."""
        if self._spec.hash_lists is not None and data in self._spec.hash_lists:
            return Listed(path, sha256)
        key = frame_key(sha256, EMBEDDED)
        if self._known(key):
            return Seen(path, key)
        try:
            source, place = embedded_source(path, data, self._spec.inputs)
            with self.clip_workers.one() as worker:
                clip = load_clip(source, worker, self._prepare, self._spec.faces)
        except ImageError as error:
            raise ImageError(error.code, error.message, sha256=sha256, size=len(data)) from error
        return in_file(clip, place, sha256, len(data))

    def _clip(self, clip: ClipSource) -> LoadedClip | NoFace | Seen | Listed:
        lists = self._spec.hash_lists
        if lists is not None and lists.has(digests_of(clip, lists.kinds)):
            return Listed(clip.path, clip.sha256)
        if self._known(clip.sha256):
            return Seen(clip.path, clip.sha256)
        with self.clip_workers.one() as worker:
            return load_clip(clip, worker, self._prepare, self._spec.faces)

    def _loaded(self, input_: Input, data: bytes, sha256: str) -> Loaded | NoFace | Unreadable:
        path, prepare = input_.path, replace(self._prepare, frame=input_.frame)
        declared = read_marks(data, self._spec.inputs.c2pa_anchors)
        try:
            loaded, mark = self._views(path, data, sha256, prepare)
        except ImageError as error:
            record = Unreadable(path=path, code=error.code, message=error.message, sha256=sha256, bytes=len(data))
            return replace(record, declared=declared)
        return replace(loaded, declared=with_mark(declared, mark))

    def _views(self, path: str, data: bytes, sha256: str, prepare: PrepareSpec) -> tuple[Loaded | NoFace, Mark | None]:
        """The views of an image, and the mark of its embedded thumbnail."""
        try:
            check_name(path, data)
            where = triage(data, prepare.draft_side)
            if where.isolated or prepare.frame > 1:
                return self._isolated(path, data, sha256, prepare)
            with self._decoded.claim(where.bytes):
                image = decoded(data, prepare, sha256)
                return self._cut(path, image), thumbnail_mark(data, image.image)
        except MemoryError as error:
            raise out_of_memory(data, sha256) from error

    def _isolated(
        self, path: str, data: bytes, sha256: str, prepare: PrepareSpec
    ) -> tuple[Loaded | NoFace, Mark | None]:
        with self.workers.one() as worker:
            if not self._spec.needs_image:
                return worker.load(path, data, prepare, sha256)
            image, mark = worker.decode(data, prepare, sha256)
        return self._cut(path, image), mark

    def _cut(self, path: str, decoded_image: DecodedImage) -> Loaded | NoFace:
        return _ready(path, decoded_image.facts, decoded_image.image, self._spec, self._prepare)


def _ready(path: str, facts: Facts, image: Image.Image, spec: LoadSpec, prepare: PrepareSpec) -> Loaded | NoFace:
    if spec.stored_as is not None:
        image, facts = contained(image, facts, spec.stored_as)
    if spec.transform is not None:
        image = spec.transform(image)
    if spec.faces is None:
        return with_views(path, facts, image, prepare)
    return with_faces(path, facts, image, prepare, spec.faces)


def from_pixels(label: str, pixels: Image.Image | NDArray[np.uint8], spec: LoadSpec) -> Loaded | NoFace:
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
        format=PIXELS,
        width=image.width,
        height=image.height,
    )
    return _ready(label, facts, image, spec, spec.prepare)
