"""Paired differences over trials: their mean with a bootstrap confidence interval, and what it says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from numerics.device import generator

LEAST = 3
"""Fewest trials that are compared: one run, or two, decide nothing."""
RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over trials and its percentile-bootstrap confidence interval `[low, high]` at a level.

    The interval of few trials is short of its level: three of one sign always exclude 0, which chance alone gives every fourth time.
    """

    mean: float
    low: float
    high: float
    level: float
    trials: int

    def says(self, above: str, below: str) -> str:
        """`above` or `below` where the interval excludes 0, else "undecided"."""
        return above if self.low > 0 else below if self.high < 0 else "undecided"


def resampled_means(values: Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> Tensor:
    """Means over trials drawn with replacement: `(T, ...)` -> `(resamples, ...)`; the draws depend on `T` and the seed alone.

    Raises:
        ValueError: fewer than 3 trials, or a value that is not finite.
    """
    trials = len(values)
    if trials < LEAST:
        raise ValueError(f"{trials} trials: at least {LEAST} paired trials are needed to compare variants")
    if not bool(values.isfinite().all()):
        trial = int((~values.isfinite().reshape(trials, -1)).any(1).nonzero()[0])
        raise ValueError(f"a value of trial {trial} is not finite: leave the trial out and say so")
    drawn = torch.randint(trials, (resamples, trials), generator=generator(seed))
    counts = torch.nn.functional.one_hot(drawn, trials).sum(1).to(values.dtype)
    return (counts @ values.reshape(trials, -1) / trials).reshape(resamples, *values.shape[1:])


def interval(values: Tensor, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean of `(T,)` paired differences and its confidence interval.

    Raises:
        ValueError: a level outside (0, 1), fewer than 3 trials, or a value that is not finite.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level}: give a number between 0 and 1")
    means = resampled_means(values, resamples=resamples, seed=seed)
    tail = (1 - level) / 2
    low, high = (float(means.quantile(q)) for q in (tail, 1 - tail))
    return Interval(float(values.mean()), low, high, level, len(values))
