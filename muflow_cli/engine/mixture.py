"""Gaussian mixtures: fitted by scikit-learn, evaluated in torch from Cholesky factors of the precisions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from muflow_cli.errors import NotFinite, TooFewPictures

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

BIC_COMPONENTS: Final = (1, 2, 4, 8)
LARGEST_REG_COVAR: Final = 1.0
MAX_ITERATIONS: Final = 200


@dataclass(frozen=True, slots=True)
class Mixture:
    """Density sum_k weights[k] N(means[k], covariance[k]).

    Attributes:
        weights: (K,) positive, summing to 1.
        means: (K, D).
        precisions_cholesky: (K, D, D) upper triangular U with U Uᵀ = the inverse covariance, as in scikit-learn.
    """

    weights: Tensor
    means: Tensor
    precisions_cholesky: Tensor

    @classmethod
    def normal(cls, dimensions: int) -> Mixture:
        """N(0, I) in `dimensions` dimensions, float64 on the CPU: FastFlow's own target."""
        one = torch.ones(1, dtype=torch.float64)
        return cls(one, one.new_zeros(1, dimensions), torch.eye(dimensions, dtype=torch.float64)[None])

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Mixture:
        """The mixture whose `tensors()` these are.

        Raises:
            KeyError: a tensor is missing.
            ValueError: their shapes do not belong together.
        """
        mixture = cls(tensors["weights"], tensors["means"], tensors["precisions_cholesky"])
        components, dimensions = mixture.means.shape
        factors = mixture.precisions_cholesky.shape
        if mixture.weights.shape != (components,) or factors != (components, dimensions, dimensions):
            raise ValueError(f"mixture shapes disagree: {mixture.weights.shape}, {mixture.means.shape}, {factors}")
        return mixture

    def tensors(self) -> dict[str, Tensor]:
        """The three tensors by name."""
        return {"weights": self.weights, "means": self.means, "precisions_cholesky": self.precisions_cholesky}

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Mixture:
        """The same mixture elsewhere or in another precision."""
        return Mixture(*(t.to(device=device, dtype=dtype) for t in self.tensors().values()))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, (...), of x (..., D); computed in x's dtype, at least float32."""
        x, mixture = self._matched(x)
        log_det = mixture.precisions_cholesky.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        constant = mixture.weights.log() + log_det - 0.5 * x.shape[-1] * math.log(2 * math.pi)
        exponents = constant - 0.5 * mixture._distances(x)
        return exponents.squeeze(-1) if len(self.weights) == 1 else exponents.logsumexp(dim=-1)

    def mahalanobis(self, x: Tensor) -> Tensor:
        """Squared Mahalanobis distance, (...), of x (..., D) to the component for which it is smallest."""
        x, mixture = self._matched(x)
        return mixture._distances(x).amin(dim=-1)

    def spread(self) -> float:
        """Root of the mean over dimensions of the mixture's total variance, in the unit of its vectors."""
        mixture = self.to(dtype=torch.float64)
        identity = torch.eye(mixture.means.shape[1], dtype=torch.float64, device=mixture.means.device)
        # The covariance is U⁻ᵀ U⁻¹, so its trace is the sum of the squares of U⁻¹.
        factors = torch.linalg.solve_triangular(mixture.precisions_cholesky, identity, upper=True)
        within = factors.square().sum(dim=(1, 2))
        between = (mixture.means - mixture.mean()).square().sum(dim=1)
        return math.sqrt(float(mixture.weights @ (within + between)) / mixture.means.shape[1])

    def mean(self) -> Tensor:
        """Mean of the whole mixture, (D,)."""
        return self.weights @ self.means

    def _matched(self, x: Tensor) -> tuple[Tensor, Mixture]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return x.to(dtype), self.to(dtype=dtype)

    def _distances(self, x: Tensor) -> Tensor:
        """(..., K) squared Mahalanobis distances to every component.

        The mean is subtracted before the product: a narrow component far from the origin cancels nothing that way.
        """
        parts = zip(self.means, self.precisions_cholesky, strict=True)
        return torch.stack([((x - mean) @ factor).square().sum(dim=-1) for mean, factor in parts], dim=-1)


@dataclass(frozen=True, slots=True)
class MixtureFit:
    """A fitted mixture and how it came about.

    Attributes:
        mixture: float64, on the device of the vectors.
        components: its K.
        reg_covar: what was added to the covariances' diagonal in the fit that worked.
        bic: Bayesian information criterion of every K tried, lower is better.
        raised: whether `reg_covar` had to be raised above what was asked.
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
            since fewer leave a covariance to the regularisation alone.
        reg_covar: added to the covariances' diagonal; raised x100, at most to 1, while a fit fails.
        seed: of the start of expectation maximisation.

    Raises:
        NotFinite: if a vector is not finite, or no regularisation up to 1 gives a mixture.
        TooFewPictures: if n < max(2, K).
    """
    # Here and not above, as in _fit_regularised.
    from threadpoolctl import threadpool_limits

    found, dimensions = vectors.shape
    if found < max(2, components):
        needed = max(2, components)
        raise TooFewPictures("the target mixture", found, needed, f"{max(1, components)} components to fit")
    if not bool(torch.isfinite(vectors).all()):
        raise NotFinite("features of averages are not finite: encode in fp32, or use other encoder weights")
    tried = [components] if components else [k for k in BIC_COMPONENTS if k == 1 or found >= k * (dimensions + 1)]
    data = vectors.detach().to(device="cpu", dtype=torch.float64)
    # Products of a few dozen columns lose more by being shared out than by waiting; and a sum that is not shared out is
    # the same on every number of cores.
    with threadpool_limits(1, user_api="blas"):
        fits = {k: _fit_regularised(data, k, reg_covar, seed) for k in tried}
        bic = {k: float(model.bic(data.numpy())) for k, model in fits.items()}
    best = min(bic, key=lambda k: bic[k])
    used = float(fits[best].reg_covar)
    return MixtureFit(_as_mixture(fits[best], vectors.device), best, used, bic, used > reg_covar)


def _fit_regularised(data: Tensor, components: int, reg_covar: float, seed: int) -> GaussianMixture:
    # Here and not above: scoring evaluates mixtures without scikit-learn, which costs half a second to import.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    for tried in _regularisations(reg_covar):
        # k-means++ alone starts EM: whole k-means sums in parallel, in an order that changes from run to run.
        model = GaussianMixture(
            components, reg_covar=tried, init_params="k-means++", max_iter=MAX_ITERATIONS, random_state=seed
        )
        try:
            with warnings.catch_warnings():
                # EM that still improves after MAX_ITERATIONS is a usable density; BIC compares it as it stands.
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(data.numpy())
        except ValueError:  # scikit-learn: "some components have ill-defined empirical covariance"
            continue
        if bool(torch.isfinite(torch.from_numpy(model.precisions_cholesky_)).all()):
            return model
    raise NotFinite(
        f"no mixture of {components} components fits the averages, even with reg_covar {tried:g}: "
        "ask for fewer components, or for more averages"
    )


def _regularisations(first: float) -> Iterator[float]:
    """`first`, then each x100 (1e-6 after 0), the last at most 1."""
    yield first
    while first < LARGEST_REG_COVAR:
        first = min(first * 100 or 1e-6, LARGEST_REG_COVAR)
        yield first


def _as_mixture(model: GaussianMixture, device: torch.device) -> Mixture:
    arrays = model.weights_, model.means_, model.precisions_cholesky_
    return Mixture(*(torch.from_numpy(a).contiguous().to(device) for a in arrays))
