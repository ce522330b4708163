"""Folders, well-known downloads and CSV manifests -> an ordered list of labelled images."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Final

from muflow_cli.bench.manifest import Label, read_manifest
from muflow_cli.errors import BadData, NothingToDo
from muflow_cli.images.find import find
from muflow_cli.images.inputs import Input
from muflow_cli.records import Unreadable
from muflow_cli.run_records import SkippedFiles
from muflow_cli.run_specs import InputSpec
from muflow_cli.skipped import Skip, SkipCount, nothing_found

# Names of the folders between the root of a data set and an image, and positions among them.
Folder = tuple[str, ...]
Depths = frozenset[int]


class Wanted(StrEnum):
    """What an argument contributes: its reals (`--real`), its fakes (`--fake`), or both as labelled (`--data`)."""

    REAL = "real"
    FAKE = "fake"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class DataArgument:
    """An argument as typed, `DIR`, `NAME=DIR` or a CSV manifest, and what it contributes."""

    text: str
    wanted: Wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A labelled image.

    Attributes:
        input: where its bytes lie.
        label: real or fake.
        group: the generator of a fake; the folder or data set of a real.
        source: the source that a real represents; the data set that a fake belongs to.
    """

    input: Input
    label: Label
    group: str
    source: str

    @property
    def path(self) -> str:
        """As reported."""
        return self.input.path


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples in the order of the arguments and names.

    Attributes:
        samples: each path once.
        unreadable: folders that could not be listed, links that point to nothing.
        left_out: folder -> number of images that are masks or second copies of photographs in the set.
        skipped: what folders and archives held that was not read.
    """

    samples: tuple[Sample, ...]
    unreadable: tuple[Unreadable, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[SkippedFiles, ...] = ()


def data_arguments(real: Iterable[str], fake: Iterable[str], data: Iterable[str]) -> tuple[DataArgument, ...]:
    """The arguments with folders of reals, of fakes, and of labelled images, in this order."""
    sides = ((Wanted.REAL, real), (Wanted.FAKE, fake), (Wanted.BOTH, data))
    return tuple(DataArgument(text, side) for side, texts in sides for text in texts)


def read_datasets(arguments: Iterable[DataArgument], spec: InputSpec) -> Dataset:
    """Every sample of all arguments.

    Raises:
        NothingToDo: if an argument holds no image of the kind that it should contribute.
        BadData: if a label is missing, a path has two labels or two arguments name the same group.
        BadTable: if a manifest is wrong.
    """
    arguments, skipped = list(arguments), SkipCount()
    datasets = [_read(argument, spec, skipped) for argument in arguments]
    by_path: dict[str, Sample] = {}
    owners: dict[tuple[Label, str], int] = {}
    # Of folders one in the other, the inner one names the source of an image, whatever the order.
    depths = [len(Path(split_name(argument.text)[1]).absolute().parts) for argument in arguments]
    for number in sorted(range(len(datasets)), key=lambda index: -depths[index]):
        for sample in datasets[number].samples:
            if owners.setdefault((sample.label, sample.group), number) != number:
                raise BadData(
                    f"two arguments hold a {sample.label} group {sample.group!r}, the second with {sample.path}",
                    "tell them apart with NAME=DIR",
                )
            first = by_path.setdefault(str(Path(sample.path).absolute()), sample)
            if first.label is not sample.label:
                raise BadData(f"{sample.path} is given as real and as fake", "give it once")
    chosen = set(map(id, by_path.values()))
    return Dataset(
        tuple(sample for dataset in datasets for sample in dataset.samples if id(sample) in chosen),
        tuple(record for dataset in datasets for record in dataset.unreadable),
        {folder: number for dataset in datasets for folder, number in dataset.left_out.items()},
        skipped.rows,
    )


def _read(argument: DataArgument, spec: InputSpec, skipped: SkipCount) -> Dataset:
    name, root = split_name(argument.text)
    own = SkipCount(skipped)
    is_manifest = root.lower().endswith(".csv")
    dataset = _from_manifest(root, name) if is_manifest else _from_folder(root, name, argument.wanted, spec, own)
    if not dataset.samples and dataset.unreadable:
        record = dataset.unreadable[0]
        raise NothingToDo(f"{record.path} cannot be used ({record.message})", "name a folder of images")
    samples = tuple(sample for sample in dataset.samples if argument.wanted in (Wanted.BOTH, sample.label))
    if not samples:
        kind = "" if argument.wanted is Wanted.BOTH else f"{argument.wanted} "
        remedy = "name a folder of images, a labelled tree or a CSV manifest"
        raise nothing_found(f"{root} holds no {kind}images", own.rows, remedy)
    return replace(dataset, samples=samples)


def split_name(text: str) -> tuple[str | None, str]:
    """`NAME=DIR` -> (NAME, DIR); an existing path that contains an equals sign stays a path."""
    name, equals, path = text.partition("=")
    if not equals or not name or os.path.lexists(text):
        return None, text
    return name, path


def _from_manifest(path: str, name: str | None) -> Dataset:
    return Dataset(
        tuple(
            Sample(
                input=Input(row.path),
                label=row.label,
                group=f"{name}/{row.group}" if name else row.group,
                source=f"{name}/{row.source}" if name else row.source,
            )
            for row in read_manifest(path)
        )
    )


def _from_folder(root: str, name: str | None, wanted: Wanted, spec: InputSpec, skip: Skip) -> Dataset:
    listed = list(find([root], spec, skip))
    inputs = [item for item in listed if isinstance(item, Input)]
    unreadable = tuple(item for item in listed if isinstance(item, Unreadable))
    folders: dict[str, Folder] = {}
    for input_ in inputs:
        path, archive = input_.path, input_.location
        # Members of an archive, which may lie in a folder, are reported as `faces.zip!folder/name`.
        inner = f"{archive}/{path.removeprefix(f'{archive}!')}" if archive and path.startswith(f"{archive}!") else path
        below = inner.removeprefix(root.rstrip("/")) if inner.startswith(root) else ""
        folders[path] = PurePath(below.lstrip("/")).parts[:-1]
    assignments = assign(folders.values())
    default = None if wanted is Wanted.BOTH else Label(wanted)
    samples, left_out = [], Counter[str]()
    for input_ in inputs:
        assignment = assignments[folders[input_.path]]
        if assignment is None:
            left_out[str(PurePath(input_.path).parent)] += 1
        else:
            samples.append(_sample(input_, assignment, default, name or set_name(root), named=name is not None))
    return Dataset(tuple(samples), unreadable, left_out)


def _sample(input_: Input, assignment: Assignment, default: Label | None, set_: str, *, named: bool) -> Sample:
    label = assignment.label or default
    if label is None:
        raise BadData(
            f"no folder above {input_.path} says whether it is real or fake",
            "use folders real and fake, 0_real and 1_fake or nature and ai, or give it with --real or --fake",
        )
    below = "/".join(assignment.group)
    group = "/".join(part for part in (set_ if named or not below else "", below) if part)
    return Sample(input=input_, label=label, group=group, source=group if label is Label.REAL else set_)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the names of a folder say about its images: their label, if any, and the names of their group."""

    label: Label | None
    group: Folder


