"""Labelled images -> rows, with one detector: views as in a scan, perturbed on request, all in one stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from muflow_cli.bench.data import HashedSample
from muflow_cli.bench.scores import Row
from muflow_cli.calibration.calibration import Judge
from muflow_cli.detector import Detector
from muflow_cli.engine.devices import place
from muflow_cli.engine.scoring import Extras, ScoredUnit, score_stream
from muflow_cli.images.loader import Loaded, LoadSpec, load, look_ahead
from muflow_cli.images.perturb import Perturbation
from muflow_cli.progress import ProgressListener
from muflow_cli.records import Declared, Facts, Unreadable, Verdict
from muflow_cli.scan.workflow import whole_image_map
from muflow_cli.specs import InputSpec, Runtime

THUMBNAIL: Final = 160
# Images judged at a time: a novelty rule takes longer for one image than for a hundred.
_JUDGED: Final = 256


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """An image with its scores, before it is judged.

    Attributes:
        sample: the image and its label.
        facts: of its bytes.
        columns: (S,) nats per dimension.
        thumbnail: a small JPEG; None where none was asked for.
        heatmap: (g, g) score by position over the whole image, as `scan.workflow.whole_image_map` gives it.
        declared: what the file says of its own origin.
    """

    sample: HashedSample
    facts: Facts
    columns: NDArray[np.float64]
    thumbnail: bytes | None
    heatmap: NDArray[np.float32] | None
    declared: Declared


class Gallery(Protocol):
    """Collects what a report shows."""

    def offer(self, row: Row, image: ScoredImage) -> None:
        """Take in an image, or pass it over."""


class Scoring:
    """One detector on a device, and how labelled images are read for it.

    Args:
        detector: to measure.
        runtime: device, precision, batch size, workers.
        inputs: limits on bytes and pixels.
        seed: of perturbations that draw.
    """

    def __init__(self, detector: Detector, runtime: Runtime, inputs: InputSpec, *, seed: int = 0) -> None:
        self.detector, self.runtime, self.inputs, self.seed = detector, runtime, inputs, seed
        self.placement = place(runtime)
        self.scorer = detector.scorer(self.placement)
        self._judge = Judge(detector.calibration)

    def load_spec(self, perturbation: Perturbation | None = None, *, thumbnail: int = 0) -> LoadSpec:
        """How images become views."""
        workers = self.runtime.threads
        return LoadSpec(
            views=self.detector.views,
            inputs=self.inputs,
            workers=workers,
            ahead=look_ahead(self.placement.batch_size, workers),
            thumbnail=thumbnail,
            transform=None if perturbation is None else partial(perturbation.apply, seed=self.seed),
        )

    def rows(
        self,
        images: Sequence[HashedSample],
        progress: ProgressListener,
        perturbation: Perturbation | None = None,
        gallery: Gallery | None = None,
    ) -> tuple[list[Row], list[Unreadable]]:
        """Rows of the images that can be decoded, in their order, and records of the others.

        Args:
            images: in any order, each content once.
            progress: told of every image.
            perturbation: applied to each image before its views are cut.
            gallery: offered every image, with thumbnail and heat map.
        """
        rows: list[Row] = []
        unreadable: list[Unreadable] = []
        spec = self.load_spec(perturbation, thumbnail=0 if gallery is None else THUMBNAIL)
        scored = self._scored(images, spec, progress, unreadable, maps=gallery is not None)
        while batch := list(islice(scored, _JUDGED)):
            judged = self._judged(batch)
            rows += judged
            if gallery is not None:
                for row, image in zip(judged, batch, strict=True):
                    gallery.offer(row, image)
        return rows, unreadable

    def _scored(
        self,
        images: Sequence[HashedSample],
        spec: LoadSpec,
        progress: ProgressListener,
        unreadable: list[Unreadable],
        *,
        maps: bool,
    ) -> Iterator[ScoredImage]:
        """The images that can be decoded, scored; records of the others are added to `unreadable`."""
        loaded: Iterable[Loaded | Unreadable] = load([image.sample.input for image in images], spec)
        for sample, item in zip(images, score_stream(loaded, self.scorer, Extras(maps=maps)), strict=True):
            progress.advance()
            if isinstance(item, ScoredUnit) and isinstance(item.unit, Loaded):
                heatmap = whole_image_map(self.detector, item.maps)
                # A copy, since the map is a part of its whole batch's.
                own = None if heatmap is None else heatmap.copy()
                yield ScoredImage(sample, item.unit.facts, item.columns, item.unit.thumbnail, own, item.unit.declared)
            elif isinstance(item, Unreadable):
                unreadable.append(item)

    def _judged(self, images: Sequence[ScoredImage]) -> list[Row]:
        scores, facts = np.stack([image.columns for image in images]), [image.facts for image in images]
        judgements = self._judge.judge(scores, facts)
        if self.detector.calibration.rule.by:
            # Only p-values can be compared between strata, each of which has a rule of its own.
            suspicions = [-judgement.p_value for judgement in judgements]
        else:
            suspicions = self._judge.ranking(scores, facts).tolist()
        return [
            Row(
                path=image.sample.sample.path,
                label=image.sample.sample.label,
                group=image.sample.sample.group,
                source=image.sample.sample.source,
                score=float(image.columns.mean()),
                column_scores=tuple(image.columns.tolist()),
                p_value=judgement.p_value,
                suspicion=suspicion,
                flagged=judgement.verdict is Verdict.FLAGGED,
                sha256=image.sample.sha256,
                facts=image.facts,
                declared=image.declared,
            )
            for image, judgement, suspicion in zip(images, judgements, suspicions, strict=True)
        ]
