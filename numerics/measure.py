"""Measurements on batches of networks: losses, curvature, Jacobians, kernels, second derivatives.

Conventions, the same for every function of this file:

* a network is a flat parameter vector; `theta` has shape `(B, P)` and holds `B` networks;
* a map is `f(theta, X) -> (B, K, N)` with `X` of shape `(d, N)` (shared) or `(B, d, N)`; a loss is
  `loss(theta) -> (B,)`. Entry `b` of the result depends on row `b` alone, so one derivative of the sum over the batch
  differentiates all networks;
* outputs and inputs are flattened row by row: output `(k, n)` has index `k N + n`, input `(i, n)` has index `i N + n`;
* `|.|` is the Euclidean norm of a vector and the Frobenius norm of a matrix; all quantities are dimensionless;
* memory budgets are in bytes and are kept approximately: they bound the largest array, not the sum of all.

Every function is one tensor program over the batch on the device and in the dtype of its arguments. Derivatives are
reverse mode twice (or three times) through primitive operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

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


def cross_entropies(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, `log(1 + sum_{k != y_n} exp(z_kn - z_{y_n n}))`, natural logarithm.

    Only differences of logits enter, and the logarithm is `log1p`, so a loss of 1e-15 (or 1e-300) keeps its digits, and
    so do its gradient and its Hessian; the derivatives stay finite for any finite logits.

    Args:
        outputs: logits `z`, `(B, K, N)`, `K >= 2`.
        labels: classes `y` in `0 .. K-1`, `(N,)` or `(B, N)`.

    Returns:
        `(B, N)`.

    Raises:
        ValueError: fewer than two classes.
    """
    classes = outputs.shape[-2]
    if classes < 2:
        raise ValueError(f"outputs have {classes} class: cross-entropy needs two or more; else use squared_error")
    true: Tensor = torch.nn.functional.one_hot(labels, classes).mT.bool()
    differences = outputs - outputs.masked_fill(~true, 0.0).sum(-2, keepdim=True)
    others = differences.masked_fill(true, -math.inf).logsumexp(-2)
    # softplus with the threshold 40 is exact in float64, and unlike logsigmoid keeps the curvature of a tiny loss
    losses: Tensor = torch.nn.functional.softplus(others, threshold=40.0)
    return losses


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over the samples of `cross_entropies`, `(B,)`."""
    return cross_entropies(outputs, labels).mean(-1)


def squared_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of each sample, `|z_n - t_n|^2 / 2`.

    Args:
        outputs: `z`, `(B, K, N)`.
        targets: `t`, `(K, N)` or `(B, K, N)`.

    Returns:
        `(B, N)`.
    """
    return (outputs - targets).square().sum(-2) / 2


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error `1/(2N) sum_n |z_n - t_n|^2`, `(B,)`."""
    return squared_errors(outputs, targets).mean(-1)


# The largest eigenvalue


def normalised(v: Tensor) -> Tensor:
    """The rows of `(B, n)` divided by their norms; a zero row stays zero."""
    norm: Tensor = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    return v / norm.where(norm > 0, torch.ones_like(norm))


def draw(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Gaussian numbers with the device and dtype of `like`, drawn on the generator's own device."""
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
        generator: draws the further starts and fresh directions. It must not repeat the draw that gave `start`, so the
            default is seeded with 1, and functions that draw `start` themselves pass their own generator on.
        starts: number of runs; those after the first start from Gaussian vectors.
        memory: budget in bytes of the Krylov basis, `B x n` numbers a step.

    Returns:
        `Measured` with `vectors = (v,)`, `v` of shape `(B, n)`.
    """
    generator = generator or torch.Generator().manual_seed(1)
    best = _lanczos(matvec, start, tolerance, max_iterations, generator, memory)
    for _ in range(starts - 1):
        start = draw(tuple(start.shape), start, generator)
        other = _lanczos(matvec, start, tolerance, max_iterations, generator, memory)
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
    basis = start.new_empty(batch, capacity + 1, n)  # on a CPU, pages that no step reaches cost nothing
    projected = start.new_zeros(batch, capacity, capacity)  # lower triangle of basis H basis^T
    basis[:, 0] = normalised(start)
    size, fresh, step, check = 0, 0, 0, 12
    history: list[tuple[int, float]] = []
    while True:
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
            for _ in range(3):
                other, _ = _orthogonalised(normalised(other), basis[:, :size])
            w = other.where(exhausted.unsqueeze(-1), w)
            norm = norm.masked_fill(exhausted, 0.0)
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
    """`w - basis^T c`, `(B, n)`, and `c = basis w`, `(B, m)`; the rows of `basis (B, m, n)` are orthonormal."""
    coefficients = torch.bmm(w.unsqueeze(1), basis.mT)
    return torch.baddbmm(w.unsqueeze(1), coefficients, basis, alpha=-1).squeeze(1), coefficients.squeeze(1)


def _denominator(value: Tensor, magnitude: Tensor) -> Tensor:
    """`|value|`, or the operator's magnitude where the value is rounding; 1 for the zero operator."""
    denominator = value.abs().where(value.abs() > ROUNDING * magnitude, magnitude)
    return denominator.where(denominator > 0, torch.ones_like(denominator))


