"""What is cut from an image <-> the arrays and thumbnails of a message between a decoding process and its owner."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.images.decode import DecodedImage
from muflow_cli.images.prepare import Loaded, LoadedFace
from muflow_cli.images.protocol import Answer, FaceAnswer
from muflow_cli.records import Mark, NoFace

Parts = list[bytes | memoryview]
_Views = Mapping[str, NDArray[np.uint8]]


class Part(Protocol):
    """A message, or a part of one, that raw bytes belong to."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """As in Answer."""
        ...

    @property
    def thumbnail(self) -> int | None:
        """As in Answer."""
        ...


def packed_image(decoded: DecodedImage, mark: Mark | None) -> tuple[Answer, Parts]:
    """An image and the mark of its thumbnail, as an answer and its raw bytes."""
    pixels = np.asarray(decoded.image)
    return Answer(facts=decoded.facts, shapes={"": pixels.shape}, mark=mark), [pixels.data.cast("B")]


def unpacked_image(answer: Answer, raw: bytes) -> DecodedImage:
    """What `packed_image` packed."""
    assert answer.facts is not None  # noqa: S101 - the answer is no failure
    return DecodedImage(answer.facts, Image.fromarray(unpacked_part(answer, raw)[0][""]))


def packed(loaded: Loaded | NoFace, mark: Mark | None) -> tuple[Answer, Parts]:
    """What is scored of an image and the mark of its thumbnail, as an answer and its raw bytes."""
    left_out = loaded.faces_left_out
    if isinstance(loaded, NoFace):
        return Answer(facts=loaded.facts, shapes={}, mark=mark, faces_left_out=left_out, no_face=True), []
    views = {} if loaded.faces else loaded.views
    faces = [
        FaceAnswer(face=own.face, facts=own.facts, shapes=shapes_of(own.views), thumbnail=_length(own.thumbnail))
        for own in loaded.faces
    ]
    answer = Answer(
        facts=loaded.facts,
        shapes=shapes_of(views),
        thumbnail=_length(loaded.thumbnail),
        mark=mark,
        faces=tuple(faces),
        faces_left_out=left_out,
        upright=loaded.size,
    )
    of_faces = [part for face in loaded.faces for part in parts_of(face.views, face.thumbnail)]
    return answer, parts_of(views, loaded.thumbnail) + of_faces


def unpacked(path: str, answer: Answer, raw: bytes) -> Loaded | NoFace:
    """What `packed` packed; `path` is that of the input."""
    assert answer.facts is not None  # noqa: S101 - the answer is no failure
    if answer.no_face:
        return NoFace(path=path, facts=answer.facts, faces_left_out=answer.faces_left_out)
    own, thumbnail, at = unpacked_part(answer, raw)
    faces = []
    for face in answer.faces:
        views, small, at = unpacked_part(face, raw, at)
        faces.append(LoadedFace(face=face.face, facts=face.facts, views=views, thumbnail=small))
    return Loaded(
        path,
        answer.facts,
        faces[0].views if faces else own,
        thumbnail,
        faces=tuple(faces),
        faces_left_out=answer.faces_left_out,
        size=answer.upright,
    )


def shapes_of(views: _Views) -> dict[str, tuple[int, ...]]:
    """The shapes of the views of each branch, as in Answer."""
    return {branch: own.shape for branch, own in views.items()}


def parts_of(views: _Views, thumbnail: bytes | None) -> Parts:
    """The raw bytes of views and thumbnail."""
    parts: Parts = [np.ascontiguousarray(own).data.cast("B") for own in views.values()]
    return parts if thumbnail is None else [*parts, thumbnail]


def unpacked_part(part: Part, raw: bytes, at: int = 0) -> tuple[dict[str, NDArray[np.uint8]], bytes | None, int]:
    """Views and thumbnail of a part whose raw bytes begin at `at`, and where those of the next part begin."""
    views = {}
    for branch, shape in part.shapes.items():
        views[branch] = np.frombuffer(raw, np.uint8, prod(shape), at).reshape(shape)
        at += prod(shape)
    end = at + (part.thumbnail or 0)
    return views, None if part.thumbnail is None else raw[at:end], end


def _length(data: bytes | None) -> int | None:
    return None if data is None else len(data)
