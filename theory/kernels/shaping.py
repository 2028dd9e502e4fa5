r"""Deep kernel shaping: `phi_hat(x) = gamma (phi(alpha x + beta) + delta)` with `Q(1) = 1`, `Q'(1) = 1`, `C(0) = 0`, `C'(1) = psi`.

`Q(q) = E[phi_hat(sqrt(q) g)^2]` maps variances, `C(c) = E[phi_hat(u) phi_hat(v)]` (`u`, `v` standard normal of correlation `c`) correlations; `psi = zeta^(1/depth)` of
a chain, `zeta = 3/2`. With `f(g) = phi(alpha g + beta)` the conditions `C(0) = 0`, `Q(1) = 1` give `delta = -E f`, `gamma = Var(f)^(-1/2)`, and two remain:

    slope    alpha^2 E[phi'^2] / Var f = psi          (C'(1) = E[phi_hat'^2], by Price's identity)
    length   alpha (E[g f phi'] - E f E[g phi']) / Var f = 1        (Q'(1) = E[g phi_hat phi_hat']).

Expectations are enclosures (python-flint's `acb.integral` on `|g| <= REACH`, and a bound of the tails), so a root found in double precision can be certified by an
interval Newton step. Where `psi -> 1` (deep networks) the roots are those of `2 phi' phi''' + phi''^2`, with `alpha -> sqrt(2 (psi - 1)) |phi'/phi''|`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import flint
import numpy as np
import scipy.optimize
import sympy
from flint import acb, arb
from sympy import Expr, Piecewise, Rational, Symbol

from theory.atoms.entrywise import activation_facts, z
from theory.bound import Step
from theory.evaluate import exact_ball
from theory.kernels.dual import dual, evaluate, expression

ZETA = Rational(3, 2)
"""Slope of the whole network's `C` map at 1."""
REACH = 13
"""Where enclosures of expectations stop and the bound of the tails takes over, in standard deviations."""
RESIDUAL = 1e-12
"""Largest error of any of the four conditions that a solution may leave."""
alpha, beta = Symbol("alpha", positive=True), Symbol("beta", real=True)
g, psi = Symbol("g", real=True), Symbol("psi", positive=True)
_MOMENTS = sympy.symbols("F F2 S2 GFS GS", real=True)
"""`E f`, `E f^2`, `E phi'^2`, `E g f phi'`, `E g phi'`."""


@lru_cache(maxsize=1)
def condition_steps() -> tuple[Step, ...]:
    """The two derivatives, on pairs of monomials (both sides are bilinear, and polynomials are dense), with the duals of `theory.kernels.dual`."""
    from_dual = {(i, j): sympy.sympify(dual(z**i, z**j)) for i in range(6) for j in range(6)}
    q, c = Symbol("q", positive=True), Symbol("c", real=True)
    price, length = [], []
    for i in range(5):
        for j in range(5):
            lower = i * j * from_dual[i - 1, j - 1] if i * j else 0
            price.append(sympy.diff(from_dual[i, j], c) - lower)
            one_variance = from_dual[i, j].subs({Symbol("a", positive=True): q, Symbol("b", positive=True): q, c: q})
            # E[g f f'] polarised: (i + j)/2 times E[g^(i + j)]
            length.append(sympy.diff(one_variance, q).subs(q, 1) - Rational(i + j, 2) * one_variance.subs(q, 1))
    return (
        Step("dC/dc = E[phi_hat'(u) phi_hat'(v)], so C'(1) = E[phi_hat'^2] where Q(1) = 1", tuple(price)),
        Step("Q'(1) = E[g phi_hat(g) phi_hat'(g)]", tuple(length)),
        Step("C(0) = (E phi_hat)^2: u and v are independent", (from_dual[3, 1].subs(c, 0), from_dual[2, 1].subs(c, 0))),
    )


def conditions() -> tuple[Expr, Expr]:
    """Slope and length conditions, both to be zero, in `alpha`, `psi` and the five moments."""
    F, F2, S2, GFS, GS = _MOMENTS
    variance = F2 - F**2
    return alpha**2 * S2 / variance - psi, alpha * (GFS - F * GS) / variance - 1


