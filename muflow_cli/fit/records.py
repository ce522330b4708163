"""What a fit is asked for, and what it says it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from muflow_cli.calibration.coverage import RateBounds
from muflow_cli.cluster import ClusterSpec
from muflow_cli.detector import Provenance
from muflow_cli.presets import LIGHT
from muflow_cli.run_records import SkippedFiles
from muflow_cli.run_specs import InputSpec, Runtime
from muflow_cli.specs import DetectorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class FitRequest:
    """A detector to fit, the reals to fit it to, and the output.

    Attributes:
        reals: files, folders, globs, archives of real face images.
        output: the bundle to write.
        reports: files for the history of the training; the suffix says which, .csv or .html.
        spec: the detector to fit.
        weights: branch name -> local weights of its encoder; its library's download for the others.
        inputs: which files are read.
        runtime: device, precision, workers.
        cluster: whose machines encode; None = this one does.
        allow_declared: also fit to images that declare themselves synthetic.
        resume: continue a run that was killed.
        force: replace an existing output.
    """

    reals: tuple[str, ...]
    output: Path
    reports: tuple[Path, ...] = ()
    spec: DetectorSpec = LIGHT
    weights: Mapping[str, Path] = field(default_factory=dict)
    inputs: InputSpec = field(default_factory=InputSpec)
    runtime: Runtime = field(default_factory=Runtime)
    cluster: ClusterSpec | None = None
    allow_declared: bool = False
    resume: bool = False
    force: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSummary:
    """What `fit` did. NLLs in nats per dimension, times in seconds.

    `declared_synthetic` holds the paths of images that were skipped because they declare themselves synthetic;
    `skipped` counts inputs that were not used, by code; `skipped_files` what folders and archives held besides.

    Attributes:
        rule: method of the rule.
        alpha: its nominal false-positive rate.
        true_rate: bounds of its true rate on images like those of the calibration; None where it promises none.
        spread: branch -> standard deviation of its mean scores over the calibration reals, nats per dimension.
    """

    output: str
    used: int
    skipped: dict[str, int]
    declared_synthetic: tuple[str, ...]
    train: int
    validation: int
    calibration: int
    near_duplicates: int
    provenance: Provenance
    columns: tuple[str, ...]
    regularisation_raised: tuple[str, ...]
    seconds: dict[str, float]
    fingerprint: str
    calibration_fingerprint: str
    rule: str
    alpha: float
    true_rate: RateBounds | None
    spread: dict[str, float]
    skipped_files: tuple[SkippedFiles, ...] = ()
