"""Singular values of one network's Jacobian in its input: all of them, or mean, extremes and density without the matrix.

`f` maps one tensor `x` (a batch, whose samples may interact as in a batch norm) to one tensor; its Jacobian `J` is `m x n`, `m` the
number of outputs and `n` that of inputs, each flattened row by row. Norms are Euclidean; singular values come in descending order.
The small side has `min(m, n)` dimensions: all Krylov spaces start there.

Batch norms with batch statistics go through `numerics.linearised`; a module's running statistics stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from numerics.linearised import Linearised, without_state
from numerics.measure import MEMORY, ROUNDING, Measured, Operator, draw, jacobian_operators, normalised
from numerics.sweep import Sweep

Function = Callable[[Tensor], Tensor]

PIECE = 1024
"""Length of the partial sums of a Gram matrix: its rounding grows with this and with the number of pieces, not with their product."""
CACHED = 2**21
"""Bytes of Jacobian rows computed at once on a CPU."""


# All singular values


def jacobian_singular_values(f: Function, x: Tensor, *, tolerance: float = 1e-9, memory: int = 4 * MEMORY) -> Tensor:
    """All singular values of `J`, `(min(m, n),)`, in float64; each within `tolerance sigma_1` of that of the computed `J`.

    The rows of `J` come from products with blocks of unit cotangents. Then the eigenvalues of the Gram matrix of the small side are
    taken: cheap, but their rounding, at most `e = (PIECE + pieces + min(m, n)) eps |J|_F^2`, moves a singular value `s` by up to
    `e / s`. Where that exceeds the tolerance (a least value below about 1e-3 of the largest), they come from the triangular factor of
    a QR decomposition instead, with error `O(eps) sigma_1`. If `f` runs in float32, the error of `J` itself, some 1e-7, dominates.

    Args:
        f: the map; a `torch.nn.Module` is called with its parameters detached and with copies of its buffers.
        x: where, floating point.
        tolerance: of the Gram matrix, relative to the largest singular value; 0 takes the QR decomposition always.
        memory: budget in bytes of `J`.

    Raises:
        ValueError: `f` does not return a tensor, the Jacobian exceeds the memory budget, or it is not finite.
    """
    return _singular_values(_jacobian(f, x, memory), tolerance)


def singular_values_of_states(
    module: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    inputs: Tensor,
    *,
    tolerance: float = 1e-9,
    memory: int = 4 * MEMORY,
) -> Tensor:
    """`jacobian_singular_values` of one module with many states, `(B, min(m, n))`.

    Args:
        module: the architecture, in training or evaluation mode; it is not changed.
        states: `B` dictionaries as `module.state_dict()` gives them (parameters, and buffers where they differ).
        inputs: `(B, *shape of x)`, the point of each.

    Raises:
        ValueError: as many inputs as states are needed, and at least one; or as `jacobian_singular_values`.
    """
    if not states or len(states) != len(inputs):
        raise ValueError(f"{len(states)} states and {len(inputs)} inputs: give one input for each state, stacked")
    rows, jacobian = [], None  # one matrix is written anew for each: fresh memory costs time
    for state, x in zip(states, inputs, strict=True):
        jacobian = _jacobian(without_state(module, state), x, memory, jacobian)
        rows.append(_singular_values(jacobian, tolerance))
    return torch.stack(rows)


def _linearised(f: Function, x: Tensor, dense: bool) -> tuple[Tensor, Tensor]:
    """The leaf and the flat outputs with their graph."""
    if not x.is_floating_point() or x.numel() == 0:
        raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}: pass floating point numbers, at least one")
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad(), Linearised(dense):
        outputs = without_state(f)(leaf.view_as(leaf))
    if not isinstance(outputs, Tensor):
        raise ValueError(f"f returns {type(outputs).__name__}: wrap it so that it returns one tensor")
    return leaf, outputs.flatten()


def _jacobian(f: Function, x: Tensor, memory: int, reused: Tensor | None = None) -> Tensor:
    """`J`, `(m, n)`, in the memory of `reused` where one is given."""
    leaf, outputs = _linearised(f, x, dense=True)
    m, n, size = outputs.numel(), leaf.numel(), leaf.element_size()
    if m * n * size > memory:
        raise ValueError(
            f"a Jacobian of {m} x {n} needs {m * n * size} bytes, above the budget of {memory}: use spectral_density, "
            "mean_singular_value and extreme_singular_values, or raise memory"
        )
    if not outputs.requires_grad:
        return leaf.new_zeros(m, n)
    jacobian = leaf.new_empty(m, n) if reused is None else reused
    block = max(1, (CACHED if leaf.device.type == "cpu" else memory // 16) // (n * size))

    def pull(cotangent: Tensor) -> Tensor:
        (rows,) = torch.autograd.grad(outputs, leaf, cotangent, retain_graph=True, materialize_grads=True)
        return rows

    try:  # about a quarter faster for the toy network
        many: Callable[[Tensor], Tensor] = Sweep(outputs, leaf)
    except NotImplementedError:
        many = torch.func.vmap(pull)
    for first in range(0, m, block):
        last = min(first + block, m)
        units = torch.eye(last - first, m, dtype=leaf.dtype, device=leaf.device).roll(first, 1)
        jacobian[first:last] = many(units).flatten(1)
    return jacobian


def _singular_values(jacobian: Tensor, tolerance: float) -> Tensor:
    """Descending, float64."""
    wide = (jacobian if jacobian.shape[0] <= jacobian.shape[1] else jacobian.mT).double()
    m, n = wide.shape
    square = float(torch.linalg.vector_norm(wide)) ** 2
    if not math.isfinite(square):
        raise ValueError(
            "the Jacobian has entries that are infinite or no numbers: check f and x for overflow and 0 / 0"
        )
    pieces = -(-n // PIECE)
    rounding = (PIECE + pieces + m) * torch.finfo(torch.float64).eps * square
    if tolerance > 0 and m < n:
        values = torch.linalg.eigvalsh(_gram(wide)).flip(0).clamp(min=0).sqrt()
        if rounding <= tolerance * float(values[0] * values[-1]):
            return values
    triangle = torch.linalg.qr(wide.mT, mode="r").R
    singular: Tensor = torch.linalg.svdvals(triangle)
    return singular


def _gram(wide: Tensor) -> Tensor:
    """The lower triangle of `A A^T` (and some of the upper), in partial sums over pieces of the columns."""
    m, n = wide.shape
    gram, block = wide.new_zeros(m, m), max(64, -(-m // 8))
    for start in range(0, n, PIECE):
        piece = wide[:, start : start + PIECE]
        for first in range(0, m, block):
            gram[first:, first : first + block].addmm_(piece[first:], piece[first : first + block].mT)
    return gram


# Products


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
class _Bidiagonal:
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


def _bidiagonal(diagonal: Tensor, above: Tensor) -> Tensor:
    return torch.diag_embed(diagonal) + torch.diag_embed(above, 1)


def _begin(start: Tensor, large: int) -> _Bidiagonal:
    none = start.new_empty(len(start), 0, dtype=torch.float64)
    return _Bidiagonal(normalised(start).unsqueeze(1), start.new_empty(len(start), 0, large), none, none)


def _orthogonalised(w: Tensor, basis: Tensor) -> Tensor:
    """`w` minus its part in the span of the rows of `basis (S, k, n)`, twice."""
    for _ in range(2):
        w = w - torch.bmm(torch.bmm(w.unsqueeze(1), basis.mT), basis).squeeze(1)
    return w


def _lengthen(products: Products, done: _Bidiagonal, steps: int) -> _Bidiagonal:
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
    return _Bidiagonal(small, large, torch.stack(alphas, 1), torch.stack(betas, 1))


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
    state = _begin(start, max(products.rows, products.columns))
    while True:
        state = _lengthen(products, state, min(1 if state.steps < 20 else 5, limit - state.steps))
        left, values, right = torch.linalg.svd(_bidiagonal(state.alphas, state.betas[:, :-1])[0])
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
    products: Products, state: _Bidiagonal, left: Tensor, value: Tensor, right: Tensor, top: Tensor, tolerance: float
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


# Mean and density


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
        return _rule(_bidiagonal(self.alphas, self.betas[:, :-1]))

    @property
    def radau(self) -> tuple[Tensor, Tensor]:
        """The same for Gauss-Radau's with one node at 0, `(P, k + 1)` each."""
        return _rule(_bidiagonal(torch.nn.functional.pad(self.alphas, (0, 1)), self.betas))

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
        bidiagonal = _bidiagonal(self.alphas, self.betas[:, :-1])
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
        value, quantile = (lower.mean(0) + upper.mean(0)) / 2, student(self.confidence, probes - 1)
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
        runs.append(_lengthen(products, _begin(start, large), steps))
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


def student(confidence: float, freedom: int) -> float:
    """The `t` with `P(|T| <= t) = confidence` for Student's distribution with `freedom` degrees, to 1e-6.

    With `T = sqrt(freedom) tan(phi)` the density of `phi` is proportional to `cos(phi)^(freedom - 1)`.
    """
    angles = torch.linspace(0, math.pi / 2, 200_001, dtype=torch.float64)
    share = torch.cumulative_trapezoid(angles.cos() ** (freedom - 1), angles)
    index = int(torch.searchsorted(share, confidence * share[-1]))
    before = float(share[index - 1]) if index else 0.0
    part = (confidence * float(share[-1]) - before) / (float(share[index]) - before)
    return math.sqrt(freedom) * math.tan(float(angles[index]) + part * float(angles[1]))