def assign(folders: Iterable[Folder]) -> dict[Folder, Assignment | None]:
    """The assignment of each folder; None if its images are left out (masks, second copies).

    Every layout skips the names that it knows, so that several downloads may lie in one tree.
    """
    folders = set(folders)
    known = frozenset(_lower(folder[:depth]) for folder in folders for depth in range(len(folder) + 1))
    return {folder: _assignment(folder, known) for folder in folders}


def _assignment(folder: Folder, known: frozenset[Folder]) -> Assignment | None:
    names = _lower(folder)
    label, skipped = _labelled(names, known)
    for layout in LAYOUTS:
        depths = layout(names, known)
        if depths is None:
            return None
        skipped |= depths
    return Assignment(label, tuple(name for depth, name in enumerate(folder) if depth not in skipped))


_NUMBERED: Final = {"0_real": Label.REAL, "1_fake": Label.FAKE}
# Common words, which are labels only if their counterpart lies beside them.
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
        if name in _FFHQ_COPIES and (*names[:depth], _FFHQ_IMAGES) in known:
            return None
    last = len(names) - 1
    return frozenset(
        depth
        for depth, name in enumerate(names)
        if name == _FFHQ_IMAGES or (depth == last and re.fullmatch(r"\d\d000", name))
    )


def _celeba_hq(names: Folder, _: frozenset[Folder]) -> Depths | None:
    """`train|val/female|male/*.jpg`: neither the split nor the attribute is another source."""
    is_split = len(names) > 1 and names[-2] in {"train", "val", "test"} and names[-1] in {"female", "male"}
    return frozenset({len(names) - 2, len(names) - 1}) if is_split else frozenset()


def _celebamask_hq(names: Folder, _: frozenset[Folder]) -> Depths | None:
    """`CelebA-HQ-img/*.jpg`; the masks beside it are not photographs."""
    if any(name.replace("-", "").startswith("celebamaskhqmask") for name in names):
        return None
    return frozenset(depth for depth, name in enumerate(names) if name == "celeba-hq-img")


def _wild(names: Folder, _: frozenset[Folder]) -> Depths | None:
    """`Closed Set/<Generator>` and `Open Set/<Generator>`: the generator is the group."""
    sets = {"closed set", "open set"}
    return frozenset(depth for depth, name in enumerate(names) if name.replace("_", " ") in sets)


_FFHQ_IMAGES: Final = "images1024x1024"
_FFHQ_COPIES: Final = frozenset({"thumbnails128x128", "in-the-wild-images"})

# The layout of a new download is a function above and a row here. It returns the depths of the names that say nothing
# about where an image comes from, or None if the folder is left out. Names and known folders come in lower case.
LAYOUTS: Final[tuple[Callable[[Folder, frozenset[Folder]], Depths | None], ...]] = (
    _ffhq,
    _celeba_hq,
    _celebamask_hq,
    _wild,
)

# Names of downloads by the names of roots inside them.
_SET_NAMES: Final = {_FFHQ_IMAGES: "ffhq", "celeba-hq-img": "celebahq", "celebamask-hq": "celebahq"}


def set_name(root: str) -> str:
    """Name of a data set that was given without one: its folder's, or that of the download it belongs to."""
    base = Path(root).resolve().name
    return _SET_NAMES.get(base.lower(), base or root)


def _lower(folder: Folder) -> Folder:
    return tuple(name.lower() for name in folder)