@lru_cache(maxsize=1)
def deep_limit_steps() -> tuple[Step, ...]:
    """Leading orders as `alpha -> 0`, from the Taylor coefficients `p_k = phi^(k)(beta)`."""
    p = sympy.symbols("p_0:6", real=True)
    u, t = alpha * g, Symbol("t")
    f = sum(p[k] * u**k / sympy.factorial(k) for k in range(5))
    s = sum(p[k + 1] * u**k / sympy.factorial(k) for k in range(5))

    def mean(e: Expr) -> Expr:
        terms = sympy.Poly(sympy.expand(e), g).terms()
        return sympy.Add(*(v * (sympy.factorial2(k - 1) if k else 1) for (k,), v in terms if k % 2 == 0))

    values = [mean(e) for e in (f, f**2, s**2, g * f * s, g * s)]
    slope, length = (c.subs(dict(zip(_MOMENTS, values, strict=True))).subs({alpha: t, psi: 1}) for c in conditions())
    first, second = (sympy.cancel(sympy.cancel(e / t**2)).subs(t, 0) for e in (slope, length))
    return (
        Step(
            "C'(1) - 1 = alpha^2 phi''^2/(2 phi'^2) + O(alpha^4)",
            (sympy.simplify(first - p[2] ** 2 / (2 * p[1] ** 2)),),
        ),
        Step(
            "Q'(1) - 1 = alpha^2 (2 phi' phi''' + phi''^2)/(2 phi'^2) + O(alpha^4)",
            (sympy.simplify(second - (2 * p[1] * p[3] + p[2] ** 2) / (2 * p[1] ** 2)),),
        ),
    )


@lru_cache(maxsize=1)
def relu_steps() -> tuple[Step, ...]:
    """ReLU: `relu(alpha g + beta) = alpha relu(g + b)`, so one unknown `b = beta / alpha` is left for two conditions."""
    b = Symbol("b", real=True)
    density = sympy.exp(-(g**2) / 2) / sympy.sqrt(2 * sympy.pi)

    def mean(e: Expr) -> Expr:
        return sympy.integrate(sympy.expand(e) * density, (g, -b, sympy.oo))

    values = [mean(e) for e in (g + b, (g + b) ** 2, sympy.S.One, g * (g + b), g)]
    fixed = {alpha: 1, psi: sympy.pi / (sympy.pi - 1)}
    slope, length = (c.subs(fixed) for c in conditions())
    at_zero = slope.subs(dict(zip(_MOMENTS, (sympy.limit(v, b, 0) for v in values), strict=True)))
    length = length.subs(dict(zip(_MOMENTS, values, strict=True)))
    variance = values[1] - values[0] ** 2
    outside = sympy.erfc(b / sympy.sqrt(2)) / 2
    gap = length * variance + values[0] * b * outside
    return (
        Step(
            "(1 - Q'(1)) Var f = E f b P(g > b): zero at b = 0 only, as E f > 0",
            (sympy.simplify(sympy.expand(sympy.cancel(gap).rewrite(sympy.erf))),),
        ),
        Step("at b = 0 C'(1) = pi/(pi - 1), whatever alpha", (at_zero,)),
    )


@lru_cache(maxsize=1)
def linearity_steps() -> tuple[Step, ...]:
    """`C` of a whole network is a power series `sum_n p_n c^n` with `p_n >= 0`, `p_0 = 0`, `sum p_n = 1`, `sum n p_n = zeta`; so is its composition over layers."""
    c = Symbol("c", real=True)
    powers = tuple(
        sympy.expand(1 - c ** (n - 1) - (1 - c) * sympy.Add(*(c**k for k in range(n - 1)))) for n in range(2, 9)
    )
    return (
        Step("1 - c^(n-1) = (1 - c)(1 + c + ... + c^(n-2)), at most (n - 1)(1 - c) for |c| <= 1", powers),
        Step(
            "|C(c) - c| <= sum p_n |c| |1 - c^(n-1)| <= (zeta - 1) |c| (1 - c), equality for p_1 + p_2 = 1; at most (zeta - 1)/4 for c >= 0"
        ),
    )


