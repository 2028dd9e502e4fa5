"""Deep ReLU networks with Gaussian weights: exact moments of features and gradients, and angles between samples in the wide limit, by SymPy.

Model of Allen-Zhu, Li, Song (arXiv 1811.03962): `h_0 = relu(A x)`, `h_l = relu(W_l h_{l-1})`, `y = B h_L`, width `m`, `d` outputs, entries of `A` and `W_l` of variance
`2/m`, of `B` of variance `1/d`, `|x| = 1`; gradients by the `W_l` alone. Exact at every width:

    E|h_l|^2 = 1            Var|h_l|^2 = (1 + 5/m)^(l+1) - 1            E|grad_{W_l} <v, y>|^2 = m |v|^2 / (2 d)      for every l and L

and for fixed `v_i`, given the features `h_i` below the last layer, `E|grad_{W_L} sum_i <v_i, y_i>|^2 = (m/d) sum_ij <v_i, v_j> G_ij` with
`G_ij = (pi - theta_ij)/(2 pi) <h_i, h_j>`, `theta_ij` the angle of `h_i` and `h_j`. In the wide limit the angle follows `cos theta' = 2 E relu(u) relu(v)`.
"""

from __future__ import annotations

from functools import cache

import sympy
from sympy import Expr, S, Symbol

from theory import symbols
from theory.bound import Bound, Sense, Step, gap
from theory.signal.depth_scaling import relu_moment
from theory.signal.propagation import propagate
from theory.spec import parse
from theory.suprema import supremum

m, d, L, N = symbols.m, symbols.d, symbols.L, symbols.N
theta = Symbol("theta", positive=True)
"""The angle between two vectors; `[0, pi/2]` between features, and between inputs whose last coordinate is `1/sqrt 2`."""
_X = Symbol("x", real=True)
_SMALL = S.One / 4
"""Below this angle Taylor polynomials with the sign of their remainder take the place of sine and cosine."""


@cache
def norm_variance() -> Bound:
    """`Var|h_l|^2 = (1 + 5/m)^(l+1) - 1` at every width, `l = L`: given `h` the ratio of squared norms is `(2/m) sum_j relu(g_j)^2`, whatever `h` is."""
    second, fourth = relu_moment(2), relu_moment(4)
    mean = 2 / m * m * second
    square = (2 / m) ** 2 * (m * fourth + m * (m - 1) * second**2)
    growth = propagate(parse("repeat(L, affine(m), relu, scale(sqrt(2)))"), m).growth()
    return Bound.upper(
        (1 + 5 / m) ** (L + 1) - 1,
        quantity="Var|h_L|^2",
        source="independent Gaussian layers: the ratios of squared norms are independent",
        sharp=True,
        attained="at every input",
        steps=(
            Step(
                "E ratio = 2 E relu(g)^2 = 1, as theory.signal.propagation has it for every depth",
                (gap(mean, 1), gap(growth, 1)),
            ),
            Step("E ratio^2 = (4/m^2) (m E relu^4 + m (m-1) (E relu^2)^2) = 1 + 5/m", (gap(square, 1 + 5 / m),)),
            Step("Var|h_L|^2 = (E ratio^2)^(L+1) - 1"),
            Step(
                "m Var/(L+1) -> 5: the spread is of order sqrt(L/m)",
                (gap(sympy.limit(m * ((1 + 5 / m) ** 3 - 1) / 3, m, S.Infinity), 5),),
            ),
        ),
    )


def norm_deviation(width: int, layer: int, eps: float) -> float:
    """Chebyshev: a bound on `P(| |h_l|^2 - 1 | >= eps)` from the exact variance.

    Raises:
        ValueError: an eps that is not positive.
    """
    if not eps > 0:
        raise ValueError(f"eps = {eps}: give a positive number")
    return float(norm_variance().expression.subs({m: width, L: layer})) / eps**2


@cache
def both_active() -> Expr:
    """`P(u > 0, v > 0) = (pi - theta) / (2 pi)` for standard normals at angle `theta`: the share of directions, in polar coordinates."""
    phi = Symbol("phi", real=True)
    return sympy.factor(sympy.integrate(S.One, (phi, theta - sympy.pi / 2, sympy.pi / 2)) / (2 * sympy.pi))


@cache
def relu_product() -> Expr:
    """`E relu(u) relu(v) = (sin theta + (pi - theta) cos theta) / (2 pi)`, in polar coordinates."""
    phi, r = Symbol("phi", real=True), Symbol("r", positive=True)
    radial = sympy.integrate(r**3 * sympy.exp(-(r**2) / 2), (r, 0, S.Infinity))
    angular = sympy.integrate(sympy.cos(phi) * sympy.cos(phi - theta), (phi, theta - sympy.pi / 2, sympy.pi / 2))
    return sympy.simplify(radial * angular / (2 * sympy.pi))


