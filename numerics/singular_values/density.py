"""Mean and density of the singular values of a matrix known by its products: stochastic Lanczos quadrature with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from numerics.measure import MEMORY, draw
from numerics.singular_values.krylov import Products, begin, bidiagonal_matrix, lengthen


@dataclass(frozen=True)
class Estimate:
    """A random estimate with an interval.

    Attributes:
        value: `(...)`, the estimate.
        low, high: `(...)`, the interval: Student's over the probes, widened by the error bound of the quadrature.
        confidence: that the interval aims at.
        probes: random starts.
        products: Jacobian products, both ways counted, over all probes.
        converged: whether the half width is at most the tolerance asked for, times the value.
    """

    value: Tensor
    low: Tensor
    high: Tensor
    confidence: float
    probes: int
    products: int
    converged: bool


@dataclass(frozen=True)
class SpectralDensity:
    """Stochastic Lanczos quadrature: for each of `P` random unit vectors `z` of the small side, `sum_i <z, w_i>^2 delta(sigma_i)`.

    The mean of that measure over `z` is the distribution of the singular values. Known of it are the integrals of polynomials in `sigma^2` up
    to the degree `2 k`, in the form of a bidiagonal matrix; quadratures from it bracket other integrals.

    Attributes:
        alphas, betas: `(P, k)` in float64, the diagonal and what stands right of it.
        size: number of singular values, `min(m, n)`.
        confidence: of the intervals.
    """

    alphas: Tensor
    betas: Tensor
    size: int
    confidence: float

    @property
    def gauss(self) -> tuple[Tensor, Tensor]:
        """Nodes (singular values) and weights of Gauss's quadrature, `(P, k)` each; weights sum to 1 for each probe."""
        return _rule(bidiagonal_matrix(self.alphas, self.betas[:, :-1]))

    @property
    def radau(self) -> tuple[Tensor, Tensor]:
        """The same for Gauss-Radau's with one node at 0, `(P, k + 1)` each."""
        return _rule(bidiagonal_matrix(torch.nn.functional.pad(self.alphas, (0, 1)), self.betas))

    def mean(self, tolerance: float = math.inf) -> Estimate:
        """The mean singular value `(1 / min(m, n)) sum sigma_i`.

        For the function `sqrt(lambda)` of `J J^T` Gauss's quadrature is an upper bound and Radau's a lower one, for each probe
        (the derivatives of the root alternate in sign), so the interval holds at any number of steps.
        """
        upper, lower = ((nodes * weights).sum(1) for nodes, weights in (self.gauss, self.radau))
        return self._interval(lower, upper, tolerance)

    def share_below(self, points: Tensor) -> Estimate:
        """The share of the singular values that are at most `t`, for every entry `t` of `points (T,)`.

        For each probe the measure of `[0, t]` lies between the weights below `t` and those up to `t` of the quadrature that has a node
        at `t` (inequalities of Chebyshev, Markov and Stieltjes), so the interval holds at any number of steps, up to rounding.
        """
        bidiagonal = bidiagonal_matrix(self.alphas, self.betas[:, :-1])
        _, roots, right = torch.linalg.svd(bidiagonal)
        nodes, ends = roots.square(), right[..., -1].square()
        squares = points.to(nodes).square()[:, None, None]  # (T, 1, 1)
        nearest = 1e-9 * nodes.amax(-1, keepdim=True).clamp(min=torch.finfo(nodes.dtype).tiny)
        gaps = nodes - squares  # (T, P, k)
        gaps = torch.where(gaps.abs() > nearest, gaps, nearest)
        last = squares[..., 0] + self.betas[:, -1].square() * (ends / gaps).sum(-1)
        gram = torch.nn.functional.pad(bidiagonal.mT @ bidiagonal, (0, 1, 0, 1)).repeat(len(points), 1, 1, 1)
        gram[..., -1, -2] = gram[..., -2, -1] = self.alphas[:, -1] * self.betas[:, -1]
        gram[..., -1, -1] = last
        nodes, vectors = torch.linalg.eigh(gram)
        weights = vectors[..., 0, :].square()
        index = (nodes - squares).abs().argmin(-1, keepdim=True)
        sums = weights.cumsum(-1)
        upper = sums.gather(-1, index).squeeze(-1)
        lower = upper - weights.gather(-1, index).squeeze(-1)
        inside = (points.to(nodes) >= 0)[:, None]
        below = self._interval((lower * inside).mT, (upper * inside).mT, math.inf)
        low, high = below.low.clamp(min=0), below.high.clamp(max=1)
        return Estimate(below.value, low, high, self.confidence, *self._cost(), below.converged)

    def smooth(self, points: Tensor, width: float) -> Estimate:
        """The density of the singular values convolved with a Gaussian of standard deviation `width`, at `points (T,)`.

        The interval covers the error over probes only; features narrower than the distance of the nodes are not resolved.

        Raises:
            ValueError: `width` is not positive.
        """
        if not width > 0:
            raise ValueError(f"width = {width}: pass the positive standard deviation of the smoothing")
        nodes, weights = self.gauss
        gaps = (points.to(nodes)[:, None, None] - nodes) / width  # (T, P, k)
        bumps = torch.exp(-gaps.square() / 2) / (width * math.sqrt(2 * math.pi))
        each = (bumps * weights).sum(-1).mT
        return self._interval(each, each, math.inf)

    def _cost(self) -> tuple[int, int]:
        probes, steps = self.alphas.shape
        return probes, 2 * probes * steps

    def _interval(self, lower: Tensor, upper: Tensor, tolerance: float) -> Estimate:
        probes = len(lower)
        value, quantile = (lower.mean(0) + upper.mean(0)) / 2, float(stats.t.interval(self.confidence, probes - 1)[1])
        half = [quantile * bound.std(0) / math.sqrt(probes) for bound in (lower, upper)]
        low, high = lower.mean(0) - half[0], upper.mean(0) + half[1]
        converged = bool(((high - low) / 2 <= tolerance * value).all())
        return Estimate(value, low, high, self.confidence, *self._cost(), converged)