def _steps_to_go(history: list[tuple[int, float]], step: int, estimate: float, tolerance: float) -> int:
    """Steps until the next look at the Ritz values: the residual's logarithm is extrapolated, with restraint."""
    history.append((step, estimate))
    before, worse = history[-2] if len(history) > 1 else (0, 1.0)
    if not 0 < estimate < worse:
        return 4
    rate = math.log(worse / estimate) / (step - before)
    return max(1, min(12, round(0.8 * math.log(max(estimate / tolerance, 1.0)) / rate)))


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
    return lambda v: _pull(gradient, leaf, v)


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
    """Largest eigenvalue `max_{|v| = 1} <v, D^2 loss(theta) v>` of each network's Hessian, matrix-free.

    `lanczos_lambda_max` on Hessian-vector products from a Gaussian start; see there for the arguments and for what an
    unfinished run means.
    """
    generator = generator or torch.Generator().manual_seed(0)
    return lanczos_lambda_max(
        hessian_operator(loss, theta),
        draw(tuple(theta.shape), theta, generator),
        tolerance=tolerance,
        max_iterations=max_iterations,
        generator=generator,
        starts=starts,
        memory=memory,
    )


def dense_hessian_lambda_max(loss: Loss, theta: Tensor, *, memory: int = 4 * MEMORY) -> Measured:
    """The same from the whole Hessian `(B, P, P)`: the referee of `hessian_lambda_max`.

    Raises:
        ValueError: the Hessians exceed the memory budget.
    """
    batch, n = theta.shape
    size = batch * n * n * theta.element_size()
    if size > memory:
        raise ValueError(
            f"{batch} Hessians of {n} x {n} need {size} bytes, above the budget of {memory}: pass fewer rows of theta"
        )
    leaf, gradient = _gradient(loss, theta)
    hessian = _jacobian(gradient, leaf, MEMORY)
    return exactly(torch.linalg.eigvalsh((hessian + hessian.mT) / 2)[:, -1])


# First derivatives of a map