def _refuse(activation: str | Expr, phi: Expr, depth: float) -> None:
    target = f"C'(1) = zeta^(1/{depth:g})"
    if phi == expression("relu"):
        raise ValueError(
            f"relu is homogeneous, only beta/alpha matters: Q'(1) = 1 forces beta = 0 and then C'(1) = pi/(pi - 1), so {target} has no solution"
        )
    if sympy.diff(phi, z, 2) == 0:
        raise ValueError(f"{activation} is affine: C'(1) = 1 whatever alpha and beta, so {target} > 1 has no solution")
    if phi.has(Piecewise, sympy.Abs, sympy.Heaviside):
        raise ValueError(
            f"{activation} is not analytic: its expectations have no enclosure here; use a smooth activation"
        )


def _log(x: Any, analytic: bool) -> acb:
    return acb(x).log(analytic=analytic)


def _method(name: str) -> Callable[[Any], acb]:
    return lambda x: getattr(acb(x), name)()


_FLINT: dict[str, Any] = {
    **{name: _method(name) for name in ("exp", "tanh", "sin", "cos", "erf", "sqrt")},
    "logarithm": _log,
    "pi": acb.pi(),
    "I": acb(0, 1),
}


@dataclass(frozen=True)
class _System:
    """Compiled integrands of the five moments and of their derivatives by `alpha` and `beta`, and the conditions with their Jacobian."""

    integrands: tuple[Callable[..., acb], ...]
    residual: Callable[..., list[Any]]
    jacobian: Callable[..., list[Any]]
    growth: tuple[arb, arb]


@cache
def _system(phi: Expr) -> _System:
    analytic, logarithm = Symbol("analytic"), sympy.Function("logarithm")
    shifted = alpha * g + beta
    f, s = phi.subs(z, shifted), sympy.diff(phi, z).subs(z, shifted)
    moments = [f, f**2, s**2, g * f * s, g * s]
    every = [*moments, *(sympy.diff(m, alpha) for m in moments), *(sympy.diff(m, beta) for m in moments)]
    weight = sympy.exp(-(g**2) / 2)
    compiled = []
    for integrand in every:
        formula = (integrand * weight).rewrite(sympy.log) if phi.has(sympy.atan) else integrand * weight
        formula = formula.replace(sympy.log, lambda e: logarithm(e, analytic))
        compiled.append(sympy.lambdify((g, alpha, beta, analytic), formula, modules=[_FLINT], cse=True))
    by = {x: sympy.symbols([f"{m}_{x}" for m in _MOMENTS]) for x in (alpha, beta)}
    both = conditions()
    rows = [
        [sympy.diff(e, x) + sum(sympy.diff(e, m) * d for m, d in zip(_MOMENTS, by[x], strict=True)) for x in by]
        for e in both
    ]
    arguments = (alpha, psi, *_MOMENTS)
    plain = _growth_of(phi)
    return _System(
        tuple(compiled),
        sympy.lambdify(arguments, list(both), modules=[{}]),
        sympy.lambdify((*arguments, *by[alpha], *by[beta]), rows, modules=[{}]),
        plain,
    )


def _growth_of(phi: Expr) -> tuple[arb, arb]:
    """`(c_0, c_1)` with `|phi(x)| <= c_0 + c_1 |x|`, `|phi'| <= c_1` and `|phi''| <= c_1`, of a known activation.

    Raises:
        ValueError: a formula that is none of `ACTIVATIONS`.
    """
    name = next((n for n in _NAMES if expression(n) == phi), None)
    if name is None:
        raise ValueError(f"shaping: {phi} is not a known activation: use one of {', '.join(_NAMES)}")
    facts = activation_facts(name)
    at_zero = exact_ball(sympy.Abs(phi.subs(z, 0)))
    sizes = [exact_ball(e) for e in (facts.slope.value, facts.curvature.value)]
    return at_zero, arb(1).max(sizes[0]).max(sizes[1])


_NAMES = ("tanh", "sigmoid", "softplus", "arctan", "erf", "sin", "gelu", "silu")
"""Analytic activations."""


def _tail(growth: tuple[arb, arb], a: arb, b: arb) -> arb:
    """A bound of `|E[h 1(|g| > REACH)]|` for every integrand: each is at most `2 m^2 (1 + |g|)^4` with `m = c_0 + c_1 (1 + |alpha| + |beta|)`.

    For `x >= T` `(1 + x)^4 exp(-x^2/2)` falls at least like `exp(-(T - 4/(1 + T)) (x - T))`.
    """
    m = growth[0] + growth[1] * (1 + abs(a) + abs(b))
    T = arb(REACH)
    rate = T - 4 / (1 + T)
    return 4 * m**2 * (1 + T) ** 4 * (-(T**2) / 2).exp() / rate / (2 * arb.pi()).sqrt()


