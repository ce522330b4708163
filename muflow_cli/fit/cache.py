"""Features of every picture, encoded once: pooled maps and the vectors that the flow sees, memory-mapped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muflow_cli.engine.cores import one_thread, pipelined
from muflow_cli.engine.encoders import Cut, chosen_cuts
from muflow_cli.engine.features import Space
from muflow_cli.engine.flow import count_parameters
from muflow_cli.engine.scoring import Extractor
from muflow_cli.fit.work import Work
from muflow_cli.specs import DetectorSpec, FeatureSpec, Normalisation, View, ViewSpec
from muflow_cli.watch import Watch

_CHUNK = 256
# Bytes of a picture's line in the store's index, its path among them.
_INDEX_ENTRY = 1024


def map_shapes(feature: FeatureSpec, view: ViewSpec) -> list[tuple[int, int, int]]:
    """(C, g, g) of each scale's pooled map."""

    def side(cut: Cut) -> int:
        return feature.grid or view.size // cut.stride

    return [(cut.channels, side(cut), side(cut)) for cut in chosen_cuts(feature.encoder, feature.cuts)]


def cache_dtype(feature: FeatureSpec) -> np.dtype[np.generic]:
    """float32 for pooled grids; float16 for maps at their own size, where the file would be the larger worry."""
    return np.dtype(np.float32 if feature.grid else np.float16)


def work_bytes(spec: DetectorSpec, pictures: int) -> int:
    """Most disk that the work folder of a fit to `pictures` pictures takes.

    The views of all of them and their index; of those that do not calibrate, the pooled maps and the vectors that the
    flow sees; the checkpoint of the training, twice while a new one replaces the one before.
    """
    feature, view = spec.feature, spec.view
    views = pictures * (view.fit_count if view.kind is View.CROPS else 1)
    shapes = map_shapes(feature, view)
    numbers = sum(c * h * w for c, h, w in shapes)
    if not _sees_maps(feature):
        numbers += sum(min(feature.dimensions or c, c) * h * w for c, h, w in shapes)
    encoded = math.ceil(views * (1 - spec.train.calibration_share))
    vectors = encoded * numbers * cache_dtype(feature).itemsize
    trained = sum(count_parameters(min(feature.dimensions or c, c), spec.flow) for c, _, _ in shapes)
    checkpoint = 2 * 4 * 4 * trained  # float32: the flows now, at their best, and two moments of each parameter
    return views * view.size**2 * 3 + pictures * _INDEX_ENTRY + vectors + checkpoint


def encode(
    extractor: Extractor, views: NDArray[np.uint8], places: Sequence[int], work: Work, watch: Watch
) -> list[NDArray[np.generic]]:
    """Pooled maps of the views at `places`, one (n, C, g, g) memory map per scale; kept for a resumed run."""
    size = views.shape[1]
    shapes = map_shapes(extractor.feature, ViewSpec(size=size))
    dtype = cache_dtype(extractor.feature)
    paths = [work.file(f"pooled.{i}") for i in range(len(shapes))]
    full = [(len(places), *shape) for shape in shapes]
    watch.stage("encode", len(places))
    if not work.done("encode"):
        maps = [np.memmap(p, dtype, "w+", shape=s) for p, s in zip(paths, full, strict=True)]
        _fill(maps, extractor, views, places, watch)
        work.finish("encode")
    return [np.memmap(p, dtype, "c", shape=s) for p, s in zip(paths, full, strict=True)]


def _fill(
    maps: Sequence[NDArray[np.generic]],
    extractor: Extractor,
    views: NDArray[np.uint8],
    places: Sequence[int],
    watch: Watch,
) -> None:
    step = extractor.placement.batch_size

    def begin(start: int) -> Callable[[], list[Tensor]]:
        return extractor.submit(torch.from_numpy(views[list(places[start : start + step])]).permute(0, 3, 1, 2))

    for start, found in pipelined(range(0, len(places), step), begin):
        for map_, pooled in zip(maps, found, strict=True):
            map_[start : start + len(pooled)] = pooled.numpy()
        watch.advance(len(found[0]))


def chunks(pooled: NDArray[np.generic]) -> Iterator[Tensor]:
    """The maps in float32, a few at a time."""
    for start in range(0, len(pooled), _CHUNK):
        yield torch.from_numpy(np.array(pooled[start : start + _CHUNK], dtype=np.float32))


def _sees_maps(feature: FeatureSpec) -> bool:
    """Whether the flow sees pooled maps as they are."""
    return feature.normalisation is Normalisation.LAYERNORM and feature.dimensions == 0


def project(pooled: NDArray[np.generic], space: Space, feature: FeatureSpec, path: Path) -> Tensor:
    """(n, D, g, g) vectors of pooled maps, memory-mapped at `path`; the maps themselves where the space is identity."""
    if _sees_maps(feature):
        return torch.from_numpy(pooled)
    shape = (len(pooled), space.dimensions, *pooled.shape[2:])
    out = np.memmap(path, pooled.dtype, "w+", shape=shape)
    # How cores share a product out shows in its last digits: one core, so that their number does not.
    with one_thread():
        for start, chunk in zip(range(0, len(pooled), _CHUNK), chunks(pooled), strict=True):
            out[start : start + len(chunk)] = space.apply(chunk).numpy()
    return torch.from_numpy(out)
