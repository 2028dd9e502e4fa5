"""Means, slopes and roots with their confidence intervals over networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from numerics.device import DTYPE
from numerics.skips.paired import LEVEL, resampled_means


@dataclass(frozen=True)
class Mean:
    """A sample mean and its standard error."""

    value: float
    error: float
    count: int

    @classmethod
    def of(cls, values: Tensor) -> Mean:
        return cls(float(values.mean()), float(values.std()) / math.sqrt(len(values)), len(values))

    def deviations(self, law: float) -> float:
        """`|mean - law|` in standard errors."""
        return abs(self.value - law) / self.error


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval `[low, high]` at level 0.95 over networks."""

    value: float
    low: float
    high: float

    def within(self, target: float, distance: float) -> bool:
        """Whether the whole interval lies within a distance of the target."""
        return abs(self.low - target) <= distance and abs(self.high - target) <= distance


def slope(x: Tensor, squares: Tensor, *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """Least-squares slope of `log root-mean-square` against `log x`, the networks resampled with replacement.

    Args:
        x: `(points,)`, positive.
        squares: `(networks, points)`, squared errors.

    Raises:
        ValueError: fewer than two points, or values that are not positive and finite.
    """
    if len(x) < 2:
        raise ValueError(f"{len(x)} points: a slope needs at least 2")
    if not bool((squares.mean(0) > 0).all()) or not bool(squares.isfinite().all()):
        raise ValueError("mean squared errors must be positive and finite: leave out points at rounding level")
    x = x.to(squares)
    centred = x.log() - x.log().mean()
    direction = centred / centred.square().sum()

    def of(mean_squares: Tensor) -> Tensor:
        return (mean_squares.log() / 2) @ direction

    again = of(resampled_means(squares, resamples=resamples, seed=seed))
    tail = (1 - LEVEL) / 2
    low, high = (float(again.quantile(q)) for q in (tail, 1 - tail))
    return Estimate(float(of(squares.mean(0))), low, high)


def rate(depths: Tensor, logs: list[Tensor]) -> Estimate:
    """Least-squares slope of the mean of `logs` against `log depth`, with networks of their own at each depth: a normal interval.

    Args:
        depths: `(points,)`.
        logs: for each depth the networks' logarithms, `(networks,)`.

    Raises:
        ValueError: fewer than two depths.
    """
    if len(depths) < 2:
        raise ValueError(f"{len(depths)} depths: a slope needs at least 2")
    x = depths.to(DTYPE).log()
    direction = (x - x.mean()) / (x - x.mean()).square().sum()
    value = sum(float(c) * float(v.mean()) for c, v in zip(direction, logs, strict=True))
    variance = sum(float(c) ** 2 * float(v.var()) / len(v) for c, v in zip(direction, logs, strict=True))
    return Estimate(value, value - 1.96 * variance**0.5, value + 1.96 * variance**0.5)


def critical_beta(betas: Tensor, shallow: Tensor, deep: Tensor) -> Estimate:
    """Where the relative difference neither grows nor decays from one depth to another: the root in `beta` of the mean of `deep - shallow`.

    Args:
        betas: `(betas,)`, increasing.
        shallow, deep: `(networks, betas)`, logarithms of the relative difference at the two depths, drawn independently of each other.

    Returns:
        The root by linear interpolation; the interval is the normal one of the mean over the slope there.

    Raises:
        ValueError: where the difference has one sign over all `betas`.
    """
    gap = deep.mean(0) - shallow.mean(0)
    below = (gap[:-1] > 0) & (gap[1:] <= 0)
    if not bool(below.any()):
        raise ValueError(
            f"no critical scale between {float(betas[0]):g} and {float(betas[-1]):g}: widen the range of beta"
        )
    i = int(below.nonzero()[-1])
    rate = float((gap[i + 1] - gap[i]) / (betas[i + 1] - betas[i]))
    root = float(betas[i]) - float(gap[i]) / rate
    error = math.sqrt(float(deep[:, i].var()) / len(deep) + float(shallow[:, i].var()) / len(shallow)) / abs(rate)
    return Estimate(root, root - 1.96 * error, root + 1.96 * error)
