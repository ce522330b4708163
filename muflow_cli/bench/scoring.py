"""Pictures -> rows, with one detector: views as in a scan, perturbed where asked, each content once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from muflow_cli.bench.data import Picture
from muflow_cli.bench.scores import Row
from muflow_cli.calibration import Calibration, Judge
from muflow_cli.detector import Detector
from muflow_cli.engine.cores import pipelined
from muflow_cli.engine.scoring import Placement
from muflow_cli.errors import BadBundle
from muflow_cli.pictures.perturb import Perturbation
from muflow_cli.pictures.pool import Loaded, LoadSpec, load
from muflow_cli.records import Unreadable
from muflow_cli.specs import InputSpec, View
from muflow_cli.watch import Watch

THUMBNAIL = 160


def calibration_of(detector: Detector) -> Calibration:
    """The calibration of `detector`; BadBundle where it has none."""
    if detector.calibration is None:
        raise BadBundle("the detector", "has no calibration", "run `muflow calibrate` with real pictures")
    return detector.calibration


@dataclass(frozen=True, slots=True)
class Shown:
    """What a report shows of a picture: a thumbnail (JPEG), and its heat map (g, g) where it has one."""

    thumbnail: bytes | None
    heatmap: NDArray[np.float32] | None


class Scoring:
    """One detector on a device, with the limits on what it reads.

    Args:
        detector: calibrated.
        placement: device, precision, batch size.
        inputs: limits on bytes and pixels.
        workers: decoding threads.
        seed: of perturbations that draw.

    Raises:
        BadBundle: for a detector without calibration.
    """

    def __init__(
        self, detector: Detector, placement: Placement, inputs: InputSpec, *, workers: int = 2, seed: int = 0
    ) -> None:
        self.detector, self.placement, self.seed = detector, placement, seed
        self.scorer = detector.scorer(placement)
        self._judge = Judge(calibration_of(detector), detector.scales)
        self._inputs, self._workers = inputs, workers

    def load_spec(
        self, perturbation: Perturbation | None = None, *, thumbnail: int = 0, crops_seed: int | None = None
    ) -> LoadSpec:
        """How pictures become views; with `crops_seed` as they do in a fit."""

        def perturbed(image: Image.Image) -> Image.Image:
            return image if perturbation is None else perturbation.apply(image, self.seed)

        return LoadSpec(
            view=self.detector.spec.view,
            inputs=self._inputs,
            workers=self._workers,
            ahead=2 * self.placement.batch_size + 2 * self._workers,
            crops_seed=crops_seed,
            thumbnail=thumbnail,
            transform=None if perturbation is None else perturbed,
        )

    def rows(
        self, pictures: Sequence[Picture], watch: Watch, perturbation: Perturbation | None = None
    ) -> tuple[list[Row], list[Unreadable]]:
        """Rows of the pictures that can be decoded, in their order, and records of the others."""
        rows: list[Row] = []
        failed: list[Unreadable] = []
        for batch, found in pipelined(self._batches(pictures, self.load_spec(perturbation)), self._begin):
            failed += [item for _, item in batch if isinstance(item, Unreadable)]
            rows += found
            watch.advance(len(batch))
        return rows, failed

    def _batches(
        self, pictures: Sequence[Picture], spec: LoadSpec
    ) -> Iterator[list[tuple[Picture, Loaded | Unreadable]]]:
        held: list[tuple[Picture, Loaded | Unreadable]] = []
        views = 0
        inputs = [picture.sample.input for picture in pictures]
        for picture, item in zip(pictures, load(inputs, spec), strict=True):
            held.append((picture, item))
            views += len(item.views) if isinstance(item, Loaded) else 0
            if views >= self.placement.batch_size:
                yield held
                held, views = [], 0
        if held:
            yield held

    def _begin(self, batch: Sequence[tuple[Picture, Loaded | Unreadable]]) -> Callable[[], list[Row]]:
        decoded = [(picture, item) for picture, item in batch if isinstance(item, Loaded)]
        if not decoded:
            return list
        waiting = self.scorer.submit([item.views for _, item in decoded])
        return lambda: list(self._rows(decoded, waiting()))

    def _rows(self, decoded: Sequence[tuple[Picture, Loaded]], scores: NDArray[np.float64]) -> Iterator[Row]:
        verdicts = self._judge.judge(scores, [item.facts for _, item in decoded])
        for (picture, item), row, verdict in zip(decoded, scores, verdicts, strict=True):
            yield Row(
                path=picture.sample.path,
                label=picture.sample.label,
                group=picture.sample.group,
                source=picture.sample.source,
                score=float(row.mean()),
                scale_scores=tuple(row.tolist()),
                p_value=verdict.p_value,
                flagged=verdict.flagged,
                sha256=picture.sha256,
                facts=item.facts,
            )

    def shown(self, pictures: Sequence[Picture]) -> dict[str, Shown]:
        """Path -> thumbnail and heat map."""
        found = {}
        for batch in self._batches(pictures, self.load_spec(thumbnail=THUMBNAIL)):
            decoded = [item for _, item in batch if isinstance(item, Loaded)]
            for item, heatmap in zip(decoded, self._heatmaps(decoded), strict=True):
                found[item.path] = Shown(item.thumbnail, heatmap)
        return found

    def _heatmaps(self, decoded: Sequence[Loaded]) -> list[NDArray[np.float32] | None]:
        # Crops lie anywhere in a picture, and one cell says no more than the score.
        if self.detector.spec.view.kind is not View.RESIZE or not decoded:
            return [None] * len(decoded)
        maps = self.scorer.heatmaps([item.views for item in decoded])
        return [one[0] if one.shape[-1] > 1 else None for one in maps]
