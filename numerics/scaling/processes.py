"""Gaussian processes over depth that weights are drawn from: fractional Gaussian noise, and smooth increments; with their exact covariances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from numerics.device import DTYPE

BANDWIDTH = 0.01
"""The squared-exponential kernel `exp(-(s - t)^2 / (2 bandwidth))` of the published protocol ("variance 0.01")."""
NEGLIGIBLE = 1e-14
"""Eigenvalues of a smooth kernel below this part of the largest are left out: they are rounding."""


def fractional_covariance(hurst: float, lags: Tensor) -> Tensor:
    """Covariance of fractional Gaussian noise of variance 1: `(|k+1|^{2H} - 2 |k|^{2H} + |k-1|^{2H}) / 2` at integer lags `k`.

    Raises:
        ValueError: a Hurst index outside (0, 1).
    """
    if not 0 < hurst < 1:
        raise ValueError(f"Hurst index {hurst}: give a number strictly between 0 and 1 (1/2: independent weights)")
    k = lags.abs().to(DTYPE)
    return ((k + 1) ** (2 * hurst) - 2 * k ** (2 * hurst) + (k - 1).abs() ** (2 * hurst)) / 2


def embedding_eigenvalues(hurst: float, length: int) -> Tensor:
    """Eigenvalues `(2 length,)` of the circulant matrix that holds the covariance of `length` values (Davies and Harte).

    Its first row is `r_0, .., r_N, r_{N-1}, .., r_1`, real and even, so its Fourier transform is real; for fractional Gaussian noise it is positive.

    Raises:
        ValueError: a length below 1, or a Hurst index outside (0, 1).
    """
    if length < 1:
        raise ValueError(f"length {length}: give at least 1")
    row = fractional_covariance(hurst, torch.arange(length + 1))
    values = torch.fft.fft(torch.cat([row, row[1:-1].flip(0)])).real
    if float(values.min()) < -1e-10 * float(values.max()):
        raise ValueError(f"the circulant embedding of Hurst index {hurst} is not positive at length {length}")
    return values.clamp(min=0)


def fractional_noise(hurst: float, length: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Fractional Gaussian noise `(length, *shape)`: Gaussian, independent over `shape`, stationary along the first axis, variance 1.

    Circulant embedding: `fft(sqrt(lambda / M) w)` with complex white noise `w`, of which real and imaginary part are two independent samples. Every
    frequency is treated alike, so no coefficient has a case of its own to go wrong (as the one at the Nyquist frequency does in the authors' code).

    Raises:
        ValueError: a length below 1, or a Hurst index outside (0, 1).
    """
    eigenvalues = embedding_eigenvalues(hurst, length).to(generator.device)
    size, count = len(eigenvalues), math.prod(shape)
    pairs = (count + 1) // 2
    white = torch.randn(pairs, size, 2, dtype=DTYPE, device=generator.device, generator=generator)
    values = torch.fft.fft(torch.view_as_complex(white) * (eigenvalues / size).sqrt())[:, :length]
    both = torch.cat([values.real, values.imag])[:count]
    return both.T.reshape(length, *shape)


def published_covariance_error(hurst: float, length: int) -> float:
    """Largest error of the covariance of the authors' sampler: it gives the Nyquist frequency the eigenvalue of frequency 0.

    The covariance at lag `k` is then wrong by `(lambda_0 - lambda_N) (-1)^k / (2N)`.
    """
    eigenvalues = embedding_eigenvalues(hurst, length)
    return float((eigenvalues[0] - eigenvalues[length]).abs() / (2 * length))


@dataclass(frozen=True)
class Smooth:
    """Smooth Gaussian functions of the depth on a grid of `length` steps, of variance 1 at every step.

    Attributes:
        factor: `(length, rank)`; the values at step `k` are `factor[k] @ coefficients`.
        coefficients: `(rank, *shape)`, independent standard normal.
    """

    factor: Tensor
    coefficients: Tensor

    def at(self, step: int) -> Tensor:
        """The values at one step, of the shape asked for."""
        return torch.tensordot(self.factor[step], self.coefficients, dims=1)


def smooth_covariance(times: Tensor, bandwidth: float = BANDWIDTH, lag: float = 0.0) -> Tensor:
    """Covariance of normalised increments `(X(t + lag) - X(t)) / std`, of the derivative where `lag` is 0, with a squared-exponential kernel of `X`.

    Raises:
        ValueError: a bandwidth that is not positive.
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth {bandwidth}: give a positive number")
    u = times[:, None] - times[None, :]
    if lag == 0:
        return (1 - u**2 / bandwidth) * torch.exp(-(u**2) / (2 * bandwidth))
    kernel = [torch.exp(-((u + shift) ** 2) / (2 * bandwidth)) for shift in (0.0, lag, -lag)]
    return (2 * kernel[0] - kernel[1] - kernel[2]) / (2 - 2 * math.exp(-(lag**2) / (2 * bandwidth)))


def smooth(
    length: int, shape: tuple[int, ...], generator: torch.Generator, bandwidth: float = BANDWIDTH, lag: float = 0.0
) -> Smooth:
    """Smooth functions at the times `0, 1/length, .., 1`, as many as `shape` has entries.

    The published weights are increments over one layer, normalised to variance 1 (`lag = 1/length`); their limit in the depth, the normalised
    derivative, is one function for all depths (`lag = 0`) and is what an order of convergence needs.

    Raises:
        ValueError: a length below 1, or a bandwidth that is not positive.
    """
    if length < 1:
        raise ValueError(f"length {length}: give at least 1")
    covariance = smooth_covariance(torch.linspace(0, 1, length + 1, dtype=DTYPE), bandwidth, lag)
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > NEGLIGIBLE * values[-1]
    factor = (vectors[:, kept] * values[kept].sqrt()).to(generator.device)
    rank = factor.shape[1]
    return Smooth(factor, torch.randn(rank, *shape, dtype=DTYPE, device=generator.device, generator=generator))
