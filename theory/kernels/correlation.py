r"""Correlation maps of wide chains, and what they make of a Gram matrix: decay laws in depth, and certified least eigenvalues.

For unit variances an activation maps the correlation `rho` of two inputs to `C(rho) = E[sigma(u) sigma(v)] / E[sigma(g)^2] = sum_k h_k^2 rho^k`, with the Hermite
coefficients `h_k = E[sigma(g) He_k(g)] / sqrt(k! E[sigma(g)^2])`, `sum_k h_k^2 = 1`. All follows from them:

* `chi = C'(1) = sum_k k h_k^2`, so `chi - 1 = sum_{k>=2} (k-1) h_k^2 - h_0^2`: only a mean, `h_0 != 0`, can make `chi <= 1`. If `E sigma(g) = 0` and `sigma` is not
  linear, `chi > 1`: correlations die out, and the least eigenvalue of a chain's kernel does not decay with depth.
* `chi < 1`: all correlations tend to 1 and `1 - C(rho) ~ chi (1 - rho)`: least eigenvalues decay like `chi^depth`. `chi = 1`: like a power. `chi > 1`: they tend to
  `1 - rho*`, with `rho* < 1` the stable fixed point.
* For unit vectors no two of which are parallel, `lambda_min(G^{o k}) >= 1 / sum_i prod_{j != i} 1/(1 - rho_ij^2)` for all `k >= N - 1` (entry-wise powers), hence
  `lambda_min` of the kernel is at least `sum_{k >= N-1} h_k^2` times that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import sympy
from scipy.optimize import brentq
from sympy import Expr, S, Symbol

from theory.bound import Step, gap
from theory.kernels.dual import (
    Array,
    a,
    b,
    c,
    derivative,
    dual,
    dual_values,
    evaluate,
    expression,
    gaussian_rule,
    second_moment_values,
)
from theory.kernels.dual import second_moment as closed_second_moment

rho = Symbol("rho", real=True)
CRITICAL = 1e-9
"""How near to 1 a slope found by quadrature counts as 1; the quadratures used here err by less."""
HERMITE_ORDER = 400
"""Nodes of the quadrature of Hermite coefficients, on either side of 0: enough for degrees up to 60, whose zeros lie 0.2 apart."""


def correlation_map(activation: str | Expr) -> Expr | None:
    """`C(rho)` in closed form; None where the dual activation has none."""
    form = dual(activation)
    if form is None:
        return None
    return sympy.simplify(form.subs({a: 1, b: 1, c: rho}) / form.subs({a: 1, b: 1, c: 1}))


def correlations(activation: str | Expr, values: Array | float) -> Array:
    """`C(rho)` of an array of correlations, in double precision."""
    law = np.asarray(values, float)
    one = np.ones_like(law)
    found: Array = dual_values(activation, one, one, law).value / second_moment_values(activation, 1.0).value
    return found


@cache
def slope_at_one(activation: str | Expr) -> Expr:
    """`chi = C'(1) = E[sigma'(g)^2] / E[sigma(g)^2]`, by Price's identity: exact where both have closed forms, else a float."""
    phi = expression(activation)
    forms = closed_second_moment(derivative(phi)), closed_second_moment(phi)
    if forms[0] is not None and forms[1] is not None:
        return forms[0].subs(a, 1) / forms[1].subs(a, 1)
    moments = second_moment_values(derivative(phi), 1.0), second_moment_values(phi, 1.0)
    return sympy.Float(float(moments[0].value / moments[1].value))


@dataclass(frozen=True)
class DepthLaw:
    """What a chain of layers does to correlations.

    Attributes:
        regime: "exponential" (`chi < 1`), "power" (`chi = 1`) or "constant" (`chi > 1`): how least eigenvalues behave in depth.
        slope: `chi`.
        fixed_point: the correlation `rho*` that all others tend to, 1 unless `chi > 1`.
        rate: `C'(rho*)`, the factor a layer by which the distance from it shrinks in the end.
    """

    regime: str
    slope: float
    fixed_point: float
    rate: float

    @property
    def limit(self) -> float:
        """`1 - rho*`: the limit of the least eigenvalue of the chain's kernel, of two or more inputs that are not parallel."""
        return 1 - self.fixed_point


