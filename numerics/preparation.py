"""Fixed maps on data that make a certificate possible or better: whitening, and random features for more samples than features.

Both are chosen before training and stay fixed: a certificate for the prepared data speaks of a network fed with `map(x)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from numerics.datasets import Data, check_full_column_rank
from numerics.device import DTYPE, generator
from numerics.realise import ACTIVATION_FUNCTIONS


def whitening(data: Data, scale: float = 1.0) -> Tensor:
    """The symmetric linear map `W = scale ((X X^T)^{1/2})^+`, of shape `(d, d)`, `+` for the pseudo-inverse.

    `W = scale U diag(1/s) U^T` from the thin decomposition `X = U diag(s) V^T`: 0 on what is orthogonal to the samples.

    Raises:
        ValueError: the data lack full column rank, or the scale is not positive and finite.
    """
    left, values, _ = _decomposition(data, scale)
    return scale * (left / values) @ left.T


def whitened(data: Data, scale: float = 1.0) -> Data:
    """The data `W X = scale U V^T`, `W = whitening(data, scale)`, with the same labels: all `N` singular values equal the scale.

    The product `U V^T`, the polar factor of `X`, is formed rather than `W X`: it does not suffer from the condition of `X`.

    Raises:
        ValueError: the data lack full column rank, or the scale is not positive and finite.
    """
    left, _, right = _decomposition(data, scale)
    return replace(data, X=scale * left @ right)


def random_feature_map(
    data: Data, width: int, seed: int, activation: str = "tanh", scale: float = 1.0
) -> Callable[[Tensor], Tensor]:
    """The map `x -> phi(scale (A (x - m) / r + b))` from `(d, n)` to `(width, n)`, one column a sample.

    `m` is the mean of the data's samples and `r^2` the mean of `|x - m|^2` over them; the entries of `A` (`width x d`) and `b` (`width`)
    are drawn from N(0, 1) by the seed. So over samples and draws `A (x - m) / r` and `b` both have mean square 1, and what `phi` is
    applied to has `2 scale^2`.

    Raises:
        ValueError: an unknown activation, a scale that is not positive and finite, a width below the number of samples, or
            samples that all coincide.
    """
    if activation not in ACTIVATION_FUNCTIONS:
        raise ValueError(f"unknown activation {activation!r}: use one of {', '.join(sorted(ACTIVATION_FUNCTIONS))}")
    _check_scale(scale)
    if width < data.samples:
        raise ValueError(
            f"width = {width} random features for N = {data.samples} samples: the columns of a {width} x {data.samples} matrix "
            f"cannot be independent; use width >= {data.samples} or fewer samples"
        )
    mean = data.X.mean(1, keepdim=True)
    spread = float((data.X - mean).square().sum(0).mean().sqrt())
    if not 0 < spread < math.inf:
        raise ValueError(
            f"the spread of the samples is {spread}: give distinct samples, of a size that doubles can square"
        )
    source = generator(seed)
    directions = torch.randn(width, data.features, dtype=DTYPE, generator=source).to(data.X.device)
    offsets = torch.randn(width, 1, dtype=DTYPE, generator=source).to(data.X.device)
    phi = ACTIVATION_FUNCTIONS[activation]
    return lambda x: phi(scale * (directions @ (x - mean) / spread + offsets))


def random_features(data: Data, width: int, seed: int, activation: str = "tanh", scale: float = 1.0) -> Data:
    """The data's images under `random_feature_map`, `(width, N)` with the same labels: full column rank also where `N > d`.

    Raises:
        ValueError: as `random_feature_map`, or the features still lack full column rank (samples that coincide, the identity with
            `N > d + 1`).
    """
    prepared = replace(data, X=random_feature_map(data, width, seed, activation, scale)(data.X))
    check_full_column_rank(prepared)
    return prepared


def _decomposition(data: Data, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    _check_scale(scale)
    check_full_column_rank(data)
    left, values, right = torch.linalg.svd(data.X, full_matrices=False)
    return left, values, right


def _check_scale(scale: float) -> None:
    if not 0 < scale < math.inf:
        raise ValueError(f"scale = {scale}: give a positive finite number")
