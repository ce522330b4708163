"""What the document of an ablation holds (schema "muflow.ablation/1"), from which its JSON schema is generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from muflow_cli.bench.evaluate import Figure, Share
from muflow_cli.bench.records import Bootstrap, Data
from muflow_cli.run_records import DetectorInfo, RunInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationFit:
    """Numbers of real images.

    Attributes:
        train: that the flows were trained on.
        validation: that decided when to stop.
        calibration: that the classifiers were fitted to.
        left_out: that were not fitted to, because they are measured.
    """

    train: int
    validation: int
    calibration: int
    left_out: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationFigures:
    """Macro figures of one ablation row against one real source."""

    auc: Figure
    ap: Figure
    accuracy: Figure
    balanced_accuracy: Figure
    fpr: Share


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationRow:
    """One scorer with one classifier.

    Attributes:
        target: the density that the flow maps reals onto, "mu" or "normal".
        flow: how images are scored under it ("flow", "identity" or "latent mahalanobis").
        classifier: the rule that turns scores into verdicts.
        tail: which side of the reals it flags, "upper" or "both".
        alpha: nominal false-positive rate.
        worst_source: the real source with the lowest macro AUC; None without figures.
        figures: real source -> figures; None where the classifier needs more reals.
        note: why there are no figures.
    """

    target: str
    flow: str
    classifier: str
    tail: str
    alpha: float
    worst_source: str | None
    figures: Mapping[str, AblationFigures] | None
    note: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SilhouettePoint:
    """How well averages of N images separate.

    Attributes:
        images_per_average: N.
        by_group: silhouette of the groups, -1..1.
        real_against_fake: silhouette of the labels, -1..1.
        overlap: greatest share of images that two averages have in common.
        groups: names, in the order of the data.
    """

    images_per_average: int
    by_group: float
    real_against_fake: float
    overlap: float
    groups: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationDocument:
    """The whole document.

    Attributes:
        detector: whose branch is ablated.
        branch: its name.
        data: labelled images that were measured, and those that were left out.
        settings: behind the intervals.
        fit: the images that everything was fitted to.
        table: one row for each scorer, classifier and alpha.
        silhouette: one point for each N; None where it was not measured.
        run: times, machine, command.
        stages: seconds of each stage.
    """

    schema: Literal["muflow.ablation/1"] = "muflow.ablation/1"
    detector: DetectorInfo
    branch: str
    data: Data
    settings: Bootstrap
    fit: AblationFit
    table: tuple[AblationRow, ...]
    silhouette: tuple[SilhouettePoint, ...] | None
    run: RunInfo
    stages: Mapping[str, float]
