"""Detector = view + encoder + features + flow + target + calibration: what a bundle holds, ready to be placed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muflow_cli.calibration import Calibration
from muflow_cli.canonical import canonical_json, to_json
from muflow_cli.engine.encoders import chosen_cuts
from muflow_cli.engine.scoring import Model, Placement, Scorer
from muflow_cli.specs import DetectorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a detector comes from. Times are UTC, ISO 8601; NLLs are nats per dimension.

    Attributes:
        created: when it was fitted.
        versions: of muflow and of the libraries that computed.
        device: where it was fitted.
        precision: of the convolutions when it was fitted.
        weights_origin: the encoder weights' file name or torchvision's enum.
        weights_sha256: of that file.
        train: pictures the flow was trained on.
        validation: pictures that decided when to stop.
        train_digest: SHA-256 over the sorted content hashes of both.
        overlap: mean share of pictures that two averages have in common.
        effective_sample_size: of the averages.
        components: K per scale.
        reg_covar: the covariance regularisation that worked, per scale.
        epochs: trained.
        best_epoch: whose flow is kept.
        train_nll: at that epoch.
        validation_nll: at that epoch.
    """

    created: str
    versions: dict[str, str]
    device: str
    precision: str
    weights_origin: str
    weights_sha256: str
    train: int
    validation: int
    train_digest: str
    overlap: float
    effective_sample_size: float
    components: tuple[int, ...]
    reg_covar: tuple[float, ...]
    epochs: int
    best_epoch: int
    train_nll: float
    validation_nll: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Detector:
    """A fitted detector.

    Attributes:
        spec: what was asked; `spec.rule` is the rule at fitting time, the calibration's own rule decides.
        model: encoder weights, spaces, flows, targets.
        provenance: where it comes from.
        fitted_on: (n, 32) uint8 content hashes of the pictures that took part in fitting, sorted.
        calibration: scores of reals that did not, and the rule; None before the first calibration.
    """

    spec: DetectorSpec
    model: Model
    provenance: Provenance
    fitted_on: NDArray[np.uint8]
    calibration: Calibration | None = None

    def scorer(self, placement: Placement) -> Scorer:
        """This detector's model on a device."""
        return Scorer(self.model, placement)

    @property
    def scales(self) -> tuple[str, ...]:
        """Names of the scales, in the order of `scale_scores`."""
        return tuple(cut.name for cut in chosen_cuts(self.spec.feature.encoder, self.spec.feature.cuts))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that decides a score, by name; the calibration is not among it."""
        named: dict[str, Tensor] = {f"encoder.{k}": v for k, v in self.model.weights.items()}
        parts = zip(self.scales, self.model.spaces, self.model.flows, self.model.targets, strict=True)
        for scale, space, flow, target in parts:
            for part, tensors in (("space", space.tensors()), ("flow", flow.tensors()), ("target", target.tensors())):
                named |= {f"{part}.{scale}.{k}": v for k, v in tensors.items()}
        named["fitted_on"] = torch.from_numpy(self.fitted_on)
        return named

    @property
    def fingerprint(self) -> str:
        """SHA-256 over sorted names, dtypes, shapes, bytes and the spec: equal = the same scores."""
        return fingerprint(self.tensors(), self.spec)


def fingerprint(tensors: Mapping[str, Tensor], spec: DetectorSpec) -> str:
    """SHA-256 over sorted names, dtypes, shapes, bytes of `tensors` and over `spec` short of its rule."""
    settings = to_json(spec)
    del settings["rule"]
    digest = hashlib.sha256(canonical_json(settings))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
