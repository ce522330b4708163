"""Scoring on a cluster: shards of inputs go out, what each image scores comes back; everything else stays here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from muflow_cli.agreement import Agreement, agreement
from muflow_cli.bundle import load
from muflow_cli.clip_results import FrameUnit, ScoredClip
from muflow_cli.cluster import Cluster
from muflow_cli.detector import Detector
from muflow_cli.engine.devices import place
from muflow_cli.engine.scoring import Extras, Scorer, score_stream
from muflow_cli.errors import ClusterFailed
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.hash_lists import HashLists
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded, LoadSpec, load_unknown
from muflow_cli.records import NoFace, Unreadable
from muflow_cli.run_specs import InputSpec, Runtime
from muflow_cli.scan.workflow import ScanRequest, Wanted
from muflow_cli.units import Item, ScoredImage, ScoredItem, Unit, by_image, unknown_units

_Shard = Sequence[Input | Unreadable]

# Inputs of a shard: seconds of work, so that neither its way nor a lost one matters much.
_SHARD: Final = 128
_GPU_SHARD: Final = 1024
_SHARD_BYTES: Final = 64 * 2**20  # of inputs that bring their content along


class ClusterScoring:
    """A detector on every worker of a cluster, read from its bundle there.

    Args:
        cluster: whose workers score.
        bundle: the path at which every machine has the detector.
        runtime: what the user asked for; all workers compute alike.

    Attributes:
        placement: of every worker.
    """

    def __init__(self, cluster: Cluster, bundle: Path, runtime: Runtime) -> None:
        self._cluster, self._bundle = cluster, bundle.resolve()
        on_processors = runtime.device == "auto" and not cluster.has_gpus
        asked = replace(runtime, device="cpu") if on_processors else runtime
        # This machine need not have a GPU.
        self.placement = place(asked) if asked.device == "cpu" else cluster.ask(partial(place, asked))
        self._runtime = replace(asked, device=str(self.placement.device), precision=self.placement.precision)

    def agreement(self, detector: Detector, *, always: bool) -> Agreement:
        """As `workflow.Elsewhere`."""
        return self._cluster.ask(partial(_agreement, str(self._bundle), detector.fingerprint, self._runtime, always))

    def items(
        self, inputs: Iterable[Input | Unreadable], request: ScanRequest, extras: Extras, wanted: Wanted
    ) -> Generator[ScoredItem]:
        """As `workflow.Elsewhere`; content that lies in several shards is scored in each of them."""
        lists = request.hash_lists
        make = ShardScoring(
            bundle=str(self._bundle),
            fingerprint=request.detector.fingerprint,
            runtime=self._runtime,
            inputs=request.inputs,
            thumbnails=(request.thumbnail, request.face_thumbnail),
            extras=extras,
            wanted=wanted,
            lists=None if lists is None else SameLists([path.resolve() for path in lists.paths], lists.digest),
        )
        shards = _shards(inputs, _GPU_SHARD if self._cluster.has_gpus else _SHARD)
        with contextlib.closing(self._cluster.map(make, shards)) as results:
            for items in results:
                yield from items


def _agreement(bundle: str, fingerprint: str, runtime: Runtime, always: bool) -> Agreement:  # noqa: FBT001 - for partial
    return agreement(_same_detector(bundle, fingerprint), place(runtime), always=always)


def _same_detector(bundle: str, fingerprint: str) -> Detector:
    """The detector at a path of this machine, which must have that fingerprint."""
    detector = load(Path(bundle))
    if detector.fingerprint != fingerprint:
        problem = f"a machine of the cluster has another detector at {bundle}"
        raise ClusterFailed(problem, "copy the same file to every machine")
    return detector


def _shards(inputs: Iterable[Input | Unreadable], size: int) -> Iterator[_Shard]:
    """The inputs, `size` at a time, or fewer where they bring many bytes along."""
    shard: list[Input | Unreadable] = []
    carried = 0
    for item in inputs:
        shard.append(item)
        carried += len(item.content or b"") if isinstance(item, Input) else 0
        if len(shard) >= size or carried >= _SHARD_BYTES:
            yield shard
            shard, carried = [], 0
    if shard:
        yield shard


@dataclass(frozen=True, slots=True)
class SameLists:
    """Lists of hashes that every machine has at the same paths; the digest is that of HashLists."""

    paths: Sequence[Path]
    digest: str

    def opened(self) -> HashLists:
        """The lists on this machine; ClusterFailed where they are others."""
        lists = HashLists(self.paths)
        if lists.digest != self.digest:
            problem = "a machine of the cluster has other lists of hashes at the paths of --known"
            raise ClusterFailed(problem, "copy the same files to every machine")
        return lists


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardScoring:
    """What a worker scores with: plain data.

    Attributes:
        bundle: path of the detector.
        fingerprint: that it must have.
        runtime: device and precision, the same everywhere.
        inputs: limits on what is read.
        thumbnails: longer sides in pixels of the thumbnails of images and of faces; 0 = none.
        extras: what else to give beside the columns.
        wanted: which contents are not scored, and what else to give.
        lists: files on them are `Listed`; None = no lists.
    """

    bundle: str
    fingerprint: str
    runtime: Runtime
    inputs: InputSpec
    thumbnails: tuple[int, int]
    extras: Extras
    wanted: Wanted
    lists: SameLists | None = None

    def __call__(self, cores: int) -> Callable[[_Shard], list[ScoredItem]]:
        """What scores shards on so many cores.

        Raises:
            BadBundle: as `bundle.load`.
            BadList: as `HashLists`.
            ClusterFailed: where another detector, or another list, lies at that path.
        """
        detector = _same_detector(self.bundle, self.fingerprint)
        lists = None if self.lists is None else self.lists.opened()
        torch.set_num_threads(cores)
        runtime = replace(self.runtime, workers=cores)
        placement = place(runtime)
        thumbnail, face_thumbnail = self.thumbnails
        spec = detector.load_spec(self.inputs, runtime, placement)
        spec = replace(spec, thumbnail=thumbnail, face_thumbnail=face_thumbnail, hash_lists=lists)
        return partial(_scored, spec, detector.scorer(placement), self.extras, self.wanted)


def _scored(spec: LoadSpec, scorer: Scorer, extras: Extras, wanted: Wanted, shard: _Shard) -> list[ScoredItem]:
    begun: set[str] = set()

    def is_known(key: str) -> bool:
        return key in wanted.known or key in begun

    def units() -> Iterator[Item]:
        for item in items:
            own = list(unknown_units(item, is_known))
            if isinstance(item, Loaded | LoadedClip | NoFace):
                begun.add(item.facts.key)
            yield from own

    with contextlib.closing(load_unknown(shard, spec, is_known)) as items:
        return [_light(item, near=wanted.near) for item in by_image(score_stream(units(), scorer, extras))]


def _light(item: ScoredItem, *, near: bool) -> ScoredItem:
    """The same without views, which are a hundred times as large as the rest."""
    if isinstance(item, ScoredImage):
        return _light_image(item, near=near)
    return _light_clip(item, near=near) if isinstance(item, ScoredClip) else item


def _light_image(scored: ScoredImage, *, near: bool) -> ScoredImage:
    hashed = _near_hash(scored.image.views) if near else None
    faces = tuple(replace(face, views={}) for face in scored.image.faces)
    image = replace(scored.image, views={}, faces=faces)
    units = [replace(unit, unit=Unit(image, unit.unit.index)) for unit in scored.units]
    return ScoredImage(image, units, hashed)


def _light_clip(scored: ScoredClip, *, near: bool) -> ScoredClip:
    frames = scored.clip.frames
    hashed = _near_hash(frames[len(frames) // 2].views) if near else None
    clip = replace(scored.clip, frames=tuple(replace(frame, views={}) for frame in frames))
    units = [replace(unit, unit=FrameUnit(clip, unit.unit.index)) for unit in scored.units]
    return ScoredClip(clip, units, hashed)


def _near_hash(views: Mapping[str, NDArray[np.uint8]]) -> int:
    from muflow_cli.images.near import near_hash  # needs SciPy, which takes a second to import

    return near_hash(views)
