"""Linear denoising autoencoders in batches: minimisers, gradient descent on both factors, and the risk on fresh data. Matrices are `(*batch, d, n)`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from numerics.device import DTYPE


def best_rank(matrix: Tensor, k: int) -> Tensor:
    """`[M]_k`, the best approximation of rank `k` in the Frobenius norm."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[..., :k] * values[..., None, :k]) @ right[..., :k, :]


def network(target: Tensor, observed: Tensor, k: int, *, skip: bool, project: bool = True) -> Tensor:
    """The linear map `W (*batch, d, d)` of the trained autoencoder: `[T P]_k Y^+` of the target `X`, with skip `I` minus that of the target `A`.

    With `project=False` the projection `P` on the row space of `Y` is left out: `[X]_k Y^+` and `I - [A]_k Y^+`.
    """
    inverse = torch.linalg.pinv(observed)
    seen = target @ inverse @ observed if project else target
    map_ = best_rank(seen, k) @ inverse
    return torch.eye(observed.shape[-2], dtype=DTYPE) - map_ if skip else map_


def loss(weight: Tensor, clean: Tensor, observed: Tensor) -> Tensor:
    """`|X - W Y|_F^2`, `(*batch,)`."""
    return (clean - weight @ observed).square().sum((-2, -1))


@dataclass(frozen=True, eq=False)
class Descended:
    """Where gradient descent ended: `outer (B, d, k)`, `inner (B, k, d)`, and `|T - W2 W1 Y|^2` at every recorded step `(steps, B)`."""

    outer: Tensor
    inner: Tensor
    losses: Tensor


def descend(target: Tensor, observed: Tensor, outer: Tensor, inner: Tensor, steps: int, step_size: float) -> Descended:
    """Gradient descent on `|T - W2 W1 Y|_F^2 / 2` over both factors, every problem of the batch by itself.

    Args:
        target, observed: `T`, `Y`, `(B, d, n)`.
        outer, inner: starting points `W2 (B, d, k)`, `W1 (B, k, d)`.
        step_size: in units of `1 / (|Y|^2 (|W1|^2 + |W2|^2) + |T| |Y|)` at the current point, an upper bound of the Hessian's norm there.
    """
    second, cross = observed @ observed.mT, target @ observed.mT
    offset = target.square().sum((-2, -1))
    bound = torch.linalg.matrix_norm(second, 2), torch.linalg.matrix_norm(cross, 2)
    recorded = []
    for step in range(steps):
        whole = outer @ inner
        residual = whole @ second - cross
        size = bound[0] * (outer.square().sum((-2, -1)) + inner.square().sum((-2, -1))) + bound[1]
        eta = (step_size / size)[:, None, None]
        if step % 50 == 0:
            recorded.append(offset + (whole * (residual - cross)).sum((-2, -1)))
        outer, inner = outer - eta * residual @ inner.mT, inner - eta * outer.mT @ residual
    return Descended(outer, inner, torch.stack(recorded))


def risk(weight: Tensor, clean: Tensor, variance: float) -> Tensor:
    """`E|x - W (x + a)|^2` over noise `a` of that variance, mean over the columns of `clean (*batch, d, m)`: `|(I - W) X|^2 / m + variance |W|^2`."""
    return loss(weight, clean, clean) / clean.shape[-1] + variance * weight.square().sum((-2, -1))
