"""The bytes of one image -> views, facts and thumbnail; the same on a thread and in a process of its own."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.images.alignment import aligned, upright_square
from muflow_cli.images.container import contained
from muflow_cli.images.decode import DecodedImage, decode
from muflow_cli.images.error import ImageError
from muflow_cli.images.views import cut_views
from muflow_cli.records import Declared, Face, Facts, NoFace
from muflow_cli.run_specs import InputSpec, OnNoFace
from muflow_cli.specs import ContainerSpec, FaceSpec, View, ViewSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareSpec:
    """How an image becomes views: plain data, for another process too.

    Attributes:
        views: branch name -> how that branch looks at an image.
        inputs: limits on pixels and time, and what becomes of damaged images.
        draft_side: as for `decode`.
        crops_seed: as in LoadSpec.
        thumbnail: longer side of a JPEG thumbnail of the image, pixels; 0 = none.
        face_thumbnail: the same of each face, aligned.
        container: what a branch looks at - the image, or the square of a face - goes through before; None = nothing.
        frame: of an animation, or page of a document, from 1.
    """

    views: Mapping[str, ViewSpec]
    inputs: InputSpec
    draft_side: int = 0
    crops_seed: int | None = None
    thumbnail: int = 0
    face_thumbnail: int = 0
    container: ContainerSpec | None = None
    frame: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceSearch:
    """Which faces of an image are scored.

    Attributes:
        find: the faces of an RGB image, the largest first; called from several threads.
        min_side: pixels of the shorter side of a face's box; smaller faces are not scored.
        most: faces of one image that are scored.
        on_no_face: what becomes of an image without one.
        spec: from which another process makes the same search; None = none can.
    """

    find: Callable[[Image.Image], Sequence[Face]]
    min_side: int
    most: int
    on_no_face: OnNoFace
    spec: FaceSpec | None = None


def face_search(spec: FaceSpec | None, inputs: InputSpec) -> FaceSearch | None:
    """Which faces a detector with this specification looks for; None where it scores whole images.

    Raises:
        MuflowError: where what finds them is not installed, or its model is missing or another one.
    """
    if spec is None:
        return None
    from muflow_cli.images.faces import face_finder, find_faces  # few detectors look for faces

    finder = face_finder(spec, None if inputs.face_model is None else Path(inputs.face_model))
    return FaceSearch(
        find=lambda image: find_faces(image, finder),
        min_side=spec.min_side,
        most=inputs.max_faces,
        on_no_face=inputs.on_no_face,
        spec=spec,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedFace:
    """A face that is ready to be scored.

    Attributes:
        face: where it lies.
        facts: of its image, with the sharpness, size and tilt of this face.
        views: branch name -> (V, size, size, 3).
        thumbnail: a small JPEG of the first view, if the specification asks for one.
    """

    face: Face
    facts: Facts
    views: Mapping[str, NDArray[np.uint8]]
    thumbnail: bytes | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image that is ready to be scored.

    Attributes:
        path: as reported.
        facts: with the sharpness of the first view of the first branch.
        views: branch name -> (V, size, size, 3), in the order of the branches.
        thumbnail: a small JPEG, if the specification asks for one.
        declared: what the file says of its own origin.
        faces: that are scored, the largest first, whose views `views` holds; empty for a detector of whole images, and
            for an image that is scored as a whole.
        faces_left_out: number of faces that are too small to be scored, or too many.
        size: width and height of the upright image, where faces were looked for.
    """

    path: str
    facts: Facts
    views: Mapping[str, NDArray[np.uint8]]
    thumbnail: bytes | None
    declared: Declared = field(default_factory=Declared)
    faces: tuple[LoadedFace, ...] = ()
    faces_left_out: int = 0
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """An input whose content is known already: hashed, not decoded; `key` is that of its facts."""

    path: str
    key: str