def next_angle(angle: Expr) -> Expr:
    """The angle one layer further in the wide limit, `arccos(2 E relu(u) relu(v))`."""
    return sympy.acos(2 * relu_product().subs(theta, angle))


@cache
def angle_bounds() -> tuple[Bound, Bound]:
    """`theta_0/(1 + l theta_0/6) <= theta_l <= theta_0/(1 + l theta_0/(3 pi))` in the wide limit for `theta_0 <= pi/2`, `l = L` layers on.

    One layer is proven by interval branch and bound on `[1/4, pi/2]` and with Taylor polynomials below; the rest is `1/theta' - 1/theta` summed.
    So half of a small separation `delta` is kept up to `l = 6/delta` and lost beyond `3 pi/delta`.
    """
    cosine = 2 * relu_product().subs(theta, _X)
    found = []
    for sense, rate in (("lower", S.One / 6), ("upper", 1 / (3 * sympy.pi))):
        u = _X / (1 + rate * _X)
        # cos is decreasing: theta' <= u where cos theta' >= cos u, and the other way round
        sign = 1 if sense == "upper" else -1
        away = supremum(sign * (sympy.cos(u) - cosine), _X, _SMALL, sympy.pi / 2)
        # upper: cos u from above and 2 E relu relu = cos x + (sin x - x cos x)/pi from below; lower: the other way round
        extra = 1 if sense == "upper" else 0
        cos_u = _cosine(u, 2 if sense == "upper" else 3)
        cos_x = _cosine(_X, 3 if sense == "upper" else 2)
        rest = _X**3 / 3 - extra * _X**5 / 30
        near = sympy.cancel(sympy.together(sign * (cos_u - cos_x - rest / sympy.pi) / _X**3 / (_X if extra else 1)))
        close = supremum(near, _X, S.Zero, _SMALL)
        found.append(
            Bound(
                theta / (1 + L * theta * rate),
                Sense(sense),
                quantity="angle after L layers, wide limit",
                source="one layer, then 1/theta' - 1/theta summed over the layers",
                steps=(
                    Step(
                        f"cos theta' against cos(theta/(1 + theta {rate})) on [1/4, pi/2]: {away.method}",
                        (),
                        (-away.value,),
                    ),
                    Step(
                        f"below 1/4 by Taylor polynomials, divided by a power of theta: {close.method}",
                        (),
                        (-close.value,),
                    ),
                    Step(
                        "sin x - x cos x = integral of s sin s, so x^3/3 - x^5/30 <= it <= x^3/3",
                        (gap(sympy.integrate(_X * sympy.sin(_X), _X), sympy.sin(_X) - _X * sympy.cos(_X)),),
                    ),
                    Step(
                        "1/(theta/(1 + a theta)) = 1/theta + a: every layer adds a",
                        (gap((1 + rate * theta) / theta, 1 / theta + rate),),
                    ),
                ),
            )
        )
    return found[0], found[1]


def _cosine(u: Expr, terms: int) -> Expr:
    """Taylor polynomial of cosine to `u^(2 terms)`: above it for even `terms`, below for odd ones, up to `u = pi/2`."""
    return sympy.Add(*((-1) ** k * u ** (2 * k) / sympy.factorial(2 * k) for k in range(terms + 1)))


@cache
def single_gradient() -> Bound:
    """`E|grad_{W_l} <v, y>|^2 / |v|^2 = m/(2 d)` for one sample, at every layer, width and depth."""
    norm = Symbol("s", positive=True)
    return Bound.upper(
        m / (2 * d),
        quantity="E|grad_{W_l} <v, y>|^2 / |v|^2",
        source="grad_{W_l} <v, y> = (J^T B^T v) h_{l-1}^T with J = D_L W_L .. W_{l+1} D_l",
        sharp=True,
        attained="every sample and v, in the mean",
        steps=(
            Step("B is independent of the rest, entries of variance 1/d: E|J^T B^T v|^2 = |v|^2/d E|J|_F^2"),
            Step(
                "E|D W q|^2 = |q|^2 for every q fixed before: half the mass of the symmetric law",
                (gap(m * S.Half * (2 / m) * norm**2, norm**2),),
            ),
            Step(
                "hence E|J|_F^2 = E tr D_l, and signs are fair coins independent of |h_{l-1}|",
                (gap(m * both_active().subs(theta, 0), m / 2),),
            ),
            Step(
                "E|h_{l-1}|^2 = 1",
                (gap(propagate(parse("repeat(L, affine(m), relu, scale(sqrt(2)))"), m).growth(), 1),),
            ),
            Step("together (|v|^2/d) (m/2)"),
        ),
    )


