"""The workflow of `scan`: sources -> read once -> views -> batches -> scores -> verdicts, in input order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from muflow_cli.calibration import Judge, Verdict
from muflow_cli.detector import Detector
from muflow_cli.engine.scoring import Placement
from muflow_cli.errors import BadBundle
from muflow_cli.metrics import benjamini_hochberg
from muflow_cli.pictures.pool import Loaded, LoadSpec, load
from muflow_cli.pictures.sources import Source
from muflow_cli.records import DetectorInfo, Result, Scored, Summary, Unreadable
from muflow_cli.specs import InputSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanRequest:
    """How a scan is done.

    Attributes:
        detector: calibrated.
        placement: device, precision, batch size.
        inputs: limits on what is read.
        workers: decoding threads.
        thumbnail: longer side in pixels of the thumbnails that `on_picture` gets; 0 = none.
    """

    detector: Detector
    placement: Placement
    inputs: InputSpec
    workers: int = 2
    thumbnail: int = 0


@dataclass(frozen=True, slots=True)
class Shown:
    """A scored picture as a report shows it: its result, thumbnail, and heat map (g, g) where there is a grid."""

    result: Scored
    thumbnail: bytes | None
    heatmap: NDArray[np.float32]


class Scan:
    """One pass over sources with one detector.

    Args:
        request: what to scan with.
        stop: asked between batches; when it says so, what is begun is finished and the rest left.
        on_shown: given every scored picture with what a report shows of it; computes heat maps.

    Raises:
        BadBundle: for a detector without calibration.
    """

    def __init__(
        self,
        request: ScanRequest,
        *,
        stop: Callable[[], bool] = lambda: False,
        on_shown: Callable[[Shown], None] | None = None,
    ) -> None:
        calibration = request.detector.calibration
        if calibration is None:
            raise BadBundle("the detector", "has no calibration", "run `muflow calibrate` with real pictures")
        self._request, self._stop, self._on_shown = request, stop, on_shown
        self._scorer = request.detector.scorer(request.placement)
        self._judge = Judge(calibration, request.detector.scales)
        self._known: dict[str, Scored] = {}
        self.interrupted = False

    def results(self, sources: Iterable[Source | Unreadable]) -> Iterator[Result]:
        """One result per source, in their order; at most one batch is held."""
        request = self._request
        batch = request.placement.batch_size
        spec = LoadSpec(
            view=request.detector.spec.view,
            inputs=request.inputs,
            workers=request.workers,
            ahead=2 * batch + 2 * request.workers,
            thumbnail=request.thumbnail,
        )
        held: list[Loaded | Unreadable] = []
        fresh: set[str] = set()
        views = 0
        for item in load(sources, spec):
            held.append(item)
            if isinstance(item, Loaded) and item.facts.sha256 not in self._known and item.facts.sha256 not in fresh:
                fresh.add(item.facts.sha256)
                views += len(item.views)
            if views >= batch or len(held) >= 4 * batch:
                yield from self._finish(held)
                held, fresh, views = [], set(), 0
                if self._stop():
                    self.interrupted = True
                    return
        yield from self._finish(held)

    def _finish(self, held: list[Loaded | Unreadable]) -> Iterator[Result]:
        """Score what is new in `held`; results of all of it, in order."""
        new = {
            item.facts.sha256: item
            for item in reversed(held)
            if isinstance(item, Loaded) and item.facts.sha256 not in self._known
        }
        pictures = [item for item in held if isinstance(item, Loaded) and new.get(item.facts.sha256) is item]
        if pictures:
            self._score(pictures)
        for item in held:
            yield item if isinstance(item, Unreadable) else self._of(item)

    def _score(self, pictures: list[Loaded]) -> None:
        views = [item.views for item in pictures]
        scores = self._scorer.scale_scores(views)
        verdicts = self._judge.judge(scores, [item.facts for item in pictures])
        for item, row, verdict in zip(pictures, scores, verdicts, strict=True):
            self._known[item.facts.sha256] = _scored(item, row, verdict)
        if self._on_shown is not None:
            for item, maps in zip(pictures, self._scorer.heatmaps(views), strict=True):
                self._on_shown(Shown(self._known[item.facts.sha256], item.thumbnail, maps.mean(axis=0)))

    def _of(self, item: Loaded) -> Scored:
        first = self._known[item.facts.sha256]
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
    def inputs(self) -> int:
        """How many results passed."""
        return self.scored + sum(self.codes.values())

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
            unreadable=sum(self.codes.values()),
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