def _moments(system: _System, a: arb, b: arb, count: int, tolerance: float) -> list[arb]:
    tail = _tail(system.growth, a, b)
    spread = arb(0, tail.abs_upper())
    root, left, right = (2 * arb.pi()).sqrt(), acb(-REACH), acb(REACH)
    at = acb(a), acb(b)

    def whole(integrand: Callable[..., acb]) -> acb:
        def on(x: acb, analytic: bool) -> acb:
            return integrand(x, *at, analytic)

        return acb.integral(on, left, right, rel_tol=arb(tolerance), abs_tol=arb(tolerance))

    return [whole(integrand).real / root + spread for integrand in system.integrands[:count]]


@dataclass(frozen=True)
class Shaped:
    """A solution: the four numbers, the largest error of the four conditions (an enclosure's upper end), and how it was certified.

    `certified` is the radius of a box around `(alpha, beta)` in which the interval Newton operator proves exactly one solution, or None where it did not.
    """

    activation: str
    depth: float
    psi: float
    alpha: float
    beta: float
    gamma: float
    delta: float
    residual: float
    certified: float | None

    @property
    def expression(self) -> Expr:
        """`phi_hat` in `z`, with the solution's doubles."""
        return sympy.Float(self.gamma) * (
            expression(self.activation).subs(z, sympy.Float(self.alpha) * z + sympy.Float(self.beta))
            + sympy.Float(self.delta)
        )


def residuals(activation: str, a: Any, b: Any, target: Any) -> tuple[arb, arb]:
    """Enclosures of `C'(1) - psi` and `Q'(1) - 1` at `(alpha, beta)`, with `gamma`, `delta` from the other two conditions."""
    system = _system(expression(activation))
    a, b = exact_ball(a), exact_ball(b)
    slope, length = system.residual(a, exact_ball(target), *_moments(system, a, b, 5, 1e-30))
    return slope, length


def deep_limits(activation: str) -> tuple[tuple[float, float], ...]:
    """All `(beta, |phi'/phi''|)` in `|beta| <= 8` at which solutions for `psi -> 1` arise: simple zeros of `2 phi' phi''' + phi''^2` with `phi', phi'' != 0`."""
    phi = expression(activation)
    first, second, third = (evaluate(sympy.diff(phi, z, k)) for k in (1, 2, 3))

    def criterion(x: Any) -> Any:
        return 2 * first(x) * third(x) + second(x) ** 2

    grid = np.linspace(-8, 8, 1602)  # an even number of points: 0 is none of them
    values = criterion(grid)
    found = []
    for i in np.flatnonzero(values[:-1] * values[1:] < 0):
        x = scipy.optimize.brentq(criterion, grid[i], grid[i + 1], xtol=1e-15)
        p, q = float(first(np.array(x))), float(second(np.array(x)))
        if min(abs(p), abs(q)) > 1e-9:
            found.append((float(x), abs(p / q)))
    return tuple(found)


def _newton(activation: str, target: Expr, start: tuple[float, float]) -> tuple[float, float] | None:
    """A root near `start` in `(log alpha, beta)`, or None; the conditions are divided by `psi - 1`, which is what tells deep solutions apart."""
    system, level = _system(expression(activation)), exact_ball(target)

    def both(x: np.ndarray) -> tuple[list[float], list[list[float]]]:
        if not -12 < x[0] < 4 or abs(x[1]) > 30:  # where a step left the region, turn back
            return [1e3, 1e3], [[1.0, 0.0], [0.0, 1.0]]
        a, b = arb(float(np.exp(x[0]))), arb(float(x[1]))
        at = _moments(system, a, b, 15, 1e-24)
        scale = level - 1
        value = [float(v / scale) for v in system.residual(a, level, *at[:5])]
        rows = [[float(v / scale) for v in row] for row in system.jacobian(a, level, *at)]
        return value, [[row[0] * float(a), row[1]] for row in rows]

    found = scipy.optimize.root(both, [np.log(start[0]), start[1]], jac=True, method="hybr", tol=1e-14)
    value = both(found.x)[0]
    if not max(map(abs, value)) < 1e-9:
        return None
    return float(np.exp(found.x[0])), float(found.x[1])