def gradient_kernel(angle: Expr) -> Expr:
    """`G_ij` of two features of norm one at an angle: `(pi - theta)/(2 pi) cos theta`."""
    return both_active().subs(theta, angle) * sympy.cos(angle)


@cache
def pair_lambda_min() -> Expr:
    """Least eigenvalue of `G` for two features of norm one at angle `theta`: `1/2 - (pi - theta) cos(theta)/(2 pi)`, which is `theta/(2 pi)` to first order."""
    matrix = sympy.Matrix(2, 2, lambda i, j: S.Half if i == j else gradient_kernel(theta))
    values = list(matrix.eigenvals())
    return min(values, key=lambda value: float(value.subs(theta, 1)))


@cache
def gradient_upper() -> Bound:
    """`E|grad_{W_L} F|^2 <= N (m/d) F` for residuals `v_i` fixed beforehand, `F = sum |v_i|^2 / 2`; attained by equal samples and residuals."""
    f = Symbol("F", positive=True)
    return Bound.upper(
        N * m / d * f,
        quantity="E|grad_{W_L} F|^2 at fixed residuals",
        source="lambda_max(G) <= tr G, and E|h_i|^2 = 1",
        sharp=True,
        attained="all samples equal, all residuals equal",
        steps=(
            Step("E|grad|^2 = (m/d) sum_ij <v_i, v_j> G_ij <= (m/d) lambda_max(G) 2 F"),
            Step("G_ii = |h_i|^2/2, so E tr G = N/2", (gap(N * both_active().subs(theta, 0), N / 2),)),
            Step("(m/d) (N/2) 2 F", (gap(m / d * (N / 2) * 2 * f, N * m / d * f),)),
            Step(
                "equal samples: G = (1/2) 1 1^T has the eigenvalue N/2",
                (gap(max((sympy.ones(3, 3) / 2).eigenvals()), S(3) / 2),),
            ),
        ),
    )


@cache
def gradient_lower_steps() -> tuple[Step, ...]:
    """Two samples: `lambda_min(G) = theta/(2 pi) + O(theta^2)`: linear in the separation, so the exponent of delta cannot be below 1."""
    return (
        Step("E|grad_{W_L} F|^2 >= 2 (m/d) lambda_min(G) F"),
        Step(
            "lambda_min(G)/theta -> 1/(2 pi)",
            (gap(sympy.limit(pair_lambda_min() / theta, theta, 0), 1 / (2 * sympy.pi)),),
        ),
    )


@cache
def arc_steps() -> tuple[Step, ...]:
    """`n` samples on an arc, neighbours at angle `theta`: for `n -> oo`, then `theta -> 0`, `lambda_min(G)/theta -> 1/(4 pi)`, so that it does not fall with `n`.

    `G` is a Toeplitz matrix, whose least eigenvalue tends to the least value of its symbol; here that of its part with a kink, `-|k| theta/(2 pi)`, at frequency pi.
    """
    r = Symbol("r", positive=True)
    kink = sympy.diff(gradient_kernel(theta), theta).subs(theta, 0)
    geometric = -r / (1 + r) ** 2  # sum_k k (-r)^k, the derivative of a geometric series
    series = sympy.series(geometric, r, 0, 5).removeO()
    partial = sum(j * (-r) ** j for j in range(1, 5))
    return (
        Step("the kernel's kink at 0 has the slope -1/(2 pi)", (gap(kink, -1 / (2 * sympy.pi)),)),
        Step("sum_k k (-r)^k = -r/(1+r)^2 (to order 4)", (gap(series, partial),)),
        Step("its Abel limit at r = 1 is -1/4, on both sides -1/2", (gap(2 * geometric.subs(r, 1), -S.Half),)),
        Step(
            "the symbol at pi: theta (-1/(2 pi)) (-1/2)",
            (gap(2 * kink * theta * geometric.subs(r, 1), theta / (4 * sympy.pi)),),
        ),
    )


@cache
def semi_smooth_steps() -> tuple[Step, ...]:
    """`F(W+D) - F(W) - <grad F, D> = sum_i |u_i|^2/2 + <v_i, u_i - J_i D>`, `u` the change of the outputs; the second term comes from units whose sign changes alone."""
    v, u, w = sympy.symbols("v u w", real=True)
    low, over = Symbol("z", positive=True), Symbol("x", nonnegative=True)
    # a unit at z > 0 that moves by e = -(z + x) to -x: relu falls by z, its linearisation by z + x
    error = (0 - low) - (-(low + over))
    return (
        Step("squared error: exactly this", (gap((v + u) ** 2 / 2 - v**2 / 2 - v * w, u**2 / 2 + v * (u - w)),)),
        Step("a unit that keeps its sign is linear: no error"),
        Step(
            "a unit that loses its sign errs by |z + e|, at most |e|", (gap(error, over),), (over, (low + over) - over)
        ),
        Step("and so does one that gains it, by symmetry; hence |u_i - J_i D| <= |B| |e_i on units that change sign|"),
    )


