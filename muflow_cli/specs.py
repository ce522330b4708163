"""Frozen settings that refuse nonsense when made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from muflow_cli.bounds import at_most, between, inside_unit
from muflow_cli.canonical import ADDED
from muflow_cli.errors import BadSpec


class View(StrEnum):
    """How an image becomes the square that is scored."""

    RESIZE = "resize"
    CROPS = "crops"
    FACE = "face"


class Normalisation(StrEnum):
    """What is done to a layer's map before pooling."""

    STATISTICS = "statistics"
    LAYERNORM = "layernorm"


class Statistics(StrEnum):
    """What is modelled of a channel in each cell of the grid: the mean over its positions, their deviation, or both."""

    MEAN = "mean"
    STD = "std"
    BOTH = "both"


class TargetKind(StrEnum):
    """The density that the flow maps single reals onto."""

    MU = "mu"
    NORMAL = "normal"


class ScoreKind(StrEnum):
    """Negative log-likelihood, or the latent Mahalanobis distance without the Jacobian."""

    NLL = "nll"
    MAHALANOBIS = "mahalanobis"


class Selection(StrEnum):
    """What decides how long the flow trains, and how many steps it has.

    `held-out` = held-out reals of the sources that are trained on; `sources` = reals of sources that are left out in
    turn, or the prior where there is a single source; `prior` = a stated number of epochs and steps.
    """

    HELD_OUT = "held-out"
    SOURCES = "sources"
    PRIOR = "prior"


class Tail(StrEnum):
    """Which side of the reals' scores is suspicious."""

    UPPER = "upper"
    BOTH = "both"


