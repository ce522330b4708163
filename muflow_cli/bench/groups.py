"""How often a group of images of one source is unlike the calibration as a group. Pure.

For reals of the calibration's own kind this is the realised level of the test, for a generator it is the power. Reals
of another source are told apart as well: the test knows the calibration and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from muflow_cli.bench.batches import FeaturesOf, by_source, sample_of
from muflow_cli.bench.intervals import BootstrapSpec, EventRate, event_rate
from muflow_cli.bench.manifest import Label
from muflow_cli.bench.scores import Row
from muflow_cli.calibration.components import Sample
from muflow_cli.calibration.groups import Vectors, compared_vectors, energy_p_value

SIZES: Final = (5, 10, 20, 50)
LEVELS: Final = (0.05, 0.01)
DRAWS: Final = 20
# Fewer than a scan's: the smallest p-value, 1 / 500, lies far enough below the levels.
_PERMUTATIONS: Final = 499


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupDraws:
    """Groups of one size.

    Attributes:
        size: images in a group.
        unlike: level -> groups whose p-value is at most that.
    """

    size: int
    unlike: dict[str, EventRate]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceGroups:
    """Groups of the images of one source; sizes that these do not suffice for are left out.

    Attributes:
        label: real or fake.
        source: the real source or the generator.
        images: that groups are drawn from.
        sizes: one entry for each size.
    """

    label: Label
    source: str
    images: int
    sizes: tuple[GroupDraws, ...]


def measure_groups(
    rows: Sequence[Row],
    features: FeaturesOf,
    calibration: Sample,
    bootstrap: BootstrapSpec,
    advance: Callable[[], None] = lambda: None,
) -> tuple[SourceGroups, ...]:
    """Draw and test groups of every real source and every generator.

    Args:
        rows: with content hashes, each photograph once.
        features: content hash -> features (F,) of every row.
        calibration: the reals of the calibration.
        bootstrap: its seed draws the groups, its level is that of the intervals.
        advance: told of every source.
    """
    measured = []
    for label in Label:
        for source, members in by_source(rows, fake=label is Label.FAKE).items():
            # Whitened once for all images of the source. That treats the calibration and every image of the source
            # alike, and a group is drawn from these by chance, so the test is exact still.
            null, own = compared_vectors(calibration, sample_of(members, features))
            sizes = tuple(_groups(null, own, size, source, bootstrap) for size in SIZES if size <= len(own))
            measured.append(SourceGroups(label=label, source=source, images=len(own), sizes=sizes))
            advance()
    return tuple(measured)


def _groups(null: Vectors, own: Vectors, size: int, source: str, bootstrap: BootstrapSpec) -> GroupDraws:
    """Groups of one size among the images (m, k) of a source, each compared with the reals (N, k)."""
    p_values = []
    for number in range(DRAWS):
        generator = np.random.default_rng([bootstrap.seed, size, number, *source.encode("utf-8", "surrogateescape")])
        group = own[generator.choice(len(own), size, replace=False)]
        p_values.append(energy_p_value(null, group, generator, _PERMUTATIONS))
    return GroupDraws(
        size=size,
        unlike={
            f"{level:g}": event_rate(sum(p <= level for p in p_values), DRAWS, bootstrap.level) for level in LEVELS
        },
    )
