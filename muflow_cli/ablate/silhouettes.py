"""How well average images of N tell groups apart: the silhouette of their features over N.

Source: Rousseeuw 1987; Pontorno et al. 2026, Fig. 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from muflow_cli.ablate.encoded import Encoded, Fitted, Subject
from muflow_cli.ablate.records import SilhouettePoint
from muflow_cli.bench.data import HashedSample
from muflow_cli.engine.averaging import average, draw_members, overlap
from muflow_cli.engine.executor import pipelined
from muflow_cli.errors import BadSpec
from muflow_cli.fit.features import view_chunks
from muflow_cli.progress import ProgressListener

AVERAGES: Final = 20  # per group and N


def silhouette(vectors: ArrayLike, groups: Sequence[str]) -> float:
    """Mean silhouette in [-1, 1] of (B, D) vectors under their group names, Euclidean distance.

    Raises:
        BadSpec: unless there are at least 2 groups and fewer groups than vectors.
    """
    from sklearn.metrics import silhouette_score  # slow to import, and few ablations need it

    if not 2 <= len(set(groups)) < len(groups):
        raise BadSpec("groups of the silhouette", len(set(groups)), f"from 2 to {len(groups) - 1} for these vectors")
    return float(silhouette_score(np.asarray(vectors, np.float64), list(groups)))


def silhouettes(
    tested: Encoded,
    images: Sequence[HashedSample],
    fitted: Fitted,
    subject: Subject,
    seed: int,
    progress: ProgressListener,
) -> tuple[SilhouettePoint, ...]:
    """One point per N = 1, 2, 4, ...: silhouette by group and real against fake, and how far averages share images.

    Vectors are the means over positions of every layer's projection, side by side. N ends at half the size of the
    median group, and groups of fewer than twice that N take no part, so that every N compares the same groups. Empty
    where fewer than two groups are left.
    """
    groups: dict[str, list[int]] = {}
    for image, start in zip(images, tested.starts, strict=False):
        groups.setdefault(f"{image.sample.label} {image.sample.group}", []).append(start)
    most = int(median(len(rows) for rows in groups.values()) / 2)
    largest = 1 << (most.bit_length() - 1) if most else 0  # the largest power of two that is at most `most`
    compared = {name: rows for name, rows in groups.items() if len(rows) >= 2 * largest}
    if len(compared) < 2 or not largest:
        return ()
    sizes = [2**n for n in range(largest.bit_length())]
    progress.stage("silhouettes", len(sizes))
    points = []
    for size in sizes:
        points.append(_point(size, compared, tested, fitted, subject, seed))
        progress.advance()
    return tuple(points)


def _point(
    size: int, groups: Mapping[str, Sequence[int]], tested: Encoded, fitted: Fitted, subject: Subject, seed: int
) -> SilhouettePoint:
    vectors, names, shared = [], [], []
    for name, rows in groups.items():
        generator = torch.Generator().manual_seed(seed)
        members = draw_members(len(rows), AVERAGES, size, generator)
        shared.append(overlap(members, len(rows)).shared)
        averages = average(view_chunks(tested.views, rows), members, len(rows))
        vectors.append(_vectors(averages, fitted, subject))
        names += [name] * AVERAGES
    every = torch.cat(vectors).numpy()
    sides = [name.split(" ", 1)[0] for name in names]
    return SilhouettePoint(
        images_per_average=size,
        by_group=silhouette(every, names),
        real_against_fake=silhouette(every, sides) if len(set(sides)) == 2 else 0.0,
        overlap=max(shared),
        groups=tuple(groups),
    )


def _vectors(averages: Tensor, fitted: Fitted, subject: Subject) -> Tensor:
    """(M, D of all layers) vectors of average images."""
    parts = []
    for _, pooled in pipelined(averages.split(subject.scoring.placement.batch_size), subject.encoder.submit):
        layers = [
            projection(map_).mean(dim=(2, 3)) for projection, map_ in zip(fitted.projections, pooled, strict=True)
        ]
        parts.append(torch.cat(layers, dim=1))
    return torch.cat(parts)
