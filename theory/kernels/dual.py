r"""Dual activations: Gaussian expectations `E[phi(u) psi(v)]` for `(u, v) ~ N(0, [[a, c], [c, b]])`, and `E[phi(u)]`.

Closed forms are derived, never looked up:

1. of polynomials times exponentials of quadratics (sines, Gaussians and polynomials among them) by completing the square and Stein's recursion of moments;
2. of everything that becomes such a function, plus point masses at 0, after `k <= 3` derivatives in the sense of distributions (erf and Heaviside after one;
   ReLU, GELU and `|z|` after two), by integrating Price's identity `d/dc E[phi(u) psi(v)] = E[phi'(u) psi'(v)]` `k` times from `c = 0`, where `u` and `v` are
   independent. Thus arise the arc-cosine kernels of ReLU and the arcsine kernel of erf. The means come from `d/da E[phi(u)] = E[phi''(u)] / 2` likewise.

Where neither applies (tanh, softplus, ...), `dual_values` and `mean_values` use quadrature: Gauss-Legendre in polar coordinates, the circle cut along `u = 0` and
`v = 0`, so that kinks and jumps at 0 cost no accuracy; the error is estimated from two orders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import sympy
from sympy import Expr, S, Symbol, exp

from theory.atoms.entrywise import ACTIVATIONS, z

Array = np.ndarray
Terms = tuple[tuple[tuple[Expr, ...], Expr, Expr], ...]
a = Symbol("a", positive=True)
b = Symbol("b", positive=True)
c = Symbol("c", real=True)
"""Variance of `u`, variance of `v`, covariance: the variables of closed forms."""

REACH = 13.0
"""Radius of quadrature in standard deviations: the mass beyond, `exp(-REACH^2 / 2)`, is 2e-37."""
ORDER = 48
NODES = 2_000_000
"""How many values of an activation quadrature holds at once."""
_u, _v = Symbol("u", real=True), Symbol("v", real=True)
_right, _left = Symbol("r", positive=True), Symbol("l", negative=True)


@dataclass(frozen=True)
class Estimate:
    """`value`: an array of expectations. `error`: 0 for closed forms (evaluated in double precision), else the difference of two orders of quadrature."""

    value: Array
    error: Array


def expression(activation: str | Expr) -> Expr:
    """The formula in `z` of an activation given by name, or the formula itself.

    Raises:
        ValueError: an unknown name, or a formula with other symbols than `z`.
    """
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}: use one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[activation]
    # floats as the rational numbers they are: what is derived is exact
    phi = sympy.nsimplify(activation, rational=True)
    if others := phi.free_symbols - {z}:
        raise ValueError(f"the activation {phi} has the symbols {others} besides z: give numbers for them")
    return phi


def derivative(activation: str | Expr) -> Expr:
    """`phi'(z)`, almost everywhere."""
    return sympy.diff(expression(activation), z)


@dataclass(frozen=True)
class _Distribution:
    """`terms`: (coefficients of a polynomial, l, q) for `poly(z) exp(l z - q z^2)`; `masses[j]`: the factor of the j-th derivative of the point mass at 0."""

    terms: Terms
    masses: tuple[Expr, ...]


def _terms(function: Expr) -> Terms | None:
    """A function of `z` as a sum of polynomials times exponentials of quadratics that do not grow like `exp(z^2)`, or None."""
    found = []
    for term in sympy.Add.make_args(sympy.expand(function.rewrite(exp))):
        exponent, rest = S.Zero, S.One
        for factor in sympy.Mul.make_args(term):
            if isinstance(factor, exp):
                exponent += factor.args[0]
            else:
                rest *= factor
        if not rest.is_polynomial(z) or not exponent.is_polynomial(z):
            return None
        powers = sympy.Poly(exponent, z).all_coeffs()[::-1] + [S.Zero] * 3
        if len(powers) > 6 or any(powers[3:]) or powers[2].is_positive:
            return None
        coefficients = tuple(exp(powers[0]) * p for p in sympy.Poly(rest, z).all_coeffs()[::-1])
        found.append((coefficients, powers[1], -powers[2]))
    return tuple(found)


@cache
def _halves(phi: Expr) -> tuple[Expr, Expr]:
    """The formulas that hold for `z > 0` and for `z < 0`."""
    return phi.subs(z, _right).subs(_right, z), phi.subs(z, _left).subs(_left, z)


CLOSABLE = (exp, sympy.sin, sympy.cos, sympy.sinh, sympy.cosh, sympy.erf, sympy.erfc, sympy.Abs, sympy.Piecewise, sympy.sign, sympy.Max, sympy.Min)  # fmt: skip


def _may_close(phi: Expr) -> bool:
    """Whether some derivative of the formula may be of the form needed; saves vain attempts on quotients, logarithms and the like."""
    quotient = any(p.base.has(z) and p.exp.is_negative for p in phi.atoms(sympy.Pow))
    return not quotient and all(isinstance(f, CLOSABLE) for f in phi.atoms(sympy.Function) if f.has(z))


@cache
def _derivative(phi: Expr, order: int) -> _Distribution | None:
    """The derivative of that order in the sense of distributions, or None where it is not of the form needed."""
    if not _may_close(phi):
        return None
    right, left = _halves(phi)
    masses = []
    for _ in range(order):
        jump = sympy.simplify((right - left).subs(z, 0))
        if not jump.is_finite:
            return None
        masses.append(jump)
        right, left = sympy.diff(right, z), sympy.diff(left, z)
    if sympy.simplify(right - left) != 0:
        return None
    terms = _terms(right)
    return None if terms is None else _Distribution(terms, tuple(masses[::-1]))


def _moments(
    mean: tuple[Expr, Expr], covariance: sympy.Matrix, first: tuple[Expr, ...], second: tuple[Expr, ...]
) -> Expr:
    """`E[p(u) q(v)]` of two polynomials under a Gaussian law, by Stein's recursion."""

    @cache
    def moment(i: int, j: int) -> Expr:
        if i < 0 or j < 0:
            return S.Zero
        if i == j == 0:
            return S.One
        if i == 0:
            return mean[1] * moment(0, j - 1) + (j - 1) * covariance[1, 1] * moment(0, j - 2)
        ahead = mean[0] * moment(i - 1, j) + (i - 1) * covariance[0, 0] * moment(i - 2, j)
        return ahead + j * covariance[0, 1] * moment(i - 1, j - 1)

    return sum(p * q * moment(i, j) for i, p in enumerate(first) for j, q in enumerate(second))


