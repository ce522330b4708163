"""What a flow and its target say of feature maps: per position, pure."""

from __future__ import annotations

from torch import Tensor

from muflow_cli.engine.flow import Transport
from muflow_cli.engine.mixture import Mixture


def nll(flow: Transport, target: Mixture, x: Tensor) -> Tensor:
    """Negative log-likelihood (B, H, W) of each position of x (B, D, H, W), in nats, not divided by D.

    -log N_µ(g(x)) - log|det ∂g/∂x|. Where kernels look at neighbours, a position holds its own terms of the map's
    log-determinant; only the sum over positions is then a likelihood.

    Source: Pontorno et al. 2026, "The method".
    """
    latents, log_det = flow(x)
    return -(target.log_prob(latents.movedim(1, -1)) + log_det)


def mahalanobis(flow: Transport, target: Mixture, x: Tensor) -> Tensor:
    """Squared distance (B, H, W) of each position's latent vector to the nearest component of the target.

    The Jacobian has no part in it. Where the target is N(µ, Σ) of D dimensions it is chi-square distributed with
    D degrees of freedom, so that divided by D it is 1 on average.
    """
    latents, _ = flow(x)
    return target.mahalanobis(latents.movedim(1, -1))
