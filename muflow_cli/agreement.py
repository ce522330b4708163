"""Whether this run computes the scores that a detector was calibrated with, checked on the probe images."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from muflow_cli.calibration.computed import Computed, ComputedBy
from muflow_cli.detector import Detector
from muflow_cli.engine.backends import library
from muflow_cli.engine.devices import Placement, choose_device, instructions_of
from muflow_cli.engine.graphs import is_kept
from muflow_cli.engine.probes import PROBES, probe_images
from muflow_cli.engine.scoring import Scorer
from muflow_cli.errors import ScoresDiffer
from muflow_cli.run_specs import Backend, Precision, Runtime
from muflow_cli.specs import ViewSpec

# Largest difference of a column that is let pass in silence, in standard deviations of the calibration reals. At the
# 5 % threshold of a normal distribution it changes the rate by half a per cent.
TOLERANCE: Final = 0.05

# Encoders that ONNX Runtime computes at least 1.3 times as fast as torch on a processor with AVX2, where maps are
# pooled to a grid. With maps at their own size the flow takes most of the time, and torch is faster.
FASTER: Final = frozenset({"resnet50", "timm:tf_efficientnet_lite0"})


def computed(scorer: Scorer, views: Mapping[str, ViewSpec]) -> Computed:
    """The scores of the probe images, for a calibration of what `scorer` computes."""
    probes = {name: probe_images(view.size) for name, view in views.items()}
    images = [{name: stack[index : index + 1] for name, stack in probes.items()} for index in range(PROBES)]
    scores = np.stack([own.columns for own in scorer.submit(images).result()])
    return Computed(scores, computed_by(scorer.placement))


def computed_by(placement: Placement) -> ComputedBy:
    """What computes in a placement."""
    device, precision = placement.computed_by
    return ComputedBy(
        device=device,
        precision=precision,
        library=library(placement.backend),
        instructions=instructions_of(placement.device),
    )


def computing(placement: Placement) -> dict[str, str]:
    """The option that says so in the head of a report, with the version where it is not among those of the report."""
    backend = placement.backend
    return {"backend": backend.value if backend is Backend.TORCH else library(backend)}


def fastest(detector: Detector, runtime: Runtime) -> Runtime:
    """The runtime with its backend decided where that is `auto`, by nothing but the machine and the detector.

    ONNX Runtime computes where it was measured to be at least 1.3 times as fast as torch (benchmarks/README.md): on
    processors with AVX2 and without AVX-512, for the encoders in FASTER with a grid. It must be installed, the
    calibration must hold probe scores, by which the run sees that it computes the same, and the user's cache must be
    able to keep the translated network.
    """
    if runtime.backend is not Backend.AUTO:
        return runtime
    features = [branch.spec.feature for branch in detector.branches.values()]
    stored = detector.calibration.computed
    wins = (
        choose_device(runtime.device).type == "cpu"
        and runtime.precision is not Precision.BF16
        and instructions_of(torch.device("cpu")) == "AVX2"
        and any(feature.encoder in FASTER and feature.grid for feature in features)
        and stored is not None
        and len(stored.probes) == PROBES
        and all(importlib.util.find_spec(package) for package in ("onnxruntime", "onnx", "onnxscript"))
        and all(is_kept(branch) for branch in detector.branches.values())
    )
    return replace(runtime, backend=Backend.ONNXRUNTIME if wins else Backend.TORCH)


@dataclass(frozen=True, slots=True)
class Agreement:
    """The probe images, scored now and when the detector was calibrated.

    Attributes:
        before: what computed the calibration; None where the bundle, of an earlier version, does not say.
        now: what computes in this run.
        deviation: largest difference of a column, in standard deviations of its calibration scores; 0 where nothing
            differs that could change a score, None where it is not known.
    """

    before: ComputedBy | None
    now: ComputedBy
    deviation: float | None

    @property
    def remark(self) -> str | None:
        """A sentence for the user; None where there is nothing to say."""
        if self.deviation is not None:
            remedy = "calibrate the detector on this machine, or compute as it was calibrated"
            return f"{self._difference}; {remedy}" if self.deviation > TOLERANCE else None
        if self.now.library == library(Backend.TORCH):  # which every earlier version computed with
            return None
        return (
            f"cannot check that {self.now.library} gives the scores of the calibration, since the detector holds no "
            "probe scores; muflow calibrate DETECTOR REAL... -o NEW adds them"
        )

    @property
    def _difference(self) -> str:
        return (
            f"the calibration was computed in {self.before}, and this run computes in {self.now}; scores of probe "
            f"images differ by up to {self.deviation:.2g} standard deviations"
        )

    def require(self) -> None:
        """ScoresDiffer unless the scores agree."""
        if self.deviation is None:
            raise ScoresDiffer("the detector holds no scores of the probe images")
        if self.deviation > TOLERANCE:
            raise ScoresDiffer(self._difference)


def agreement(detector: Detector, placement: Placement, *, always: bool = False) -> Agreement:
    """Compare this run with the calibration of `detector`; probes are scored only where something differs.

    Args:
        detector: with its calibration.
        placement: of this run.
        always: score the probes in any case.
    """
    stored, now = detector.calibration.computed, computed_by(placement)
    if stored is None or len(stored.probes) != PROBES:
        return Agreement(None, now, None)
    if stored.by == now and not always:
        return Agreement(stored.by, now, 0.0)
    gaps = np.abs(computed(detector.scorer(placement), detector.views).probes - stored.probes)
    # Of a calibration on videos, the first columns are means over frames, which spread no more than frames do.
    spread = detector.calibration.scores[:, : gaps.shape[1]].std(axis=0)
    # With a single image, or with equal ones, nothing is known of the spread: then only equal scores agree.
    in_spreads = np.divide(gaps, spread, out=np.where(gaps > 1e-6, np.inf, 0.0), where=spread > 0)
    return Agreement(stored.by, now, float(in_spreads.max()))
