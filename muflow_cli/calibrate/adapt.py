"""`--adapt`: the projections of a detector re-centred and re-whitened on reals of another source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from muflow_cli.calibrate.intake import Intake
from muflow_cli.calibration.calibration import source_digest
from muflow_cli.detector import AdaptedTo, Detector
from muflow_cli.engine.adaptation import adapted, training_moments
from muflow_cli.engine.branch import Branch
from muflow_cli.engine.devices import Placement
from muflow_cli.engine.encoding import PlacedEncoder
from muflow_cli.engine.projection import Moments, RunningMoments
from muflow_cli.environment import utc_now
from muflow_cli.errors import TooFewToAdapt
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import Loaded, LoadSpec
from muflow_cli.images.loader import load as load_images
from muflow_cli.images.near import near_hash, packed
from muflow_cli.progress import ProgressListener
from muflow_cli.records import Unreadable

LEAST_IMAGES: Final = 50


@dataclass(frozen=True, slots=True)
class AdaptWork:
    """How images are read and encoded.

    Attributes:
        intake: of a detector without an adaptation.
        load: how the detector looks at images.
        placement: where to compute.
        progress: told of the stages.
    """

    intake: Intake
    load: LoadSpec
    placement: Placement
    progress: ProgressListener


@dataclass(frozen=True, slots=True)
class Adapted:
    """A detector whose projections were adapted; its calibration is still that of before.

    Attributes:
        detector: adapted.
        others: images of the same folder that took no part and may calibrate it.
        intake: what became of the images.
    """

    detector: Detector
    others: Sequence[Input]
    intake: Intake


@dataclass(frozen=True, slots=True)
class _Image:
    digest: str
    near: int
    input: Input


def without_adaptation(detector: Detector) -> Detector:
    """What a fresh adaptation starts from: the images of an earlier one count as unknown."""
    plain = replace(detector.provenance, adaptation=None)
    return replace(detector, provenance=plain, adapted_to=None, adapted_near=None)


def adapt(detector: Detector, inputs: Iterable[Input | Unreadable], work: AdaptWork, calibrating: int = 0) -> Adapted:
    """Adapt the projections of every branch to reals; flows, targets and encoders stay.

    Near copies count once. The content hashes decide which images adapt: all of them, or half, or, of fewer, as many
    as leave enough to calibrate.

    Args:
        detector: without an adaptation, or with one that is to be forgotten.
        inputs: reals of the source.
        work: how to read and encode.
        calibrating: images to leave at least; 0 = none.

    Raises:
        TooFewToAdapt: with fewer images than LEAST_IMAGES and `calibrating` together.
        CannotAdapt: where the detector does not say what its training reals were like.
    """
    for branch in detector.branches.values():
        training_moments(branch)  # refuses before anything is read
    images = _distinct(list(inputs), work)
    if len(images) < LEAST_IMAGES + calibrating:
        raise TooFewToAdapt(len(images), LEAST_IMAGES, calibrating, work.intake.left_out)
    count = min(max(LEAST_IMAGES, len(images) // 2), len(images) - calibrating) if calibrating else len(images)
    used = images[:count]
    own = _moments(detector, used, work)
    digests = [image.digest for image in used]
    hashes = np.frombuffer(bytes.fromhex("".join(digests)), dtype=np.uint8).reshape(-1, 32)
    named = AdaptedTo(created=utc_now(), images=count, digest=source_digest(digests))
    changed = replace(
        detector,
        branches={name: adapted(branch, own[name], count) for name, branch in detector.branches.items()},
        provenance=replace(detector.provenance, adaptation=named),
        adapted_to=hashes.copy(),
        adapted_near=packed([image.near for image in used]),
    )
    return Adapted(changed, [image.input for image in images[count:]], work.intake)


def _distinct(inputs: Sequence[Input | Unreadable], work: AdaptWork) -> list[_Image]:
    """The images that may be used, one of each photograph, in the order of their content hashes."""
    work.progress.stage("look", len(inputs))
    places: dict[str, Input] = {}

    def looked_at() -> Iterator[Loaded | Unreadable]:
        for given, item in zip(inputs, load_images(inputs, work.load), strict=True):
            if isinstance(item, Loaded) and isinstance(given, Input):
                places.setdefault(item.facts.sha256, given)
            yield item
            work.progress.advance()

    found = [(item.facts.sha256, near_hash(item.views)) for item in work.intake.usable(looked_at())]
    fresh = work.intake.without_near_copies([digest for digest, _ in found], [near for _, near in found])
    return sorted((_Image(*found[i], places[found[i][0]]) for i in fresh), key=lambda image: image.digest)


def _moments(detector: Detector, images: Sequence[_Image], work: AdaptWork) -> dict[str, list[Moments]]:
    """Of each branch and layer, over all views and positions of the images, as the projections of the fit give them."""
    work.progress.stage("adapt", len(images))
    sums = {name: [RunningMoments() for _ in branch.layer_heads()] for name, branch in detector.branches.items()}
    encoders = {name: PlacedEncoder(branch.encoder, work.placement) for name, branch in detector.branches.items()}
    for item in load_images([image.input for image in images], work.load):
        if isinstance(item, Loaded):
            for name, branch in detector.branches.items():
                views = torch.tensor(item.views[name]).permute(0, 3, 1, 2)
                _add(branch, encoders[name].submit(views).result(), sums[name])
        work.progress.advance()
    return {name: [own.moments() for own in layers] for name, layers in sums.items()}


def _add(branch: Branch, pooled: Sequence[torch.Tensor], sums: Sequence[RunningMoments]) -> None:
    for head, map_, own in zip(branch.layer_heads(), pooled, sums, strict=True):
        own.add(head.projection.with_adaptation(None)(map_))
