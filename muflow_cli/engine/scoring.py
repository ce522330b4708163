"""Batches of pictures -> per-position and per-scale scores. The only file that knows devices and precisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from muflow_cli.engine.cores import Cores, one_thread
from muflow_cli.engine.encoders import chosen_cuts, encoder_row, load_trunk, trunk_weights
from muflow_cli.engine.features import Space, pool
from muflow_cli.engine.flow import PlainFlow, Transport
from muflow_cli.engine.fused import fuse_convolutions, halve
from muflow_cli.engine.mixture import Mixture
from muflow_cli.engine.nll import mahalanobis, nll
from muflow_cli.engine.room import Room
from muflow_cli.engine.rounding import natural_pictures, round_weights
from muflow_cli.engine.stem import Normal, with_stem
from muflow_cli.engine.winograd import WinogradFlow
from muflow_cli.errors import BadSpec, NotFinite
from muflow_cli.specs import FeatureSpec, Precision, ScoreKind

# Views in a piece of work. Pieces have one size whatever arrives: the last is padded. Kernels then see one shape, so
# that a picture's score depends on its pixels alone, not on its neighbours or on where a run was interrupted.
# On processors small pieces, one for each core, stay in the caches: measured in benchmarks/README.md.
CPU_PIECE = 4
GPU_PIECE = 256


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how to compute: device, arithmetic of the convolutions, views per batch (shared out to the cores)."""

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
    own = CPU_PIECE * torch.get_num_threads() if where.type == "cpu" else GPU_PIECE
    return Placement(where, precision, batch_size or own)


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
        normal = Normal(row.mean, row.std)
        # Fixed filters measure differences of a grey level, which bfloat16 cannot hold; they are cheap in float32.
        network = nn.Sequential(normal, trunk) if row.model is None else _prepared(trunk, normal, placement)
        self._network = network.to(placement.device).to(memory_format=torch.channels_last)
        self._cores = Cores(placement.device)
        self.piece = -(-placement.batch_size // self._cores.count)
        self.room = Room(self.piece, placement.device if placement.device.type == "cuda" else None)

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """Pooled maps, float32, one (B, C, g, g) per scale.

        Args:
            pictures: (B, 3, H, W) grey levels 0..255, uint8, or float32 for averages.
        """
        maps = self._network(pictures.to(self.placement.device, non_blocking=True))
        return [pool(map_, self.feature) for map_ in maps.values()]

    def submit(self, pictures: Tensor) -> Callable[[], list[Tensor]]:
        """Begin with the pooled maps of a batch of any size, a piece on each core; the call waits for them."""
        return self.spread(partial(self.room.run, self), pictures)

    def spread(self, work: Callable[[Tensor], list[Tensor]], pictures: Tensor) -> Callable[[], list[Tensor]]:
        """Begin with `work` on pieces of `pictures`; the call waits for its tensors, joined, on the CPU."""
        if self.placement.device.type == "cuda":
            pictures = pictures.pin_memory()
        parts = [self._cores.submit(work, piece) for piece in pictures.split(self.piece)]
        return partial(_joined, parts)


def _prepared(trunk: nn.Module, normal: Normal, placement: Placement) -> nn.Module:
    """A torchvision trunk for inference on grey levels, in the placement's arithmetic."""
    # Traced anew: torchvision's own modules, whole so far, hide batch normalisations.
    traced = cast("fx.GraphModule", fuse(trunk, inplace=True).eval())
    if placement.precision is not Precision.BF16:
        return nn.Sequential(normal, traced)
    with one_thread():  # the same weights whatever the number of cores
        pictures = natural_pictures()
        traced = round_weights(traced, normal(pictures))
        if placement.device.type != "cpu":
            return nn.Sequential(normal, halve(traced))
        return with_stem(halve(fuse_convolutions(traced)), normal, pictures)


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
        self._flows = [_placed(flow, placement) for flow in model.flows]
        self._targets = [target.to(device, torch.float32) for target in model.targets]
        self._measure = mahalanobis if model.score_kind is ScoreKind.MAHALANOBIS else nll

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
        return self.submit(views)()

    def submit(self, views: Sequence[NDArray[np.uint8]]) -> Callable[[], NDArray[np.float64]]:
        """Begin with `scale_scores`; the call of what is returned waits for them and raises what it raises."""
        maps = self._begin(views)

        def scores() -> NDArray[np.float64]:
            flat = torch.stack([m.mean(dim=(1, 2)) for m in maps()], dim=1).double().numpy()
            if not np.isfinite(flat).all():
                raise NotFinite("a score is not finite: scan with --precision fp32, or fit the detector again")
            return np.stack([flat[a:b].mean(axis=0) for a, b in _spans(views)])

        return scores

    def heatmaps(self, views: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Per picture (V, g, g): the mean over scales of the position scores, on the finest scale's grid."""
        maps = self._begin(views)()
        side = maps[0].shape[-1]
        same = [nn.functional.interpolate(m[:, None], size=(side, side), mode="nearest")[:, 0] for m in maps]
        flat = torch.stack(same).mean(dim=0).numpy()
        return [flat[a:b] for a, b in _spans(views)]

    def _begin(self, views: Sequence[NDArray[np.uint8]]) -> Callable[[], list[Tensor]]:
        stacked = torch.from_numpy(np.concatenate(list(views))).permute(0, 3, 1, 2)
        return self.extractor.spread(self._piece, stacked)

    def _piece(self, batch: Tensor) -> list[Tensor]:
        """Position scores of one piece, padded to its full size, the padding cut off."""
        missing = self.extractor.piece - len(batch)
        padded = torch.cat([batch, batch[:1].expand(missing, -1, -1, -1)]) if missing else batch
        return [m[: len(batch)] for m in self.extractor.room.run(self.position_scores, padded)]


def _placed(flow: PlainFlow, placement: Placement) -> Transport:
    """The flow as it is computed fastest on a device."""
    # Nets that look at one position cost next to nothing in float32.
    half = placement.precision is Precision.BF16 and flow.reach > 1
    dtype = torch.bfloat16 if half else torch.float32
    if placement.device.type == "cpu" and WinogradFlow.can(flow):
        return WinogradFlow(flow, dtype)
    return flow.to(placement.device, dtype)


def _joined(parts: Sequence[Future[list[Tensor]]]) -> list[Tensor]:
    """The pieces' tensors put together, on the CPU."""
    return [torch.cat(maps).cpu() for maps in zip(*(part.result() for part in parts), strict=True)]


def _spans(views: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[int, int]]:
    """Where each picture's views begin and end among all."""
    return pairwise(accumulate(map(len, views), initial=0))
