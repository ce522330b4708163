"""Labelled images -> rows, with one detector: views as in a scan, perturbed on request, all in one stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from muflow_cli.agreement import computing
from muflow_cli.bench.data import HashedSample
from muflow_cli.bench.kept import Kept, Made, Measurement
from muflow_cli.bench.scores import Row
from muflow_cli.calibration.judge import Judge
from muflow_cli.detector import Detector
from muflow_cli.engine.devices import place
from muflow_cli.engine.scoring import Extras, ScoredUnit, score_stream
from muflow_cli.environment import deciding, versions
from muflow_cli.images.loader import Loaded, LoadSpec, load
from muflow_cli.images.near import near_hash
from muflow_cli.images.perturb import Perturbation
from muflow_cli.progress import ProgressListener
from muflow_cli.records import Unreadable, Verdict
from muflow_cli.run_specs import InputSpec, Runtime
from muflow_cli.scan.workflow import part_map
from muflow_cli.specs import ContainerSpec

THUMBNAIL: Final = 160
# Images judged at a time: a novelty rule takes longer for one image than for a hundred.
_JUDGED: Final = 256


@dataclass(frozen=True, slots=True)
class Picture:
    """What a page shows of an image; None where there is none.

    Attributes:
        thumbnail: a small JPEG.
        heatmap: (g, g) score by position over the whole image, as `scan.workflow.part_map` gives it.
    """

    thumbnail: bytes | None
    heatmap: NDArray[np.float32] | None


class Scoring:
    """One detector on a device, and how labelled images are read for it.

    Args:
        detector: to measure.
        runtime: device, precision, batch size, workers.
        inputs: limits on bytes and pixels.
        stored_as: every image is first stored in this container; None = scored as found.
        seed: of perturbations that draw.
        kept: takes in every measurement, and gives back those of an earlier run.
        features: also compute the features of clean images.

    Attributes:
        features: content hash -> (F,) of every clean image in `rows`; empty unless asked for.

    Raises:
        CannotResume: where the measurements of the earlier run were made differently.
    """

    def __init__(
        self,
        detector: Detector,
        runtime: Runtime,
        inputs: InputSpec,
        *,
        stored_as: ContainerSpec | None = None,
        seed: int = 0,
        kept: Kept | None = None,
        features: bool = False,
    ) -> None:
        self.features: dict[str, NDArray[np.float16]] = {}
        self._with_features = features
        self.detector, self.runtime, self.inputs, self.seed, self._kept = detector, runtime, inputs, seed, kept
        self.stored_as = stored_as
        self.placement = place(runtime)
        self.scorer = detector.scorer(self.placement)
        self._judge = Judge(detector.calibration)
        if kept is not None:
            kept.begin(
                Made(
                    detector=detector.fingerprint,
                    device=str(self.placement.device),
                    precision=self.placement.precision.value,
                    versions=versions(),
                    inputs=deciding(inputs)
                    | computing(self.placement)
                    | {"container": None if stored_as is None else str(stored_as)},
                )
            )

    def load_spec(self, perturbation: Perturbation | None = None, *, thumbnail: int = 0) -> LoadSpec:
        """How images become views."""
        spec = self.detector.load_spec(self.inputs, self.runtime, self.placement)
        # What is stored already in the detector's own container is not stored again.
        stored = spec.container == self.stored_as and perturbation is None and spec.faces is None
        return replace(
            spec,
            thumbnail=thumbnail,
            stored_as=self.stored_as,
            container=None if stored else spec.container,
            transform=None if perturbation is None else partial(perturbation.apply, seed=self.seed),
        )

    def rows(
        self,
        images: Sequence[HashedSample],
        progress: ProgressListener,
        perturbation: Perturbation | None = None,
    ) -> tuple[list[Row], list[Unreadable]]:
        """Rows of the images that can be decoded, in their order, and records of the others.

        Args:
            images: in any order, each content once.
            progress: told of every image.
            perturbation: applied to each image before its views are cut.
        """
        rows: list[Row] = []
        unreadable: list[Unreadable] = []
        measured = self._measured(images, progress, perturbation, unreadable)
        while batch := list(islice(measured, _JUDGED)):
            rows += self._judged(batch)
        return rows, unreadable

    def pictures(self, images: Sequence[HashedSample], progress: ProgressListener) -> dict[str, Picture]:
        """Content hash -> what a page shows of each image that can be decoded; `progress` is told of every image."""
        pictures: dict[str, Picture] = {}
        loaded: Iterable[Loaded | Unreadable] = load(
            [image.sample.input for image in images], self.load_spec(thumbnail=THUMBNAIL)
        )
        for item in score_stream(loaded, self.scorer, Extras(maps=True)):
            progress.advance()
            if isinstance(item, ScoredUnit) and isinstance(item.unit, Loaded):
                heatmap = part_map(self.detector, item.maps)
                # A copy, since the map is a part of its whole batch's.
                own = None if heatmap is None else heatmap.copy()
                pictures[item.unit.facts.sha256] = Picture(item.unit.thumbnail, own)
        return pictures

    def _measured(
        self,
        images: Sequence[HashedSample],
        progress: ProgressListener,
        perturbation: Perturbation | None,
        unreadable: list[Unreadable],
    ) -> Iterator[tuple[HashedSample, Measurement]]:
        """The images that can be decoded, measured or kept; records of the others are added to `unreadable`."""
        view = "" if perturbation is None else f"{perturbation} seed={self.seed}"
        extras = Extras(features=self._with_features and perturbation is None)
        kept = {} if self._kept is None else self._kept.earlier(view)
        if extras.features:
            kept = {sha256: earlier for sha256, earlier in kept.items() if earlier.features}
        inputs = [image.sample.input for image in images if image.sha256 not in kept]
        loaded: Iterable[Loaded | Unreadable] = load(inputs, self.load_spec(perturbation))
        stream = iter(score_stream(loaded, self.scorer, extras))
        for image in images:
            progress.advance()
            if image.sha256 in kept:
                yield image, self._remembered(kept[image.sha256])
                continue
            item = next(stream)
            if isinstance(item, ScoredUnit) and isinstance(item.unit, Loaded):
                measurement = Measurement(
                    facts=item.unit.facts,
                    columns=tuple(item.columns.tolist()),
                    declared=item.unit.declared,
                    near_hash=None if perturbation else near_hash(item.unit.views),
                    features=item.features.tobytes(),
                )
                if self._kept is not None:
                    self._kept.keep(view, measurement)
                yield image, self._remembered(measurement)
            elif isinstance(item, Unreadable):
                unreadable.append(item)

    def _remembered(self, measurement: Measurement) -> Measurement:
        """The measurement, whose features are held here."""
        if self._with_features and measurement.features:
            self.features[measurement.facts.sha256] = np.frombuffer(measurement.features, dtype=np.float16)
        return measurement

    def _judged(self, measured: Sequence[tuple[HashedSample, Measurement]]) -> list[Row]:
        scores = np.array([measurement.columns for _, measurement in measured])
        facts = [measurement.facts for _, measurement in measured]
        judgements = self._judge.judge(scores, facts)
        if self.detector.calibration.rule.by:
            # Only p-values can be compared between strata, each of which has a rule of its own.
            suspicions = [-judgement.p_value for judgement in judgements]
        else:
            suspicions = self._judge.ranking(scores, facts).tolist()
        return [
            Row(
                path=image.sample.path,
                label=image.sample.label,
                group=image.sample.group,
                source=image.sample.source,
                score=float(columns.mean()),
                column_scores=measurement.columns,
                p_value=judgement.p_value,
                suspicion=suspicion,
                flagged=judgement.verdict is Verdict.FLAGGED,
                sha256=image.sha256,
                facts=measurement.facts,
                declared=measurement.declared,
                near_hash=measurement.near_hash,
            )
            for (image, measurement), columns, judgement, suspicion in zip(
                measured, scores, judgements, suspicions, strict=True
            )
        ]
