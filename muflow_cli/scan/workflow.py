"""The pass of `scan`: inputs -> read once -> views -> score_stream -> judgements, in input order."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from muflow_cli.agreement import Agreement
from muflow_cli.calibration.judge import Judge
from muflow_cli.clip_results import ScoredClip, worst_frames
from muflow_cli.detector import Detector
from muflow_cli.engine.devices import Placement, place
from muflow_cli.engine.scoring import Extras, score_stream
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.hash_lists import HashLists
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Listed, Loaded, Seen, load_unknown
from muflow_cli.records import NoFace, Result, Scored, Unjudged, Unreadable
from muflow_cli.run_specs import Atypical, InputSpec, OnNoFace, Runtime
from muflow_cli.scan.evidence import Evidence
from muflow_cli.specs import View
from muflow_cli.units import Item, ScoredImage, ScoredItem, by_image, judged_again, unknown_units

_Item = Loaded | LoadedClip | NoFace | Seen | Listed | Unreadable
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanRequest:
    """What to scan with.

    Attributes:
        detector: decides the verdicts.
        runtime: device, precision, batch size, workers.
        inputs: limits on what is read.
        atypical: what becomes of images outside the calibration's ranges.
        thumbnail: longer side in pixels of the thumbnails of images for a gallery; 0 = none.
        face_thumbnail: the same of their faces.
        hash_lists: files whose hash is on one of them are counted, not scored; None = no lists.
        per_frame: judge each frame of a clip as a still, where the detector was calibrated on stills.
    """

    detector: Detector
    runtime: Runtime = field(default_factory=Runtime)
    inputs: InputSpec = field(default_factory=InputSpec)
    atypical: Atypical = Atypical.INCONCLUSIVE
    thumbnail: int = 0
    face_thumbnail: int = 0
    hash_lists: HashLists | None = None
    per_frame: bool = False


class Gallery(Protocol):
    """Collects what a report shows."""

    def wants(self, result: Scored | Unjudged) -> bool:
        """Whether the report would show this image or clip."""

    def add(
        self,
        result: Scored | Unjudged,
        thumbnail: bytes | None,
        heatmap: NDArray[np.float32] | None,
        parts: Sequence[tuple[bytes | None, NDArray[np.float32] | None]],
    ) -> None:
        """Add an image or a clip that `wants` accepted.

        Args:
            result: the first result with this content.
            thumbnail: a small JPEG, if a size was given; of a clip its worst frame.
            heatmap: (g, g) scores by position over the whole image; None if no branch has one, for faces and for clips.
            parts: thumbnail and heat map of each face of the result, aligned; of a clip those of its worst frames, in
                the order of `clip.worst` and without heat maps.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What other machines are told of a run.

    Attributes:
        known: contents whose results are known, by their keys: Seen.
        near: give the perceptual hash of each image and clip.
    """

    known: frozenset[str] = frozenset()
    near: bool = False


class Elsewhere(Protocol):
    """Reads and scores inputs on other machines."""

    @property
    def placement(self) -> Placement:
        """Where and how each of them computes."""
        ...

    def agreement(self, detector: Detector, *, always: bool) -> Agreement:
        """As `agreement.agreement`, by what one of them computes."""
        ...

    def items(
        self, inputs: Iterable[Input | Unreadable], request: ScanRequest, extras: Extras, wanted: Wanted
    ) -> Generator[ScoredItem]:
        """What they make of each input, in order; content that two inputs have may be Seen or not."""
        ...


class Scan:
    """One pass over inputs with one detector.

    Args:
        request: what to scan with.
        earlier: results of an earlier run with the same detector, by content hash: not scored again.
        stop: called after each input; once it returns true, the scan finishes what it has begun and ends.
        gallery: offered every scored image.
        evidence: is given the perceptual hash of every scored image, and its features if it has room for them.
        elsewhere: other machines that read and score; None = this one.

    Attributes:
        interrupted: whether `stop` ended the pass.
        taken_over: number of contents whose results came from the earlier run.
        no_face_skipped: number of images without a face that have no result.
        listed: number of inputs whose hash is on a list of known files, and which have no result.
        seconds: the scoring thread's time: waiting for images ("read"), computing ("score"), handing out results
            ("write"). Reading overlaps scoring, so the largest is the bottleneck.
    """

    def __init__(
        self,
        request: ScanRequest,
        *,
        earlier: Mapping[str, Scored | Unjudged] | None = None,
        stop: Callable[[], bool] = lambda: False,
        gallery: Gallery | None = None,
        evidence: Evidence | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.placement = place(request.runtime) if elsewhere is None else elsewhere.placement
        self._request, self._stop, self._gallery, self._evidence = request, stop, gallery, evidence
        self._elsewhere = elsewhere
        self._judge = Judge(request.detector.calibration, request.atypical)
        self._earlier = dict(earlier or {})
        self._first: dict[str, Scored | Unjudged | NoFace] = {}  # the first result of each content in this run
        self._begun: set[str] = set()  # contents that are being scored
        self.interrupted = False
        self.taken_over = self.no_face_skipped = self.listed = 0
        self.seconds = {"read": 0.0, "score": 0.0, "write": 0.0}

    @property
    def unseen(self) -> int:
        """Number of contents of the earlier run that no input had so far."""
        return len(self._earlier)

    def results(self, inputs: Iterable[Input | Unreadable]) -> Iterator[Result]:
        """One result per input, in their order; each distinct content is decoded and scored once."""
        wants_features = self._evidence is not None and self._evidence.count > 0
        extras = Extras(maps=self._gallery is not None, features=wants_features)
        scored_items = self._scored_here if self._elsewhere is None else self._scored_elsewhere
        with contextlib.closing(scored_items(inputs, extras)) as stream:
            begun, read_before = time.monotonic(), self.seconds["read"]
            for item in stream:
                if isinstance(item, Listed):
                    self.listed += 1
                    continue
                result = self._result(item)
                if isinstance(result, NoFace) and self._request.inputs.on_no_face is OnNoFace.SKIP:
                    self.no_face_skipped += 1
                    continue
                scored = time.monotonic()
                self.seconds["score"] += scored - begun - (self.seconds["read"] - read_before)
                yield result
                begun, read_before = time.monotonic(), self.seconds["read"]
                self.seconds["write"] += begun - scored

    def _scored_here(self, inputs: Iterable[Input | Unreadable], extras: Extras) -> Generator[ScoredItem]:
        request = self._request
        spec = request.detector.load_spec(request.inputs, request.runtime, self.placement)
        spec = replace(spec, thumbnail=request.thumbnail, face_thumbnail=request.face_thumbnail)
        spec = replace(spec, hash_lists=request.hash_lists)
        scorer = request.detector.scorer(self.placement)
        with contextlib.closing(load_unknown(inputs, spec, self._is_known)) as items:
            yield from by_image(score_stream(self._units(items), scorer, extras))

    def _scored_elsewhere(self, inputs: Iterable[Input | Unreadable], extras: Extras) -> Generator[ScoredItem]:
        assert self._elsewhere is not None  # noqa: S101 - `results` asks
        wanted = Wanted(known=frozenset(self._earlier), near=self._evidence is not None)
        with contextlib.closing(self._elsewhere.items(inputs, self._request, extras, wanted)) as items:
            for item in self._until_stopped(items):
                content = _content(item)
                if content is not None and self._is_known(content.facts.key):
                    yield Seen(content.path, content.facts.key)
                else:
                    yield item

    def _is_known(self, key: str) -> bool:
        return key in self._first or key in self._begun or key in self._earlier

    def _units(self, items: Iterator[_Item]) -> Iterator[Item]:
        """What is scored of the items; content that is being scored is not scored again."""
        for item in self._until_stopped(items):
            units = list(unknown_units(item, self._is_known))
            if isinstance(item, Loaded | LoadedClip | NoFace) and not self._is_known(item.facts.key):
                self._begun.add(item.facts.key)
            yield from units

    def _until_stopped(self, items: Iterator[_T]) -> Iterator[_T]:
        """The items until `stop` is true; waiting for them counts as reading."""
        while True:
            begun = time.monotonic()
            item = next(items, None)
            self.seconds["read"] += time.monotonic() - begun
            if item is None:
                return
            yield item
            if self._stop():
                self.interrupted = True
                return

    def _result(self, item: ScoredImage | ScoredClip | NoFace | Seen | Unreadable) -> Result:
        if isinstance(item, Seen):
            return self._repeated(item)
        result = self._request.detector.result(item, self._judge, per_frame=self._request.per_frame)
        if isinstance(result, Unreadable):
            return result
        self._first[result.facts.key] = result
        self._begun.discard(result.facts.key)
        if isinstance(result, Scored | Unjudged) and isinstance(item, ScoredImage):
            self._show(item, result)
        elif isinstance(result, Scored | Unjudged) and isinstance(item, ScoredClip):
            self._show_clip(item, result)
        return result

    def _show_clip(self, scored: ScoredClip, result: Scored | Unjudged) -> None:
        """Give evidence and gallery what they keep of a clip: its features, and its worst frames."""
        assert result.clip is not None  # noqa: S101 - it is the result of a clip
        frames = scored.clip.frames
        if self._evidence is not None and isinstance(result, Scored):
            from muflow_cli.images.near import near_hash  # as below

            near = near_hash(frames[len(frames) // 2].views) if scored.near is None else scored.near
            self._evidence.add(result.facts.key, near, scored.features)
        if self._gallery is not None and self._gallery.wants(result):
            worst = worst_frames(result.clip.frames, self._request.detector.calibration)
            strip = [(frames[index].thumbnail, None) for index in worst]
            self._gallery.add(result, strip[0][0], None, strip)

    def _show(self, scored: ScoredImage, result: Scored | Unjudged) -> None:
        """Give evidence and gallery what they keep of an image."""
        if self._evidence is not None and isinstance(result, Scored):
            from muflow_cli.images.near import near_hash  # needs SciPy, which takes a second to import

            # A batch is compared by the largest face of each image, as the calibration's images are.
            near = near_hash(scored.image.views) if scored.near is None else scored.near
            self._evidence.add(result.facts.key, near, scored.units[0].features)
        if self._gallery is not None and self._gallery.wants(result):
            maps = [part_map(self._request.detector, unit.maps) for unit in scored.units]
            whole = None if scored.image.faces else maps[0]
            faces = [(face.thumbnail, heatmap) for face, heatmap in zip(scored.image.faces, maps, strict=False)]
            self._gallery.add(result, scored.image.thumbnail, whole, faces)

    def _repeated(self, item: Seen) -> Result:
        """The result of content that was seen before, in this run or in an earlier one."""
        first = self._first.get(item.key)
        if first is None:  # scored by an earlier run, perhaps under another name
            earlier = self._earlier.pop(item.key)
            if isinstance(earlier, Unjudged):
                first = replace(earlier, path=item.path, duplicate_of=None)
            else:
                first = replace(judged_again(earlier, self._judge), path=item.path, duplicate_of=None, group=None)
            self._first[item.key] = first
            self.taken_over += 1
        return first if first.path == item.path else replace(first, path=item.path, duplicate_of=first.path)


def _content(item: ScoredItem) -> Loaded | LoadedClip | NoFace | None:
    """What an item is about, where it was decoded."""
    if isinstance(item, ScoredImage):
        return item.image
    if isinstance(item, ScoredClip):
        return item.clip
    return item if isinstance(item, NoFace) else None


def part_map(detector: Detector, maps: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32] | None:
    """(g, g) map of the first branch that views a whole image, or face, on a grid of several cells; None without one.

    Args:
        detector: the detector that gave the maps.
        maps: branch -> (V, g, g), from score_stream.
    """
    for name, view in detector.views.items():
        # Crops lie anywhere in an image, and a single cell adds nothing to the score.
        if view.kind is not View.CROPS and name in maps and maps[name].shape[-1] > 1:
            heatmap: NDArray[np.float32] = maps[name][0]
            return heatmap
    return None