def spectral_density(
    products: Products,
    *,
    probes: int = 8,
    steps: int = 16,
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
    memory: int = MEMORY,
) -> SpectralDensity:
    """The distribution of the `min(m, n)` singular values by stochastic Lanczos quadrature, from `probes * steps` products each way.

    Probes are uniform on the sphere of the small side. A Golub-Kahan bidiagonalisation with full reorthogonalisation gives the nodes
    as singular values, without the squares that would cost half the digits.

    Args:
        products: the matrix (`jacobian_products`).
        probes: random starts, 2 at least.
        steps: nodes for each, `k`; no more than `min(m, n)` are taken.
        confidence: of the intervals.
        generator: draws the probes; default seeded with 0.
        memory: budget in bytes of the Krylov bases; probes are taken in groups that fit.

    Raises:
        ValueError: fewer than 2 probes or 1 step, or a confidence outside of (0, 1).
    """
    if probes < 2 or steps < 1:
        raise ValueError(f"{probes} probes and {steps} steps: 2 probes (for an interval) and 1 step at least")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}: between 0 and 1")
    generator = generator or torch.Generator().manual_seed(0)
    steps, large = min(steps, products.small), max(products.rows, products.columns)
    group = max(1, memory // (2 * (steps + 1) * (large + products.small) * products.like.element_size()))
    runs = []
    for first in range(0, probes, group):
        start = draw((min(group, probes - first), products.small), products.like, generator)
        runs.append(lengthen(products, begin(start, large), steps))
    alphas, betas = torch.cat([run.alphas for run in runs]), torch.cat([run.betas for run in runs])
    return SpectralDensity(alphas, betas, products.small, confidence)


def _rule(bidiagonal: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the quadrature: singular values, and squares of the first entries of the right singular vectors."""
    _, nodes, right = torch.linalg.svd(bidiagonal)
    return nodes, right[..., 0].square()


def mean_singular_value(
    products: Products,
    *,
    tolerance: float = 0.02,
    confidence: float = 0.95,
    steps: int = 12,
    probes: int = 8,
    max_probes: int = 64,
    generator: torch.Generator | None = None,
    memory: int = MEMORY,
    progress: Callable[[Estimate], None] | None = None,
) -> Estimate:
    """The mean of the `min(m, n)` singular values, with probes added, `probes` at a time, until the interval is narrow enough.

    A probe's error is about `c sqrt(2 / min(m, n))` of the mean, `c` the coefficient of variation of the singular values: some 4 % at 1280
    and `c = 1`. The interval includes the error of the quadrature (see `SpectralDensity.mean`); looking at it after every group
    makes its true confidence a little less than nominal.

    Args:
        products: the matrix (`jacobian_products`).
        tolerance: of half the interval's width, relative to the value.
        confidence, steps, generator, memory: as in `spectral_density`.
        probes: in a group, 2 at least.
        max_probes: in all; when they are used up, `converged` tells.
        progress: called after every group.

    Raises:
        ValueError: as `spectral_density`.
    """
    generator = generator or torch.Generator().manual_seed(0)
    density: SpectralDensity | None = None
    while True:
        count = 0 if density is None else len(density.alphas)
        more = spectral_density(
            products,
            probes=max(2, min(probes, max_probes - count)),
            steps=steps,
            confidence=confidence,
            generator=generator,
            memory=memory,
        )
        density = more if density is None else _joined(density, more)
        estimate = density.mean(tolerance)
        if progress is not None:
            progress(estimate)
        if estimate.converged or estimate.probes >= max_probes:
            return estimate


def _joined(a: SpectralDensity, b: SpectralDensity) -> SpectralDensity:
    return SpectralDensity(torch.cat([a.alphas, b.alphas]), torch.cat([a.betas, b.betas]), a.size, a.confidence)
