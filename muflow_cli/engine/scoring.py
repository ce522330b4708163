"""Batches of pictures -> per-position and per-scale scores. The only file that knows devices and precisions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from muflow_cli.engine.encoders import chosen_cuts, encoder_row, load_trunk, trunk_weights
from muflow_cli.engine.features import Space, pool
from muflow_cli.engine.flow import PlainFlow
from muflow_cli.engine.mixture import Mixture
from muflow_cli.engine.nll import mahalanobis, nll
from muflow_cli.errors import BadSpec, NotFinite
from muflow_cli.specs import FeatureSpec, Precision, ScoreKind

# Batches have one size whatever arrives: the last is padded. Kernels then see one shape, so that a picture's score
# depends on its pixels alone, not on its neighbours or on where a run was interrupted.
# On processors small batches stay in the caches: measured in benchmarks/README.md.
CPU_BATCH = 8
GPU_BATCH = 256


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how to compute: device, arithmetic of the convolutions, views per batch."""

    device: torch.device
    precision: Precision
    batch_size: int


def choose_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU; BadSpec where what is asked for is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadSpec("device", name, "auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadSpec("device", name, "cpu or auto: no CUDA device can be used here")
    return device


def has_native_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware (AVX-512 BF16 or AMX; CUDA compute capability 8)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def place(device: str = "auto", precision: Precision = Precision.AUTO, batch_size: int = 0) -> Placement:
    """A placement with every `auto` decided; `batch_size` 0 = the device's own."""
    where = choose_device(device)
    if precision is Precision.AUTO:
        precision = Precision.BF16 if has_native_bf16(where) else Precision.FP32
    return Placement(where, precision, batch_size or (CPU_BATCH if where.type == "cpu" else GPU_BATCH))


@contextlib.contextmanager
def one_thread(when: bool) -> Iterator[None]:  # noqa: FBT001 - the condition is the point
    """Run the block on one processor thread, where `when` holds.

    Products of a few thousand short vectors gain nothing from a second thread and, on a machine with other work,
    lose an order of magnitude waiting for it.
    """
    before = torch.get_num_threads()
    if when:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Extractor:
    """Encoder and pooling on a device: pictures -> pooled maps.

    Args:
        feature: which encoder, cuts, grid.
        weights: the trunk's tensors by torchvision's names.
        placement: where and how.
    """

    def __init__(self, feature: FeatureSpec, weights: Mapping[str, Tensor], placement: Placement) -> None:
        self.feature = feature
        self.placement = placement
        row = encoder_row(feature.encoder)
        trunk = load_trunk(feature.encoder, chosen_cuts(feature.encoder, feature.cuts), weights)
        self.weights = trunk_weights(trunk)
        if row.model is not None:
            trunk = fuse(trunk, inplace=True, no_trace=True).eval()
        # Fixed filters measure differences of a grey level, which bfloat16 cannot hold; they are cheap in float32.
        half = placement.precision is Precision.BF16 and row.model is not None
        self._dtype = torch.bfloat16 if half else torch.float32
        trunk = trunk.to(placement.device, self._dtype)
        self._trunk: nn.Module = trunk.to(memory_format=torch.channels_last)
        std = torch.tensor(row.std, device=placement.device)[:, None, None]
        self._scale = 1 / (255 * std)
        self._shift = -torch.tensor(row.mean, device=placement.device)[:, None, None] / std

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """Pooled maps, float32, one (B, C, g, g) per scale.

        Args:
            pictures: (B, 3, H, W) grey levels 0..255, uint8, or float32 for averages.
        """
        pictures = pictures.to(self.placement.device, non_blocking=True)
        normal = (pictures.float() * self._scale + self._shift).to(self._dtype)
        maps = self._trunk(normal.contiguous(memory_format=torch.channels_last))
        return [pool(map_, self.feature) for map_ in maps.values()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """The fitted parts behind an encoder: per scale a space, a flow and a target."""

    feature: FeatureSpec
    score_kind: ScoreKind
    weights: Mapping[str, Tensor]
    spaces: Sequence[Space]
    flows: Sequence[PlainFlow]
    targets: Sequence[Mixture]


class Scorer:
    """A fitted model on a device: pictures -> scores."""

    def __init__(self, model: Model, placement: Placement) -> None:
        self.placement = placement
        self.extractor = Extractor(model.feature, model.weights, placement)
        device = placement.device
        self._spaces = [space.to(device) for space in model.spaces]
        dtype = torch.bfloat16 if placement.precision is Precision.BF16 else torch.float32
        self._flows = [flow.to(device, dtype) for flow in model.flows]
        self._targets = [target.to(device, torch.float32) for target in model.targets]
        self._measure = mahalanobis if model.score_kind is ScoreKind.MAHALANOBIS else nll
        # On processors each core scores its own share of a batch. Cores that work on one product together wait for
        # each other whenever a decoding thread takes one of them; a picture's score is the same either way.
        cores = min(torch.get_num_threads(), placement.batch_size) if device.type == "cpu" else 1
        self._cores = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) if cores > 1 else None
        self._shares = cores

    @torch.inference_mode()
    def position_scores(self, pictures: Tensor) -> list[Tensor]:
        """Score of each position, nats per dimension: one (B, g, g) float32 map per scale.

        Args:
            pictures: (B, 3, H, W) uint8, one batch as it is.
        """
        maps = []
        parts = zip(self.extractor(pictures), self._spaces, self._flows, self._targets, strict=True)
        for pooled, space, flow, target in parts:
            maps.append(self._measure(flow, target, space.apply(pooled)) / space.dimensions)
        return maps

    def scale_scores(self, views: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """(B, S) scores of pictures, nats per dimension: the mean over each picture's distinct views.

        Args:
            views: per picture (V, H, W, 3).

        Raises:
            NotFinite: where a score left the numbers.
        """
        rows = [torch.stack([m.mean(dim=(1, 2)) for m in maps], dim=1) for maps in self._batches(views)]
        flat = torch.cat(rows).double().cpu().numpy()
        if not np.isfinite(flat).all():
            raise NotFinite("a score is not finite: scan with --precision fp32, or fit the detector again")
        starts = np.cumsum([0] + [len(v) for v in views])
        return np.stack([flat[a:b].mean(axis=0) for a, b in pairwise(starts)])

    def heatmaps(self, views: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Per picture (V, g, g): the mean over scales of the position scores, on the finest scale's grid."""
        blocks = []
        for maps in self._batches(views):
            side = maps[0].shape[-1]
            same = [nn.functional.interpolate(m[:, None], size=(side, side), mode="nearest")[:, 0] for m in maps]
            blocks.append(torch.stack(same).mean(dim=0))
        flat = torch.cat(blocks).cpu().numpy()
        starts = np.cumsum([0] + [len(v) for v in views])
        return [flat[a:b] for a, b in pairwise(starts)]

    def _batches(self, views: Sequence[NDArray[np.uint8]]) -> Iterator[list[Tensor]]:
        """Position scores of padded batches, in order, the padding cut off."""
        stacked = torch.from_numpy(np.concatenate(list(views))).permute(0, 3, 1, 2)
        for batch in stacked.split(self.placement.batch_size):
            yield [m[: len(batch)] for m in self._spread(self._padded(batch))]

    def _padded(self, batch: Tensor) -> Tensor:
        missing = self.placement.batch_size - len(batch)
        return torch.cat([batch, batch[:1].expand(missing, -1, -1, -1)]) if missing else batch

    def _spread(self, batch: Tensor) -> list[Tensor]:
        """The scores of `batch`, a share on each core."""
        if self._cores is None:
            return self._halving(batch)
        shares = list(self._cores.map(self.position_scores, batch.tensor_split(self._shares)))
        return [torch.cat(maps) for maps in zip(*shares, strict=True)]

    def _halving(self, batch: Tensor) -> list[Tensor]:
        """The scores of `batch`, in halves where the device has no room for the whole."""
        try:
            return self.position_scores(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            torch.cuda.empty_cache()
        halves = [self._halving(half) for half in batch.split((len(batch) + 1) // 2)]
        return [torch.cat(maps) for maps in zip(*halves, strict=True)]
