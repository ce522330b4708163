"""The workflow of `scan`: sources -> read once -> views -> batches -> scores -> verdicts, in input order."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration import Judge, Verdict
from muflow_cli.detector import Detector
from muflow_cli.engine.cores import pipelined
from muflow_cli.engine.scoring import Placement
from muflow_cli.errors import BadBundle
from muflow_cli.metrics import benjamini_hochberg
from muflow_cli.pictures.pool import Loaded, LoadSpec, Seen, load_unknown
from muflow_cli.pictures.sources import Source
from muflow_cli.records import DetectorInfo, Result, Scored, Summary, Unreadable
from muflow_cli.specs import InputSpec, View

_Item = Loaded | Seen | Unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanRequest:
    """How a scan is done.

    Attributes:
        detector: calibrated.
        placement: device, precision, batch size.
        inputs: limits on what is read.
        workers: decoding threads.
        thumbnail: longer side in pixels of the thumbnails that a gallery gets; 0 = none.
    """

    detector: Detector
    placement: Placement
    inputs: InputSpec
    workers: int = 2
    thumbnail: int = 0


@dataclass(frozen=True, slots=True)
class Shown:
    """A scored picture as a report shows it.

    Attributes:
        result: its first.
        thumbnail: a small JPEG, where asked for.
        heatmap: (g, g) score by position over the whole picture; None for native crops and for a grid of one.
    """

    result: Scored
    thumbnail: bytes | None
    heatmap: NDArray[np.float32] | None


class Gallery(Protocol):
    """Collects what a report shows."""

    def wants(self, result: Scored) -> bool:
        """Whether this picture is to be shown; a heat map is a second pass through the encoder."""

    def add(self, shown: Shown) -> None:
        """Take in a picture that was wanted."""


class Scan:
    """One pass over sources with one detector.

    Args:
        request: what to scan with.
        kept: results of an earlier run with the same detector, by content hash: not scored again; emptied on the way.
        stop: asked after each batch that is begun; when it says so, what is begun is finished and the rest left.
        gallery: offered every picture that is scored.

    Attributes:
        interrupted: whether `stop` ended the pass.
        seconds: the scoring thread's time: waiting for pictures ("read"), computing ("score"), handing out results
            ("write"). Reading overlaps scoring, so the largest is the bottleneck.

    Raises:
        BadBundle: for a detector without calibration.
    """

    def __init__(
        self,
        request: ScanRequest,
        *,
        kept: Mapping[str, Scored] | None = None,
        stop: Callable[[], bool] = lambda: False,
        gallery: Gallery | None = None,
    ) -> None:
        calibration = request.detector.calibration
        if calibration is None:
            raise BadBundle("the detector", "has no calibration", "run `muflow calibrate` with real pictures")
        self._request, self._stop, self._gallery = request, stop, gallery
        self._scorer = request.detector.scorer(request.placement)
        self._judge = Judge(calibration, request.detector.scales)
        self._kept = dict(kept or {})
        self._known: dict[str, Scored] = {}  # the first result of each content in this run
        self._begun: set[str] = set()  # contents that are being scored
        self.interrupted = False
        self.seconds = {"read": 0.0, "score": 0.0, "write": 0.0}

    @property
    def bottleneck(self) -> str:
        """The stage that a faster machine should be faster at."""
        return max(self.seconds, key=lambda stage: self.seconds[stage])

    def results(self, sources: Iterable[Source | Unreadable]) -> Iterator[Result]:
        """One result per source, in their order; each distinct content is decoded and scored once."""
        for result in self._results(sources):
            begun = time.monotonic()
            yield result
            self.seconds["write"] += time.monotonic() - begun

    def _results(self, sources: Iterable[Source | Unreadable]) -> Iterator[Result]:
        with contextlib.closing(load_unknown(sources, self._load_spec(), self._is_known)) as items:
            for batch, judged in pipelined(self._batches(items), self._begin):
                self._known |= judged
                self._begun -= judged.keys()
                for item in batch:
                    yield item if isinstance(item, Unreadable) else self._result(item)

    def _load_spec(self) -> LoadSpec:
        request = self._request
        return LoadSpec(
            view=request.detector.spec.view,
            inputs=request.inputs,
            workers=request.workers,
            ahead=2 * request.placement.batch_size + 2 * request.workers,
            thumbnail=request.thumbnail,
        )

    def _is_known(self, sha256: str) -> bool:
        return sha256 in self._known or sha256 in self._begun or sha256 in self._kept

    def _batches(self, items: Iterator[_Item]) -> Iterator[list[_Item]]:
        """Items until their new views fill a batch; what needs no scoring does not pile up beside them.

        Stopped before the next, once `stop` says so.
        """
        size = self._request.placement.batch_size
        held: list[_Item] = []
        fresh: set[str] = set()
        views = 0
        while (item := self._waited(items)) is not None:
            held.append(item)
            if isinstance(item, Loaded) and item.facts.sha256 not in fresh and not self._is_known(item.facts.sha256):
                fresh.add(item.facts.sha256)
                views += len(item.views)
            if views >= size or len(held) >= 4 * size:
                yield held
                if self._stop():
                    self.interrupted = True
                    return
                held, fresh, views = [], set(), 0
        if held:
            yield held

    def _waited(self, items: Iterator[_Item]) -> _Item | None:
        begun = time.monotonic()
        item = next(items, None)
        self.seconds["read"] += time.monotonic() - begun
        return item

    def _begin(self, held: list[_Item]) -> Callable[[], dict[str, Scored]]:
        """Begin to score what is new in `held`; the call waits, and gives the results by content."""
        new: dict[str, Loaded] = {}
        for item in held:
            if isinstance(item, Loaded) and not self._is_known(item.facts.sha256):
                new.setdefault(item.facts.sha256, item)
        if not new:
            return dict
        self._begun |= new.keys()
        waiting = self._scorer.submit([item.views for item in new.values()])
        return partial(self._judged, list(new.values()), waiting)

    def _judged(self, pictures: list[Loaded], waiting: Callable[[], NDArray[np.float64]]) -> dict[str, Scored]:
        begun = time.monotonic()
        scores = waiting()
        verdicts = self._judge.judge(scores, [item.facts for item in pictures])
        found = {
            item.facts.sha256: _scored(item, row, verdict)
            for item, row, verdict in zip(pictures, scores, verdicts, strict=True)
        }
        if self._gallery is not None:
            wanted = [item for item in pictures if self._gallery.wants(found[item.facts.sha256])]
            for item, heatmap in zip(wanted, self._heatmaps(wanted), strict=True):
                self._gallery.add(Shown(found[item.facts.sha256], item.thumbnail, heatmap))
        self.seconds["score"] += time.monotonic() - begun
        return found

    def _heatmaps(self, pictures: list[Loaded]) -> list[NDArray[np.float32] | None]:
        # Crops lie anywhere in a picture, and one cell says no more than the score.
        if self._request.detector.spec.view.kind is not View.RESIZE or not pictures:
            return [None] * len(pictures)
        maps = self._scorer.heatmaps([item.views for item in pictures])
        return [one[0] if one.shape[-1] > 1 else None for one in maps]

    def _result(self, item: Loaded | Seen) -> Scored:
        sha256 = item.sha256 if isinstance(item, Seen) else item.facts.sha256
        first = self._known.get(sha256)
        if first is None:  # kept of an earlier run, where it may have had another name
            first = replace(self._kept[sha256], path=item.path, duplicate_of=None)
            self._known[sha256] = first
            del self._kept[sha256]
            return first
        return first if first.path == item.path else replace(first, path=item.path, duplicate_of=first.path)


def _scored(item: Loaded, scores: NDArray[np.float64], verdict: Verdict) -> Scored:
    return Scored(
        path=item.path,
        facts=item.facts,
        score=float(scores.mean()),
        scale_scores=tuple(scores.tolist()),
        p_value=verdict.p_value,
        flagged=verdict.flagged,
        tail=verdict.tail,
        verdict=verdict.verdict,
        calibration=verdict.calibration,
        atypical_input=verdict.atypical_input,
        heaviest=verdict.heaviest,
    )


def detector_info(path: str, detector: Detector) -> DetectorInfo:
    """The detector as reports name it."""
    calibration = detector.calibration
    rule = detector.spec.rule if calibration is None else calibration.rule
    return DetectorInfo(
        path=path,
        fingerprint=detector.fingerprint,
        calibration_fingerprint="" if calibration is None else calibration.fingerprint(),
        encoder=detector.spec.feature.encoder,
        rule=rule.method.value,
        alpha=rule.alpha,
        tail=rule.tail.value,
        scales=detector.scales,
        calibration_pictures=0 if calibration is None else len(calibration),
    )


class Tally:
    """Counts a run while its results pass by."""

    def __init__(self) -> None:
        self.scored = self.flagged = self.duplicates = self.inconclusive = 0
        self.codes: Counter[str] = Counter()
        self.tails: Counter[str] = Counter()
        self._since = time.monotonic()

    @property
    def unreadable(self) -> int:
        """How many inputs could not be scored."""
        return sum(self.codes.values())

    @property
    def inputs(self) -> int:
        """How many results passed."""
        return self.scored + self.unreadable

    def add(self, result: Result) -> None:
        """Count one result."""
        if isinstance(result, Unreadable):
            self.codes[result.code] += 1
            return
        self.scored += 1
        self.flagged += result.flagged
        self.duplicates += result.duplicate_of is not None
        self.inconclusive += result.verdict == "inconclusive"
        if result.flagged:
            self.tails[result.tail] += 1

    def summary(self, **more: object) -> Summary:
        """The counts, with the fields of Summary that only the caller knows."""
        seconds = time.monotonic() - self._since
        counted = Summary(
            inputs=self.inputs,
            scored=self.scored,
            flagged=self.flagged,
            unreadable=self.unreadable,
            duplicates=self.duplicates,
            seconds=round(seconds, 3),
            images_per_second=round(self.scored / seconds, 3) if seconds > 0 else 0.0,
            inconclusive=self.inconclusive,
            unreadable_by_code=dict(sorted(self.codes.items())),
            flagged_by_tail=dict(sorted(self.tails.items())),
        )
        return replace(counted, **more)  # type: ignore[arg-type] # names are Summary's own, checked by `replace`


def with_q_values(results: list[Result], fdr: float) -> list[Result]:
    """The same results with Benjamini-Hochberg q-values over the run, flagged where q <= `fdr`.

    Duplicates repeat one test: each distinct content counts once.
    """
    tests = {r.facts.sha256: r.p_value for r in results if isinstance(r, Scored)}
    q_values = dict(zip(tests, benjamini_hochberg(np.array(list(tests.values()))).tolist(), strict=True))

    def judged(result: Result) -> Result:
        if isinstance(result, Unreadable):
            return result
        q = q_values[result.facts.sha256]
        flagged = q <= fdr and result.verdict != "inconclusive"
        verdict = "flagged" if flagged else "inconclusive" if result.verdict == "inconclusive" else "not flagged"
        return replace(result, q_value=q, flagged=flagged, verdict=verdict)

    return [judged(result) for result in results]
