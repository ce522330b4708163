"""Features of every image, encoded once: pooled maps and the vectors that the flow sees, memory-mapped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muflow_cli.engine.branch import Branch
from muflow_cli.engine.encoders import chosen_layers
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.executor import one_thread, pipelined
from muflow_cli.engine.flow import count_parameters
from muflow_cli.engine.mixture import BIC_COMPONENTS
from muflow_cli.engine.projection import Projection, fit_projection
from muflow_cli.fit.parts import Part
from muflow_cli.fit.work import Work
from muflow_cli.progress import ProgressListener
from muflow_cli.specs import BranchSpec, DetectorSpec, FeatureSpec, Normalisation, Selection, TrainSpec, View

_CHUNK = 256
_VIEWS = 64
# Bytes of an image's entry in the store's index, including its path.
_INDEX_ENTRY = 1024
# Bytes of an image in the bundle: its content hash, and its facts and scores if it calibrates.
_BUNDLE_ROW = 256


def map_shapes(feature: FeatureSpec, view_size: int) -> list[tuple[int, int, int]]:
    """(C, g, g) of each layer's pooled map, for square views of `view_size` pixels, as `pool` gives it."""
    layers = chosen_layers(feature.encoder, feature.layers)
    sides = [1 if feature.joint else feature.grid or view_size // layer.stride for layer in layers]
    return [(layer.channels * feature.per_channel, side, side) for layer, side in zip(layers, sides, strict=True)]


def cache_dtype(feature: FeatureSpec) -> np.dtype[np.generic]:
    """float32 for pooled grids; float16 for maps at their own size, which take more disk space."""
    return np.dtype(np.float32 if feature.grid else np.float16)


def work_bytes(spec: DetectorSpec, images: int) -> int:
    """Largest size of the work folder of a fit to `images` images and of the bundle beside it."""
    return images * (_INDEX_ENTRY + _BUNDLE_ROW) + sum(
        _branch_bytes(branch, images, spec.train) for branch in spec.branches
    )


def _branch_bytes(branch: BranchSpec, images: int, train: TrainSpec) -> int:
    """Largest size of one branch's files.

    These are the views of all images; the pooled maps and the flow's input vectors of images that do not calibrate, and
    where sources are left out the vectors of one such round; the training checkpoint, which exists twice while a new
    one replaces the old; and the branch in the bundle, with the channel statistics of the images that calibrate.
    """
    feature, view = branch.feature, branch.view
    views = images * (view.fit_count if view.kind is View.CROPS else 1)
    shapes = map_shapes(feature, view.size)
    numbers = sum(c * h * w for c, h, w in shapes)
    inputs = sum(min(feature.dimensions or c, c) * h * w for c, h, w in shapes)
    numbers += inputs * (int(not _sees_maps(feature)) + int(train.selection is Selection.SOURCES))
    encoded = math.ceil(views * (1 - train.calibration_share))
    vectors = encoded * numbers * cache_dtype(feature).itemsize
    trained = sum(count_parameters(min(feature.dimensions or c, c), branch.flow) for c, _, _ in shapes)
    checkpoint = 2 * 4 * 4 * trained  # float32: the flows now, at their best, and two moments of each parameter
    components = [branch.target.components or max(BIC_COMPONENTS)] * len(shapes)
    empty = Branch.empty(branch, components)
    fitted: int = sum(t.numel() * t.itemsize for t in empty.state_dict().values())
    compared = math.ceil(images * train.calibration_share) * 2 * empty.feature_count
    return views * view.size**2 * 3 + vectors + checkpoint + fitted + compared


# Batches of views (B, H, W, 3) -> their pooled maps, one (B, C, g, g) per layer, in the order of the batches.
Encodes = Callable[[Iterable[NDArray[np.uint8]]], Iterator[list[NDArray[np.float32]]]]


def encode(
    encoder: PlacedEncoder,
    views: NDArray[np.uint8],
    rows: Sequence[int],
    work: Work,
    progress: ProgressListener,
    elsewhere: Encodes | None = None,
) -> list[NDArray[np.generic]]:
    """Pooled maps of the views at `rows`, one (n, C, g, g) memory map per layer, stored for a resumed run.

    Args:
        encoder: says what they are.
        views: (n, H, W, 3), of which `rows` are encoded.
        rows: of the views.
        work: where the maps are stored.
        progress: told of the stage.
        elsewhere: other machines that encode; None = this one.
    """
    shapes = map_shapes(encoder.feature, views.shape[1])
    dtype = cache_dtype(encoder.feature)
    paths = [work.file(f"pooled.{i}") for i in range(len(shapes))]
    full = [(len(rows), *shape) for shape in shapes]
    progress.stage(work.stage("encode"), len(rows))
    if not work.done("encode"):
        with ExitStack() as stack:
            parts = [
                stack.enter_context(closing(Part(path, math.prod(shape) * dtype.itemsize)))
                for path, shape in zip(paths, full, strict=True)
            ]
            step = encoder.placement.batch_size
            batches = (views[list(rows[start : start + step])] for start in range(0, len(rows), step))
            for pooled in (elsewhere or _encoded_by(encoder))(batches):
                for part, values in zip(parts, pooled, strict=True):
                    part.write(values.astype(dtype, copy=False))
                progress.advance(len(pooled[0]))
            work.finish("encode", {path.name: part.finish() for path, part in zip(paths, parts, strict=True)})
    return [np.memmap(p, dtype, "c", shape=s) for p, s in zip(paths, full, strict=True)]


def _encoded_by(encoder: PlacedEncoder) -> Encodes:
    def begin(views: NDArray[np.uint8]) -> Future[list[Tensor]]:
        return encoder.submit(torch.from_numpy(views).permute(0, 3, 1, 2))

    return lambda batches: ([own.numpy() for own in pooled] for _, pooled in pipelined(batches, begin))


def projections_of(
    pooled: Sequence[NDArray[np.generic]], feature: FeatureSpec, rows: Sequence[int] | None = None
) -> list[Projection]:
    """The projection of every layer, fitted to its maps, or to those at `rows`.

    On one core, because the last digits of a product depend on how many cores share it.
    """
    with one_thread():
        return [fit_projection(chunks(map_, rows), feature) for map_ in pooled]


def take(pooled: NDArray[np.generic], rows: Sequence[int], path: Path) -> NDArray[np.generic]:
    """The maps (n, C, g, g) at `rows`, memory-mapped at `path`."""
    shape = (len(rows), *pooled.shape[1:])
    with closing(Part(path, math.prod(shape) * pooled.dtype.itemsize)) as part:
        for start in range(0, len(rows), _CHUNK):
            part.write(pooled[list(rows[start : start + _CHUNK])])
    return np.memmap(path, pooled.dtype, "c", shape=shape)


def view_chunks(views: NDArray[np.uint8], rows: Sequence[int]) -> Iterator[Tensor]:
    """The views (n, H, W, 3) at `rows` as uint8 images (b, 3, H, W), a few at a time."""
    for start in range(0, len(rows), _VIEWS):
        yield torch.from_numpy(views[list(rows[start : start + _VIEWS])]).permute(0, 3, 1, 2)


def chunks(pooled: NDArray[np.generic], rows: Sequence[int] | None = None) -> Iterator[Tensor]:
    """The maps, or those at `rows`, in float32, a few at a time."""
    for start in range(0, len(pooled) if rows is None else len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield torch.from_numpy(np.array(pooled[part] if rows is None else pooled[list(rows[part])], dtype=np.float32))


def _sees_maps(feature: FeatureSpec) -> bool:
    """Whether the flow's input is the pooled maps themselves."""
    return feature.normalisation is Normalisation.LAYERNORM and feature.dimensions == 0


def project(
    pooled: NDArray[np.generic],
    projection: Projection,
    feature: FeatureSpec,
    path: Path,
    rows: Sequence[int] | None = None,
) -> Tensor:
    """(n, D, g, g) vectors of pooled maps, or of those at `rows`, memory-mapped at `path`.

    Without a projection all vectors are the maps themselves, and nothing is written.
    """
    if rows is None and _sees_maps(feature):
        return torch.from_numpy(pooled)
    shape = (len(pooled) if rows is None else len(rows), projection.dimensions, *pooled.shape[2:])
    # On one core, because the last digits of a product depend on how many cores share it.
    with closing(Part(path, math.prod(shape) * pooled.dtype.itemsize)) as part, one_thread():
        for chunk in chunks(pooled, rows):
            part.write(projection(chunk).numpy().astype(pooled.dtype, copy=False))
    return torch.from_numpy(np.memmap(path, pooled.dtype, "c", shape=shape))