def _flat_map(f: Map, theta: Tensor, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Leaves `theta (B, P)` and `X (B, d N)`, and the outputs `(B, K N)` with their graph."""
    with torch.enable_grad():
        parameters = theta.detach().clone().requires_grad_()
        inputs = X.detach().expand(theta.shape[0], *X.shape[-2:]).flatten(1).clone().requires_grad_()
        return parameters, inputs, f(parameters, inputs.view(-1, *X.shape[-2:])).flatten(1)


def _pull(outputs: Tensor, leaf: Tensor, cotangent: Tensor, *, graph: bool = False, many: bool = False) -> Tensor:
    """`J^T cotangent` for `J` the derivative of `outputs` in `leaf`; `many` cotangents have one more leading dimension.

    Zero where `outputs` does not depend on `leaf`, which autograd reports in three different ways.
    """
    result = None
    if outputs.requires_grad:
        with torch.enable_grad():
            (result,) = torch.autograd.grad(
                outputs,
                leaf,
                cotangent,
                retain_graph=True,
                create_graph=graph,
                allow_unused=True,
                is_grads_batched=many,
            )
    if result is None:
        return leaf.new_zeros(cotangent.shape[: cotangent.dim() - 1] + leaf.shape[-1:])
    return result


def _jacobian(outputs: Tensor, leaf: Tensor, memory: int) -> Tensor:
    """Dense `(B, M, n)` of `outputs (B, M)` in `leaf (B, n)`, by products with blocks of unit cotangents."""
    return torch.cat([rows for _, rows in _jacobian_rows(outputs, leaf, memory)], 1)


def _jacobian_rows(outputs: Tensor, leaf: Tensor, memory: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows of the Jacobian: their indices and `(B, block, n)`."""
    batch, size = outputs.shape
    block = max(1, memory // (batch * (leaf.shape[1] + size) * leaf.element_size()))
    for rows in torch.split(torch.arange(size, device=leaf.device), block):
        units = torch.nn.functional.one_hot(rows, size).to(leaf.dtype)
        cotangents = units.unsqueeze(1).expand(-1, batch, -1)
        yield rows, _pull(outputs, leaf, cotangents, many=True).transpose(0, 1)


def param_jacobian(f: Map, theta: Tensor, X: Tensor, *, memory: int = MEMORY) -> Tensor:
    """Jacobian of the outputs in the parameters, dense, `(B, K N, P)`."""
    parameters, _, outputs = _flat_map(f, theta, X)
    return _jacobian(outputs, parameters, memory)


def input_jacobian(f: Map, theta: Tensor, X: Tensor, *, memory: int = MEMORY) -> Tensor:
    """Jacobian of the outputs in the inputs, dense, `(B, K N, d N)`; samples may interact, as in a batch norm."""
    _, inputs, outputs = _flat_map(f, theta, X)
    return _jacobian(outputs, inputs, memory)


def jacobian_operators(f: Map, theta: Tensor, X: Tensor, of: Literal["input", "param"]) -> tuple[Operator, Operator]:
    """`(jvp, vjp)` of the map in its inputs `(B, d N)` or parameters `(B, P)`, for `operator_norm`; one graph is kept.

    The vector-Jacobian product is linear in its cotangent, and the transpose of that linear map is the Jacobian.
    """
    parameters, inputs, outputs = _flat_map(f, theta, X)
    leaf = inputs if of == "input" else parameters
    cotangent = torch.zeros_like(outputs).requires_grad_()
    pulled = _pull(outputs, leaf, cotangent, graph=True)
    return (lambda v: _pull(pulled, cotangent, v, many=v.dim() > 2)), (
        lambda u: _pull(outputs, leaf, u, many=u.dim() > 2)
    )


def tangent_kernel(f: Map, theta: Tensor, X: Tensor, *, memory: int = MEMORY) -> Tensor:
    """`J J^T`, `(B, K N, K N)`, for `J` the parameter Jacobian, which is held in blocks of rows within the budget."""
    parameters, _, outputs = _flat_map(f, theta, X)
    batch, size = outputs.shape
    if batch * size * parameters.shape[1] * parameters.element_size() <= memory:
        jacobian = _jacobian(outputs, parameters, memory)
        return torch.bmm(jacobian, jacobian.mT)
    jvp, _ = jacobian_operators(f, theta, X, "param")
    columns = [jvp(rows.transpose(0, 1)).permute(1, 2, 0) for _, rows in _jacobian_rows(outputs, parameters, memory)]
    kernel = torch.cat(columns, 2)
    return (kernel + kernel.mT) / 2


def tangent_kernel_lambda_min(f: Map, theta: Tensor, X: Tensor, *, memory: int = MEMORY) -> Measured:
    """Smallest eigenvalue of `J J^T`, `inf |J^T y|^2 / |y|^2`; 0 when `K N > P`.

    Where the whole Jacobian fits the budget it comes from the singular values of `J` (of the triangular factor of
    `J^T`), whose error is `eps sqrt(lambda_min lambda_max)`; else from the kernel, with error `eps lambda_max`.
    """
    parameters, _, outputs = _flat_map(f, theta, X)
    batch, size = outputs.shape
    if size > parameters.shape[1]:
        return exactly(outputs.new_zeros(batch))
    if batch * size * parameters.shape[1] * parameters.element_size() > memory:
        return exactly(torch.linalg.eigvalsh(tangent_kernel(f, theta, X, memory=memory))[:, 0].clamp(min=0))
    triangle = torch.linalg.qr(_jacobian(outputs, parameters, memory).mT, mode="r").R
    return exactly(torch.linalg.svdvals(triangle)[:, -1].square())


def param_jacobian_norm(f: Map, theta: Tensor, X: Tensor, *, memory: int = MEMORY) -> Measured:
    """Operator norm `sup |J v| / |v|` of the parameter Jacobian, the root of the kernel's largest eigenvalue."""
    return exactly(torch.linalg.eigvalsh(tangent_kernel(f, theta, X, memory=memory))[:, -1].clamp(min=0).sqrt())


def input_jacobian_singular_values(f: Map, theta: Tensor, X: Tensor, *, memory: int = MEMORY) -> Tensor:
    """Singular values of the input Jacobian, descending, `(B, min(K N, d N))`."""
    values: Tensor = torch.linalg.svdvals(input_jacobian(f, theta, X, memory=memory))
    return values


def input_jacobian_norm(f: Map, theta: Tensor, X: Tensor, *, memory: int = MEMORY) -> Measured:
    """Operator norm `sup |J v| / |v|` of the input Jacobian (Frobenius norms of input and output matrices)."""
    return exactly(input_jacobian_singular_values(f, theta, X, memory=memory)[:, 0])


def input_jacobian_sigma_min(f: Map, theta: Tensor, X: Tensor, *, memory: int = MEMORY) -> Measured:
    """`inf |J^T y| / |y|` of the input Jacobian: singular value number `K N`, and 0 when `K N > d N`."""
    jacobian = input_jacobian(f, theta, X, memory=memory)
    if jacobian.shape[1] > jacobian.shape[2]:
        return exactly(jacobian.new_zeros(jacobian.shape[0]))
    return exactly(torch.linalg.svdvals(jacobian)[:, -1])


def operator_norm(
    jvp: Operator,
    vjp: Operator,
    start: Tensor,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 300,
    generator: torch.Generator | None = None,
    starts: int = 1,
    memory: int = MEMORY,
) -> Measured:
    """Operator norm `sup |A v| / |v|` of `B` matrices at once, matrix-free, by Lanczos on `A^T A`.

    The residual is `|A^T u - value v| / value` with `u = A v / value`. An unfinished run under-estimates; see
    `lanczos_lambda_max` for the arguments.

    Args:
        jvp: `v -> A v`, `(B, n) -> (B, m)`.
        vjp: `u -> A^T u`, `(B, m) -> (B, n)`.
        start: `(B, n)`, nonzero rows.

    Returns:
        `Measured` with `vectors = (v,)`.
    """
    squared = lanczos_lambda_max(
        lambda v: vjp(jvp(v)),
        start,
        tolerance=tolerance,
        max_iterations=max_iterations,
        generator=generator,
        starts=starts,
        memory=memory,
    )
    return replace(squared, value=squared.value.clamp(min=0).sqrt())


# Second derivatives of a map


def second_derivative_norm(
    f: Map,
    theta: Tensor,
    X: Tensor,
    which: Second,
    *,
    tolerance: float = 1e-6,
    iterations: int = 300,
    generator: torch.Generator | None = None,
    starts: int = 4,
    memory: int = MEMORY,
) -> Measured:
    """A LOWER bound of `sup |D^2 f[u, v]|_F` over `|u| = |v| = 1`, by alternating maximisation from several starts.

    `sup <w, D^2 f[u, v]>` over three unit vectors is climbed in one of them at a time (the higher-order power method),
    so the value increases and is attained at the returned `u, v`; it can stop at a local maximum, and computing the
    supremum is NP-hard in general. The residual is the larger of `|D^2 (w f)[u] - value v|` and
    `|D^2 (w f)[v] - value u|`, over the value, with `w = D^2 f[u, v] / value`: zero at every critical point.

    Args:
        f: as everywhere in this file; it is called with `starts * B` networks, in groups that fit the budget.
        which: the spaces of `u` and `v`: "input_input" `d N` and `d N`, "input_param" `d N` and `P`, "param_param" `P`
            and `P`; "all_params" is another name of the last, since `theta` holds the parameters of all layers.
        tolerance: of the residual.
        iterations: sweeps over `u, v, w`, at most.
        generator: draws the starts; default seeded with 0.
        starts: number of starts; for each network the largest value is kept.

    Returns:
        `Measured` with `vectors = (u, v)`.

    Raises:
        ValueError: `which` is unknown.
    """
    if which not in get_args(Second):
        raise ValueError(f"which = {which!r} is none of {', '.join(get_args(Second))}")
    generator = generator or torch.Generator().manual_seed(0)
    batch, samples = theta.shape[0], X.expand(theta.shape[0], *X.shape[-2:])
    numbers = 32 * (theta[0].numel() + samples[0].numel())  # the third derivative's graph, at a guess
    group = max(1, min(starts, memory // (batch * numbers * theta.element_size())))
    climbed = []
    for first in range(0, starts, group):
        copies = min(group, starts - first)
        leaves = _flat_map(f, theta.repeat(copies, 1), samples.repeat(copies, 1, 1))
        climbed.append(_climb(*leaves, which, tolerance, iterations, generator))
    value, residual, u, v = (
        torch.cat([c[0][i].reshape(-1, batch, *c[0][i].shape[1:]) for c in climbed]) for i in range(4)
    )
    best, network = value.argmax(0), torch.arange(batch, device=theta.device)
    value, residual = value[best, network], residual[best, network]
    sweeps = sum(c[1] for c in climbed)
    return Measured(value, residual, residual <= tolerance, sweeps, "power", (u[best, network], v[best, network]))


def _climb(
    parameters: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    which: Second,
    tolerance: float,
    iterations: int,
    generator: torch.Generator,
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], int]:
    """`(value, residual, u, v)` for every row, and the number of sweeps."""
    a = inputs if which.startswith("input") else parameters
    b = inputs if which == "input_input" else parameters
    u = normalised(draw(tuple(a.shape), a, generator))
    v = normalised(draw(tuple(b.shape), b, generator))
    w = normalised(draw(tuple(outputs.shape), outputs, generator))
    for sweep in range(1, iterations + 1):
        w.requires_grad_()
        by_a, by_b = _pull(outputs, a, w, graph=True), _pull(outputs, b, w, graph=True)
        v = normalised(_pull(by_a, b, u))
        image = _pull(by_b, a, v, graph=True)  # D^2 (w f)[v], linear in w
        u = normalised(image.detach())
        second = _pull(image, w, u)  # D^2 f[u, v]
        value, w = torch.linalg.vector_norm(second, dim=-1), normalised(second)
        if sweep % 5 and sweep < iterations:
            continue
        by_a, by_b = _pull(outputs, a, w, graph=True), _pull(outputs, b, w, graph=True)
        scale = value.where(value > 0, torch.ones_like(value))
        errors = [_pull(by_a, b, u) - value.unsqueeze(-1) * v, _pull(by_b, a, v) - value.unsqueeze(-1) * u]
        residual = torch.stack([torch.linalg.vector_norm(e, dim=-1) for e in errors]).amax(0) / scale
        if bool((residual <= tolerance).all()):
            break
    return (value, residual, u, v), sweep
