"""Labelled pictures as people have them: folders, known downloads and CSV manifests -> an ordered list of samples."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Final

from muflow_cli.errors import BadData, NothingToDo
from muflow_cli.pictures.find import Source, find
from muflow_cli.pictures.manifest import Label, read_manifest
from muflow_cli.records import Unreadable
from muflow_cli.specs import InputSpec

# Folder names between a data set's root and a picture, and places among them.
Folder = tuple[str, ...]
Depths = frozenset[int]


class Wanted(StrEnum):
    """What is taken from an argument: its reals (`--real`), its fakes (`--fake`), or both as labelled (`--data`)."""

    REAL = "real"
    FAKE = "fake"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class DataArgument:
    """One argument as typed: `DIR`, `NAME=DIR` or a CSV manifest, and what is taken from it."""

    text: str
    wanted: Wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One labelled picture.

    Attributes:
        input: the way to its bytes.
        label: real or fake.
        group: the generator of a fake, the folder or set of a real.
        source: the real source that a real counts for; the data set that a fake came in.
    """

    input: Source
    label: Label
    group: str
    source: str

    @property
    def path(self) -> str:
        """As found."""
        return self.input.path


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples in the order of the arguments and names, and what could not be read while looking for them.

    Attributes:
        samples: each path once.
        unreadable: folders that could not be listed, links that lead nowhere.
        left_out: folder -> pictures that belong to the set but are no photographs (masks) or are there twice.
    """

    samples: tuple[Sample, ...]
    unreadable: tuple[Unreadable, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


def read_datasets(arguments: Iterable[DataArgument], spec: InputSpec) -> Dataset:
    """Every sample of all arguments.

    Raises:
        NothingToDo: if an argument holds nothing that is wanted from it.
        BadData: if a label is missing, one path has two labels or two arguments name the same group.
        BadTable: if a manifest is wrong.
    """
    parts = [_read(argument, spec) for argument in arguments]
    _refuse_shared_groups(parts)
    return Dataset(
        _once(sample for part in parts for sample in part.samples),
        tuple(record for part in parts for record in part.unreadable),
        {folder: number for part in parts for folder, number in part.left_out.items()},
    )


def _read(argument: DataArgument, spec: InputSpec) -> Dataset:
    name, root = split_name(argument.text)
    manifest = root.lower().endswith(".csv")
    found = _from_manifest(root, name) if manifest else _from_folder(root, name, argument.wanted, spec)
    wanted = [sample for sample in found.samples if argument.wanted in (Wanted.BOTH, sample.label)]
    if not found.samples and found.unreadable:
        raise NothingToDo(f"{found.unreadable[0].path}: {found.unreadable[0].message}; name a folder of pictures")
    if not wanted:
        kind = "" if argument.wanted is Wanted.BOTH else f"{argument.wanted} "
        raise NothingToDo(
            f"{root} holds no {kind}pictures: name a folder of pictures, a labelled tree or a CSV manifest"
        )
    return Dataset(tuple(wanted), found.unreadable, found.left_out)


def split_name(text: str) -> tuple[str | None, str]:
    """`NAME=DIR` -> (NAME, DIR); a path that exists with its equals sign is a path."""
    name, equals, path = text.partition("=")
    if not equals or not name or os.path.lexists(text):
        return None, text
    return name, path


def _from_manifest(path: str, name: str | None) -> Dataset:
    return Dataset(
        tuple(
            Sample(
                input=Source(row.path),
                label=row.label,
                group=f"{name}/{row.group}" if name else row.group,
                source=f"{name}/{row.source}" if name else row.source,
            )
            for row in read_manifest(path)
        )
    )


def _from_folder(root: str, name: str | None, wanted: Wanted, spec: InputSpec) -> Dataset:
    found = list(find([root], spec))
    inputs = [source for source in found if isinstance(source, Source)]
    unreadable = tuple(record for record in found if isinstance(record, Unreadable))
    folders = {source.path: _folder(source.path, root) for source in inputs}
    places = arrange(folders.values())
    default = None if wanted is Wanted.BOTH else Label(wanted)
    samples, left_out = [], Counter[str]()
    for source in inputs:
        place = places[folders[source.path]]
        if place is None:
            left_out[str(PurePath(source.path).parent)] += 1
        else:
            samples.append(_sample(source, place, default, name or set_name(root), named=name is not None))
    return Dataset(tuple(samples), unreadable, left_out)


def _sample(source: Source, place: Place, default: Label | None, set_: str, *, named: bool) -> Sample:
    label = place.label or default
    if label is None:
        raise BadData(
            f"{source.path} is under no folder that says whether it is real or fake: use folders real and fake, "
            "0_real and 1_fake or nature and ai, or give it with --real or --fake"
        )
    below = "/".join(place.group)
    group = "/".join(part for part in (set_ if named or not below else "", below) if part)
    return Sample(input=source, label=label, group=group, source=group if label is Label.REAL else set_)


def _folder(path: str, root: str) -> Folder:
    # An archive's members are reported as `faces.zip!folder/name`.
    below = path.removeprefix(root.rstrip("/")).removeprefix("!") if path.startswith(root) else ""
    return PurePath(below.lstrip("/")).parts[:-1]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a folder's pictures belong: their label, if the folder says it, and the names of their group."""

    label: Label | None
    group: Folder


