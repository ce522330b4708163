"""The pass of `muflow faces`: inputs -> loaded as for a detector of faces -> the faces of each, in input order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded, LoadSpec, load, look_ahead
from muflow_cli.images.prepare import face_search
from muflow_cli.records import Face, Facts, Unreadable
from muflow_cli.run_specs import InputSpec, OnNoFace, Runtime
from muflow_cli.specs import FaceSpec, ViewSpec

# As many as anybody shows; a detector scores fewer.
_MOST: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class FacesFound:
    """One image and its faces.

    Attributes:
        path: as found.
        facts: of the file.
        size: width and height of the upright image, in whose pixels the faces are given.
        faces: the largest first.
        left_out: number of faces that are too small.
        thumbnail: a small JPEG of the upright image, where one was asked for.
    """

    path: str
    facts: Facts
    size: tuple[int, int]
    faces: tuple[Face, ...]
    left_out: int
    thumbnail: bytes | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FacesRequest:
    """What to look for.

    Attributes:
        faces: what finds the faces, and how small they may be.
        inputs: limits on what is read.
        runtime: number of threads.
        thumbnail: longer side of the thumbnails, pixels; 0 = none.
    """

    faces: FaceSpec
    inputs: InputSpec
    runtime: Runtime
    thumbnail: int = 0

    @property
    def load_spec(self) -> LoadSpec:
        """How the images are read: as for a detector of faces, with views as small as they may be.

        Raises:
            MuflowError: where what finds faces is not installed, or its model is missing.
        """
        inputs = replace(self.inputs, max_faces=_MOST, on_no_face=OnNoFace.WHOLE)
        return LoadSpec(
            views={"image": ViewSpec(size=16)},
            inputs=inputs,
            workers=self.runtime.threads,
            ahead=look_ahead(1, self.runtime.threads),
            thumbnail=self.thumbnail,
            faces=face_search(self.faces, inputs),
            processes=self.runtime.decodes_in_processes,
        )


def faces_of(inputs: Iterable[Input | Unreadable], spec: LoadSpec) -> Iterator[FacesFound | Unreadable]:
    """The faces of each input, in the order of the inputs; whatever is wrong with one is a record.

    Args:
        inputs: to look at.
        spec: of a request.
    """
    for item in load(inputs, spec):
        if isinstance(item, Loaded) and item.size is not None:
            faces = tuple(face.face for face in item.faces)
            yield FacesFound(
                path=item.path,
                facts=item.facts,
                size=item.size,
                faces=faces,
                left_out=item.faces_left_out,
                thumbnail=item.thumbnail,
            )
        elif isinstance(item, Unreadable):
            yield item
