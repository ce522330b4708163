"""How the scores of a calibration were computed, and the scores that the probe images had then."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from muflow_cli.errors import BadCalibration


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputedBy:
    """What the last digits of a score depend on.

    Attributes:
        device: type of the device, such as "cpu" or "cuda".
        precision: of the convolutions.
        library: that computed, with its version, such as "torch 2.6.0".
        instructions: that it used on a processor, or the name of the GPU.
    """

    device: str
    precision: str
    library: str
    instructions: str

    def __post_init__(self) -> None:
        if not all(isinstance(value, str) and value for value in asdict(self).values()):
            raise BadCalibration("does not say what computed it")

    def __str__(self) -> str:
        return f"{self.precision} on {self.device} ({self.instructions}) by {self.library}"


@dataclass(frozen=True, eq=False, slots=True)
class Computed:
    """Scores of the probe images (`engine.probes`), and what computed them.

    Attributes:
        probes: (P, S) float64, nats per dimension.
        by: device, precision and library.
    """

    probes: NDArray[np.float64]
    by: ComputedBy


def check_computed(computed: Computed | None, columns: int) -> None:
    """BadCalibration where there are scores of probe images, but not finite ones of so many columns."""
    if computed is None:
        return
    probes = computed.probes
    if probes.ndim != 2 or probes.shape[1] != columns or not len(probes):
        raise BadCalibration("holds scores of probe images in other columns than its own")
    if probes.dtype != np.float64 or not np.isfinite(probes).all():
        raise BadCalibration("holds scores of probe images that are NaN, infinite or of another type")
