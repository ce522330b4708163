"""Detector = branches + calibration, always both: what a bundle holds, ready to be placed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from muflow_cli.calibration.calibration import Calibration
from muflow_cli.calibration.clips import clip_columns
from muflow_cli.calibration.judge import Judge
from muflow_cli.calibration.shift import ShiftTest
from muflow_cli.canonical import ADDED, to_json
from muflow_cli.clip_results import ScoredClip, clip_result
from muflow_cli.engine.branch import Branch
from muflow_cli.engine.devices import Placement, place
from muflow_cli.engine.scoring import Scorer, score_stream
from muflow_cli.errors import BadCalibration, BadSpec
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.error import ImageError
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Listed, Loaded, LoadSpec, Seen, from_pixels, load_unknown, look_ahead
from muflow_cli.images.prepare import face_search
from muflow_cli.records import NoFace, Result, Unreadable
from muflow_cli.run_records import DetectorInfo, Shift
from muflow_cli.run_specs import Atypical, InputSpec, Runtime
from muflow_cli.specs import DetectorSpec, ViewSpec
from muflow_cli.tensor_file import Content, hash_tensors
from muflow_cli.units import Item, ScoredImage, by_image, scored_result, units_of, unjudged_still

Pixels = Image.Image | NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Sources that were left out of training together, and judged it.

    Attributes:
        sources: their names.
        images: number of their reals that were judged.
    """

    sources: tuple[str, ...]
    images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A number of steps, and the epochs that it would have had, by reals of sources that were left out in turn.

    Attributes:
        steps: of the flow.
        epochs: of training.
        rate: share of left-out reals that held-out reals of the other sources would flag at a nominal 20 %, mean over
            the rounds.
        standard_error: of the difference to the least rate of all, over the rounds.
        nll: of left-out reals, nats per dimension, mean over the rounds.
    """

    steps: int
    epochs: int
    rate: float
    standard_error: float
    nll: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """How the length of training and the number of steps came about.

    Attributes:
        left_out: one for each round; empty without any.
        candidates: one for each number of steps that was tried.
        steps: chosen.
        epochs: the limit that was chosen.
    """

    left_out: tuple[LeftOut, ...]
    candidates: tuple[Candidate, ...]
    steps: int
    epochs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchProvenance:
    """Where a branch comes from; NLLs are nats per dimension, means over its layers.

    Attributes:
        weights_origin: the encoder weights' file name or torchvision's enum.
        weights_sha256: of that file.
        overlap: mean share of images that two averages have in common.
        effective_sample_size: of the averages.
        components: K per layer.
        reg_covar: the covariance regularisation that worked, per layer.
        epochs: trained.
        best_epoch: the one whose flow the branch holds.
        train_nll: at that epoch.
        validation_nll: at that epoch.
        stopped: why training ended, as a sentence; empty in bundles of earlier versions.
        selected: by what length and steps were chosen; None where held-out reals of the same sources decided.
    """

    weights_origin: str
    weights_sha256: str
    overlap: float
    effective_sample_size: float
    components: tuple[int, ...]
    reg_covar: tuple[float, ...]
    epochs: int
    best_epoch: int
    train_nll: float
    validation_nll: float
    stopped: str = field(default="", metadata=ADDED)
    selected: Selected | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptedTo:
    """The reals of another source that the projections were adapted to.

    Attributes:
        created: when, UTC, ISO 8601.
        images: how many.
        digest: SHA-256 over their sorted content hashes.
    """

    created: str
    images: int
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a detector comes from.

    Attributes:
        created: when it was fitted, UTC, ISO 8601.
        versions: of muflow and of the libraries that computed.
        device: where it was fitted.
        precision: of the convolutions when it was fitted.
        train: number of images that the flows were trained on.
        validation: number of images that decided when to stop.
        train_digest: SHA-256 over the sorted content hashes of both.
        branches: by name.
        adaptation: to reals of another source; None = the detector is as it was fitted.
    """

    created: str
    versions: dict[str, str]
    device: str
    precision: str
    train: int
    validation: int
    train_digest: str
    branches: dict[str, BranchProvenance]
    adaptation: AdaptedTo | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True, slots=True)