def _of_terms(first: Terms, second: Terms, variance: Expr, other: Expr, covariance: Expr) -> Expr:
    """`E[p(u) q(v)]` of two sums of polynomials times exponentials of quadratics, by completing the square."""
    total = S.Zero
    law = sympy.Matrix([[variance, covariance], [covariance, other]])
    for p, slope_u, square_u in first:
        for q, slope_v, square_v in second:
            weights = sympy.diag(2 * square_u, 2 * square_v)
            shape = sympy.eye(2) + weights * law
            # the inverse is written out: SymPy's own would not see that determinant and cofactors simplify
            det = sympy.expand(shape.det())
            tilted = (law * shape.adjugate() / det).applyfunc(sympy.cancel)
            slope = sympy.Matrix([slope_u, slope_v])
            mean = tilted * slope
            factor = exp(sympy.expand((slope.T * tilted * slope)[0] / 2)) / sympy.sqrt(det)
            total += factor * _moments((mean[0], mean[1]), tilted, p, q)
    return total


ONE = (((S.One,), S.Zero, S.Zero),)


def _mean(distribution: _Distribution) -> Expr:
    """`E[D(u)]`; the j-th derivative of a point mass gives `(-1)^j` times that of the density at 0."""
    density = exp(-(_u**2) / (2 * a)) / sympy.sqrt(2 * sympy.pi * a)
    total = _of_terms(distribution.terms, ONE, a, b, S.Zero)
    for j, mass in enumerate(distribution.masses):
        total += mass * (-1) ** j * sympy.diff(density, _u, j).subs(_u, 0)
    return sympy.simplify(total)


