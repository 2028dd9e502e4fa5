"""Suprema and infima of scalar expressions on the line, on intervals and on boxes: proven, never sampled.

Two methods, and the answer says which one was used:

* *exact*: a change of variable turns the zeros of the derivative into the roots of a polynomial, which SymPy isolates
  exactly; the candidates are those points and the limits at the ends, compared by ball arithmetic.
* *enclosure*: interval branch and bound with the mean-value form on `[-T, T]`, and an enclosure of both tails for
  functions that are polynomials in `z` with coefficients rational in `exp(z)`. The value given is an upper end (lower end
  for an infimum), so that it is a bound whatever the true one is; the gap to the other end is recorded.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from functools import cache

import flint
import sympy
from sympy import Expr, Poly, S, Symbol

from theory.evaluate import enclose_expression

GAP = 1e-11
"""Largest relative width that branch and bound leaves between the two ends of an enclosure."""
TAIL = 60
"""Where branch and bound stops and the enclosure of the tails takes over."""
BOXES = 20_000
"""Most boxes that branch and bound may look into before it gives up (the activations need a few hundred)."""
DIGITS = 12
"""Significant digits of the rational number that an enclosed extremum is rounded to, towards its safe side."""


@dataclass(frozen=True)
class Extremum:
    """A proven supremum or infimum.

    Attributes:
        value: the extremum, or (where `exact` is False) a number on its safe side.
        exact: whether `value` is the extremum itself.
        gap: relative width of the enclosure; 0 where exact.
        at: where it is attained or approached (`oo` and `-oo` are limits), None where only enclosed in a box.
        method: how it was found, in words.
    """

    value: Expr
    exact: bool
    gap: float
    at: Expr | None
    method: str


def _ball(expression: Expr) -> flint.arb:
    return enclose_expression(expression, {})


def _larger(first: tuple[Expr, Expr], second: tuple[Expr, Expr]) -> tuple[Expr, Expr]:
    """The pair (value, point) with the larger value; overlapping balls are told apart symbolically or kept as a tie."""
    a, b = first[0], second[0]
    if a is S.Infinity or b is S.NegativeInfinity:
        return first
    if b is S.Infinity or a is S.NegativeInfinity:
        return second
    left, right = _ball(a), _ball(b)
    if left > right:
        return first
    if right > left:
        return second
    if sympy.simplify(a - b) == 0:
        return first
    raise NotImplementedError(f"cannot tell {a} from {b}")


# Each change of variable: (pattern present?, new expression in t, inverse t -> z, open interval of t).
def _in_exponential(expression: Expr, z: Symbol, t: Symbol) -> Expr | None:
    rewritten = expression.rewrite(sympy.exp)
    rewritten = sympy.expand_power_exp(sympy.powsimp(sympy.expand(rewritten, deep=False)))
    replaced = rewritten.replace(
        lambda e: isinstance(e, sympy.exp) and sympy.simplify(e.args[0] / z).is_Integer,
        lambda e: t ** sympy.simplify(e.args[0] / z),
    )
    return None if replaced.has(z) else sympy.cancel(sympy.together(replaced))


def _in_half_angle(expression: Expr, z: Symbol, t: Symbol) -> Expr | None:
    replaced = expression.subs({sympy.sin(z): 2 * t / (1 + t**2), sympy.cos(z): (1 - t**2) / (1 + t**2)})
    return None if replaced.has(z) else sympy.cancel(sympy.together(replaced))


def stationary_points(f: Expr, z: Symbol) -> list[Expr] | None:
    """All real zeros of `f'` exactly, or None where no change of variable makes them polynomial roots."""
    t = Symbol("t", real=True)
    slope = sympy.diff(f, z)
    if slope == 0:
        return []
    attempts = []
    # a polynomial, times a Gaussian or another exponential that never vanishes
    exponentials = [e for e in slope.atoms(sympy.exp) if e.args[0].is_polynomial(z)]
    for factor in exponentials or [S.One]:
        attempts.append(
            (sympy.expand(sympy.expand(slope) / factor), lambda root: root, (S.NegativeInfinity, S.Infinity), z)
        )
    if slope.has(sympy.tanh):
        attempts.append((slope.subs(sympy.tanh(z), t), sympy.atanh, (S.NegativeOne, S.One), t))
    if slope.has(sympy.sin, sympy.cos):
        attempts.append(
            (_in_half_angle(slope, z, t), lambda root: 2 * sympy.atan(root), (S.NegativeInfinity, S.Infinity), t)
        )
    if slope.has(sympy.exp, sympy.tanh):
        attempts.append((_in_exponential(slope, z, t), sympy.log, (S.Zero, S.Infinity), t))
    for expression, inverse, (low, high), variable in attempts:
        leftover = variable is not z and expression is not None and expression.has(z)
        if expression is None or leftover or not expression.is_rational_function(variable):
            continue
        numerator = sympy.fraction(sympy.together(expression))[0]
        if not numerator.has(variable):
            return []
        roots = _real_roots(Poly(numerator, variable))
        if roots is None:
            continue
        points = [inverse(root) for root in roots if low < root < high]
        if variable is t and slope.has(sympy.sin, sympy.cos):
            points.append(sympy.pi)  # the one angle that the half-angle substitution cannot reach
        return points
    return None


def _real_roots(polynomial: Poly) -> list[Expr] | None:
    """Distinct real roots of a polynomial whose coefficients are rational up to one common factor; None for other coefficients (such as pi)."""
    leading = polynomial.LC()
    coefficients = [sympy.simplify(coefficient / leading) for coefficient in polynomial.all_coeffs()]
    if not all(coefficient.is_Rational for coefficient in coefficients):
        return None
    rational = Poly(coefficients, polynomial.gen)
    roots: set[Expr] = set()
    for factor, _ in rational.factor_list()[1]:
        roots.update(sympy.real_roots(factor))
    return sorted(roots, key=lambda root: root.evalf(20))


def _is_periodic(f: Expr, z: Symbol) -> bool:
    return f.has(sympy.sin, sympy.cos) and sympy.simplify(f.subs(z, z + 2 * sympy.pi) - f) == 0


_SMOOTH = (sympy.exp, sympy.tanh, sympy.sin, sympy.cos, sympy.erf, sympy.atan, sympy.cosh, sympy.sinh, sympy.sech)
"""Functions without singularities on the line."""


def _has_no_pole(f: Expr, z: Symbol, low: Expr, high: Expr) -> bool:
    """Whether `f` is certainly finite inside `(low, high)`: known functions, and denominators and logarithms away from zero."""
    unknown = [e for e in f.atoms(sympy.Function) if e.has(z) and not isinstance(e, (*_SMOOTH, sympy.log))]
    critical = [e.args[0] for e in f.atoms(sympy.log) if e.has(z)]
    critical += [e.base for e in f.atoms(sympy.Pow) if e.has(z) and e.base != S.Exp1 and not e.exp.is_nonnegative]
    critical += [e.base for e in f.atoms(sympy.Pow) if e.has(z) and e.base != S.Exp1 and not e.exp.is_integer]
    return not unknown and all(_is_never_zero(e, z, low, high) for e in critical)


def _is_never_zero(e: Expr, z: Symbol, low: Expr, high: Expr) -> bool:
    if e.is_nonzero:  # a sum of positive terms, for instance
        return True
    if not e.is_polynomial(z):
        return False
    roots = _real_roots(Poly(e, z))
    return roots is not None and not any(low < root < high for root in roots)


def _exact_supremum(f: Expr, z: Symbol, low: Expr, high: Expr) -> Extremum | None:
    trigonometric = f.has(sympy.sin, sympy.cos)
    whole_line = low is S.NegativeInfinity and high is S.Infinity
    if trigonometric and not (whole_line and _is_periodic(f, z)):
        return None  # the zeros below are those of one period
    points = stationary_points(f, z) if _has_no_pole(f, z, low, high) else None
    if points is None:
        return None
    inner = [
        p
        for p in points
        if (low is S.NegativeInfinity or _ball(p) > _ball(low)) and (high is S.Infinity or _ball(p) < _ball(high))
    ]
    ends = []
    if not trigonometric:
        ends = [
            (sympy.limit(f, z, end, dir) if end.is_infinite or not f.subs(z, end).is_finite else f.subs(z, end), end)
            for end, dir in ((low, "+"), (high, "-"))
        ]
    candidates = [(sympy.simplify(f.subs(z, p)), p) for p in inner] + ends
    try:
        best = candidates[0]
        for candidate in candidates[1:]:
            best = _larger(best, candidate)
    except NotImplementedError:
        return None
    where = "a limit at an end" if best[1] in (low, high) else "a stationary point"
    return Extremum(
        best[0],
        True,
        0.0,
        best[1],
        f"exact critical points ({where})",
    )


def _tail(f: Expr, z: Symbol, sign: int) -> flint.arb:
    """Enclosure of `f` on `z >= TAIL` (sign 1) or `z <= -TAIL` (sign -1), for polynomials in z over rationals in exp(z).

    With `w = exp(-|z|)` the term `z^i R_i(w)`, `R_i(0) = 0`, is `(z^i w) (R_i(w) / w)`, and `z^i w` decreases beyond `i`.
    """
    w, y = Symbol("w", positive=True), Symbol("y", positive=True)
    g = sympy.expand_power_exp(f.subs(z, sign * y).rewrite(sympy.exp))
    g = g.replace(
        lambda e: isinstance(e, sympy.exp) and sympy.simplify(e.args[0] / y).is_Integer,
        lambda e: w ** (-sympy.simplify(e.args[0] / y)),
    )
    numerator, denominator = sympy.fraction(sympy.together(g))
    if denominator.has(y) or not numerator.is_polynomial(y, w):
        raise NotImplementedError(
            f"no tail enclosure for {f}: it is not a polynomial in {z} over rationals in exp({z})"
        )
    small = flint.arb(-TAIL).exp()
    box = flint.arb(small / 2, small / 2)
    total = flint.arb(0)
    for (i,), coefficient in Poly(numerator, y).terms():
        ratio = sympy.cancel(coefficient / denominator)
        if i == 0:
            total += enclose_expression(ratio, {w: box})
            continue
        if i > TAIL:
            raise NotImplementedError(f"degree {i} in {z} is beyond the tail enclosure")
        if sympy.limit(ratio, w, 0, "+") != 0:
            raise NotImplementedError(f"{f} is not bounded by its exponential part as {z} -> {sign * S.Infinity}")
        top = flint.arb(TAIL) ** i * small
        total += flint.arb(top / 2, top / 2) * enclose_expression(sympy.cancel(ratio / w), {w: box})
    return total


def _enclosed_supremum(f: Expr, z: Symbol, low: Expr, high: Expr) -> Extremum:
    """Branch and bound on a bounded interval, tails enclosed analytically where an end is infinite."""
    slope = sympy.diff(f, z)
    best_low = flint.arb.neg_inf()
    tails = flint.arb.neg_inf()
    a, b = _ball(low) if low.is_finite else flint.arb(-TAIL), _ball(high) if high.is_finite else flint.arb(TAIL)
    if not low.is_finite:
        tails = tails.max(_tail(f, z, -1).upper())
    if not high.is_finite:
        tails = tails.max(_tail(f, z, 1).upper())
    heap: list[tuple[float, int, flint.arb, flint.arb, flint.arb]] = []
    count = 0

    def push(left: flint.arb, right: flint.arb) -> None:
        nonlocal best_low, count
        middle = ((left + right) / 2).mid()
        radius = (right - left).upper() / 2
        box = flint.arb(middle, radius)
        at_middle = enclose_expression(f, {z: middle})
        if at_middle.is_finite():
            best_low = best_low.max(at_middle.lower())
        top = enclose_expression(f, {z: box}).upper()
        mean_value = at_middle + enclose_expression(slope, {z: box}) * flint.arb(0, radius)
        if not top.is_finite():
            top = flint.arb.pos_inf()  # a box without an enclosure is looked into, never passed over
        if mean_value.is_finite():
            top = top.min(mean_value.upper())
        count += 1
        heapq.heappush(heap, (-float(top), count, top, left, right))

    steps = 64
    cuts = [a + (b - a) * i / steps for i in range(steps + 1)]
    for left, right in itertools.pairwise(cuts):
        push(left.mid() if left.mid() < left else left, right)
    while True:
        _, _, top, left, right = heap[0]
        ceiling = top.max(tails)
        scale = abs(best_low).max(flint.arb(1e-300))
        if top.is_finite() and (ceiling - best_low <= GAP * scale or tails >= top):
            break
        if count > BOXES or best_low > 1e100:
            raise NotImplementedError(f"branch and bound did not close the gap for {f}")
        heapq.heappop(heap)
        middle = ((left + right) / 2).mid()
        push(left, middle)
        push(middle, right)
    value = _round_up(ceiling)
    gap = float(((enclose_expression(value, {}) - best_low) / abs(best_low).max(flint.arb(1e-300))).upper())
    return Extremum(value, False, gap, None, f"interval branch and bound, relative gap {gap:.1e}")


def _round_up(ball: flint.arb) -> sympy.Rational:
    """A rational with `DIGITS` significant digits that is certainly not below the ball."""
    approximate = float(ball.mid())
    if approximate == 0:
        return sympy.Rational(10) ** (-DIGITS)
    exponent = DIGITS - 1 - sympy.floor(sympy.log(abs(approximate), 10)).evalf()
    scale = 10 ** int(exponent)
    scaled = (ball.upper() * scale).ceil()
    return sympy.Rational(
        int(scaled.upper().fmpz() if hasattr(scaled.upper(), "fmpz") else scaled.unique_fmpz()), scale
    )


@cache
def supremum(f: Expr, z: Symbol, low: Expr = S.NegativeInfinity, high: Expr = S.Infinity) -> Extremum:
    """The supremum of `f` over the open interval `(low, high)`, proven.

    Raises:
        NotImplementedError: where neither method can prove a value; nothing is guessed.
    """
    low, high = sympy.sympify(low), sympy.sympify(high)
    if isinstance(f, sympy.Piecewise) or f.has(sympy.Piecewise, sympy.Max, sympy.Min, sympy.Heaviside):
        return _piecewise_supremum(f, z, low, high)
    if not f.has(z):
        return Extremum(f, True, 0.0, S.Zero, "constant")
    exact = _exact_supremum(f, z, low, high)
    if exact is not None:
        return exact
    for end in (low, high):
        if end.is_infinite and sympy.limit(f, z, end) is S.Infinity:
            return Extremum(S.Infinity, True, 0.0, end, "diverges")
    return _enclosed_supremum(f, z, low, high)


def _piecewise_supremum(f: Expr, z: Symbol, low: Expr, high: Expr) -> Extremum:
    """The larger of the suprema of the pieces, each on its own interval."""
    folded = sympy.piecewise_fold(f.rewrite(sympy.Piecewise))
    best: Extremum | None = None
    remaining: sympy.Set = sympy.Interval.open(low, high)
    for value, condition in folded.args:
        piece = remaining & (condition.as_set() if condition not in (True, S.true) else S.Reals)
        remaining = remaining - piece
        for interval in piece.args if isinstance(piece, sympy.Union) else (piece,):
            if isinstance(interval, sympy.Interval):
                here = supremum(value, z, interval.start, interval.end)
            elif isinstance(interval, sympy.FiniteSet) and len(interval) == 1:
                (point,) = interval
                here = Extremum(value.subs(z, point), True, 0.0, point, "a piece of one point")
            else:
                continue
            if best is None or _larger((here.value, S.Zero), (best.value, S.One))[1] == 0:
                best = here
    if best is None:
        raise ValueError(f"{f} has no piece on ({low}, {high})")
    return best


def infimum(f: Expr, z: Symbol, low: Expr = S.NegativeInfinity, high: Expr = S.Infinity) -> Extremum:
    """The infimum of `f` over the open interval `(low, high)`, proven."""
    top = supremum(-f, z, low, high)
    return Extremum(-top.value, top.exact, top.gap, top.at, top.method)


def supremum_abs(f: Expr, z: Symbol, low: Expr = S.NegativeInfinity, high: Expr = S.Infinity) -> Extremum:
    """The supremum of `|f|` over the open interval `(low, high)`: the larger of those of `f` and `-f`."""
    above = supremum(f, z, low, high)
    if above.value is S.Infinity:
        return above
    if low == -high and sympy.expand(f + f.subs(z, -z)) == 0:
        return above  # an odd function: both have one supremum
    below = supremum(-f, z, low, high)
    if above.exact and below.exact:
        return above if _larger((above.value, S.Zero), (below.value, S.One))[1] == 0 else below
    return above if _ball(above.value) >= _ball(below.value) else below


def supremum_on_unit_square(f: Expr, x: Symbol, y: Symbol) -> Extremum:
    """The supremum of a polynomial `f(x, y)` over `[0, 1]^2`, and a point where it is attained.

    Quadratic in `x`: for each `y` the best `x` is an end or the stationary point, so three one-dimensional suprema remain, the last
    over those `y` at which the stationary point lies inside. Of higher degree: the largest value on the four sides, with a proof
    that nothing inside is larger.

    Raises:
        NotImplementedError: of higher degree, where the proof fails (a larger value inside, for one).
    """
    if Poly(f, x).degree() > 2:
        return _supremum_on_sides(f, x, y)
    candidates: list[tuple[Expr, Expr, Expr]] = []
    for end in (S.Zero, S.One):
        here = supremum(sympy.expand(f.subs(x, end)), y, S.Zero, S.One)
        candidates.append((here.value, end, here.at))
    stationary = sympy.solve(sympy.diff(f, x), x)
    for root in stationary:
        root = sympy.cancel(root)
        inside = sympy.solveset(root >= 0, y, sympy.Interval(0, 1)) & sympy.solveset(root <= 1, y, sympy.Interval(0, 1))
        for interval in inside.args if isinstance(inside, sympy.Union) else (inside,):
            if isinstance(interval, sympy.Interval):
                here = supremum(sympy.cancel(f.subs(x, root)), y, interval.start, interval.end)
                candidates.append((here.value, sympy.cancel(root.subs(y, here.at)), here.at))
    best = candidates[0]
    for candidate in candidates[1:]:
        if _larger((candidate[0], S.One), (best[0], S.Zero))[1] == 1:
            best = candidate
    return Extremum(best[0], True, 0.0, sympy.Tuple(best[1], best[2]), "exact critical points in two variables")


def _supremum_on_sides(f: Expr, x: Symbol, y: Symbol) -> Extremum:
    sides = [(x, S.Zero, y), (x, S.One, y), (y, S.Zero, x), (y, S.One, x)]
    best: tuple[Expr, Expr] | None = None
    for fixed, end, free in sides:
        here = supremum(sympy.expand(f.subs(fixed, end)), free, S.Zero, S.One)
        point = sympy.Tuple(*((end, here.at) if fixed is x else (here.at, end)))
        best = (here.value, point) if best is None else _larger(best, (here.value, point))
    assert best is not None
    if not _nonnegative_on_unit_square(sympy.expand(best[0] - f), x, y):
        raise NotImplementedError(
            f"no proof that {f} is at most its largest value {best[0]} on the sides of the square"
        )
    return Extremum(best[0], True, 0.0, best[1], "exact on the sides, inside by the signs of Bernstein coefficients")


BERNSTEIN_DEPTH = 12
"""How often a proof of a sign halves the square before it gives up."""


def _nonnegative_on_unit_square(f: Expr, x: Symbol, y: Symbol) -> bool:
    """Whether a polynomial with rational coefficients is proven `>= 0` on `[0, 1]^2`.

    A polynomial lies between its least and its largest Bernstein coefficient. Factors that vanish on a side only are taken out first.
    """
    if f == 0:
        return True
    for symbol, factor in ((x, x), (x, 1 - x), (y, y), (y, 1 - y)):
        while sympy.rem(f, factor, symbol) == 0:
            f = sympy.quo(f, factor, symbol)
    stack = [(Poly(f, x, y), 0)]
    while stack:
        polynomial, depth = stack.pop()
        if min(_bernstein(polynomial)) >= 0:
            continue
        if depth == BERNSTEIN_DEPTH:
            return False
        axis = (x, y)[depth % 2]
        for half in (axis / 2, (1 + axis) / 2):
            stack.append((Poly(polynomial.as_expr().subs(axis, half), x, y), depth + 1))
    return True


def _bernstein(polynomial: Poly) -> list[Expr]:
    """Coefficients in the Bernstein basis of the polynomial's own degrees."""
    n, m = polynomial.degree_list()
    return [
        sympy.Add(
            *(
                polynomial.coeff_monomial((k, l))
                * sympy.binomial(i, k)
                * sympy.binomial(j, l)
                / (sympy.binomial(n, k) * sympy.binomial(m, l))
                for k in range(i + 1)
                for l in range(j + 1)
            )
        )
        for i in range(n + 1)
        for j in range(m + 1)
    ]