class BundleFile:
    """The file that a detector was loaded from.

    Attributes:
        content: as it was read.
        format: FORMAT of the bundle.
    """

    content: Content
    format: int

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, as `sha256sum` prints it."""
        return self.content.sha256

    @property
    def provenance_covered(self) -> bool:
        """Whether a digest inside the file covers where the detector comes from; so it is from FORMAT 2 on."""
        return self.format > 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Detector:
    """A fitted and calibrated detector.

    Attributes:
        spec: of its branches and of how they were fitted; its rule is always that of the calibration.
        branches: by name, in the order of `spec.branches`.
        provenance: where it comes from.
        fitted_on: (n, 32) uint8 content hashes of the images that took part in fitting, sorted.
        calibration: scores of reals that did not, and the rule.
        fitted_near: (n, 8) uint8 perceptual hashes of the images in `fitted_on`; None in bundles of earlier versions.
        adapted_to: (n, 32) uint8 content hashes of the images that the projections were adapted to, sorted; None where
            they are those of the fit.
        adapted_near: (n, 8) uint8 perceptual hashes of the images in `adapted_to`.
        file: that it was loaded from; None for one that was made in memory.

    Raises:
        BadCalibration: where the calibration holds columns or features of other branches.
    """

    spec: DetectorSpec
    branches: Mapping[str, Branch]
    provenance: Provenance
    fitted_on: NDArray[np.uint8]
    calibration: Calibration
    fitted_near: NDArray[np.uint8] | None = None
    adapted_to: NDArray[np.uint8] | None = None
    adapted_near: NDArray[np.uint8] | None = None
    file: BundleFile | None = field(default=None, init=False, repr=False, compare=False)
    _fingerprint: str = field(default="", init=False, repr=False, compare=False)
    _scorers: dict[Placement, Scorer] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        columns = self.columns if self.calibration.clips is None else clip_columns(self.columns)
        if self.calibration.columns != columns:
            raise BadCalibration(f"holds the columns {', '.join(self.calibration.columns)}, not those of the detector")
        features = self.calibration.features
        if features is not None and features.values.shape[1] != self.feature_count:
            raise BadCalibration("holds features of other layers than the detector has")
        # One truth for the rule: whoever replaces the calibration replaces it here too.
        object.__setattr__(self, "spec", replace(self.spec, rule=self.calibration.rule))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the scores, `branch/layer`, in their order."""
        return columns_of(self.branches)

    @property
    def views(self) -> dict[str, ViewSpec]:
        """How an image becomes the views of each branch."""
        return {branch.name: branch.view for branch in self.spec.branches}

    def load_spec(self, inputs: InputSpec, runtime: Runtime, placement: Placement) -> LoadSpec:
        """How this detector looks at images; enough of them are held that neither device nor threads wait.

        Raises:
            MuflowError: where the detector looks for faces and what finds them is not installed.
        """
        return LoadSpec(
            views=self.views,
            inputs=inputs,
            workers=runtime.threads,
            ahead=look_ahead(placement.batch_size, runtime.threads),
            container=self.spec.container,
            faces=face_search(self.spec.faces, inputs),
            processes=runtime.decodes_in_processes,
        )

    @property
    def feature_count(self) -> int:
        """F, the features of an image for comparisons within a batch: those of every branch one after the other."""
        return sum(branch.feature_count for branch in self.branches.values())

    def scorer(self, placement: Placement) -> Scorer:
        """This detector's branches on a device, prepared once for each placement."""
        if placement not in self._scorers:
            self._scorers[placement] = Scorer(self.branches, placement)
        return self._scorers[placement]

    def tensors(self) -> dict[str, Tensor]:
        """Everything that decides a score, by name; the calibration is not among it."""
        named = {
            f"branches.{name}.{key}": tensor
            for name, branch in self.branches.items()
            for key, tensor in branch.state_dict().items()
        }
        hashes = ("fitted_on", "fitted_near", "adapted_to", "adapted_near")
        return named | {name: torch.from_numpy(own) for name in hashes if (own := getattr(self, name)) is not None}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over sorted names, dtypes, shapes, bytes and the spec: equal = the same scores."""
        if not self._fingerprint:
            object.__setattr__(self, "_fingerprint", fingerprint(self.tensors(), self.spec))
        return self._fingerprint

    def score(
        self,
        images: Iterable[Pixels | str | os.PathLike[str]],
        runtime: Runtime | None = None,
        inputs: InputSpec | None = None,
        atypical: Atypical = Atypical.INCONCLUSIVE,
    ) -> list[Result]:
        """One result per image, in their order; each image is scored by itself, copies included.

        Args:
            images: paths, PIL images, or RGB arrays (H, W, 3) uint8. What is not a path is reported as `[0]`, `[1]`
                and so on, by its position, with the SHA-256 and size of its pixels.
            runtime: device, precision, batch size, workers.
            inputs: limits on what is read, and what becomes of faces.
            atypical: verdict on images outside the ranges of the calibration images; the format of arrays and PIL
                images is unknown and not judged.

        Raises:
            BadSpec: for an array of another shape or type, or for one image in place of several.
            NotFinite: where a score is not finite.
        """
        if isinstance(images, str | bytes | os.PathLike | Image.Image):
            raise BadSpec("images", f"a single {type(images).__name__}", "a list, as in score([image])")
        runtime = runtime or Runtime()
        placement = place(runtime)
        spec = self.load_spec(inputs or InputSpec(), runtime, placement)
        judge = Judge(self.calibration, atypical)
        stream = by_image(score_stream(_units(images, spec), self.scorer(placement)))
        return [self.result(item, judge) for item in stream if not isinstance(item, Seen | Listed)]

    def result(
        self, item: ScoredImage | ScoredClip | NoFace | Unreadable, judge: Judge, *, per_frame: bool = False
    ) -> Result:
        """The result of an image or a clip whose units have their scores; anything else is one already.

        Args:
            item: as `units.by_image` gives it.
            judge: of this detector's calibration.
            per_frame: judge each frame of a clip as a still, where the calibration is on stills.
        """
        if isinstance(item, ScoredClip):
            return clip_result(item, self.calibration, judge, per_frame=per_frame)
        if isinstance(item, ScoredImage):
            return scored_result(item, judge) if self.calibration.clips is None else unjudged_still(item)
        return item

    def shift(self, results: Iterable[Result]) -> Shift | None:
        """Results of this detector, as a group, beside its calibration; None with fewer than 20 to compare."""
        test = ShiftTest(self.calibration)
        for result in results:
            test.add(result)
        return test.outcome()

    def info(self, path: str) -> DetectorInfo:
        """The detector as reports name it; `path` as the user gave it."""
        rule = self.calibration.rule
        return DetectorInfo(
            path=path,
            fingerprint=self.fingerprint,
            calibration_fingerprint=self.calibration.fingerprint(),
            encoder="+".join(branch.feature.encoder for branch in self.spec.branches),
            rule=rule.method,
            alpha=rule.alpha,
            tail=rule.tail.value,
            columns=self.calibration.columns,
            calibration_images=len(self.calibration),
            smallest_p_value=self.calibration.smallest_p_value,
            file_sha256=None if self.file is None else self.file.sha256,
            face_detector=None if self.spec.faces is None else self.spec.faces.detector,
            calibrated_on=self.calibration.calibrated_on,
        )


def _units(images: Iterable[Pixels | str | os.PathLike[str]], spec: LoadSpec) -> Iterator[Item]:
    for index, image in enumerate(images):
        item = _loaded(f"[{index}]", image, spec)
        if isinstance(item, Loaded | LoadedClip):
            yield from units_of(item)
        else:
            yield item


def _loaded(
    label: str, image: Pixels | str | os.PathLike[str], spec: LoadSpec
) -> Loaded | LoadedClip | NoFace | Seen | Unreadable:
    if isinstance(image, str | os.PathLike):
        with closing(load_unknown([Input(os.fspath(image))], spec, lambda _: False)) as items:
            (item,) = items
        assert not isinstance(item, Listed)  # noqa: S101 - a detector has no lists
        return item
    try:
        return from_pixels(label, image, spec)
    except ImageError as error:
        return Unreadable(path=label, code=error.code, message=error.message)


def columns_of(branches: Mapping[str, Branch]) -> tuple[str, ...]:
    """Names of the scores of all branches, in their order."""
    return tuple(column for branch in branches.values() for column in branch.columns)


def fingerprint(tensors: Mapping[str, Tensor], spec: DetectorSpec) -> str:
    """SHA-256 over sorted names, dtypes, shapes, bytes of `tensors` and over `spec` without its rule."""
    settings = to_json(spec)
    del settings["rule"]
    return hash_tensors(tensors, settings)