def depth_law(activation: str | Expr) -> DepthLaw:
    """The behaviour in depth of `K -> C(K)`, entry by entry, from the linearisation of `C` at its stable fixed point.

    `C` is increasing and convex on `[0, 1]` with `C(1) = 1`, so below 1 it has a fixed point there if and only if `chi > 1`, and one only.

    Raises:
        ValueError: a linear activation.
    """
    phi = expression(activation)
    if derivative(phi).is_number:
        raise ValueError(f"depth law of {phi}: a linear activation keeps every correlation")
    chi = float(slope_at_one(phi))
    if abs(chi - 1) < CRITICAL:
        return DepthLaw("power", chi, 1.0, 1.0)
    if chi < 1:
        return DepthLaw("exponential", chi, 1.0, chi)
    start = float(correlations(phi, 0.0))
    near = 1 - 1e-6
    fixed = 0.0 if start < CRITICAL else brentq(lambda r: float(correlations(phi, r)) - r, 0.0, near, xtol=1e-14)
    rate = float(dual_values(derivative(phi), 1.0, 1.0, fixed).value / second_moment_values(phi, 1.0).value)
    return DepthLaw("constant", chi, fixed, rate)


def power_law(activation: str | Expr) -> tuple[Expr, Expr, Expr]:
    """`(kappa, p, amplitude)` for `chi = 1`: `1 - C(1 - t) = t - kappa t^p + ...`, and so `1 - rho_h ~ amplitude h^(-1/(p-1))`.

    The recursion `t_{h+1} = t_h - kappa t_h^p` has that limit, `amplitude = (kappa (p - 1))^(-1/(p-1))`, as `t^(1-p)` grows by `kappa (p - 1)` a layer.

    Raises:
        ValueError: no closed form of the map, or `chi != 1`.
    """
    form = correlation_map(activation)
    if form is None or slope_at_one(activation) != 1:
        raise ValueError(f"correlation map of {activation}: a power law needs a closed form with slope 1 at 1")
    s = Symbol("s", positive=True)
    # sqrt(1 - rho^2) makes it a series in s = sqrt(1 - rho)
    gap = sympy.series(sympy.simplify(1 - form.subs(rho, 1 - s**2)), s, 0, 5).removeO()
    lowest = sorted(sympy.Poly(sympy.expand(s**2 - gap), s).terms())[0]
    power, kappa = S(lowest[0][0]) / 2, sympy.simplify(lowest[1])
    amplitude = (kappa * (power - 1)) ** (-1 / (power - 1))
    return kappa, power, sympy.simplify(amplitude)


def hermite_coefficients(activation: str | Expr, count: int) -> Array:
    """`h_0, ..., h_{count-1}` of the activation divided by its root mean square, `(count,)`.

    Raises:
        ValueError: more than 60, for which the quadrature is not laid out.
    """
    if not 0 < count <= 60:
        raise ValueError(f"{count} Hermite coefficients: give between 1 and 60")
    points, weights = gaussian_rule(HERMITE_ORDER)
    weighted = evaluate(expression(activation))(points) * weights
    found, before, here = [], np.zeros_like(points), np.ones_like(points)
    for k in range(count):
        found.append(here @ weighted)
        before, here = here, (points * here - np.sqrt(k) * before) / np.sqrt(k + 1)
    return np.array(found) / np.sqrt(float(second_moment_values(activation, 1.0).value))


