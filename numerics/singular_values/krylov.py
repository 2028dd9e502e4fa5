"""Products with one network's Jacobian in its input, and its extreme singular values by Golub-Kahan bidiagonalisation.

Conventions as in `numerics.singular_values.dense`: `J` is `m x n`, inputs and outputs flattened row by row. The small side has `min(m, n)` dimensions: all
Krylov spaces start there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from numerics.measure import ROUNDING, Measured, Operator, draw, jacobian_operators, normalised
from numerics.singular_values.dense import Function
from numerics.singular_values.linearised import Linearised, without_state


@dataclass(frozen=True)
class Products:
    """A matrix known by its products with several vectors at once.

    Attributes:
        rows, columns: `m`, `n`.
        jvp: `v -> J v`, `(P, n) -> (P, m)`.
        vjp: `u -> J^T u`, `(P, m) -> (P, n)`.
        like: a tensor with the dtype and device of the vectors.
    """

    rows: int
    columns: int
    jvp: Operator
    vjp: Operator
    like: Tensor

    @property
    def small(self) -> int:
        """Dimension of the small side, the number of singular values."""
        return min(self.rows, self.columns)

    @property
    def sides(self) -> tuple[Operator, Operator]:
        """The product from the small side to the large one, and back."""
        return (self.vjp, self.jvp) if self.rows <= self.columns else (self.jvp, self.vjp)


def jacobian_products(f: Function, x: Tensor, *, at_once: int | None = None) -> Products:
    """Products with the Jacobian of `f` at `x`, in the dtype of `x`; `J v` is the transpose of the linear map `u -> J^T u`.

    Both graphs, of `f` and of its vector-Jacobian product, are built once and kept for as long as the result is.

    Args:
        f: as in `jacobian_singular_values`.
        x: where.
        at_once: vectors in one pass; default so many that they have 2^18 numbers, which only small networks gain from.

    Raises:
        ValueError: `f` does not return a tensor, or `x` is not of floating point.
    """
    outputs = 0

    def flat(_: Tensor, inputs: Tensor) -> Tensor:
        nonlocal outputs
        with Linearised(dense=False):
            result = without_state(f)(inputs.reshape(x.shape))
        if not isinstance(result, Tensor):
            raise ValueError(f"f returns {type(result).__name__}: wrap it so that it returns one tensor")
        outputs = result.numel()
        return result.reshape(1, 1, -1)

    if not x.is_floating_point() or x.numel() == 0:
        raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}: pass floating point numbers, at least one")
    jvp, vjp = jacobian_operators(flat, x.new_zeros(1, 0), x.reshape(1, -1, 1), "input")
    together = at_once or max(1, 2**18 // x.numel())

    def many(product: Operator) -> Operator:
        def call(vectors: Tensor) -> Tensor:
            groups = vectors.split(together)
            parts = [product(g) if len(g) == 1 else product(g.unsqueeze(1)).squeeze(1) for g in groups]
            return torch.cat([part.detach() for part in parts])

        return call

    return Products(outputs, x.numel(), many(jvp), many(vjp), x.detach())


# Golub-Kahan bidiagonalisation


@dataclass
class Bidiagonal:
    """`A Q = P B` and `A^T P = Q B^T + beta_k q_{k+1} e_k^T` for `S` starts: `A` leads from the small side to the large one.

    Attributes:
        small: `(S, k + 1, small)`, the rows of `Q^T` and the next one.
        large: `(S, k, large)`, the rows of `P^T`.
        alphas, betas: `(S, k)`, diagonal of `B` and the entries above it, the last of them `beta_k`; float64.
    """

    small: Tensor
    large: Tensor
    alphas: Tensor
    betas: Tensor

    @property
    def steps(self) -> int:
        return self.alphas.shape[1]


def bidiagonal_matrix(diagonal: Tensor, above: Tensor) -> Tensor:
    return torch.diag_embed(diagonal) + torch.diag_embed(above, 1)


def begin(start: Tensor, large: int) -> Bidiagonal:
    none = start.new_empty(len(start), 0, dtype=torch.float64)
    return Bidiagonal(normalised(start).unsqueeze(1), start.new_empty(len(start), 0, large), none, none)


def _orthogonalised(w: Tensor, basis: Tensor) -> Tensor:
    """`w` minus its part in the span of the rows of `basis (S, k, n)`, twice."""
    for _ in range(2):
        w = w - torch.bmm(torch.bmm(w.unsqueeze(1), basis.mT), basis).squeeze(1)
    return w


def lengthen(products: Products, done: Bidiagonal, steps: int) -> Bidiagonal:
    """`steps` more steps, with full reorthogonalisation on both sides; a step is one product each way with all starts.

    A start whose Krylov space is exhausted goes on with zero vectors and zero entries.
    """
    out, back = products.sides
    small, large = done.small, done.large
    alphas, betas = list(done.alphas.unbind(1)), list(done.betas.unbind(1))
    rounding = ROUNDING * torch.finfo(small.dtype).eps / torch.finfo(torch.float64).eps
    scale = torch.stack([*alphas, *betas]).amax(0) if alphas else small.new_zeros(len(small), dtype=torch.float64)

    def unit(w: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal scale
        w = _orthogonalised(w, basis)
        norm = torch.linalg.vector_norm(w, dim=-1).double()
        scale = torch.maximum(scale, norm)
        exhausted = norm <= rounding * scale
        w = normalised(w).masked_fill(exhausted.unsqueeze(-1), 0.0)
        return torch.cat([basis, w.unsqueeze(1)], 1), norm.masked_fill(exhausted, 0.0)

    for _ in range(steps):
        large, alpha = unit(out(small[:, -1]), large)
        small, beta = unit(back(large[:, -1]), small)
        alphas.append(alpha)
        betas.append(beta)
    return Bidiagonal(small, large, torch.stack(alphas, 1), torch.stack(betas, 1))


# Extremes


def extreme_singular_values(
    products: Products,
    *,
    least: bool = False,
    tolerance: float = 1e-2,
    max_steps: int = 100,
    generator: torch.Generator | None = None,
) -> tuple[Measured, Measured]:
    """`(sigma_max, sigma_min)` of the `min(m, n)` singular values, by Golub-Kahan bidiagonalisation with full reorthogonalisation.

    Both are Ritz values: the first never exceeds `sigma_max`, the second never falls below `sigma_min` (up to rounding). The residual
    is `(|J v - s u|^2 + |J^T u - s v|^2)^(1/2) / s`, of the returned vectors: some singular value lies within that share of `s`. That it is
    the extreme one is not proved; `miss_probability` bounds the risk. A residual below `tolerance` means converged, and stops the run.

    The least value needs about as many steps as there are singular values that are not far above it; with `max_steps >= min(m, n)`
    it is exact, for any distribution. Without `least` it is what the run for the largest happened to give, mostly not converged.

    Args:
        products: the matrix (`jacobian_products`).
        least: whether the run goes on until the least value has converged too.
        tolerance: of the relative residuals.
        max_steps: products each way, at most; one more each way gives the residuals.
        generator: draws the start; default seeded with 0.

    Returns:
        Two `Measured` for `B = 1`, `vectors = (u, v)` of shapes `(1, m)` and `(1, n)`.

    Raises:
        ValueError: `max_steps` is not positive.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps = {max_steps}: one step at least")
    generator = generator or torch.Generator().manual_seed(0)
    limit = min(max_steps, products.small)
    start = draw((1, products.small), products.like, generator)
    state = begin(start, max(products.rows, products.columns))
    while True:
        state = lengthen(products, state, min(1 if state.steps < 20 else 5, limit - state.steps))
        left, values, right = torch.linalg.svd(bidiagonal_matrix(state.alphas, state.betas[:, :-1])[0])
        estimates = state.betas[0, -1] * left[-1].abs()
        goal = 0.9 * tolerance * values
        reached = estimates <= goal
        if state.steps == limit or (bool(reached[0]) and (not least or bool(reached[-1]))):
            break
        if float(state.betas[0, -1]) == 0 or float(state.alphas[0, -1]) == 0:
            break
    pairs = (0, -1) if float(values[0]) > 0 else (0, 0)
    found = [_triplet(products, state, left[:, i], values[i], right[i], values[0], tolerance) for i in pairs]
    return found[0], found[1]


