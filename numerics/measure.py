"""Measurements on batches of networks: losses, curvature, Jacobians, kernels, second derivatives.

Conventions, the same for every function of this file:

* a network is a flat parameter vector; `theta` has shape `(B, P)` and holds `B` networks;
* a map is `f(theta, X) -> (B, K, N)` with `X` of shape `(d, N)` (shared) or `(B, d, N)`; a loss is `loss(theta) -> (B,)`.
  Entry `b` of the result depends on row `b` alone, so one derivative of the sum over the batch differentiates all networks;
* outputs and inputs are flattened row by row: output `(k, n)` has index `k N + n`, input `(i, n)` has index `i N + n`;
* `|.|` is the Euclidean norm of a vector and the Frobenius norm of a matrix; all quantities are dimensionless;
* memory budgets are in bytes and are kept approximately: they bound the largest array, not the sum of all.

Every function is one tensor program over the batch on the device and in the dtype of its arguments. Derivatives are
reverse mode twice (or three times) through primitive operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Map = Callable[[Tensor, Tensor], Tensor]
Loss = Callable[[Tensor], Tensor]
Operator = Callable[[Tensor], Tensor]
Second = Literal["input_input", "input_param", "param_param", "all_params"]

MEMORY = 2**30
"""Default budget of the largest array: one GiB."""

ROUNDING = 1000 * torch.finfo(torch.float64).eps
"""A value smaller than this share of its operator's norm is rounding: its residual is relative to that norm."""


@dataclass(frozen=True)
class Measured:
    """One measured number a network.

    Attributes:
        value: `(B,)`.
        residual: `(B,)`, relative to `|value|`; 0 for a dense method, which is exact up to rounding.
        converged: `(B,)` bool; whether the residual is at most the tolerance. A small residual proves that the value is
            close to *an* eigenvalue (singular value, critical value), not that it is the extreme one.
        iterations: applications of the operator, over all starts; 0 for a dense method.
        method: "dense", "lanczos", "golub-kahan" or "power".
        vectors: the unit vectors at which an iterative method attains `value`, each with leading dimension `B`.
    """

    value: Tensor
    residual: Tensor
    converged: Tensor
    iterations: int
    method: str
    vectors: tuple[Tensor, ...] = ()


def exactly(value: Tensor) -> Measured:
    """The record of a dense measurement: residual 0, converged where the value is finite."""
    value = value.detach()
    return Measured(value, torch.zeros_like(value), value.isfinite(), 0, "dense")


# Losses


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy `1/N sum_n log(1 + sum_{k != y_n} exp(z_kn - z_{y_n n}))`, natural logarithm.

    Only differences of logits enter, and the logarithm is `log1p`, so a loss of 1e-15 (or 1e-300) keeps its digits; the
    derivatives of every order stay finite for any finite logits.

    Args:
        outputs: logits `z`, `(B, K, N)`, `K >= 2`.
        labels: classes `y` in `0 .. K-1`, `(N,)` or `(B, N)`.

    Returns:
        `(B,)`.

    Raises:
        ValueError: fewer than two classes.
    """
    classes = outputs.shape[-2]
    if classes < 2:
        raise ValueError(f"outputs have {classes} class: cross-entropy needs two or more; use squared_error for one output")
    true = torch.nn.functional.one_hot(labels, classes).mT.bool()
    differences = outputs - outputs.masked_fill(~true, 0.0).sum(-2, keepdim=True)
    others = differences.masked_fill(true, -math.inf).logsumexp(-2)
    return -torch.nn.functional.logsigmoid(-others).mean(-1)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error `1/(2N) sum_n |z_n - t_n|^2`.

    Args:
        outputs: `z`, `(B, K, N)`.
        targets: `t`, `(K, N)` or `(B, K, N)`.

    Returns:
        `(B,)`.
    """
    return (outputs - targets).square().sum((-2, -1)) / (2 * outputs.shape[-1])


# The largest eigenvalue


def normalised(v: Tensor) -> Tensor:
    """The rows of `(B, n)` divided by their norms; a zero row stays zero."""
    norm = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    return v / norm.where(norm > 0, torch.ones_like(norm))