# Each factor has bounds of its own; these bound what they ask for together.
MOST_VIEW_PIXELS: Final = 2**24  # of the views of one image, 50 MB as bytes
MOST_KERNEL_WEIGHTS: Final = 4096  # of a flow, per pair of channels
MOST_MEMBERS: Final = 10**8  # images in all averages
MOST_BRANCHES: Final = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerSpec:
    """What is done to every image before it is looked at, in this order, so that container and size tell nothing.

    Attributes:
        square: cut the centre square.
        resize: pixels of the shorter side afterwards, enlarged where it is smaller; 0 = the image's own.
        jpeg: quality of a JPEG (4:2:0, IJG tables) that the image is stored as; 0 = not stored.
    """

    square: bool = False
    resize: int = 0
    jpeg: int = 0

    def __post_init__(self) -> None:
        if self.resize:
            between(self, 16, 4096, "resize")
        between(self, 0, 100, "jpeg")

    def __str__(self) -> str:
        """The text that `images.container.parse_container` reads, such as `square,resize=256,jpeg=90`."""
        steps = ["square"] if self.square else []
        steps += [f"{name}={value}" for name, value in (("resize", self.resize), ("jpeg", self.jpeg)) if value]
        return ",".join(steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewSpec:
    """How an image becomes views.

    Attributes:
        kind: `resize` squashes the whole image to one square; `crops` cuts squares at native resolution
            (an image smaller than the square is centre-squared and resized); `face` aligns a face by its landmarks.
        size: side of the square, pixels.
        count: crops per image when scanning; a small image has fewer distinct ones, each scored once.
        fit_count: random crops per image when fitting.
        draft: decode a JPEG much larger than `size` at reduced scale (libjpeg), average other images down by the
            same power of two; only with `resize`. Part of the spec because it changes pixels: a detector is fitted
            and scanned the same way.
    """

    kind: View = View.RESIZE
    size: int = 256
    count: int = 16
    fit_count: int = 4
    draft: bool = True

    def __post_init__(self) -> None:
        between(self, 16, 2048, "size")
        between(self, 1, 4096, "count", "fit_count")
        views = max(self.count, self.fit_count) if self.kind is View.CROPS else 1
        at_most(MOST_VIEW_PIXELS, "size x size x count", self.size**2 * views)


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceSpec:
    """Which faces of an image are scored, each by itself.

    Attributes:
        detector: a row of FACE_DETECTORS, which finds them.
        min_side: pixels between opposite edges of a face's box, by the shorter side; smaller faces are not scored.
        model_sha256: of the model file, for a detector that needs one from the user; empty for the others.
    """

    detector: str = "yunet"
    min_side: int = 64
    model_sha256: str = ""

    def __post_init__(self) -> None:
        between(self, 8, 4096, "min_side")


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """Which numbers of an image are modelled.

    Attributes:
        encoder: a row of ENCODERS, or `timm:NAME` for one of timm's models.
        layers: names of the encoder's layers to model; empty = the usual ones of its row.
        dimensions: channels per layer after the PCA projection; 0 = all channels, no projection.
        grid: side of the grid of cells that each map is pooled to; 0 = the map's own size.
        normalisation: `statistics` = fixed mean and deviation of the training reals per channel;
            `layernorm` = over (C, H, W) of each map, no affine parameters, before the cells are summarised.
        statistics: what is modelled of each channel and cell; `both` doubles the channels before the projection.
        joint: model all cells of a layer as one vector, so that it matters what lies where and goes with what; a cell
            by itself is then no position any more. Meant for faces in the same place of every view.
    """

    encoder: str = "resnet50"
    layers: tuple[str, ...] = ()
    dimensions: int = 64
    grid: int = 4
    normalisation: Normalisation = Normalisation.STATISTICS
    statistics: Statistics = field(default=Statistics.MEAN, metadata=ADDED)
    joint: bool = field(default=False, metadata=ADDED)

    def __post_init__(self) -> None:
        between(self, 0, 65536, "dimensions")
        between(self, 0, 256, "grid")
        if self.grid == 0 and self.statistics is not Statistics.MEAN:
            raise BadSpec("statistics", self.statistics.value, "mean with grid 0, where a cell is a single position")
        if self.joint and self.grid == 0:
            raise BadSpec("grid", 0, "at least 1 with joint, which needs the same cells in every layer")
        if self.joint and self.dimensions == 0:
            raise BadSpec("dimensions", 0, "at least 2 with joint, whose vectors are too long as they are")
        if self.joint and self.normalisation is not Normalisation.STATISTICS:
            raise BadSpec("normalisation", self.normalisation.value, "statistics with joint")
        if self.dimensions == 1:
            raise BadSpec("dimensions", 1, "0 (all channels) or at least 2, since a coupling splits the channels")

    @property
    def per_channel(self) -> int:
        """Numbers of each channel in the vector that is modelled: of one cell, or of all of them."""
        return (2 if self.statistics is Statistics.BOTH else 1) * (self.grid**2 if self.joint else 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowSpec:
    """The FastFlow of one layer: `steps` coupling blocks.

    Attributes:
        steps: 0 = the identity flow.
        kernels: side of the coupling nets' convolutions, cycled over the steps ((3,), (3, 1) or (1,)).
        hidden_ratio: hidden channels / input channels of a coupling net.
        clamp: bound of the affine coupling's log-scale (FrEIA's `affine_clamping`).
        matched_init: start the blocks' global scales at the ratio of the target's spread to the reals' (a start
            nearer the end; the function family is the same). False = FrEIA's own start, scale 1.
        volume_preserving: couplings that keep the volume at every position (GIN, without global scales): the
            log-determinant is 0, and a score cannot fall by shrinking what is common.
        spectral_penalty: weight of the mean over the steps of the squared bound of each coupling net's Lipschitz
            constant, which is added to the loss and keeps the flow near an affine map; 0 = none.
    """

    steps: int = 8
    kernels: tuple[int, ...] = (1,)
    hidden_ratio: float = 1.0
    clamp: float = 2.0
    matched_init: bool = True
    volume_preserving: bool = field(default=False, metadata=ADDED)
    spectral_penalty: float = field(default=0.0, metadata=ADDED)

    def __post_init__(self) -> None:
        between(self, 0, 256, "steps")
        between(self, 0, 1e6, "spectral_penalty")
        if not 1 <= len(self.kernels) <= 256 or any(k not in range(1, 32, 2) for k in self.kernels):
            raise BadSpec("kernels", self.kernels, "odd numbers from 1 to 31")
        between(self, 0.01, 16, "hidden_ratio")
        between(self, 0.01, 100, "clamp")
        weights = self.hidden_ratio * sum(self.kernels[step % len(self.kernels)] ** 2 for step in range(self.steps))
        at_most(MOST_KERNEL_WEIGHTS, "steps x kernels x kernels x hidden_ratio", weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSpec:
    """The density of average images.

    Attributes:
        kind: `mu` = Gaussian mixture over the features of averages; `normal` = N(0, I), the FastFlow baseline.
        images_per_average: N; 1 = the density of single training reals, each once.
        n_averages: M; has no effect where N is 1.
        components: K of the mixture; 0 = chosen by BIC among 1, 2, 4, 8.
        reg_covar: added to the covariance's diagonal; raised x100 (at most to 1) when a fit fails.
        max_vectors: largest number of position vectors that the mixture of one layer is fitted to.
        score_kind: what an image's score is.
    """

    kind: TargetKind = TargetKind.MU
    images_per_average: int = 64
    n_averages: int = 1000
    components: int = 0
    reg_covar: float = 1e-6
    max_vectors: int = 20_000
    score_kind: ScoreKind = ScoreKind.NLL

    def __post_init__(self) -> None:
        between(self, 1, 1_000_000, "images_per_average")
        between(self, 1, 10_000_000, "max_vectors")
        between(self, 2, 1_000_000, "n_averages")
        between(self, 0, 1024, "components")
        between(self, 0, 1e6, "reg_covar")
        at_most(MOST_MEMBERS, "n_averages x images_per_average", self.n_averages * self.images_per_average)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSpec:
    """How the flow is fitted. Epochs count passes over the training reals; patience counts epochs.

    Attributes:
        selection: what decides when to stop; `epochs` and the flow's own steps are limits in any case.
        selection_steps: numbers of steps that are tried when sources are left out.
        source_minimum: images, short of those that calibrate, that a source needs to be left out by itself; smaller
            sources count as one.
        source_folds: most rounds of leaving out; with more sources, several are left out together.
        prior_epochs: of the prior.
        prior_steps: of the prior.
    """

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
    selection: Selection = field(default=Selection.HELD_OUT, metadata=ADDED)
    selection_steps: tuple[int, ...] = field(default=(0, 2, 8), metadata=ADDED)
    source_minimum: int = field(default=50, metadata=ADDED)
    source_folds: int = field(default=4, metadata=ADDED)
    prior_epochs: int = field(default=120, metadata=ADDED)
    prior_steps: int = field(default=8, metadata=ADDED)

    def __post_init__(self) -> None:
        if not 1 <= len(self.selection_steps) <= 16 or any(not 0 <= steps <= 256 for steps in self.selection_steps):
            raise BadSpec("selection_steps", self.selection_steps, "1 to 16 numbers from 0 to 256")
        between(self, 1, 1_000_000, "source_minimum")
        between(self, 2, 100, "source_folds")
        between(self, 0, 1e9, "prior_epochs")
        between(self, 0, 256, "prior_steps")
        between(self, 0, 2**63 - 1, "seed")
        between(self, 0, 1e9, "epochs", "weight_decay", "plateau_patience")
        between(self, 1, 1e9, "batch_size", "stop_patience", "checkpoint_every")
        inside_unit(self, "plateau_factor", "validation_share", "calibration_share")
        between(self, 1e-12, 1e6, "learning_rate", "clip_norm")
        if self.validation_share + self.calibration_share >= 1:
            raise BadSpec(
                "validation_share + calibration_share",
                1,
                "a sum below 1, so that images to train on remain",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleSpec:
    """How scores of held-out reals become a verdict.

    Attributes:
        method: a row of `calibration.rules.RULES`, which checks that it exists.
        alpha: nominal false-positive rate, in (0, 1). With both tails each gets alpha / 2.
        tail: `upper` flags only images unlike the reals; `both` also images more typical than the reals.
        band: p-values in [low, high] are `inconclusive`; None = no band.
        by: facts that define calibration strata, among "format", "quality", "size".
    """

    method: str = "conformal"
    alpha: float = 0.05
    tail: Tail = Tail.BOTH
    band: tuple[float, float] | None = None
    by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        inside_unit(self, "alpha")
        if self.band is not None and not 0 <= self.band[0] <= self.band[1] <= 1:
            raise BadSpec("band", self.band, "two p-values LO,HI with 0 <= LO <= HI <= 1")
        unknown = set(self.by) - {"format", "quality", "size"}
        if unknown:
            raise BadSpec("by", ",".join(sorted(unknown)), "format, quality, size, or several of them")


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchSpec:
    """One family of evidence: view, encoder, projection, flow and target.

    Attributes:
        name: lower-case letters, digits, "-" and "_"; the first part of its columns' names (`name/layer`).
        view: how an image becomes the squares that this branch looks at.
        feature: which numbers of them are modelled.
        flow: the FastFlow of each layer.
        target: the density that the flow maps single reals onto.
    """

    name: str = "main"
    view: ViewSpec = field(default_factory=ViewSpec)
    feature: FeatureSpec = field(default_factory=FeatureSpec)
    flow: FlowSpec = field(default_factory=FlowSpec)
    target: TargetSpec = field(default_factory=TargetSpec)

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z0-9_-]{1,40}", self.name):
            raise BadSpec("branch", repr(self.name), "lower-case letters, digits, - and _, at most 40 of them")


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorSpec:
    """Everything that decides what a detector computes.

    Attributes:
        preset: the configuration that it started from.
        branches: at least one, each with a name of its own.
        train: how the flows of all branches are fitted.
        rule: how the columns of all branches become one verdict, at fitting time.
        faces: score each face of an image: views of the kind `face` look at the aligned face, the others at the upright
            square around it. None = score the image as a whole.
        container: what every image goes through before faces are looked for and views are cut; None = as found.
    """

    preset: str = "light"
    branches: tuple[BranchSpec, ...] = (BranchSpec(),)
    train: TrainSpec = field(default_factory=TrainSpec)
    rule: RuleSpec = field(default_factory=RuleSpec)
    faces: FaceSpec | None = field(default=None, metadata=ADDED)
    container: ContainerSpec | None = field(default=None, metadata=ADDED)

    def __post_init__(self) -> None:
        if self.faces is None and any(branch.view.kind is View.FACE for branch in self.branches):
            raise BadSpec(
                "view.kind", View.FACE.value, "resize or crops, unless the detector looks for faces (--faces)"
            )
        names = [branch.name for branch in self.branches]
        if not names or len(set(names)) < len(names):
            raise BadSpec("branches", ", ".join(names) or "empty", "one branch or several with different names")
        at_most(MOST_BRANCHES, "the number of branches", len(names))
