"""Gaussian mixtures: fitted by scikit-learn, evaluated in torch from Cholesky factors of the precisions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from muflow_cli.errors import NotFinite, TooFewImages

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

BIC_COMPONENTS: Final = (1, 2, 4, 8)
LARGEST_REG_COVAR: Final = 1.0
MAX_ITERATIONS: Final = 200


class Mixture(nn.Module):
    """Density sum_k weights[k] N(means[k], covariance[k]); its tensors are buffers.

    Args:
        weights: (K,) positive, summing to 1.
        means: (K, D).
        precisions_cholesky: (K, D, D) upper triangular U with U Uᵀ = the inverse covariance, as in scikit-learn.
    """

    weights: Tensor
    means: Tensor
    precisions_cholesky: Tensor

    def __init__(self, weights: Tensor, means: Tensor, precisions_cholesky: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("precisions_cholesky", precisions_cholesky)

    @classmethod
    def normal(cls, dimensions: int, components: int = 1) -> Mixture:
        """N(0, I) in `dimensions` dimensions as `components` equal parts, float64 on the CPU: FastFlow's own target."""
        weights = torch.full((components,), 1 / components, dtype=torch.float64)
        eye = torch.eye(dimensions, dtype=torch.float64)
        return cls(weights, weights.new_zeros(components, dimensions), eye.repeat(components, 1, 1))

    @classmethod
    def empty(cls, components: int, dimensions: int) -> Mixture:
        """A mixture of these sizes without values (meta device, float64)."""
        shapes = ((components,), (components, dimensions), (components, dimensions, dimensions))
        return cls(*(torch.empty(shape, dtype=torch.float64, device="meta") for shape in shapes))

    def forward(self, x: Tensor) -> Tensor:
        """`log_prob`."""
        return self.log_prob(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, (...), of x (..., D); computed in x's dtype, at least float32."""
        x, weights, means, factors = self._matched(x)
        log_det = factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        constant = weights.log() + log_det - 0.5 * x.shape[-1] * math.log(2 * math.pi)
        exponents = constant - 0.5 * _distances(x, means, factors)
        return exponents.squeeze(-1) if len(weights) == 1 else exponents.logsumexp(dim=-1)

    def mahalanobis(self, x: Tensor) -> Tensor:
        """Squared Mahalanobis distance, (...), of x (..., D) to the component for which it is smallest."""
        x, _, means, factors = self._matched(x)
        return _distances(x, means, factors).amin(dim=-1)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) of the whole mixture, float64."""
        weights, means, factors = (t.double() for t in (self.weights, self.means, self.precisions_cholesky))
        identity = torch.eye(means.shape[1], dtype=torch.float64, device=means.device)
        inverse = torch.linalg.solve_triangular(factors, identity, upper=True)
        mean = weights @ means
        apart = means - mean
        within = torch.einsum("k,kij->ij", weights, inverse.mT @ inverse)  # the inverse of U Uᵀ is U⁻ᵀ U⁻¹
        return mean, within + apart.T @ (weights[:, None] * apart)

    def spread(self) -> float:
        """Root of the mean over dimensions of the mixture's total variance, in the unit of its vectors."""
        _, covariance = self.moments()
        return math.sqrt(float(covariance.trace()) / len(covariance))

    def _matched(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return x.to(dtype), self.weights.to(dtype), self.means.to(dtype), self.precisions_cholesky.to(dtype)


def _distances(x: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """(..., K) squared Mahalanobis distances of x (..., D) to every component.

    The mean is subtracted before the product, so that a narrow component far from the origin loses no digits.
    """
    parts = zip(means, factors, strict=True)
    return torch.stack([((x - mean) @ factor).square().sum(dim=-1) for mean, factor in parts], dim=-1)


@dataclass(frozen=True, slots=True)
class MixtureFit:
    """A fitted mixture and how it was fitted.

    Attributes:
        mixture: float64, on the device of the vectors.
        components: its K.
        reg_covar: added to the covariances' diagonal in the fit that succeeded.
        bic: Bayesian information criterion of every K tried; lower is better.
        raised: whether `reg_covar` was raised above the setting.
    """

    mixture: Mixture
    components: int
    reg_covar: float
    bic: Mapping[int, float]
    raised: bool


def fit_mixture(vectors: Tensor, components: int, reg_covar: float, seed: int) -> MixtureFit:
    """Maximum-likelihood Gaussian mixture with full covariances, in float64.

    Args:
        vectors: (n, D) features of averages.
        components: K; 0 = the lowest BIC among 1, 2, 4 and 8, where a K above 1 needs K (D + 1) vectors,
            since with fewer the regularisation alone determines a covariance.
        reg_covar: added to the covariances' diagonal; raised x100, at most to 1, while the fit fails.
        seed: for the start of expectation maximisation.

    Raises:
        NotFinite: if a vector is not finite, or the fit fails with every regularisation up to 1.
        TooFewImages: if n < max(2, K).
    """
    # Imported here for the same reason as in _fit_regularised.
    from threadpoolctl import threadpool_limits

    count, dimensions = vectors.shape
    needed = max(2, components)
    if count < needed:
        raise TooFewImages("the target mixture", count, needed, f"{max(1, components)} components to fit")
    if not bool(torch.isfinite(vectors).all()):
        raise NotFinite(
            "the features of the averages hold NaN or infinite values", "encode in fp32, or use other encoder weights"
        )
    tried = [components] if components else [k for k in BIC_COMPONENTS if k == 1 or count >= k * (dimensions + 1)]
    data = vectors.detach().to(device="cpu", dtype=torch.float64)
    # Splitting products of a few dozen columns between threads costs more than it gains, and a sum on one thread is
    # the same for every number of cores.
    with threadpool_limits(1, user_api="blas"):
        fits = {k: _fit_regularised(data, k, reg_covar, seed) for k in tried}
        bic = {k: float(model.bic(data.numpy())) for k, model in fits.items()}
    best = min(bic, key=lambda k: bic[k])
    used = float(fits[best].reg_covar)
    arrays = fits[best].weights_, fits[best].means_, fits[best].precisions_cholesky_
    mixture = Mixture(*(torch.from_numpy(array).contiguous().to(vectors.device) for array in arrays))
    return MixtureFit(mixture, best, used, bic, used > reg_covar)


def _fit_regularised(data: Tensor, components: int, reg_covar: float, seed: int) -> GaussianMixture:
    # Imported here because scoring evaluates mixtures without scikit-learn, which takes half a second to import.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    for tried in _regularisations(reg_covar):
        # EM starts from k-means++ alone: full k-means sums in parallel, in an order that changes from run to run.
        model = GaussianMixture(
            components, reg_covar=tried, init_params="k-means++", max_iter=MAX_ITERATIONS, random_state=seed
        )
        try:
            with warnings.catch_warnings():
                # A mixture that still improves after MAX_ITERATIONS is a usable density; BIC compares it as it is.
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(data.numpy())
        except ValueError:  # scikit-learn: "some components have ill-defined empirical covariance"
            continue
        if bool(torch.isfinite(torch.from_numpy(model.precisions_cholesky_)).all()):
            return model
    raise NotFinite(
        f"no mixture of {components} components fits the averages, even with reg_covar {tried:g}",
        "use fewer components, or more averages",
    )


def _regularisations(first: float) -> Iterator[float]:
    """`first`, then each x100 (1e-6 after 0), the last at most 1."""
    yield first
    while first < LARGEST_REG_COVAR:
        first = min(first * 100 or 1e-6, LARGEST_REG_COVAR)
        yield first
