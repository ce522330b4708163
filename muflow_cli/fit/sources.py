"""Sources of real images: what `fit` was given, and how sources are left out one after the other."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from muflow_cli.images.archive_limits import is_archive
from muflow_cli.images.inputs import Input
from muflow_cli.records import Unreadable
from muflow_cli.specs import TrainSpec


@dataclass(frozen=True, slots=True)
class Fold:
    """Sources that are left out together.

    Attributes:
        names: of the sources, sorted.
        images: positions of their images, in the order in which the positions were given.
    """

    names: tuple[str, ...]
    images: tuple[int, ...]


def sources_of(inputs: Sequence[tuple[str, Input | Unreadable]], given: Collection[str]) -> dict[str, str]:
    """Path of each input -> its source, whatever the order of the arguments.

    A folder or an archive that is an argument is one source, and the innermost one counts; other files that are
    arguments are grouped by their folders. Where a single folder is given, each folder or archive directly in it is a
    source, and so are the images that lie in it themselves, together.

    Args:
        inputs: each with the argument that led to it.
        given: all arguments, those too that led to nothing new.
    """
    roots = {os.path.abspath(name): name for name in sorted(given, reverse=True) if os.path.exists(name)}
    containers = {place: name for place, name in roots.items() if os.path.isdir(place) or is_archive(place)}
    alone = len(set(map(os.path.abspath, given))) == 1 and all(map(os.path.isdir, given))
    return {
        item.path: _inside(argument, item) if alone else _source(argument, item, containers)
        for argument, item in inputs
    }


def _place(item: Input | Unreadable) -> str:
    """Where an input lies: its path, or that of its archive."""
    return (item.location or item.path) if isinstance(item, Input) else item.path


def _inside(argument: str, item: Input | Unreadable) -> str:
    """The source of an input in the only folder that is given."""
    lies_at = _place(item)
    inside = PurePath(lies_at).relative_to(argument).parts
    in_folder = len(inside) > 1 or lies_at != item.path
    return str(PurePath(argument, inside[0])) if in_folder else argument


def _source(argument: str, item: Input | Unreadable, containers: Mapping[str, str]) -> str:
    """The source of an input among several arguments; `containers` are those with an inside, by absolute path."""
    lies_at = PurePath(os.path.abspath(_place(item)))
    innermost = next((str(place) for place in (lies_at, *lies_at.parents) if str(place) in containers), None)
    if innermost is not None:
        return containers[innermost]
    return str(Path(argument).parent) if _place(item) == argument == item.path else argument


def folds(
    sources: Sequence[str], groups: NDArray[np.int64], digests: Sequence[str], minimum: int, most: int
) -> tuple[Fold, ...]:
    """The sources to leave out, one fold after the other; fewer than two = there is nothing to leave out.

    An image belongs to the first source, by name, of its near copies, so that no copy of a left-out image is trained
    on. Sources of fewer than `minimum` images count as one; where they are too few even together, they are always
    trained on. Where more than `most` are left, the largest is dealt first, each to the smallest fold so far. The
    result depends on the images and on which of them share a source, not on the order of anything; ties go to the
    smallest content hash.

    Args:
        sources: of each image.
        groups: near copies share one.
        digests: content hashes.
        minimum: images that a fold needs.
        most: folds, at least 2.
    """
    owner: dict[int, str] = {}
    for source, group in zip(sources, groups.tolist(), strict=True):
        owner[group] = min(source, owner.get(group, source))
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups.tolist()):
        members.setdefault(owner[group], []).append(index)
    large: list[tuple[str, ...]] = [(name,) for name, images in members.items() if len(images) >= minimum]
    small = tuple(sorted(name for name, images in members.items() if len(images) < minimum))
    if sum(len(members[name]) for name in small) >= minimum:
        large.append(small)

    def by_size(names: tuple[str, ...]) -> tuple[int, str]:
        images = [index for name in names for index in members[name]]
        return -len(images), min(digests[index] for index in images)

    dealt: list[tuple[str, ...]] = []
    for names in sorted(large, key=by_size):
        if len(dealt) < most:
            dealt.append(names)
        else:
            smallest = max(range(most), key=lambda fold: by_size(dealt[fold]))
            dealt[smallest] += names
    return tuple(
        Fold(tuple(sorted(names)), tuple(sorted(index for name in names for index in members[name])))
        for names in sorted(dealt, key=by_size)
    )


def rounds_of(
    sources: Sequence[str], groups: NDArray[np.int64], digests: Sequence[str], images: Sequence[int], train: TrainSpec
) -> tuple[Fold, ...]:
    """What to leave out in turn of the reals at `images`, those that do not calibrate; other arguments as `folds`."""
    made = folds(
        [sources[index] for index in images],
        groups[list(images)],
        [digests[index] for index in images],
        train.source_minimum,
        train.source_folds,
    )
    return tuple(Fold(fold.names, tuple(images[position] for position in fold.images)) for fold in made)


def short_names(sources: Collection[str]) -> dict[str, str]:
    """Source -> the last part of its path, with as many parts before it as tell it from the others.

    A bundle names its sources so, because it does not hold the machine's paths.
    """
    parts = {source: Path(source).absolute().parts for source in sources}
    short = {}
    for source, own in parts.items():
        others = [other for name, other in parts.items() if name != source]
        depth = next((n for n in range(1, len(own)) if all(own[-n:] != other[-n:] for other in others)), len(own))
        short[source] = "/".join(own[-depth:])
    return short
