"""What the branch scale `alpha = L^-beta` does as the depth grows: limits of second moments, their law at `beta = 1/2`, and worst cases beside means.

From the growth `(1 + tau alpha^2)^L` that `theory.signal.propagation` derives (`tau = 1/2` for res-3 of Marion et al., arXiv 2206.06929), all by SymPy:

    beta > 1/2   the growth tends to 1 (identity);     beta = 1/2   to e^tau;     beta < 1/2   to oo (explosion)
    beta = 1/2   log(|h_L|^2/|h_0|^2) has mean tau - 2 tau/d + O(1/L) and variance 4 tau/d + O(1/L), and is normal in the limit

The worst case over weights needs the smaller scale `c/L`: `tie` puts the composition rule's own limits beside those of the means.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import sympy
from sympy import Expr, S, Symbol

from theory import symbols
from theory.bound import Bound, Step, gap
from theory.landscape import landscape
from theory.limits import depth_limit
from theory.signal.propagation import Moments, alpha, propagate, res3
from theory.spec import parse

DEPTH = Symbol("x", positive=True)
"""The depth as a positive real number, for limits."""
OFFSET = Symbol("b", positive=True)
"""The distance of `beta` from 1/2."""


@cache
def branch_share() -> Expr:
    """`tau` of res-3: `E|V relu(W h)|^2 / |h|^2`, read off the derived growth."""
    moments = propagate(res3())
    moments.verify()
    per_block = moments.growth().as_base_exp()[0]
    return sympy.simplify((per_block - 1) / alpha**2)


def growth_limit(moments: Moments, scale: Expr) -> Expr | None:
    """The limit in the depth of `E|h_L|^2/|h_0|^2` at a branch scale in `L`, by `theory.limits`; None where it is not found."""
    return depth_limit(moments.second_upper.substitute({alpha: scale}), symbols.L)


@dataclass(frozen=True)
class Regime:
    """What happens for a range of `beta`, with checked steps.

    Attributes:
        name: identity, critical or explosion.
        beta: the exponent; `OFFSET` stands for any positive number (below 1/2 for the explosion).
        growth: the limit of `E|h_L|^2/|h_0|^2`, and of its gradient twin.
        steps: how it follows.
    """

    name: str
    beta: Expr
    growth: Expr
    steps: tuple[Step, ...]


@cache
def regimes() -> tuple[Regime, ...]:
    """The three regimes of `(1 + tau alpha^2)^L`, for every `beta` at once: the limit of its logarithm, with `beta = 1/2 +- b` symbolic."""
    tau = branch_share()
    found = []
    for name, beta in (("identity", S.Half + OFFSET), ("critical", S.Half), ("explosion", S.Half - OFFSET)):
        exponent = tau * sympy.powsimp(DEPTH * DEPTH ** (-2 * beta))
        t = Symbol("t", nonnegative=True)
        # log(1 + t) lies between t/(1 + t) and t: both ends have the same value and ordered slopes
        between = Step(
            "t/(1+t) <= log(1+t) <= t for t >= 0: equal at 0, and the slopes are ordered",
            (gap((t / (1 + t)).subs(t, 0), sympy.log(1 + t).subs(t, 0)),),
            (
                sympy.factor(sympy.diff(t - sympy.log(1 + t), t)),
                sympy.factor(sympy.together(sympy.diff(sympy.log(1 + t) - t / (1 + t), t))),
            ),
        )
        upper = sympy.limit(exponent, DEPTH, S.Infinity)
        lower = sympy.limit(sympy.powsimp(sympy.expand(1 / (1 / exponent + 1 / DEPTH))), DEPTH, S.Infinity)
        if upper != lower:
            raise AssertionError(f"the two sides of the logarithm tend to {lower} and {upper} at beta = {beta}")
        squeeze = Step(
            f"L log(1 + tau alpha^2) lies between 1/(1/E + 1/L) and E = {exponent.subs(DEPTH, symbols.L)}, which tend to {upper}",
            (gap(1 / (1 / exponent + 1 / DEPTH), DEPTH * (exponent / DEPTH) / (1 + exponent / DEPTH)),),
        )
        found.append(Regime(name, beta, sympy.exp(upper), (between, squeeze)))
    return tuple(found)


@dataclass(frozen=True)
class LogNormal:
    """The law of `log(|h_L|^2/|h_0|^2)` of res-3 at `alpha = L^-1/2`.

    Attributes:
        mean, variance: to leading order; for every iid symmetric law of the weights.
        mean_correction, variance_correction: the terms in `1/L`, for Gaussian weights.
        steps: how they follow, each re-checkable.
    """

    mean: Expr
    variance: Expr
    mean_correction: Expr
    variance_correction: Expr
    steps: tuple[Step, ...]

    def at(self, depth: int, width: int) -> tuple[float, float]:
        """Mean and variance at a depth and a width, the terms in `1/L` included (Gaussian weights)."""
        values = {symbols.L: depth, symbols.d: width}
        mean = self.mean + self.mean_correction / symbols.L
        variance = self.variance + self.variance_correction / symbols.L
        return float(mean.subs(values)), float(variance.subs(values))


_n, _c, _r = sympy.symbols("n c r", real=True)


def relu_moment(power: int) -> Expr:
    """`E relu(g)^power` of a standard normal `g`."""
    y = Symbol("y", positive=True)
    density = sympy.exp(-(y**2) / 2) / sympy.sqrt(2 * sympy.pi)
    return sympy.integrate(y**power * density, (y, 0, S.Infinity))


def _gaussian_mean(polynomial: Expr) -> Expr:
    """The mean of a polynomial in `n ~ N(0, 1)`, `c ~ chi^2_{d-1}` and `r = |relu(g)|^2/d`, all independent, with powers of `c` and `r` up to 2."""
    d = symbols.d
    second, fourth = relu_moment(2), relu_moment(4)
    chi = (S.One, d - 1, (d - 1) * (d + 1))
    relu = (S.One, second, (d * fourth + d * (d - 1) * second**2) / d**2)
    total = S.Zero
    for (i, j, k), coefficient in sympy.Poly(sympy.expand(polynomial), _n, _c, _r).terms():
        normal = S.Zero if i % 2 else sympy.factorial2(i - 1)
        total += coefficient * normal * chi[j] * relu[k]
    return sympy.factor(total)


@cache
def log_normal() -> LogNormal:
    """The law from the moments of one step.

    One step multiplies `|h|^2` by `1 + 2 alpha a + alpha^2 b`, `a = <u, v>`, `b = |v|^2`, `u = h/|h|`, `v = V relu(W u)`. Given `W`, the entries of `V s`
    have variance `|s|^2/d`, so `E a^2 = tau/d` and `E b = tau`; odd powers of `a` have mean zero as `V` and `-V` have one law. For Gaussian weights the factors
    of different steps are independent and alike, so the sum of their logarithms is normal in the limit (central limit theorem); in general
    they are martingale differences with these conditional moments.
    """
    d, tau = symbols.d, branch_share()
    a, b, t = sympy.symbols("a b t", real=True)
    logarithm = sympy.series(sympy.log(1 + 2 * t * a + t**2 * b), t, 0, 5).removeO()
    orders = [sympy.expand(sympy.expand(logarithm).coeff(t, k)) for k in range(5)]
    leading = orders[2].subs({a**2: tau / d, b: tau})
    spread = sympy.expand(orders[1] ** 2).subs(a**2, tau / d)
    # the Gaussian case in full: a = sqrt(r/d) n, b = (r/d)(n^2 + c)
    root = Symbol("q", positive=True)
    gaussian = {a: root * _n, b: root**2 * (_n**2 + _c)}

    def mean(expression: Expr) -> Expr:
        at = sympy.expand(expression.subs(gaussian, simultaneous=True))
        return _gaussian_mean(at.subs(root, sympy.sqrt(_r / d)))

    mean_two, mean_four = mean(orders[2]), mean(orders[4])
    square = sympy.expand(logarithm**2)
    second_two, second_four = mean(square.coeff(t, 2)), mean(square.coeff(t, 4))
    variance_correction = sympy.factor(second_four - mean_two**2)
    steps = (
        Step(
            "log(1 + 2 t a + t^2 b) = 2 a t + (b - 2 a^2) t^2 + O(t^3)",
            (gap(orders[1], 2 * a), gap(orders[2], b - 2 * a**2)),
        ),
        Step("E(b - 2 a^2) = tau - 2 tau/d with E b = tau, E a^2 = tau/d", (gap(leading, tau - 2 * tau / d),)),
        Step("E(2 a)^2 = 4 tau/d", (gap(spread, 4 * tau / d),)),
        Step("Gaussian weights give the same leading terms", (gap(mean_two, leading), gap(second_two, spread))),
        Step("L steps at t^2 = 1/L: the sum's mean and variance; the next terms are of order 1/L"),
        Step("a log-normal law with this mean and variance has the mean e^tau", (gap(leading + spread / 2, tau),)),
    )
    return LogNormal(sympy.expand(leading), sympy.expand(spread), mean_four, variance_correction, steps)


@dataclass(frozen=True)
class Improvement:
    """A published bound beside the derived one; `steps` prove that the derived one is at least as good.

    Attributes:
        statement: what is bounded.
        published: the bound as reconstructed (its constants are recalled, not read).
        derived: ours, in the same sense.
        gain: published over derived as the parameters are named in `statement`.
        steps: checked.
    """

    statement: str
    published: Expr
    derived: Expr
    gain: Expr
    steps: tuple[Step, ...]


@cache
def improvements() -> tuple[Improvement, ...]:
    """Published bounds of res-3 that the exact law improves."""
    moments, L = propagate(res3()), symbols.L
    u, delta = Symbol("u", nonnegative=True), Symbol("delta", positive=True)
    exact = moments.change().expression
    tau = branch_share()
    chord = sympy.exp(tau) - 1
    curve = sympy.exp(tau * u)
    markov = Improvement(
        "with probability >= 1 - delta, |h_L - h_0|^2/|h_0|^2, for u = L alpha^2 <= 1",
        2 * u / delta,
        chord * u / delta,
        2 / chord,
        (
            Step("Markov's inequality on E|h_L - h_0|^2/|h_0|^2", (gap(exact, (1 + tau * alpha**2) ** L - 1),)),
            Step("(1 + tau u/L)^L <= e^(tau u), as log(1 + t) <= t"),
            Step(
                "e^(tau u) is convex, so on [0, 1] it lies below its chord 1 + (e^tau - 1) u",
                (gap(curve.subs(u, 0), 1), gap(curve.subs(u, 1), 1 + chord)),
                (sympy.diff(curve, u, 2),),
            ),
            Step("the constant 2 becomes e^tau - 1", (), (2 - chord,)),
        ),
    )
    gradient, factor = moments.gradient_change().expression, 1 + alpha**2
    ours = moments.gradient().expression.as_base_exp()[0]
    upper = Improvement(
        "E|p_0 - p_L|^2/|p_L|^2 from above",
        factor**L - 1,
        gradient,
        sympy.limit(((factor.subs(alpha, sympy.sqrt(u)) - 1) / (ours.subs(alpha, sympy.sqrt(u)) - 1)), u, 0),
        (Step("the factor of one block is smaller", (), (sympy.expand(factor - ours),)),),
    )
    lower = Improvement(
        "E|p_0 - p_L|^2/|p_L|^2 from below",
        (1 + alpha**2 / 2) ** L - 1,
        gradient,
        S.One,
        (Step("the lower bound is the exact value", (gap((1 + alpha**2 / 2) ** L - 1, gradient),)),),
    )
    return markov, upper, lower


@dataclass(frozen=True)
class Tie:
    """Limits in the depth at one branch scale: the worst case over weights (composition rule) beside the mean under random ones.

    Attributes:
        scale: the branch scale, in `L`.
        first_derivative: of the composed bound on `|DF|`; `oo` where it depends on the depth without end.
        kernel: of the composed lower bound on the tangent kernel's least eigenvalue; 0 where nothing is left.
        mean_growth: of `E|h_L|^2/|h_0|^2` for res-3.
    """

    scale: Expr
    first_derivative: Expr | None
    kernel: Expr | None
    mean_growth: Expr | None


@cache
def tie(scale: Expr) -> Tie:
    """The composed bounds of tanh blocks with normalised weights at branch scale `scale`, beside the mean growth of res-3 there.

    At `c/L` all three have finite positive limits (the mean growth is 1: only smooth weights move the features); at `c/sqrt(L)` the mean growth is
    `e^(c^2/2)`, but the worst case is not bounded.
    """
    network = parse(f"affine(m), repeat(L, residual(tanh, affine(m, weight_norm=frobenius), scale({scale}))), crop(K)")
    here = landscape(network, symbols.d)
    moments = propagate(res3())
    return Tie(
        scale,
        depth_limit(here.first_derivative, symbols.L),
        depth_limit(here.tangent_kernel_lambda_min, symbols.L),
        growth_limit(moments, scale),
    )


def verify() -> None:
    """Recompute every step of this file.

    Raises:
        AssertionError: naming the first step that does not hold.
    """
    records: tuple[Regime | LogNormal | Improvement, ...] = (*regimes(), log_normal(), *improvements())
    holder = Bound.upper(S.One, quantity="depth scaling", steps=tuple(s for record in records for s in record.steps))
    holder.verify()
