"""How well average pictures of N tell groups apart: the silhouette of their features over N.

Source: Pontorno et al. 2026, Fig. 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor

from muflow_cli.bench.fitting import Encoded, Fitted
from muflow_cli.bench.scoring import Scoring
from muflow_cli.engine.averaging import average, draw_members, overlap
from muflow_cli.engine.cores import pipelined
from muflow_cli.metrics import silhouette
from muflow_cli.watch import Watch

AVERAGES: Final = 20  # per group and N
_CHUNK: Final = 64


def silhouettes(tested: Encoded, fitted: Fitted, scoring: Scoring, seed: int, watch: Watch) -> list[dict[str, Any]]:
    """One point per N = 1, 2, 4, ...: silhouette by group and real against fake, and how far averages share pictures.

    Vectors are the means over positions of every scale in the fitted space, side by side. N ends at half the size of
    the median group, and groups of fewer than twice that N take no part, so that every N compares the same groups.
    Empty where fewer than two groups are left.
    """
    groups = _groups(tested)
    largest = _power(median(len(places) for places in groups.values()) / 2)
    kept = {name: places for name, places in groups.items() if len(places) >= 2 * largest}
    if len(kept) < 2 or largest < 1:
        return []
    sizes = [2**n for n in range(largest.bit_length())]
    watch.stage("silhouettes", len(sizes))
    points = []
    for size in sizes:
        points.append(_point(size, kept, tested, fitted, scoring, seed))
        watch.advance()
    return points


def _power(number: float) -> int:
    """Largest power of two that is at most `number`; 0 below 1."""
    return 1 << (int(number).bit_length() - 1) if number >= 1 else 0


def _groups(tested: Encoded) -> dict[str, list[int]]:
    """`real NAME` or `fake NAME` -> first view of each of its pictures."""
    groups: dict[str, list[int]] = {}
    for picture, start in zip(tested.pictures, tested.starts, strict=False):
        groups.setdefault(f"{picture.sample.label} {picture.sample.group}", []).append(start)
    return groups


def _point(
    size: int, groups: Mapping[str, Sequence[int]], tested: Encoded, fitted: Fitted, scoring: Scoring, seed: int
) -> dict[str, Any]:
    vectors, names, shared = [], [], []
    for name, places in groups.items():
        generator = torch.Generator().manual_seed(seed)
        members = draw_members(len(places), AVERAGES, size, generator)
        shared.append(overlap(members, len(places)).shared)
        means = average(_views(tested, places), members, len(places))
        vectors.append(_vectors(means, fitted, scoring))
        names += [name] * AVERAGES
    both = torch.cat(vectors).numpy()
    sides = [name.split(" ", 1)[0] for name in names]
    return {
        "mean_size": size,
        "by_group": silhouette(both, names),
        "real_against_fake": silhouette(both, sides) if len(set(sides)) == 2 else 0.0,
        "overlap": max(shared),
        "groups": list(groups),
    }


def _views(tested: Encoded, places: Sequence[int]) -> Iterator[Tensor]:
    for start in range(0, len(places), _CHUNK):
        yield torch.from_numpy(tested.views[list(places[start : start + _CHUNK])]).permute(0, 3, 1, 2)


def _vectors(means: Tensor, fitted: Fitted, scoring: Scoring) -> Tensor:
    """(M, D of all scales) vectors of average pictures."""
    parts = []
    extractor = scoring.scorer.extractor
    for _, pooled in pipelined(means.split(scoring.placement.batch_size), extractor.submit):
        scales = [space.apply(map_).mean(dim=(2, 3)) for space, map_ in zip(fitted.spaces, pooled, strict=True)]
        parts.append(torch.cat(scales, dim=1))
    return torch.cat(parts)
