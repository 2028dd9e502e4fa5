"""Batches of random networks and inputs of very different kinds, each drawn by one tensor program over the batch.

Sampling does not refute a false bound: these are starting points for `numerics.search` and a first look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from numerics.device import DTYPE
from numerics.realise import Realisation

SPIKE = 10.0
"""Norm of the rank-one spike of the `spiked` kind, in units of the Gaussian part's operator norm."""


def _randn(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=DTYPE, device=generator.device)


def _gaussian(generator: Generator, count: int, rows: int, columns: int) -> Tensor:
    # sqrt(rows) + sqrt(columns) is the operator norm of a standard Gaussian matrix, up to a fluctuation of order 1
    return _randn(generator, count, rows, columns) / (math.sqrt(rows) + math.sqrt(columns))


def _orthogonal(generator: Generator, count: int, rows: int, columns: int) -> Tensor:
    q, r = torch.linalg.qr(_randn(generator, count, max(rows, columns), min(rows, columns)))
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(DTYPE)  # without them Q is not Haar distributed
    q = q * signs.unsqueeze(-2)
    return q if rows >= columns else q.mT


def _low_rank(generator: Generator, count: int, rows: int, columns: int) -> Tensor:
    rank = max(1, min(rows, columns) // 2)
    return _gaussian(generator, count, rows, rank) @ _gaussian(generator, count, rank, columns)


def _spiked(generator: Generator, count: int, rows: int, columns: int) -> Tensor:
    left, right = _randn(generator, count, rows, 1), _randn(generator, count, 1, columns)
    spike = left * right / (left.norm(dim=-2, keepdim=True) * right.norm(dim=-1, keepdim=True))
    return _gaussian(generator, count, rows, columns) + SPIKE * spike


_DRAWS: dict[str, Callable[[Generator, int, int, int], Tensor]] = {
    "gaussian": _gaussian,
    "orthogonal": _orthogonal,
    "low_rank": _low_rank,
    "spiked": _spiked,
}

KINDS = tuple(_DRAWS)
"""Independent entries; orthonormal rows or columns; half the possible rank; Gaussian plus a large rank-one term."""


def matrices(generator: Generator, count: int, rows: int, columns: int, kind: str, scale: float) -> Tensor:
    """`count` random matrices `(count, rows, columns)` of operator norm about `scale` (`SPIKE` times it if spiked).

    Raises:
        ValueError: an unknown kind, or a count below 1.
    """
    if kind not in _DRAWS:
        raise ValueError(f"unknown kind {kind!r} of random matrix: use one of {', '.join(KINDS)}")
    if count < 1:
        raise ValueError(f"count = {count}: draw at least one")
    return scale * _DRAWS[kind](generator, count, rows, columns)


def _array(generator: Generator, count: int, shape: tuple[int, ...], kind: str, scale: float) -> Tensor:
    if len(shape) == 2:
        return matrices(generator, count, *shape, kind, scale)
    if kind == "orthogonal":  # a vector of signs is the diagonal of an orthogonal matrix
        return scale * (2.0 * (_randn(generator, count, *shape) > 0).to(DTYPE) - 1.0)
    size = math.prod(shape)
    return matrices(generator, count, size, 1, kind, scale).reshape(count, *shape)


def draw(realisation: Realisation, count: int, kind: str, scale: float, generator: Generator) -> Tensor:
    """`theta` of shape `(count, P)`: every parameter array of every network drawn independently.

    A matrix is drawn by `matrices`; a vector (gain, bias) as a matrix of one column, of signs for `orthogonal`.

    Raises:
        ValueError: an unknown kind, or a count below 1.
    """
    if not realisation.parameters:
        return torch.zeros(count, 0, dtype=DTYPE, device=generator.device)
    return realisation.pack([_array(generator, count, spec.shape, kind, scale) for spec in realisation.parameters])


def mixture(
    realisation: Realisation, count: int, generator: Generator, scales: Sequence[float] = (0.1, 1.0, 10.0)
) -> tuple[Tensor, list[str]]:
    """`count` networks split as evenly as possible over all kinds and scales: `theta (count, P)` and a label for each.

    With a count below `len(KINDS) * len(scales)` the first combinations get one network each, kinds varying fastest.
    """
    combinations = [(kind, scale) for scale in scales for kind in KINDS]
    share, rest = divmod(count, len(combinations))
    counts = [share + (index < rest) for index in range(len(combinations))]
    pieces = [draw(realisation, n, *c, generator) for c, n in zip(combinations, counts, strict=True) if n]
    if not pieces:
        raise ValueError(f"count = {count}: draw at least one")
    labels = [f"{kind} x {scale:g}" for (kind, scale), n in zip(combinations, counts, strict=True) for _ in range(n)]
    return torch.cat(pieces), labels


def random_inputs(shape: tuple[int, int], count: int, kind: str, scale: float, generator: Generator) -> Tensor:
    """`count` feature matrices, shape `(count, d, N)`, by `matrices`."""
    return matrices(generator, count, *shape, kind, scale)


def clip(array: Tensor, radius: float, dims: int) -> Tensor:
    """`array` scaled down to Euclidean norm at most `radius` over its last `dims` dimensions; no NaN at 0.

    Raises:
        ValueError: a radius that is not positive.
    """
    if not radius > 0:
        raise ValueError(f"radius = {radius}: a ball needs a positive radius")
    if math.isinf(radius):
        return array
    last = tuple(range(-dims, 0))
    return array * (radius * (array * array).sum(last, keepdim=True).clamp_min(radius**2).rsqrt())


def project(realisation: Realisation, theta: Tensor, radius: float) -> Tensor:
    """Every parameter array scaled down to Euclidean norm at most `radius`: the ball of `theory.atoms.base.Domain`.

    `theta` of shape `(*batch, P)`; differentiable; up to rounding of one unit in the last place.
    """
    return (
        realisation.pack(
            [
                clip(a, radius, len(spec.shape))
                for a, spec in zip(realisation.split(theta), realisation.parameters, strict=True)
            ]
        )
        if realisation.parameters
        else theta
    )
