"""Encoding on a cluster: views go out, pooled maps come back; everything else of a fit stays here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muflow_cli.cluster import Cluster
from muflow_cli.engine.branch import Encoder
from muflow_cli.engine.devices import Placement, place
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.run_specs import Precision, Runtime
from muflow_cli.specs import FeatureSpec

_Views = NDArray[np.uint8]
_Maps = list[NDArray[np.float32]]


class ClusterEncoding:
    """An encoder on every worker of a cluster.

    Args:
        cluster: whose workers encode.
        feature: of the encoder.
        weights: by its library's names.
        placement: of the fit; every worker computes on such a device with that precision.
    """

    def __init__(
        self, cluster: Cluster, feature: FeatureSpec, weights: Mapping[str, Tensor], placement: Placement
    ) -> None:
        self._cluster = cluster
        self._make = ShardEncoding(feature, dict(weights), placement.device.type, placement.precision)

    def maps(self, batches: Iterable[_Views]) -> Iterator[_Maps]:
        """As `features.Encodes`."""
        return self._cluster.map(self._make, batches)


@dataclass(frozen=True, slots=True)
class ShardEncoding:
    """What a worker encodes with."""

    feature: FeatureSpec
    weights: Mapping[str, Tensor]
    device: str
    precision: Precision

    def __call__(self, cores: int) -> Callable[[_Views], _Maps]:
        """What encodes batches on so many cores.

        Raises:
            BadSpec: where the worker lacks such a device.
        """
        torch.set_num_threads(cores)
        placement = place(Runtime(device=self.device, precision=self.precision))
        return partial(_maps, PlacedEncoder(Encoder.load(self.feature, self.weights), placement))


def _maps(encoder: PlacedEncoder, views: _Views) -> _Maps:
    own = np.array(views)  # what Ray gives must not be written to, which torch warns of
    return [pooled.numpy() for pooled in encoder.submit(torch.from_numpy(own).permute(0, 3, 1, 2)).result()]