@cache
def slope_steps() -> tuple[Step, ...]:
    """`chi - 1` in Hermite coefficients."""
    h = sympy.symbols("h:7", real=True)
    whole = sum(x**2 for x in h)
    return (
        Step(
            "C(rho) = sum_k h_k^2 rho^k has C'(1) = sum_k k h_k^2, and with C(1) = sum_k h_k^2 = 1: chi - 1 = sum_{k>=2} (k-1) h_k^2 - h_0^2 (term by term; seven terms)",
            (
                gap(
                    sympy.diff(sum(x**2 * rho**k for k, x in enumerate(h)), rho).subs(rho, 1) - whole,
                    sum((k - 1) * h[k] ** 2 for k in range(2, 7)) - h[0] ** 2,
                ),
            ),
        ),
    )


@cache
def power_bound_steps() -> tuple[Step, ...]:
    """Why `lambda_min(G^{o k}) >= 1 / sum_i s_i^-2`, `s_i^2 = prod_{j != i} (1 - rho_ij^2)`, for all `k >= N - 1`."""
    r, y, s, norm = sympy.symbols("r y s v", positive=True)
    length = sympy.sqrt(1 - r**2)
    # <p x_i + q x_j, p' x_i + q' x_j> for unit vectors with <x_i, x_j> = r
    normal = (1 / length, -r / length)

    def inner(one: tuple[Expr, Expr], two: tuple[Expr, Expr]) -> Expr:
        return one[0] * two[0] + one[1] * two[1] + r * (one[0] * two[1] + one[1] * two[0])

    own, other = (S.One, S.Zero), (S.Zero, S.One)
    return (
        Step(
            "n_ij = (x_i - r x_j) / sqrt(1 - r^2), r = rho_ij, has norm 1, <n_ij, x_j> = 0 and <n_ij, x_i>^2 = 1 - r^2",
            (
                gap(inner(normal, normal), 1),
                gap(inner(normal, other), 0),
                gap(inner(normal, own) ** 2, 1 - r**2),
            ),
        ),
        Step(
            "T_i, the symmetrised tensor product of all n_ij and of k - N + 1 factors x_i, has norm at most 1 (symmetrising is an orthogonal projection); "
            "<T_i, x^{(x) k}> is the product of its factors' values at x: 0 at x_j, s_i in absolute value at x_i"
        ),
        Step(
            "v = sum_j y_j x_j^{(x) k} has |v|^2 = y^T G^{o k} y, and |y_i| s_i = |<T_i, v>| <= |v| (Cauchy-Schwarz), so y_i^2 <= |v|^2 / s_i^2",
            (gap((norm / s) ** 2 - y**2, (norm - y * s) * (norm + y * s) / s**2),),
        ),
        Step("summed over i: |y|^2 <= |v|^2 sum_i s_i^-2"),
    )


def entrywise_power_bound(gram: Array) -> Array:
    """`1 / sum_i prod_{j != i} 1 / (1 - rho_ij^2)`: a lower bound of `lambda_min(G^{o k})` for all `k >= N - 1`, for unit vectors, `(..., N, N) -> (...)`.

    The proof is in `power_bound_steps`.
    """
    gaps = 1 - np.asarray(gram, float) ** 2
    every = np.arange(gaps.shape[-1])
    gaps[..., every, every] = 1.0
    with np.errstate(divide="ignore"):
        bound: Array = 1 / (1 / np.prod(gaps, -1)).sum(-1)
    return bound


def least_eigenvalue_bound(activation: str | Expr, gram: Array, count: int = 40) -> Array:
    """A lower bound of `lambda_min` of the matrix `C(rho_ij)` for unit vectors, no two of them parallel, `(..., N, N) -> (...)`.

    `sum_{N-1 <= k < count} h_k^2 / sum_i prod_{j != i} 1/(1 - rho_ij^2)`: the powers below `N - 1` and from `count` on are positive semidefinite (Schur) and left out.
    """
    samples = np.asarray(gram).shape[-1]
    weight = float((hermite_coefficients(activation, count)[samples - 1 :] ** 2).sum())
    return weight * entrywise_power_bound(gram)