@cache
def first_order_remainder() -> Bound:
    """The first-order part of the remainder at initialisation, one sample and one trained layer: at most, and attained, to leading order in a small norm `r` of the change,

        sup <v, u - J D> = (3/4) (1/(sqrt 2 pi))^(1/3) sqrt(m/d) |v| |h| r^(4/3).

    A unit at `z` with `b = (B^T v)_j > 0` that is moved by `e` across 0 adds `b (|e| - |z|)`; under `sum e^2 = (r |h|)^2` a multiplier gives `e = tau b` for the units
    with `|z| <= tau b/2`. Their number is `m` times the density of `z ~ N(0, 2 |h|^2/m)` at 0, and `b ~ N(0, |v|^2/d)`.
    """
    v, h, radius = symbols_of_remainder()
    tau, b, e, y = sympy.symbols("tau b e y", positive=True)
    multiplier = 1 / (2 * tau)
    density = sympy.sqrt(m) / (2 * sympy.sqrt(sympy.pi) * h)
    gain = sympy.integrate(b * (tau * b - y), (y, 0, tau * b / 2)) * 2 * density
    cost = 2 * density * (tau * b / 2) * (tau * b) ** 2
    cube = (v / sympy.sqrt(d)) ** 3 * sympy.integrate(
        y**3 * sympy.exp(-(y**2) / 2) / sympy.sqrt(2 * sympy.pi), (y, 0, S.Infinity)
    )
    total = m * (gain / b**3 * cube)
    at = ((radius * h) ** 2 / (m * cost / (b * tau) ** 3 * cube)) ** (S.One / 3)
    claimed = (
        S(3) / 4 * (1 / (sympy.sqrt(2) * sympy.pi)) ** (S.One / 3) * sympy.sqrt(m / d) * v * h * radius ** (S(4) / 3)
    )
    return Bound.upper(
        claimed,
        quantity="first-order remainder, to leading order in r",
        source="units moved across 0, chosen by a multiplier",
        sharp=True,
        attained="a change of rank one that moves the units nearest to 0 (numerics.overparameterised.flipping_change)",
        steps=(
            Step(
                "b - 2 e/(2 tau) = 0 at e = tau b", (gap(sympy.diff(b * e - multiplier * e**2, e).subs(e, tau * b), 0),)
            ),
            Step(
                "moving pays where b (e - |z|) >= e^2/(2 tau): |z| <= tau b/2",
                (gap(b * (tau * b - tau * b / 2), multiplier * (tau * b) ** 2),),
            ),
            Step("gain and cost of all units, tau eliminated", (gap(total.subs(tau, at), claimed),)),
        ),
    )


def symbols_of_remainder() -> tuple[Symbol, Symbol, Symbol]:
    """`|v|`, `|h|` and `r` of `first_order_remainder`."""
    v, h, radius = sympy.symbols("v h r", positive=True)
    return v, h, radius


@cache
def descent_steps() -> tuple[Step, ...]:
    """From gradient bound and semi-smoothness to a linear rate.

    `|g|^2 >= mu F` and `F(W + D) <= F + <g, D> + a sqrt(F) |D| + b |D|^2` give for `D = -eta g` a factor of at most `1 - eta mu (1 - a/sqrt(mu) - b eta)`,
    where that bracket is positive.
    """
    f, g, mu, a, b, eta, extra = sympy.symbols("F g mu a b eta x", positive=True)
    after = f - eta * g**2 + a * sympy.sqrt(f) * eta * g + b * eta**2 * g**2
    through = f - eta * g**2 * (1 - a / sympy.sqrt(mu) - b * eta)
    # |g| = sqrt(mu F) + x
    slack = sympy.expand((through - after).subs(g, sympy.sqrt(mu * f) + extra))
    bracket = Symbol("c", positive=True)
    final = f * (1 - eta * mu * bracket) - (f - eta * g**2 * bracket)
    return (
        Step(
            "sqrt(F) <= |g|/sqrt(mu): the first-order loss joins the decrease",
            (gap(slack, a * eta * extra * (sympy.sqrt(mu * f) + extra) / sympy.sqrt(mu)),),
            (a * eta * extra * (sympy.sqrt(mu * f) + extra) / sympy.sqrt(mu),),
        ),
        Step(
            "|g|^2 >= mu F turns it into a factor",
            (gap(final.subs(g**2, mu * f + extra), eta * bracket * extra),),
            (eta * bracket * extra,),
        ),
    )