def _triplet(
    products: Products, state: Bidiagonal, left: Tensor, value: Tensor, right: Tensor, top: Tensor, tolerance: float
) -> Measured:
    """The Ritz triplet `(P left, value, Q right)` with the residual that its vectors have."""
    out, back = products.sides
    u = normalised(left.to(state.large) @ state.large[0]).unsqueeze(0)
    v = normalised(right.to(state.small) @ state.small[0, : state.steps]).unsqueeze(0)
    errors = torch.cat([out(v) - value.to(u) * u, back(u) - value.to(v) * v], 1)
    eps = torch.finfo(u.dtype).eps
    scale = float(value) if float(value) > 1000 * eps * float(top) else float(top) or 1.0
    residual = torch.linalg.vector_norm(errors, dim=1).double() / scale
    vectors = (v, u) if products.rows <= products.columns else (u, v)
    steps = 2 * (state.steps + 1)
    return Measured(value.reshape(1), residual, residual <= tolerance, steps, "golub-kahan", vectors)


def miss_probability(dimension: int, steps: int, error: float) -> float:
    """Bound of the probability that the largest singular value after `steps` steps falls short by more than the relative `error`.

    `1.648 sqrt(d) exp(-(2 k - 1) sqrt(eps))` for `k` Lanczos steps on `J J^T` from a uniformly random direction in `d` dimensions, in
    exact arithmetic, with `eps = 1 - (1 - error)^2`. Kuczynski and Wozniakowski, SIAM J. Matrix Anal. Appl. 13 (1992), theorem 4.1.
    """
    eps = 1 - (1 - error) ** 2
    return min(1.0, 1.648 * math.sqrt(dimension) * math.exp(-(2 * steps - 1) * math.sqrt(eps)))