def draw(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gaussian numbers with the device and dtype of `like`; without a generator, from one seeded with 0."""
    generator = generator or torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def lanczos_lambda_max(
    matvec: Operator,
    start: Tensor,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 300,
    generator: torch.Generator | None = None,
    starts: int = 1,
    memory: int = MEMORY,
) -> Measured:
    """Algebraically largest eigenvalue `max_{|v| = 1} <v, H v>` of `B` symmetric operators at once, by Lanczos.

    Full reorthogonalisation; thick restart when the basis reaches the memory budget; a network whose Krylov space is
    exhausted goes on from a fresh orthogonal direction. The residual `|H v - value v| / |value|` is computed from the
    returned vector, not from the recurrence. The value is a Rayleigh quotient, so it never exceeds the truth (up to
    rounding): an unfinished run UNDER-estimates, and says so by `converged = False`. Several starts guard against a
    start that misses the top eigenvector; the largest value is kept.

    Args:
        matvec: `(B, n) -> (B, n)`, each row through its own symmetric operator.
        start: `(B, n)`, nonzero rows.
        tolerance: of the relative residual.
        max_iterations: applications of `matvec` for each start, at most (one more gives the final residual).
        generator: draws the further starts and fresh directions; default seeded with 0.
        starts: number of runs; those after the first start from Gaussian vectors.
        memory: budget in bytes of the Krylov basis, `B x n` numbers a step.

    Returns:
        `Measured` with `vectors = (v,)`, `v` of shape `(B, n)`.
    """
    generator = generator or torch.Generator().manual_seed(0)
    best = _lanczos(matvec, start, tolerance, max_iterations, generator, memory)
    for _ in range(starts - 1):
        other = _lanczos(matvec, draw(tuple(start.shape), start, generator), tolerance, max_iterations, generator, memory)
        # a run within the tolerance of the larger one is the same eigenvalue: the smaller residual wins
        gain = other.value - best.value
        noise = tolerance**2 * best.value.abs()
        better = (gain > noise) | ((gain >= -noise) & (other.residual < best.residual))
        best = Measured(
            other.value.where(better, best.value),
            other.residual.where(better, best.residual),
            other.converged.where(better, best.converged),
            best.iterations + other.iterations,
            best.method,
            (other.vectors[0].where(better.unsqueeze(-1), best.vectors[0]),),
        )
    return best


@torch.no_grad()
def _lanczos(
    matvec: Operator, start: Tensor, tolerance: float, max_iterations: int, generator: torch.Generator, memory: int
) -> Measured:
    batch, n = start.shape
    budget = max(8, memory // max(1, batch * n * start.element_size()))
    capacity = min(n, max_iterations, budget)
    keep = max(1, capacity // 3)
    basis = start.new_empty(batch, min(capacity, 32) + 1, n)
    projected = start.new_zeros(batch, capacity, capacity)  # lower triangle of basis H basis^T
    basis[:, 0] = normalised(start)
    size, fresh, step, check = 0, 0, 0, min(8, capacity)
    history: list[tuple[int, float]] = []
    while True:
        if size + 1 == basis.shape[1]:
            basis = torch.cat([basis, torch.empty_like(basis[:, : min(basis.shape[1], capacity - size)])], 1)
        # w = H q - alpha q - beta q_before, then once more against the whole basis; all of it right after a restart
        w = matvec(basis[:, size])
        size, step = size + 1, step + 1
        low = 0 if size - 1 == fresh else size - 2
        w, coefficients = _orthogonalised(w, basis[:, low:size])
        projected[:, size - 1, low:size] = coefficients
        w, _ = _orthogonalised(w, basis[:, :size])
        norm = torch.linalg.vector_norm(w, dim=-1)
        scale = torch.linalg.vector_norm(projected[:, :size, :size], dim=(-2, -1))
        exhausted = norm <= ROUNDING * scale
        if size < n and bool(exhausted.any()):
            other = draw((batch, n), w, generator)
            for _ in range(2):
                other, _ = _orthogonalised(normalised(other), basis[:, :size])
            w = other.where(exhausted.unsqueeze(-1), w)
            norm = norm.masked_fill(exhausted, 0.0)
        if size < basis.shape[1]:
            basis[:, size] = normalised(w)
        full = size == capacity
        if step < check and not full and step < max_iterations:
            continue
        ritz, rotation = torch.linalg.eigh(projected[:, :size, :size])
        magnitude = ritz.abs().amax(-1)
        top = ritz[:, -1]
        estimate = float((norm * rotation[:, -1, -1].abs() / _denominator(top, magnitude)).max())
        last = step >= max_iterations or size == n
        if estimate <= 0.9 * tolerance or last:
            vector = normalised(torch.bmm(rotation[:, :, -1:].mT, basis[:, :size]).squeeze(1))
            image = matvec(vector)
            value = torch.linalg.vecdot(vector, image)
            error = torch.linalg.vector_norm(image - value.unsqueeze(-1) * vector, dim=-1)
            residual = error / _denominator(value, magnitude)
            converged = residual <= tolerance
            if last or bool(converged.all()):
                return Measured(value, residual, converged, step + 1, "lanczos", (vector,))
        check = step + _steps_to_go(history, step, estimate, tolerance)
        if full:
            kept = torch.bmm(rotation[:, :, -keep:].mT, basis[:, :size])
            basis[:, keep] = basis[:, size].clone()
            basis[:, :keep] = kept
            projected.zero_()
            projected[:, :keep, :keep] = torch.diag_embed(ritz[:, -keep:])
            size = fresh = keep


def _orthogonalised(w: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """`(w - basis^T c, c)` with `c = basis w`: the rows of `basis (B, m, n)` are orthonormal; shapes `(B, n)`, `(B, m)`."""
    coefficients = torch.bmm(w.unsqueeze(1), basis.mT)
    return torch.baddbmm(w.unsqueeze(1), coefficients, basis, alpha=-1).squeeze(1), coefficients.squeeze(1)


def _denominator(value: Tensor, magnitude: Tensor) -> Tensor:
    """`|value|`, or the operator's magnitude where the value is rounding; 1 for the zero operator."""
    denominator = value.abs().where(value.abs() > ROUNDING * magnitude, magnitude)
    return denominator.where(denominator > 0, torch.ones_like(denominator))


def _steps_to_go(history: list[tuple[int, float]], step: int, estimate: float, tolerance: float) -> int:
    """Steps until the next look at the Ritz values: the logarithm of the residual is extrapolated linearly."""
    history.append((step, estimate))
    before, worse = history[-2] if len(history) > 1 else (0, 1.0)
    if not 0 < estimate < worse:
        return 4
    rate = math.log(worse / estimate) / (step - before)
    return max(1, min(6, round(math.log(max(estimate / tolerance, 1.0)) / rate)))


# Curvature of a loss


def _gradient(loss: Loss, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The leaf `theta` and the gradients of the losses there, `(B, P)` each, with their graph."""
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf, create_graph=True)
    return leaf, gradient


def hessian_operator(loss: Loss, theta: Tensor) -> Operator:
    """The map `v -> D^2 loss(theta) v`, `(B, P) -> (B, P)`; the gradient's graph is built once and kept."""
    leaf, gradient = _gradient(loss, theta)
    if not gradient.requires_grad:  # a loss affine in theta
        return torch.zeros_like

    def product(v: Tensor) -> Tensor:
        (result,) = torch.autograd.grad(gradient, leaf, v, retain_graph=True, allow_unused=True)
        return torch.zeros_like(v) if result is None else result

    return product


def hessian_vector_product(loss: Loss, theta: Tensor, v: Tensor) -> Tensor:
    """Exact `D^2 loss(theta) v`, all networks in one program; `theta`, `v` and the result are `(B, P)`."""
    return hessian_operator(loss, theta)(v)


def hessian_lambda_max(
    loss: Loss,
    theta: Tensor,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 300,
    generator: torch.Generator | None = None,
    starts: int = 1,
    memory: int = MEMORY,
) -> Measured:
    """Largest eigenvalue `max_{|v| = 1} <v, D^2 loss(theta) v>` of each network's Hessian, matrix-free; `theta` is `(B, P)`.

    `lanczos_lambda_max` on Hessian-vector products, which see there for the arguments and what the result means.
    """
    start = draw(tuple(theta.shape), theta, generator)
    return lanczos_lambda_max(
        hessian_operator(loss, theta),
        start,
        tolerance=tolerance,
        max_iterations=max_iterations,
        generator=generator,
        starts=starts,
        memory=memory,
    )
