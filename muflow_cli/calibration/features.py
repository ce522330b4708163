"""Features of the calibration reals, with which a scan compares a whole batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from muflow_cli.errors import BadCalibration


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """Features in numbers.

    Attributes:
        count: F, numbers for each image.
        bytes: of all of them.
        device: type of the device that computed them.
        precision: in which it did.
    """

    count: int
    bytes: int
    device: str
    precision: str


@dataclass(frozen=True, eq=False, slots=True)
class Features:
    """Channel statistics of n images, and what computed them.

    Attributes:
        values: (n, F) float16: for each layer of each branch the means of its channels over positions, then their
            deviations.
        device: type of the device, such as "cpu" or "cuda".
        precision: of the convolutions, as a report names it.
    """

    values: NDArray[np.float16]
    device: str
    precision: str

    def of_rows(self, rows: list[int], images: int) -> Features:
        """Those of the given rows.

        Raises:
            BadCalibration: where they are not finite float16 of that many images, or nothing says what computed them.
        """
        values = self.values
        if not all(isinstance(name, str) and name for name in (self.device, self.precision)):
            raise BadCalibration("holds features, but not what computed them")
        if values.dtype != np.float16 or values.ndim != 2 or len(values) != images or not np.isfinite(values).all():
            raise BadCalibration(
                "holds features of another type or number than its images, or some that are not finite"
            )
        return replace(self, values=np.ascontiguousarray(values[rows]))

    def with_more(self, more: Features) -> Features | None:
        """Both; None where they were not computed alike, since a comparison would then show how, not what."""
        if (self.device, self.precision) != (more.device, more.precision):
            return None
        return replace(self, values=np.concatenate([self.values, more.values]))

    def meta(self) -> dict[str, object]:
        """What the array does not say, for JSON, and the number F."""
        return {"count": self.values.shape[1], "device": self.device, "precision": self.precision}

    @property
    def info(self) -> FeatureInfo:
        """What may be said of them."""
        return FeatureInfo(self.values.shape[1], self.values.nbytes, self.device, self.precision)
