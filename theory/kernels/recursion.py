r"""Kernels of wide random networks: a reading of a description, by a fold over its layers.

The entries of every weight matrix are independent standard Gaussians, as in Du, Lee, Li, Wang and Zhai (arXiv 1811.03804); any other variance is a `scale` in the
description, such as `affine(m), relu, scale(sqrt(2/m))`. For inputs `x_1, ..., x_N` with Gram matrix `G_ij = <x_i, x_j>` the fold carries what holds in the limit
of wide layers, one after the other from the input on (Neal 1996; Jacot, Gabriel and Hongler 2018):

    second:    E[x_ik x_jk]          second moment of one feature `k` of samples `i` and `j`
    mean:      E[x_ik]
    tangents:  sum_w dx_ik/dw dx_jk/dw, for the weights `w` of each affine layer in turn; of two different features the sum vanishes.

An affine layer of `n` inputs gives a centred Gaussian with second moment `n second`, and adds the tangent kernel `n second` of its own weights; an activation
takes Gaussian expectations (`theory.kernels.dual`): second `E[phi(u) phi(v)]`, tangents times `E[phi'(u) phi'(v)]`; a residual block whose branch has weights of its own is
independent of its skip, so `second' = s^2 second + s (mean branch^T + branch mean^T) + second of the branch`. Entries may be numbers (any batch of Gram matrices, by
NumPy) or SymPy expressions, where every activation has a closed form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import sympy
from sympy import Expr, S, Symbol

from theory import symbols
from theory.kernels.dual import (
    Array,
    a,
    b,
    c,
    derivative,
    dual,
    dual_values,
    expression,
    mean,
    mean_values,
    second_moment,
    second_moment_values,
)
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import Scaling
from theory.network import Chain, Network, Repeat, Residual, chain, repeat, residual
from theory.records import Shape
from theory.spec import describe

KNOWN = "affine (plain), activations after an affine layer, scale, chain, repeat, residual with an affine layer in its branch"
branch_constant = Symbol("c_res", positive=True)


@dataclass(frozen=True)
class Kernels:
    """What is known of one feature of a wide network's output, for all pairs of samples.

    Attributes:
        features: how many features there are.
        second: `E[x_ik x_jk]`, `(..., N, N)`; floats, or SymPy expressions in an array of objects.
        mean: `E[x_ik]`, `(..., N)`; None where the features are inputs, which are no random numbers.
        tangents: tangent kernels of the weights of every affine layer so far, in their order, each `(..., N, N)`.
        gaussian: whether the feature is jointly Gaussian over the samples.
        error: largest error estimate of a quadrature that was needed; 0 where all were closed forms.
    """

    features: Expr
    second: Array
    mean: Array | None
    tangents: tuple[Array, ...] = ()
    gaussian: bool = False
    error: float = 0.0

    @property
    def tangent(self) -> Array:
        """The tangent kernel of all weights, `(..., N, N)`."""
        total: Array = sum(self.tangents, np.zeros_like(self.second))
        return total


def _scalar(value: Expr, like: Array) -> Expr | float:
    """A factor of the description, a float for numeric kernels.

    Raises:
        ValueError: symbols without a value.
    """
    if like.dtype == object:
        return value
    if value.free_symbols:
        raise ValueError(
            f"kernels: {value} has symbols: substitute numbers, or give a Gram matrix of SymPy expressions"
        )
    return float(value)


def _diagonal(second: Array) -> Array:
    return np.diagonal(second, axis1=-2, axis2=-1)


def _objects(entries: list[Expr]) -> Array:
    return np.array(entries, dtype=object)


def _closed(form: Expr | None, phi: Expr) -> Expr:
    if form is None:
        raise ValueError(f"kernels: {phi} has no Gaussian expectation in closed form: give a Gram matrix of numbers")
    return form


def _pairs(phi: Expr, second: Array) -> tuple[Array, float]:
    """`E[phi(u_i) phi(u_j)]` for all pairs, and the largest error estimate; the diagonal on its own, as closed forms lose digits at `c^2 = a b`."""
    rows, columns = np.triu_indices(second.shape[-1], 1)
    variances = _diagonal(second)
    laws = variances[..., rows], variances[..., columns], second[..., rows, columns]
    if second.dtype == object:
        form, square = _closed(dual(phi), phi), _closed(second_moment(phi), phi)
        terms = [form.subs({a: p, b: q, c: r}, simultaneous=True) for p, q, r in zip(*laws, strict=True)]
        entries, squares, error = _objects(terms), _objects([square.subs(a, q) for q in variances]), 0.0
    else:
        # rounding may leave a covariance beyond sqrt(a b), after deep chains
        limit = np.sqrt(laws[0] * laws[1])
        estimate, own = (
            dual_values(phi, *laws[:2], np.clip(laws[2], -limit, limit)),
            second_moment_values(phi, variances),
        )
        entries, squares = estimate.value, own.value
        error = float(max(estimate.error.max(initial=0), own.error.max(initial=0)))
    found = np.empty_like(second)
    found[..., rows, columns] = entries
    found[..., columns, rows] = entries
    every = np.arange(second.shape[-1])
    found[..., every, every] = squares
    return found, error


def _means(phi: Expr, second: Array) -> tuple[Array, float]:
    if second.dtype == object:
        form = _closed(mean(phi), phi)
        return _objects([form.subs(a, q) for q in _diagonal(second)]), 0.0
    estimate = mean_values(phi, _diagonal(second))
    return estimate.value, float(estimate.error.max(initial=0))


def _expanded(kernel: Array) -> Array:
    """Outer products multiplied out, so that widths cancel; numbers as they are."""
    if kernel.dtype != object:
        return kernel
    return np.array([sympy.expand(entry, deep=False) for entry in kernel.ravel()], object).reshape(kernel.shape)


def _affine(layer: Affine, state: Kernels) -> Kernels:
    for broken, what in (
        (layer.bias, "a bias"),
        (layer.weight_norm is not None, f"weights normalised by {layer.weight_norm}"),
        (bool(layer.path), "shared parameters"),
    ):
        if broken:
            raise ValueError(
                f"kernels: {describe(layer)} has {what}: standard Gaussian weights only; use affine({layer.features})"
            )
    inputs = _scalar(state.features, state.second)
    own = _expanded(inputs * state.second)
    return Kernels(
        layer.features,
        own,
        0 * own[..., 0],
        (*(_expanded(inputs * t) for t in state.tangents), own),
        gaussian=True,
        error=state.error,
    )


def _activation(layer: Activation, state: Kernels) -> Kernels:
    if layer.name == "identity":
        return state
    if not state.gaussian:
        raise ValueError(f"kernels: {layer.name} acts on features that are not Gaussian: put an affine layer before it")
    phi = expression(layer.name)
    second, first_error = _pairs(phi, state.second)
    slopes, second_error = _pairs(derivative(phi), state.second)
    means, third_error = _means(phi, state.second)
    return replace(
        state,
        second=second,
        mean=means,
        tangents=tuple(t * slopes for t in state.tangents),
        gaussian=False,
        error=max(state.error, first_error, second_error, third_error),
    )


def _scaling(layer: Scaling, state: Kernels) -> Kernels:
    factor = _scalar(layer.factor, state.second)
    return replace(
        state,
        second=factor**2 * state.second,
        mean=None if state.mean is None else factor * state.mean,
        tangents=tuple(factor**2 * t for t in state.tangents),
    )


def _residual(block: Residual, state: Kernels) -> Kernels:
    block.output_shape(Shape(state.features, S.One))
    branch = fold(block.branch, state)
    old = len(state.tangents)
    if len(branch.tangents) == old or branch.mean is None:
        raise ValueError(
            f"kernels: the branch of {describe(block)} has no affine layer, so it is not independent of its skip; known: {KNOWN}"
        )
    s = _scalar(block.skip, state.second)
    centred = not np.any(branch.mean != 0)
    if state.mean is None and not centred:
        raise ValueError(
            f"kernels: {describe(block)} adds a branch with nonzero mean to the inputs themselves: put an affine layer first"
        )
    second = s**2 * state.second + branch.second
    if not centred:
        outer = _expanded(s * state.mean[..., :, None] * branch.mean[..., None, :])  # type: ignore[index]
        second = second + outer + np.swapaxes(outer, -1, -2)
    return Kernels(
        state.features,
        second,
        None if state.mean is None else s * state.mean + branch.mean,
        tuple(s**2 * t + u for t, u in zip(state.tangents, branch.tangents, strict=False)) + branch.tangents[old:],
        gaussian=state.gaussian and branch.gaussian,
        error=branch.error,
    )


def fold(network: Network, state: Kernels) -> Kernels:
    """The kernels after a network, from those before it.

    Raises:
        ValueError: naming a layer or a combinator that the reading does not know, or a symbolic depth.
    """
    if isinstance(network, Affine):
        return _affine(network, state)
    if isinstance(network, Activation):
        return _activation(network, state)
    if isinstance(network, Scaling):
        return _scaling(network, state)
    if isinstance(network, Chain | Repeat):
        members = network.unrolled().members if isinstance(network, Repeat) else network.members
        for member in members:
            state = fold(member, state)
        return state
    if isinstance(network, Residual):
        return _residual(network, state)
    raise ValueError(f"kernels: {describe(network)} is not known to this reading; known: {KNOWN}")


def kernels(network: Network, gram: Array, features: Expr = S.One) -> Kernels:
    """Second moments and tangent kernels of a description in the limit of wide layers.

    Args:
        gram: `<x_i, x_j>` of the inputs, `(..., N, N)`: numbers, or SymPy expressions (an array of objects, of one Gram matrix).
        features: of the input; matters only for a residual block that acts on the input itself.

    Raises:
        ValueError: naming a layer that the reading does not know; a Gram matrix that is not symmetric with a positive diagonal.
    """
    matrix = np.asarray(gram)
    if matrix.dtype != object:
        matrix = matrix.astype(float)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"kernels: the Gram matrix has shape {matrix.shape}: give (..., N, N)")
    if matrix.dtype != object:
        if not np.allclose(matrix, np.swapaxes(matrix, -1, -2), rtol=1e-12, atol=1e-14):
            raise ValueError("kernels: the Gram matrix is not symmetric: give <x_i, x_j>")
        if not np.all(_diagonal(matrix) > 0):
            raise ValueError("kernels: an input is 0: leave it out")
    number = sympy.sympify(features)
    return fold(network, Kernels(number, matrix / _scalar(number, matrix), None))


def least_eigenvalue(kernel: Array) -> Array:
    """`lambda_min` of symmetric matrices `(..., N, N)`; an error of rounding times `lambda_max` goes with it."""
    least: Array = np.linalg.eigvalsh(kernel)[..., 0]
    return least


@cache
def normaliser(activation: str) -> Expr:
    """`c_sigma = 1 / E[sigma(g)^2]`, `g` standard normal: exact where there is a closed form, else a float."""
    form = second_moment(activation)
    if form is not None:
        return 1 / form.subs(a, 1)
    return sympy.Float(1 / float(second_moment_values(activation, 1.0).value))


def fully_connected(activation: str, depth: int, width: Expr = symbols.m) -> Network:
    """`x_h = sqrt(c_sigma/m) sigma(W_h x_{h-1})`, `h = 1 .. depth`, and a Gaussian readout `<a, x_H>`."""
    step = Affine(width), Activation(activation), Scaling(sympy.sqrt(normaliser(activation) / width))
    return chain(repeat(sympy.Integer(depth), *step), Affine(S.One))


def residual_network(activation: str, depth: int, constant: Expr = branch_constant, width: Expr = symbols.m) -> Network:
    """`x_1` as above, then `x_h = x_{h-1} + constant/(depth sqrt m) sigma(W_h x_{h-1})`, `h = 2 .. depth`, and a Gaussian readout."""
    first = Affine(width), Activation(activation), Scaling(sympy.sqrt(normaliser(activation) / width))
    branch = Affine(width), Activation(activation), Scaling(constant / (depth * sympy.sqrt(width)))
    blocks = (repeat(sympy.Integer(depth - 1), residual(*branch)),) if depth > 1 else ()
    return chain(*first, *blocks, Affine(S.One))