def decoded(data: bytes, spec: PrepareSpec, sha256: str) -> DecodedImage:
    """The pixels of `data`, whose SHA-256 is known.

    Raises:
        ImageError: as `decode`; out_of_memory.
    """
    try:
        limits = spec.inputs
        return decode(
            data, limits.max_pixels, draft_side=spec.draft_side, sha256=sha256, damaged=limits.damaged, frame=spec.frame
        )
    except ImageError as error:
        # Codecs report a lack of memory in their own words, and a decoder calls whatever it cannot decode corrupt.
        if isinstance(error.__cause__, MemoryError) or "memory" in str(error.__cause__).lower():
            raise out_of_memory(data, sha256) from error
        raise


def out_of_memory(data: bytes, sha256: str) -> ImageError:
    """The error for an image that needs more memory than there is, or than one image may take."""
    message = "there is not enough memory to decode it; scan it alone on a machine with more"
    return ImageError("out_of_memory", message, sha256=sha256, size=len(data))


def with_views(path: str, facts: Facts, image: Image.Image, spec: PrepareSpec) -> Loaded:
    """Views and thumbnail of an image that was decoded and perhaps transformed."""
    if spec.container is not None:
        image, _ = contained(image, facts, spec.container)
    views = _views(facts, image, spec)
    facts = replace(facts, sharpness=sharpness(next(iter(views.values()))[0]))
    return Loaded(path, facts, views, _thumbnail(image, spec.thumbnail))


def with_faces(path: str, facts: Facts, image: Image.Image, spec: PrepareSpec, search: FaceSearch) -> Loaded | NoFace:
    """Views and thumbnails of the faces of an image, of the whole image, or a record that it has no face."""
    found = search.find(image)
    scored = [face for face in found if face.side >= search.min_side][: search.most]
    left_out = len(found) - len(scored)
    if not scored and search.on_no_face is not OnNoFace.WHOLE:
        return NoFace(path=path, facts=facts, faces_left_out=left_out)
    if not scored:
        return replace(with_views(path, facts, image, spec), faces_left_out=left_out, size=image.size)
    faces = tuple(_face(facts, image, spec, face) for face in scored)
    return Loaded(
        path,
        faces[0].facts,
        faces[0].views,
        _thumbnail(image, spec.thumbnail),
        faces=faces,
        faces_left_out=left_out,
        size=image.size,
    )


def _face(facts: Facts, image: Image.Image, spec: PrepareSpec, face: Face) -> LoadedFace:
    views = _views(facts, image, spec, face)
    first = next(iter(views.values()))[0]
    facts = replace(facts, sharpness=sharpness(first), face_side=face.side, face_tilt=face.tilt)
    thumbnail = _thumbnail(Image.fromarray(first), spec.face_thumbnail)
    return LoadedFace(face=face, facts=facts, views=views, thumbnail=thumbnail)


def _views(
    facts: Facts, image: Image.Image, spec: PrepareSpec, face: Face | None = None
) -> dict[str, NDArray[np.uint8]]:
    """The views of each branch: of a face, or of the whole image."""
    views = {}
    for branch, view in spec.views.items():
        generator = None
        if spec.crops_seed is not None:
            # A generator of its own, so that a branch draws the same crops beside others as alone.
            generator = np.random.default_rng([spec.crops_seed, int(facts.sha256, 16)])
        if face is None:
            views[branch] = cut_views(image, view, generator)
        else:
            square = aligned(image, face, view.size) if view.kind is View.FACE else upright_square(image, face)
            if spec.container is not None:
                square, _ = contained(square, facts, spec.container)
            views[branch] = cut_views(square, view, generator)
    return views


def _thumbnail(image: Image.Image, side: int) -> bytes | None:
    """A JPEG whose longer side is at most `side` pixels; None if that is 0."""
    if not side:
        return None
    scale = min(1.0, side / max(image.size))
    width, height = (max(1, round(length * scale)) for length in image.size)
    buffer = io.BytesIO()
    small = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


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
