"""Reals of another source, given the moments that the training reals had: a projection moves, flow and target stay.

Adapting the statistics of features to another domain: Schneider et al. 2020, "Improving robustness against common
corruptions by covariate shift adaptation" (NeurIPS), for batch normalisation; here with whole covariances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from muflow_cli.engine.branch import Branch, Head
from muflow_cli.engine.projection import Adaptation, Moments
from muflow_cli.errors import CannotAdapt
from muflow_cli.specs import BranchSpec, TargetKind

# As how many images of the new source the covariance of the training reals counts.
PRIOR_IMAGES: Final = 10
# Added to the variance of every dimension, as a share of the mean variance: no direction is without any.
_LEAST_VARIANCE: Final = 1e-6


def training_moments(branch: Branch) -> list[Moments]:
    """Those of the projected training reals, one of each layer.

    Raises:
        CannotAdapt: where the branch holds none, and its density is not that of single reals.
    """
    return [_training_moments(head, branch.spec) for head in branch.layer_heads()]


def _training_moments(head: Head, spec: BranchSpec) -> Moments:
    if head.projection.moments is not None:
        return head.projection.moments
    # Without a flow, a density of single reals is that of the projected reals themselves.
    if spec.flow.steps or spec.target.kind is not TargetKind.MU or spec.target.images_per_average > 1:
        raise CannotAdapt(spec.name)
    return Moments(*head.density.moments())


def adapted(branch: Branch, own: Sequence[Moments], images: int) -> Branch:
    """A copy of `branch` that sees reals of another source as it saw the training reals; earlier adaptations are gone.

    Args:
        branch: adapted or not.
        own: moments of the other reals, one of each layer, as the projections of the fit give them.
        images: number of those reals.

    Raises:
        CannotAdapt: as `training_moments`.
    """
    heads = [
        Head(
            head.projection.with_adaptation(between(theirs, training, images)),
            head.flow,
            head.density,
            branch.spec.target.score_kind,
        )
        for head, training, theirs in zip(branch.layer_heads(), training_moments(branch), own, strict=True)
    ]
    return Branch(branch.spec, branch.encoder, heads).requires_grad_(False)


def between(own: Moments, training: Moments, images: int) -> Adaptation:
    """The affine map that gives vectors with the moments `own` the moments `training`.

    Of all such maps it is the one that moves Gaussian vectors least (optimal transport): A (x - own mean) + training
    mean with A = S^-1/2 (S^1/2 T S^1/2)^1/2 S^-1/2. The covariance S is that of `own`, shrunk towards T, the training
    covariance, which counts as PRIOR_IMAGES images; the mean is not shrunk.

    No Jacobian enters the scores: they say how the image would score in the training source, so that scores of both
    sources compare.

    Args:
        own: moments of the other source.
        training: moments to give it.
        images: number of images that `own` comes from.

    Source: Olkin and Pukelsheim 1982 (the map); the shrinkage is that of Schneider et al. 2020.
    """
    target = training.covariance.double()
    ridge = torch.eye(len(target), dtype=torch.float64) * _LEAST_VARIANCE * target.diagonal().mean()
    target = target + ridge
    source = (images * (own.covariance.double() + ridge) + PRIOR_IMAGES * target) / (images + PRIOR_IMAGES)
    root, inverse = _power(source, 0.5), _power(source, -0.5)
    matrix = inverse @ _power(root @ target @ root, 0.5) @ inverse
    offset = training.mean.double() - matrix @ own.mean.double()
    return Adaptation(matrix.float(), offset.float())


def _power(symmetric: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    power: Tensor = (vectors * values.clamp_min(values[-1] * 1e-12) ** exponent) @ vectors.T
    return power