def _pair(first: _Distribution, second: _Distribution) -> Expr | None:
    """`E[D(u) E(v)]`, or None where a point mass is differentiated."""
    if any(first.masses[1:]) or any(second.masses[1:]):
        return None
    total = _of_terms(first.terms, second.terms, a, b, c)
    m, n = (d.masses[0] if d.masses else S.Zero for d in (first, second))
    if m != 0:
        total += m / sympy.sqrt(2 * sympy.pi * a) * _of_terms(second.terms, ONE, b - c**2 / a, a, S.Zero)
    if n != 0:
        total += n / sympy.sqrt(2 * sympy.pi * b) * _of_terms(first.terms, ONE, a - c**2 / b, b, S.Zero)
    return total + m * n / (2 * sympy.pi * sympy.sqrt(a * b - c**2))


def _integral(integrand: Expr) -> Expr | None:
    """`int_0^c integrand dc` among the functions `c^i R^j`, `c^i asin(k c / s)` and `c^i`, `R^2 = s^2 - k^2 c^2`, or None.

    The coefficients solve a linear system (that the derivative is the integrand), so a result is its own proof.
    """
    radicands = {sympy.expand(p.base) for p in integrand.atoms(sympy.Pow) if p.exp.is_Rational and p.base.has(c)}
    for angle in integrand.atoms(sympy.asin) if not radicands else ():
        numerator, denominator = sympy.fraction(sympy.cancel((angle.args[0] / c) ** 2))
        radicands.add(sympy.expand(denominator - numerator * c**2))
    radicands -= {c}
    if len(radicands) > 1:
        return None
    radicand = radicands.pop() if radicands else 1 - c**2
    s_squared, k_squared = radicand.subs(c, 0), -radicand.coeff(c, 2)
    if sympy.expand(s_squared - k_squared * c**2 - radicand) != 0:
        return None
    R, T = sympy.symbols("R T")
    arcsine = sympy.asin(c * sympy.sqrt(k_squared) / sympy.sqrt(sympy.factor(s_squared)))
    # c^2 = (s^2 - R^2) / k^2, so these are independent
    basis = [c**i * R**j for i in (0, 1) for j in (-3, -1, 1, 3)] + [T, c * T, c**2 * T] + [c**i for i in range(1, 6)]
    unknown = sympy.symbols(f"q:{len(basis)}")
    ansatz = sum(q * f for q, f in zip(unknown, basis, strict=True))
    abstract = integrand.replace(
        lambda e: isinstance(e, sympy.Pow) and e.base.has(c) and e.base != c, lambda e: R ** (2 * e.exp)
    ).replace(sympy.asin, lambda _: T)
    slope = sympy.diff(ansatz, c) - sympy.diff(ansatz, R) * k_squared * c / R
    slope += sympy.diff(ansatz, T) * sympy.sqrt(k_squared) / R
    cleared = (sympy.cancel(term * R**5) for term in sympy.Add.make_args(abstract))
    gap = sympy.expand(slope * R**5) - sympy.expand(sympy.Add(*cleared))
    if not gap.is_polynomial(c, R, T):
        return None
    # even powers of R are polynomials in c; what is left is linear in R
    powers = sympy.Poly(gap, R, T).terms()
    reduced = sum(value * radicand ** (i // 2) * R ** (i % 2) * T**j for (i, j), value in powers)
    solved = sympy.linsolve(sympy.Poly(sympy.expand(reduced), c, R, T).coeffs(), unknown)
    if not solved:
        return None
    values = (sympy.factor(value.subs(dict.fromkeys(unknown, 0))) for value in next(iter(solved)))
    found = sum(q * f for q, f in zip(values, basis, strict=True)).subs({R: sympy.sqrt(radicand), T: arcsine})
    return found - sympy.factor(found.subs(c, 0))


@cache
def mean(activation: str | Expr) -> Expr | None:
    """`E[phi(u)]`, `u ~ N(0, a)`, in closed form in `a`; None where the derivation finds none.

    By `d/da E[phi(u)] = E[phi''(u)] / 2` from `a = 0`, where it is the mean of the two limits of `phi` at 0.
    """
    phi = expression(activation)
    if (whole := _derivative(phi, 0)) is not None:
        return _mean(whole)
    right, left = _halves(phi)
    value, steps = None, []
    for order in (2, 4):
        steps.append(((right + left) / 2).subs(z, 0))
        right, left = sympy.diff(right, z, 2), sympy.diff(left, z, 2)
        if (found := _derivative(phi, order)) is not None:
            value = _mean(found)
            break
    if value is None:
        return None
    for start in reversed(steps):
        value = start + sympy.integrate(value.subs(a, _u), (_u, 0, a)) / 2 if value != 0 else start
    return sympy.simplify(value)


def dual(phi: str | Expr, psi: str | Expr | None = None) -> Expr | None:
    """`E[phi(u) psi(v)]` in closed form in `a`, `b`, `c` (`psi` is `phi` if left out); None where the derivation finds none.

    Holds for `a, b > 0` and `c^2 < a b`, and by continuity at `c^2 = a b` where it is finite there.
    """
    first = expression(phi)
    return _dual(first, first if psi is None else expression(psi))


@cache
def _dual(first: Expr, second: Expr) -> Expr | None:
    for order in range(4):
        left, right = _derivative(first, order), _derivative(second, order)
        if left is None or right is None:
            continue
        value = _pair(left, right)
        for k in reversed(range(order)):
            start = _product_of_means(sympy.diff(first, z, k), sympy.diff(second, z, k))
            value = None if value is None else _integral(value)
            if value is None or start is None:
                return None
            value += start
        return value if value is None or order else sympy.simplify(value)
    return None


def _product_of_means(first: Expr, second: Expr) -> Expr | None:
    """`E[phi(u)] E[psi(v)]`: the dual at `c = 0`."""
    left, right = mean(first), mean(second)
    return None if left is None or right is None else left * right.subs(a, b)


@cache
def second_moment(phi: str | Expr) -> Expr | None:
    """`E[phi(u)^2]`, `u ~ N(0, a)`, in closed form in `a`: the dual at `a = b = c`; None where there is none."""
    form = dual(phi)
    return None if form is None else form.subs({b: a, c: a}, simultaneous=True)


@cache
def _function(form: Expr) -> Callable[..., Array]:
    """A closed form as a NumPy function of `a, b, c`; rounding beyond `c^2 = a b` is cut off."""
    functions = {"sqrt": lambda x: np.sqrt(np.maximum(x, 0)), "asin": lambda x: np.arcsin(np.clip(x, -1, 1))}
    call = sympy.lambdify((a, b, c), form, modules=[functions, "numpy"])
    # a sine of a shifted argument comes as a sum of conjugate exponentials
    return lambda *law: np.real(call(*law))


@cache
def evaluate(phi: Expr) -> Callable[[Array], Array]:
    """The formula in `z` as a NumPy function of an array."""
    call = sympy.lambdify(z, phi.rewrite(sympy.Piecewise), modules=["numpy", "scipy"])

    def on(values: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):  # exponentials in the branches not taken
            return np.broadcast_to(call(values), np.shape(values))

    return on


_nodes = cache(np.polynomial.legendre.leggauss)


def _legendre(order: int, low: Array, high: Array) -> tuple[Array, Array]:
    """Nodes and weights on intervals, along a new last axis."""
    nodes, weights = _nodes(order)
    half = (np.asarray(high) - low)[..., None] / 2
    return np.asarray(low)[..., None] + half * (nodes + 1), half * weights


def _polar(phi: Expr, psi: Expr, variances: Array, order: int) -> Array:
    """Quadrature for rows `(a, b, c)`: `u = sqrt(a) r cos t`, `v = sqrt(b) r cos(t - g)`, `cos g` the correlation, `r` of density `r exp(-r^2 / 2)`."""
    first, second = np.sqrt(variances[:, 0]), np.sqrt(variances[:, 1])
    angle = np.arccos(np.clip(variances[:, 2] / (first * second), -1, 1))
    # u changes its sign at pi/2 and 3 pi/2, v at the same angles plus g
    cuts = np.stack([0 * angle, angle, 0 * angle + np.pi, angle + np.pi, 0 * angle + 2 * np.pi], -1) + np.pi / 2
    angles, turn = (x.reshape(len(variances), -1) for x in _legendre(order // 2, cuts[:, :-1], cuts[:, 1:]))
    radii, step = _legendre(order, np.zeros(()), np.asarray(REACH))
    u = (first[:, None] * np.cos(angles))[..., None] * radii
    v = (second[:, None] * np.cos(angles - angle[:, None]))[..., None] * radii
    values = evaluate(phi)(u) * evaluate(psi)(v)
    return np.einsum("nar,na,r->n", values, turn, step * radii * np.exp(-(radii**2) / 2)) / (2 * np.pi)


def gaussian_rule(order: int) -> tuple[Array, Array]:
    """Points and weights, `(2 order,)` each, of quadrature for the standard normal law: Gauss-Legendre on either side of 0."""
    radii, step = _legendre(order, np.zeros(()), np.asarray(REACH))
    weights = step * np.exp(-(radii**2) / 2) / np.sqrt(2 * np.pi)
    return np.concatenate([-radii, radii]), np.concatenate([weights, weights])


def _two_orders(rule: Callable[[int], Array], order: int, shape: tuple[int, ...]) -> Estimate:
    fine, coarse = rule(order), rule(2 * order // 3)
    return Estimate(fine.reshape(shape), np.abs(fine - coarse).reshape(shape))


def dual_values(
    phi: str | Expr,
    variance: Array | float,
    other: Array | float,
    covariance: Array | float,
    psi: str | Expr | None = None,
    order: int = ORDER,
) -> Estimate:
    """`E[phi(u) psi(v)]` for arrays of variances of `u`, of `v`, and covariances (any shapes that broadcast), in double precision.

    By the closed form of `dual` where there is one, else by quadrature with `order` radii and `2 order` angles, and its error estimate.

    Raises:
        ValueError: variances that are not positive, or covariances beyond `sqrt(a b)`.
    """
    first = expression(phi)
    second = first if psi is None else expression(psi)
    law = np.broadcast_arrays(*(np.asarray(x, float) for x in (variance, other, covariance)))
    _check_variances(law[0], law[1])
    limit = np.sqrt(law[0] * law[1])
    if np.any(np.abs(law[2]) > limit * (1 + 1e-9)):
        raise ValueError("dual: a covariance exceeds sqrt(a b): give entries of a positive semidefinite matrix")
    form = dual(first, second)
    if form is not None:
        value = np.broadcast_to(_function(form)(law[0], law[1], np.clip(law[2], -limit, limit)), law[0].shape)
        return Estimate(np.array(value, float), np.zeros(law[0].shape))
    rows = np.stack([x.ravel() for x in law], -1)

    def rule(nodes: int) -> Array:
        size = max(1, NODES // (2 * nodes * nodes))
        parts = [_polar(first, second, rows[i : i + size], nodes) for i in range(0, len(rows), size)]
        return np.concatenate(parts) if parts else np.zeros(0)

    return _two_orders(rule, order, law[0].shape)


def mean_values(phi: str | Expr, variance: Array | float, order: int = 2 * ORDER) -> Estimate:
    """`E[phi(sqrt(q) g)]`, `g` standard normal, for an array of variances `q`.

    By the closed form of `mean` where there is one, else by quadrature with `order` nodes on either side of 0, and its error estimate.

    Raises:
        ValueError: variances that are not positive.
    """
    return _one_dimensional(expression(phi), mean(phi), variance, order)


def second_moment_values(phi: str | Expr, variance: Array | float, order: int = 2 * ORDER) -> Estimate:
    """`E[phi(sqrt(q) g)^2]` in the same way; that of the slope is `second_moment_values(derivative(phi), q)`.

    Raises:
        ValueError: variances that are not positive.
    """
    return _one_dimensional(expression(phi) ** 2, second_moment(phi), variance, order)


def _one_dimensional(function: Expr, form: Expr | None, variance: Array | float, order: int) -> Estimate:
    q = np.asarray(variance, float)
    _check_variances(q)
    if form is not None:
        value = np.broadcast_to(_function(form)(q, q, 0 * q), q.shape)
        return Estimate(np.array(value, float), np.zeros(q.shape))

    def rule(nodes: int) -> Array:
        points, weights = gaussian_rule(nodes)
        return evaluate(function)(np.sqrt(q)[..., None] * points) @ weights

    return _two_orders(rule, order, q.shape)


def _check_variances(*variances: Array) -> None:
    for q in variances:
        if not np.all(q > 0):
            raise ValueError(
                f"dual: the least variance is {np.min(q)}: give positive ones (leave out inputs equal to 0)"
            )
