"""What is asked: frozen settings that refuse nonsense when made. PRESETS names the two configurations in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from muflow_cli.errors import BadSpec


class View(StrEnum):
    """How a picture becomes the square that is scored."""

    RESIZE = "resize"
    CROPS = "crops"


class Normalisation(StrEnum):
    """What is done to a scale's map before pooling."""

    STATISTICS = "statistics"
    LAYERNORM = "layernorm"


class TargetKind(StrEnum):
    """The density that the flow maps single reals onto."""

    MU = "mu"
    NORMAL = "normal"


class ScoreKind(StrEnum):
    """Negative log-likelihood, or the latent Mahalanobis distance without the Jacobian."""

    NLL = "nll"
    MAHALANOBIS = "mahalanobis"


class Method(StrEnum):
    """Rules that turn scores of reals into a verdict."""

    CONFORMAL = "conformal"
    GAUSSIAN = "gaussian"
    FISHER = "fisher"
    LOF = "lof"
    OCSVM = "ocsvm"


class Tail(StrEnum):
    """Which side of the reals' scores is suspicious."""

    UPPER = "upper"
    BOTH = "both"


class Precision(StrEnum):
    """Arithmetic of the convolutions; densities and log-determinants are float32 whatever this says."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


def _at_least(spec: object, least: float, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        if value < least:
            raise BadSpec(name, value, f"at least {least:g}")


def _inside_unit(spec: object, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        if not 0 < value < 1:
            raise BadSpec(name, value, "between 0 and 1, both excluded")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewSpec:
    """How a picture becomes views.

    Attributes:
        kind: `resize` squashes the whole picture to one square; `crops` cuts squares at native resolution
            (a picture smaller than the square is centre-squared and resized).
        size: side of the square, pixels.
        count: crops per picture when scanning; a small picture has fewer distinct ones, each scored once.
        fit_count: random crops per picture when fitting.
        draft: decode a JPEG much larger than `size` at reduced scale (libjpeg), average other pictures down by the
            same power of two; only with `resize`. Part of the spec because it changes pixels: a detector is fitted
            and scanned the same way.
    """

    kind: View = View.RESIZE
    size: int = 256
    count: int = 16
    fit_count: int = 4
    draft: bool = True

    def __post_init__(self) -> None:
        _at_least(self, 16, "size")
        _at_least(self, 1, "count", "fit_count")


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """Which numbers of a picture are modelled.

    Attributes:
        encoder: a row of ENCODERS.
        cuts: layers whose outputs are the scales; empty = all of that encoder's cuts.
        dimensions: channels per scale after the PCA projection; 0 = all channels, no projection.
        grid: side of the grid that each map is average-pooled to; 0 = the map's own size.
        normalisation: `statistics` = fixed mean and deviation of the training reals per channel;
            `layernorm` = over (C, H, W) of each map, no affine parameters.
    """

    encoder: str = "resnet50"
    cuts: tuple[str, ...] = ()
    dimensions: int = 64
    grid: int = 4
    normalisation: Normalisation = Normalisation.STATISTICS

    def __post_init__(self) -> None:
        _at_least(self, 0, "dimensions", "grid")
        if self.dimensions == 1:
            raise BadSpec("dimensions", 1, "0 (all channels) or at least 2, since a coupling splits the channels")


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowSpec:
    """The FastFlow of one scale: `steps` coupling blocks.

    Attributes:
        steps: 0 = the identity flow.
        kernels: side of the coupling nets' convolutions, cycled over the steps ((3,), (3, 1) or (1,)).
        hidden_ratio: hidden channels / input channels of a coupling net.
        clamp: bound of the affine coupling's log-scale (FrEIA's `affine_clamping`).
        matched_init: start the blocks' global scales at the ratio of the target's spread to the reals' (a start
            nearer the end; the function family is the same). False = FrEIA's own start, scale 1.
    """

    steps: int = 8
    kernels: tuple[int, ...] = (1,)
    hidden_ratio: float = 1.0
    clamp: float = 2.0
    matched_init: bool = True

    def __post_init__(self) -> None:
        _at_least(self, 0, "steps")
        if not self.kernels or any(k < 1 or k % 2 == 0 for k in self.kernels):
            raise BadSpec("kernels", self.kernels, "odd numbers")
        if self.hidden_ratio <= 0 or self.clamp <= 0:
            raise BadSpec("hidden_ratio, clamp", (self.hidden_ratio, self.clamp), "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSpec:
    """The density of average pictures.

    Attributes:
        kind: `mu` = Gaussian mixture over the features of averages; `normal` = N(0, I), the FastFlow baseline.
        mean_size: N, pictures per average.
        means: M, number of averages.
        components: K of the mixture; 0 = chosen by BIC among 1, 2, 4, 8.
        reg_covar: added to the covariance's diagonal; raised x100 (at most to 1) when a fit fails.
        max_vectors: at most so many position vectors enter the mixture of one scale.
        score_kind: what a picture's score is.
    """

    kind: TargetKind = TargetKind.MU
    mean_size: int = 64
    means: int = 1000
    components: int = 0
    reg_covar: float = 1e-6
    max_vectors: int = 20_000
    score_kind: ScoreKind = ScoreKind.NLL

    def __post_init__(self) -> None:
        _at_least(self, 1, "mean_size", "max_vectors")
        _at_least(self, 2, "means")
        _at_least(self, 0, "components", "reg_covar")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSpec:
    """How the flow is fitted. Epochs count passes over the training reals; patience counts epochs."""

    seed: int = 0
    epochs: int = 120
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-5
    plateau_factor: float = 0.7
    plateau_patience: int = 5
    stop_patience: int = 15
    clip_norm: float = 1.0
    checkpoint_every: int = 10
    validation_share: float = 0.15
    calibration_share: float = 0.15

    def __post_init__(self) -> None:
        _at_least(self, 0, "seed", "epochs", "weight_decay", "plateau_patience")
        _at_least(self, 1, "batch_size", "stop_patience", "checkpoint_every")
        _inside_unit(self, "plateau_factor", "validation_share", "calibration_share")
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise BadSpec("learning_rate, clip_norm", (self.learning_rate, self.clip_norm), "above 0")
        if self.validation_share + self.calibration_share >= 1:
            raise BadSpec("validation_share + calibration_share", 1, "less than 1, so that pictures to train on remain")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleSpec:
    """How scores of held-out reals become a verdict.

    Attributes:
        method: a row of RULES.
        alpha: nominal false-positive rate, in (0, 1). With both tails each gets alpha / 2.
        tail: `upper` flags only pictures unlike the reals; `both` also pictures more typical than the reals.
        band: p-values in [low, high] are `inconclusive`; None = no band.
        by: facts that define calibration strata, among "format", "quality", "size".
    """

    method: Method = Method.CONFORMAL
    alpha: float = 0.05
    tail: Tail = Tail.BOTH
    band: tuple[float, float] | None = None
    by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _inside_unit(self, "alpha")
        if self.method == Method.LOF and self.alpha > 0.5:  # scikit-learn's bound on its contamination
            raise BadSpec("alpha", self.alpha, "at most 0.5 with method lof")
        if self.band is not None and not 0 <= self.band[0] <= self.band[1] <= 1:
            raise BadSpec("band", self.band, "two p-values LO,HI with 0 <= LO <= HI <= 1")
        unknown = set(self.by) - {"format", "quality", "size"}
        if unknown:
            raise BadSpec("by", ",".join(sorted(unknown)), "among format, quality, size")


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorSpec:
    """Everything that decides what a detector computes."""

    preset: str = "light"
    view: ViewSpec = field(default_factory=ViewSpec)
    feature: FeatureSpec = field(default_factory=FeatureSpec)
    flow: FlowSpec = field(default_factory=FlowSpec)
    target: TargetSpec = field(default_factory=TargetSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    rule: RuleSpec = field(default_factory=RuleSpec)


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """Which files are read, and how much of them.

    Attributes:
        exclude: glob patterns on the path as given or on any part of it.
        hidden: also names that begin with a dot.
        follow_links: enter directories and files behind symbolic links inside a folder.
        max_bytes: a larger file is one error record, unread.
        max_pixels: a picture with more pixels is one error record, undecoded.
    """

    exclude: tuple[str, ...] = ()
    hidden: bool = False
    follow_links: bool = False
    max_bytes: int = 256 * 2**20
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        _at_least(self, 1, "max_bytes", "max_pixels")


LIGHT: Final = DetectorSpec()

# Pontorno et al. 2026 as published, short of the traps listed in the README: LayerNorm without affine parameters,
# a mixture in the space that the flow sees, every position's vector scored, distinct views only.
PAPER: Final = DetectorSpec(
    preset="paper",
    view=ViewSpec(kind=View.CROPS, size=256, count=16, fit_count=4, draft=False),
    feature=FeatureSpec(dimensions=0, grid=0, normalisation=Normalisation.LAYERNORM),
    flow=FlowSpec(steps=8, kernels=(3,), hidden_ratio=1.0, clamp=2.0, matched_init=False),
    target=TargetSpec(mean_size=500, means=1000, components=1),
    train=TrainSpec(
        epochs=1000,
        batch_size=32,
        learning_rate=1e-4,
        weight_decay=1e-5,
        plateau_factor=0.7,
        plateau_patience=35,
        stop_patience=50,
    ),
    rule=RuleSpec(method=Method.GAUSSIAN, alpha=0.1, tail=Tail.UPPER),
)

PRESETS: Final[Mapping[str, DetectorSpec]] = {"light": LIGHT, "paper": PAPER}
