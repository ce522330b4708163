"""Scores of feature maps under a flow and its target, per position."""

from __future__ import annotations

from torch import Tensor

from muflow_cli.engine.flow import Transport
from muflow_cli.engine.mixture import Mixture


def nll(flow: Transport, target: Mixture, x: Tensor) -> Tensor:
    """Negative log-likelihood (B, H, W) of each position of x (B, D, H, W), in nats, not divided by D.

    -log N_µ(g(x)) - log|det ∂g/∂x|. Where kernels read neighbours, each position holds its own terms of the map's
    log-determinant, and only the sum over positions is a likelihood.

    Source: Pontorno et al. 2026, "The method".
    """
    latents, log_det = flow(x)
    return -(target.log_prob(latents.movedim(1, -1)) + log_det)


def mahalanobis(flow: Transport, target: Mixture, x: Tensor) -> Tensor:
    """Squared distance (B, H, W) of each position's latent vector to the nearest component of the target.

    The Jacobian does not enter. Under a target N(µ, Σ) in D dimensions the distance is chi-square distributed with
    D degrees of freedom, so divided by D it is 1 on average.
    """
    latents, _ = flow(x)
    return target.mahalanobis(latents.movedim(1, -1))
