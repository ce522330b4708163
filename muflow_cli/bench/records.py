"""What the report of a benchmark holds (schema "muflow.bench/2"), from which its JSON schema is generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from muflow_cli.bench.batches import Batches
from muflow_cli.bench.data import OverlapPolicy
from muflow_cli.bench.detects import Claim
from muflow_cli.bench.differences import Difference
from muflow_cli.bench.evaluate import Against, Evaluation
from muflow_cli.bench.folds import Protocol
from muflow_cli.bench.gates import Checked
from muflow_cli.bench.groups import SourceGroups
from muflow_cli.bench.manifest import Label
from muflow_cli.bench.nulls import NullAgainst
from muflow_cli.bench.robustness import Curve, On
from muflow_cli.run_records import DetectorInfo, SkippedFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Images of one label, group and real source.

    Attributes:
        label: real or fake.
        group: the generator of a fake, the folder or set of a real.
        source: the real source that the images count for.
        family: of the generator; None for reals.
        images: number of them.
        declared: origin that files name of themselves -> number of images.
    """

    label: Label
    group: str
    source: str
    family: str | None
    images: int
    declared: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """Images that the detector knows.

    Attributes:
        policy: what happened to them.
        groups: group -> how the detector knows them -> number of images.
    """

    policy: OverlapPolicy
    groups: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An image that could not be scored: a stable word for programs and a sentence for people."""

    path: str
    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What was scored and what was left out.

    Attributes:
        digest: SHA-256 that names this labelled set of images, and its container.
        container: in which every image was stored first; None = scored as found.
        images: scored.
        reals: number of real images among them.
        fakes: number of synthetic images among them.
        groups: in the order of the data.
        duplicates: images left out because their bytes occurred before.
        near_copies: images left out because another one with their label shows the same.
        limit: most images per group; None = all.
        beyond_limit: images left out by it.
        overlap: images that the detector knows from fitting or calibration.
        unreadable: images that could not be scored.
        skipped: what folders and archives held that was not read.
    """

    digest: str
    container: str | None
    images: int
    reals: int
    fakes: int
    groups: tuple[Group, ...]
    duplicates: int
    near_copies: int
    limit: int | None
    beyond_limit: int
    overlap: Overlap
    unreadable: tuple[Failure, ...]
    skipped: tuple[SkippedFiles, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrap:
    """The settings behind the intervals.

    Attributes:
        seed: of all random draws.
        resamples: number of bootstrap resamples.
        level: of the intervals.
        centre: median score of the calibration reals, for the folded ranking; None where it is not known.
    """

    seed: int
    resamples: int
    level: float
    centre: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleHeadline:
    """Macro AUC as the rule ranks, at the real source where it is lowest."""

    metric: Literal["macro_rule_auc"] = "macro_rule_auc"
    source: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """Macro AUC by the score, at the real source where it is lowest.

    Attributes:
        source: that real source.
        rule: the same as the rule ranks, at its own worst source; None for scores without p-values.
    """

    metric: Literal["macro_auc"] = "macro_auc"
    source: str
    value: float
    low: float
    high: float
    rule: RuleHeadline | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Undeclared:
    """Figures without the images that declare themselves synthetic, which need no detector.

    Attributes:
        reals: number of real images that are left.
        fakes: number of synthetic images that are left.
        headline: of them.
        results: of them.
    """

    reals: int
    fakes: int
    headline: Headline
    results: Evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class Perturbed:
    """Figures under one perturbation of reals, fakes or both."""

    perturbation: str
    on: On
    headline: Headline
    results: Evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class Robustness:
    """Figures of perturbed images.

    Attributes:
        conditions: one for each perturbation and side.
        curves: one for each operation that was measured at two intensities or more.
    """

    conditions: tuple[Perturbed, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Figures of another detector's scores of the same images.

    Attributes:
        name: of the file.
        scored: images that it has scores for.
        missing: images that it has no scores for.
        headline: of these scores.
        results: of these scores.
        differences: real source -> "score" or "rule" -> AUC of this detector minus that of the other one, on the images
            that both have scores for.
    """

    name: str
    scored: int
    missing: int
    headline: Headline
    results: Evaluation
    differences: Mapping[str, Mapping[str, Difference]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """Speed, memory and size of a detector: medians of several rounds over one set of images."""

    images: int
    views: int
    rounds: int
    device: str
    precision: str
    threads: int
    workers: int
    end_to_end_per_second: float
    read_decode_cut_per_second: float
    encode_per_second: float
    encode_flow_target_per_second: float
    first_result_seconds: float
    peak_memory_bytes: int
    bundle_bytes: int
    flops_per_view: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRun:
    """The run that measured.

    Attributes:
        argv: the command.
        started: UTC, ISO 8601.
        finished: UTC, ISO 8601.
        versions: of the programs that compute.
        stages: seconds of each stage.
        throughput: speed and size; None where they were not measured.
        device: None where scores were read from a file.
        precision: None where scores were read from a file.
    """

    tool: str = "muflow"
    version: str = ""
    argv: tuple[str, ...] = ()
    started: str = ""
    finished: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    throughput: Throughput | None = None
    device: str | None = None
    precision: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolFit:
    """One fit of a detector's settings.

    Attributes:
        images: real source -> images that it was trained on, stopped by or calibrated on.
        train: number of images that the flows were trained on.
        validation: that decided when to stop.
        calibration: that the rule was fitted to.
        digest: SHA-256 over the sorted content hashes of all of them.
        epochs: branch -> epochs that its flows were trained for.
    """

    images: Mapping[str, int]
    train: int
    validation: int
    calibration: int
    digest: str
    epochs: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolSource:
    """One real source under a protocol.

    Attributes:
        reals: number of its images that are measured.
        fits: positions, in the list of all fits, of those that scored it; one for each fold.
        figures: every generator against it, each fake scored by one of these fits; None where they were not possible.
        note: why there are no figures.
    """

    reals: int
    fits: tuple[int, ...]
    figures: Against | None
    note: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolFigures:
    """What one protocol measured.

    Attributes:
        protocol: which reals the fits could use.
        headline: one figure for the whole protocol; None without figures.
        claims: for each generator whether it is shown to be detected; empty without figures.
        sources: real source -> its figures.
    """

    protocol: Protocol
    headline: Headline | None
    claims: tuple[Claim, ...]
    sources: Mapping[str, ProtocolSource]


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocols:
    """Figures of the detector's settings, fitted again to reals that do not hold what is measured.

    Scores are (score - median) / median absolute deviation of the calibration of the fit that gave them.

    Attributes:
        folds: that the images of a source are dealt into.
        fit_only: real source -> images that fits may use and that are not measured.
        left_out: reason -> number of real images that no fit may use.
        fits: in the order in which they were made; protocols share those to the same images.
        figures: one entry for each protocol.
    """

    folds: int
    fit_only: Mapping[str, int]
    left_out: Mapping[str, int]
    fits: tuple[ProtocolFit, ...]
    figures: tuple[ProtocolFigures, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RocPoints:
    """ROC curves of every generator against every real source.

    Attributes:
        fpr: false-positive rates, ascending.
        tpr: real source -> generator -> "score" or "rule" -> share of fakes caught at each of them.
    """

    fpr: tuple[float, ...]
    tpr: Mapping[str, Mapping[str, Mapping[str, tuple[float, ...]]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchDocument:
    """The whole report.

    Attributes:
        detector: None where scores were read from a file.
        data: what was scored and what was left out.
        settings: behind the intervals.
        headline: one figure for the whole benchmark; None where protocols were measured.
        results: all figures of the clean images; None where protocols were measured.
        claims: for each generator whether it is shown to be detected; empty where scores were read from a file, or
            protocols were measured.
        protocols: figures of the detector's settings, fitted again; None where the detector itself was measured.
        undeclared: figures without the images that declare themselves synthetic; None where there are none, or where
            no real or no fake would be left.
        roc: curves of the clean images; None where protocols were measured.
        nulls: baseline -> real source -> AUC of detectors that see the container, the sharpness or the marks only.
        robustness: figures of perturbed images.
        comparisons: figures of other detectors.
        batches: adaptive p-values in batches; None where they were not asked for.
        groups: how often groups are unlike the calibration as a group, for each source; None likewise.
        gates: outcomes of the gates and of the comparison with an earlier report.
        run: times, machine, command.
    """

    schema: Literal["muflow.bench/2"] = "muflow.bench/2"
    detector: DetectorInfo | None
    data: Data
    settings: Bootstrap
    headline: Headline | None
    results: Evaluation | None
    claims: tuple[Claim, ...]
    protocols: Protocols | None
    roc: RocPoints | None
    undeclared: Undeclared | None
    nulls: Mapping[str, Mapping[str, NullAgainst]]
    robustness: Robustness
    comparisons: tuple[Compared, ...]
    batches: Batches | None
    groups: tuple[SourceGroups, ...] | None
    gates: tuple[Checked, ...]
    run: BenchRun
