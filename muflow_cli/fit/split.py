"""Split the reals into training, early stopping and calibration: by content, never by name or order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from muflow_cli.calibration.rules import rule_class
from muflow_cli.errors import TooFewImages
from muflow_cli.images.near import distinct
from muflow_cli.specs import DetectorSpec, TargetKind, TrainSpec


@dataclass(frozen=True, slots=True)
class Split:
    """Positions of the images of each part, ascending by content hash; each image is in one part."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    calibration: tuple[int, ...]


def split(digests: Sequence[str], groups: NDArray[np.int64], spec: TrainSpec) -> Split:
    """Assign whole groups to the parts in the order of their smallest content hash, by the shares of `spec`.

    A hash does not depend on names, folders or dates, so the split is random with respect to them and the same on
    every machine. The shares are exact but for the images of the group at each boundary.
    """
    keys: dict[int, str] = {}
    for digest, group in zip(digests, groups.tolist(), strict=True):
        keys[group] = min(digest, keys.get(group, digest))
    order = sorted(range(len(digests)), key=lambda i: (keys[int(groups[i])], digests[i]))
    total = len(digests)
    bounds = (
        round(total * (1 - spec.validation_share - spec.calibration_share)),
        round(total * (1 - spec.calibration_share)),
    )
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    part_of: dict[int, int] = {}
    for rank, index in enumerate(order):
        by_rank = int(rank >= bounds[0]) + int(rank >= bounds[1])
        parts[part_of.setdefault(int(groups[index]), by_rank)].append(index)
    return Split(*(tuple(part) for part in parts))


def with_clips_whole(groups: NDArray[np.int64], clips: Sequence[str]) -> NDArray[np.int64]:
    """(n,) groups of near copies, joined so that all frames of a clip are in one.

    Args:
        groups: (n,) of near copies.
        clips: (n,) the clip of each image; empty for one that is no frame.
    """
    ids = {clip: number for number, clip in enumerate(dict.fromkeys(filter(None, clips)), start=int(groups.max()) + 1)}
    if not ids:
        return groups
    links = [(int(group), ids[clip]) for group, clip in zip(groups.tolist(), clips, strict=True) if clip]
    size = int(groups.max()) + 1 + len(ids)
    graph = coo_array((np.ones(len(links), np.int8), np.array(links).T), shape=(size, size))
    joined: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return joined[groups]


def images_needed(spec: DetectorSpec) -> tuple[int, str]:
    """Smallest number of distinct images to fit `spec` to, and the reason."""
    train, rule = spec.train, spec.rule
    for_rule = rule_class(rule.method).minimum_images(rule)
    needs = {
        f"{train.calibration_share:.0%} of them calibrate, and method {rule.method} at alpha {rule.alpha:g} "
        f"needs {for_rule}": math.ceil(for_rule / train.calibration_share),
        "training, validation and calibration each need some": 10,
    }
    sizes = [branch.target.images_per_average for branch in spec.branches if branch.target.kind is TargetKind.MU]
    if sizes:
        share = 1 - train.validation_share - train.calibration_share
        why = f"{share:.0%} of them train, and an average is over {max(sizes)}"
        needs[why] = math.ceil(max(sizes) / share)
    why = max(needs, key=lambda reason: needs[reason])
    return needs[why], why


def require_images(spec: DetectorSpec, found: int) -> None:
    """Refuse too few images.

    Args:
        spec: of the detector.
        found: number of distinct images, or more than there are.

    Raises:
        TooFewImages: saying what can be done with those that there are.
    """
    needed, why = images_needed(spec)
    if found >= needed:
        return
    rule = rule_class(spec.rule.method)
    remedies = ["add images"]
    alpha = rule.least_alpha(spec.rule, math.floor(found * spec.train.calibration_share))
    if alpha is not None and alpha > spec.rule.alpha:
        other = replace(spec, rule=replace(spec.rule, alpha=alpha))
        if images_needed(other)[0] <= found:
            remedies.append(f"fit with --alpha {alpha:g}, the least that {found} allow")
    alpha = rule.least_alpha(spec.rule, found)
    if alpha is not None:
        option = "" if alpha == spec.rule.alpha else f" --alpha {alpha:g}"
        remedies.append(
            f"calibrate an existing detector with these {found} (muflow calibrate DETECTOR REAL...{option} -o NEW)"
        )
    raise TooFewImages("fit", found, needed, why, ", or ".join(remedies))


def deal(digests: Sequence[str], groups: NDArray[np.int64], spec: DetectorSpec) -> Split:
    """The split of a fit's images; of near copies in the calibration, the one with the smallest content hash stays.

    Args:
        digests: (n,) content hashes, all different.
        groups: (n,) of near copies.
        spec: of the detector.

    Raises:
        TooFewImages: where training, an average or the calibration needs more of them.
        TooFewScores: where the rule needs more calibration images.
    """
    require_images(spec, len(digests))
    parts = split(digests, groups, spec.train)
    held_out = list(parts.calibration)
    once = distinct([digests[i] for i in held_out], groups[held_out])
    parts = replace(parts, calibration=tuple(held_out[position] for position in once))
    rule_class(spec.rule.method).require_images(spec.rule, len(parts.calibration))
    return parts