def holds_one_root(activation: str, target: Expr, a: float, b: float, radius: float) -> bool:
    """Whether the Krawczyk operator maps the box of that radius into its interior: then it holds exactly one solution."""
    system, level = _system(expression(activation)), exact_ball(target)
    middle = _moments(system, arb(a), arb(b), 15, 1e-30)
    value = flint.arb_mat([[v] for v in system.residual(arb(a), level, *middle[:5])])
    box = arb(a, radius), arb(b, radius)
    inverse = flint.arb_mat(system.jacobian(arb(a), level, *middle)).inv().mid()
    wide = flint.arb_mat(system.jacobian(box[0], level, *_moments(system, *box, 15, radius / 100)))
    step = -(inverse * value) + (flint.arb_mat([[1, 0], [0, 1]]) - inverse * wide) * flint.arb_mat(
        [[arb(0, radius)], [arb(0, radius)]]
    )
    return all(bool(abs(step[i, 0]) < arb(radius)) for i in range(2))


def shape(activation: str, depth: float, zeta: Expr = ZETA, start: tuple[float, float] | None = None) -> Shaped:
    """Solve the four conditions for a chain of that depth.

    Without `start` (a pair `alpha, beta`) the roots of the deep limit are followed from `psi` near 1 up to `zeta^(1/depth)`; of several the one of least `|beta|`.

    Raises:
        ValueError: an activation without solution (affine, ReLU), one that is not analytic, or none found, with what was tried.
    """
    phi = expression(activation)
    _refuse(activation, phi, depth)
    if depth <= 0 or zeta <= 1:
        raise ValueError(f"shaping: depth {depth} and zeta {zeta}: use a positive depth and a slope above 1")
    target = sympy.sympify(zeta) ** (1 / sympy.nsimplify(depth))
    if start is not None:
        starts = [(start, [target])]
    else:
        starts = []
        for point, ratio in sorted(deep_limits(activation), key=lambda pair: (abs(pair[0]), -pair[0])):
            excess = float(target) - 1
            stages = [excess]
            while stages[-1] * ratio**2 > 0.02:
                stages.append(stages[-1] / 2)
            path = [target, *(1 + sympy.Float(e) for e in stages[1:])][::-1]
            starts.append((((2 * float(path[0] - 1)) ** 0.5 * ratio, point), path))
    for begin, path in starts:
        here: tuple[float, float] | None = begin
        for level in path:
            here = None if here is None else _newton(activation, level, here)
        if here is not None:
            return _finished(activation, depth, target, *here)
    tried = ", ".join(f"alpha = {x[0]:.3g}, beta = {x[1]:.3g}" for x, _ in starts)
    raise ValueError(
        f"shaping: no solution found for {activation} at depth {depth:g} (psi = {float(target):.6g}) from "
        + (tried or "any start: 2 phi' phi''' + phi''^2 has no zero, so deep networks have none")
        + "; give start=(alpha, beta)"
    )


def _finished(activation: str, depth: float, target: Expr, a: float, b: float) -> Shaped:
    system = _system(expression(activation))
    F, F2, *_ = _moments(system, arb(a), arb(b), 5, 1e-30)
    gamma, delta = float(1 / (F2 - F**2).sqrt()), float(-F)
    # with the rounded gamma and delta: Q(1) and C(0) as they are
    second = arb(gamma) ** 2 * (F2 + 2 * arb(delta) * F + arb(delta) ** 2)
    first = arb(gamma) ** 2 * (F + arb(delta)) ** 2
    errors = [second - 1, first, *residuals(activation, a, b, target)]
    worst = max(float(abs(e).upper()) for e in errors)
    if worst > RESIDUAL:
        raise ValueError(f"shaping: {activation} at depth {depth:g}: residual {worst:.2g} is above {RESIDUAL:g}")
    radius = next((r for r in (1e-6, 1e-8, 1e-10, 1e-12) if holds_one_root(activation, target, a, b, r)), None)
    return Shaped(activation, float(depth), float(target), a, b, gamma, delta, worst, radius)
