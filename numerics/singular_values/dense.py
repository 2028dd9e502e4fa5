"""All singular values of one network's Jacobian in its input; `numerics.singular_values.krylov` and `numerics.singular_values.density` do without the matrix.

`f` maps one tensor `x` (a batch, whose samples may interact as in a batch norm) to one tensor; its Jacobian `J` is `m x n`, `m` the
number of outputs and `n` that of inputs, each flattened row by row. Norms are Euclidean; singular values come in descending order.

Batch norms with batch statistics go through `numerics.singular_values.linearised`; a module's running statistics stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from numerics.measure import MEMORY
from numerics.singular_values.linearised import Linearised, without_state
from numerics.singular_values.sweep import Sweep

Function = Callable[[Tensor], Tensor]

PIECE = 1024
"""Length of the partial sums of a Gram matrix: its rounding grows with this and with the number of pieces, not with their product."""
CACHED = 2**21
"""Bytes of Jacobian rows computed at once on a CPU."""


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
