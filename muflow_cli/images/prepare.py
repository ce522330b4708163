"""The bytes of one image -> views, facts and thumbnail; the same on a thread and in a process of its own."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.images.decode import DecodedImage, decode
from muflow_cli.images.error import ImageError
from muflow_cli.images.views import cut_views
from muflow_cli.records import Declared, Facts
from muflow_cli.specs import InputSpec, ViewSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareSpec:
    """How an image becomes views: plain data, for another process too.

    Attributes:
        views: branch name -> how that branch looks at an image.
        inputs: limits on pixels and time, and what becomes of damaged images.
        draft_side: as for `decode`.
        crops_seed: as in LoadSpec.
        thumbnail: longer side of a JPEG thumbnail, pixels; 0 = none.
    """

    views: Mapping[str, ViewSpec]
    inputs: InputSpec
    draft_side: int = 0
    crops_seed: int | None = None
    thumbnail: int = 0


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


def decoded(data: bytes, spec: PrepareSpec, sha256: str) -> DecodedImage:
    """The pixels of `data`, whose SHA-256 is known.

    Raises:
        ImageError: as `decode`; out_of_memory.
    """
    try:
        limits = spec.inputs
        return decode(data, limits.max_pixels, draft_side=spec.draft_side, sha256=sha256, damaged=limits.damaged)
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