def arrange(folders: Iterable[Folder]) -> dict[Folder, Place | None]:
    """Each folder's place in the report; None where its pictures are left out (masks, second copies).

    Every layout passes over the names that it knows, so that several downloads may lie in one tree.
    """
    folders = set(folders)
    known = frozenset(_lower(folder[:depth]) for folder in folders for depth in range(len(folder) + 1))
    return {folder: _place(folder, known) for folder in folders}


def _place(folder: Folder, known: frozenset[Folder]) -> Place | None:
    names = _lower(folder)
    label, dropped = _labelled(names, known)
    for layout in LAYOUTS:
        passed = layout(names, known)
        if passed is None:
            return None
        dropped |= passed
    return Place(label, tuple(name for depth, name in enumerate(folder) if depth not in dropped))


_NUMBERED: Final = {"0_real": Label.REAL, "1_fake": Label.FAKE}
# Common words, which speak of labels only where their counterpart lies beside them.
_WORDS: Final = {
    "real": ("fake", Label.REAL),
    "fake": ("real", Label.FAKE),
    "nature": ("ai", Label.REAL),
    "ai": ("nature", Label.FAKE),
}


def _labelled(names: Folder, known: frozenset[Folder]) -> tuple[Label | None, Depths]:
    for depth, name in enumerate(names):
        counterpart, label = _WORDS.get(name, ("", None))
        if name in _NUMBERED:
            return _NUMBERED[name], frozenset({depth})
        if label and (*names[:depth], counterpart) in known:
            return label, frozenset({depth})
    return None, frozenset()


def _ffhq(names: Folder, known: frozenset[Folder]) -> Depths | None:
    """`images1024x1024/00000/*.png`; the thumbnails and the uncropped originals beside it are the same photographs."""
    for depth, name in enumerate(names):
        if name in _FFHQ_COPIES and (*names[:depth], _FFHQ_PICTURES) in known:
            return None
    last = len(names) - 1
    return frozenset(
        depth
        for depth, name in enumerate(names)
        if name == _FFHQ_PICTURES or (depth == last and re.fullmatch(r"\d\d000", name))
    )


def _celeba_hq(names: Folder, _: frozenset[Folder]) -> Depths | None:
    """`train|val/female|male/*.jpg`: neither the split nor the attribute is another source."""
    is_split = len(names) > 1 and names[-2] in {"train", "val", "test"} and names[-1] in {"female", "male"}
    return frozenset({len(names) - 2, len(names) - 1}) if is_split else frozenset()


def _celebamask_hq(names: Folder, _: frozenset[Folder]) -> Depths | None:
    """`CelebA-HQ-img/*.jpg`; the mask images beside it are no photographs."""
    if any(name.replace("-", "").startswith("celebamaskhqmask") for name in names):
        return None
    return frozenset(depth for depth, name in enumerate(names) if name == "celeba-hq-img")


def _wild(names: Folder, _: frozenset[Folder]) -> Depths | None:
    """`Closed Set/<Generator>` and `Open Set/<Generator>`: the generator is the group."""
    sets = {"closed set", "open set"}
    return frozenset(depth for depth, name in enumerate(names) if name.replace("_", " ") in sets)


_FFHQ_PICTURES: Final = "images1024x1024"
_FFHQ_COPIES: Final = frozenset({"thumbnails128x128", "in-the-wild-images"})

# A new download's layout is a function above and a row here: the depths of the names that say nothing about where a
# picture comes from, or None where its folder is left out. Names come in lower case, with every folder that is known.
LAYOUTS: Final[tuple[Callable[[Folder, frozenset[Folder]], Depths | None], ...]] = (
    _ffhq,
    _celeba_hq,
    _celebamask_hq,
    _wild,
)

# Roots inside a known download, by what the download is called.
_SET_NAMES: Final = {_FFHQ_PICTURES: "ffhq", "celeba-hq-img": "celebahq", "celebamask-hq": "celebahq"}


def set_name(root: str) -> str:
    """What a data set without a given name is called: its folder's name, or that of the download it belongs to."""
    base = Path(root).resolve().name
    return _SET_NAMES.get(base.lower(), base or root)


def _lower(folder: Folder) -> Folder:
    return tuple(name.lower() for name in folder)


def _refuse_shared_groups(parts: Iterable[Dataset]) -> None:
    owner: dict[tuple[Label, str], int] = {}
    for number, part in enumerate(parts):
        for sample in part.samples:
            if owner.setdefault((sample.label, sample.group), number) != number:
                raise BadData(
                    f"two arguments both hold a {sample.label} group {sample.group!r}, the second with {sample.path}: "
                    "tell them apart with NAME=DIR"
                )


def _once(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    kept: dict[str, Sample] = {}
    for sample in samples:
        first = kept.setdefault(str(Path(sample.path).absolute()), sample)
        if first.label is not sample.label:
            raise BadData(f"{sample.path} is given as real and as fake: decide for one of them")
    return tuple(kept.values())
