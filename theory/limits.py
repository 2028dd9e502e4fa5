"""Limits of bounds as a symbolic depth grows: what is left of a bound at branch scale `c / L` when `L -> oo`.

Powers whose exponent grows with the depth are what SymPy's general algorithm labours at, and they come in one form only. They are
taken out first: `b(L)^{k L + n} = Y^k b(L)^n` with `Y = b(L)^L`, and `Y -> exp(lim L (b - 1))` where `b -> 1`. What is left is
a rational function of `s = sqrt(L)` and of the `Y`, whose limit is read off its leading coefficients; sums, products, powers,
minima and maxima of such functions follow by continuity. `sympy.limit` is asked only for the exponent `L (b - 1)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import sympy
from sympy import Expr, Max, Min, Piecewise, Pow, S, Symbol

from theory.bound import Bound

ROOT = Symbol("s", positive=True)
"""Stands for `sqrt(L)`."""

CONTINUOUS = (sympy.exp, sympy.log, sympy.tanh, sympy.erf, sympy.atan)


class _Undecided(Exception):
    """No limit within reason."""


@lru_cache(maxsize=256)
def depth_limit(bound: Bound, L: Symbol) -> Expr | None:
    """The limit of a bound's expression as `L -> oo`, or None where it is not found within reason.

    `Max` and `Min` are continuous, so their limit is that of their members; `Max(0, x)` is `x` for large `L` where the limit of
    `x` is positive; a `Piecewise` is the branch valid for large `L`. The limit of an expression that does not contain `L`
    is the expression itself; `oo` is a limit.
    """
    try:
        return _tidy(_limit(_eventually(bound.expression, L), L))
    except (_Undecided, NotImplementedError, ValueError, sympy.PolynomialError):
        return None


def _tidy(expression: Expr) -> Expr:
    """A limit in its shortest form; `e^c = 1 + u` with `u > 0` for positive `c` lets the roots of squares come out."""
    out = expression.replace(lambda e: isinstance(e, Pow) and e.exp == S.Half, _root)
    out = out.replace(lambda e: isinstance(e, Min), _least)
    if isinstance(out, sympy.Add):
        return sympy.Add(*map(_shortest, out.args))
    return _shortest(out)


def _shortest(expression: Expr) -> Expr:
    forms = (expression, sympy.factor(expression), sympy.simplify(expression))
    return min(forms, key=sympy.count_ops)


def _root(power: Pow) -> Expr:
    names: dict[Expr, Symbol] = {}

    def shifted(exponential: Expr) -> Expr:
        factor, rest = exponential.exp.as_coeff_Mul()
        if not (rest.is_positive and factor.is_Rational):
            return exponential
        return (1 + names.setdefault(rest, sympy.Dummy("u", positive=True))) ** factor

    base = power.base.replace(lambda e: isinstance(e, sympy.exp), shifted)
    root = sympy.sqrt(sympy.factor(base))
    return root.subs({u: sympy.exp(x) - 1 for x, u in names.items()})


def _least(choice: Min) -> Expr:
    """A minimum without the members that are certainly no smaller than another one."""
    kept: list[Expr] = []
    for one in map(_shortest, choice.args):
        if any(_at_least(one, other) for other in kept):
            continue
        kept = [other for other in kept if not _at_least(other, one)] + [one]
    return Min(*kept)


def _at_least(one: Expr, other: Expr) -> bool:
    ratio = sympy.simplify(one / other)
    return bool(ratio.is_positive and (ratio**2 - 1).is_nonnegative)


def _eventually(expression: Expr, L: Symbol) -> Expr:
    """The expression for all large `L`: piecewise cases decided, `Max(0, x)` replaced by `x` or `0` where the limit of `x` decides."""
    if not expression.has(L) or not expression.args:
        return expression
    if isinstance(expression, Piecewise):
        return _eventual_case(expression, L)
    args = [_eventually(a, L) for a in expression.args]
    if isinstance(expression, Max):
        limits = [(a, _limit(a, L)) for a in args]
        for one, at in limits:
            others = [x for x in limits if x[0] is not one]
            if all(x is S.NegativeInfinity or (at - x).is_positive for _, x in others):
                return one
    return expression.func(*args)


def _eventual_case(cases: Piecewise, L: Symbol) -> Expr:
    """The case whose condition holds for all large `L`."""
    for value, condition in cases.args:
        if condition == True or _holds_eventually(condition, L):  # noqa: E712  (SymPy's own truth value)
            return _eventually(value, L)
    raise _Undecided


def _holds_eventually(condition: Expr, L: Symbol) -> bool:
    """Whether a relation holds for all large `L`; raises where that is not decided."""
    gap = sympy.together(condition.lhs - condition.rhs)
    positive = gap.is_positive
    negative = gap.is_negative
    zero = gap.is_zero
    if not (positive or negative or zero) and gap.has(L):
        at = _limit(_eventually(gap, L), L)
        positive, negative = at.is_positive, at.is_negative
    if not (positive or negative or zero):
        raise _Undecided
    truth = {
        sympy.Eq: zero,
        sympy.Ne: positive or negative,
        sympy.StrictGreaterThan: positive,
        sympy.GreaterThan: positive or zero,
        sympy.StrictLessThan: negative,
        sympy.LessThan: negative or zero,
    }
    if type(condition) not in truth:
        raise _Undecided
    return bool(truth[type(condition)])


def _limit(expression: Expr, L: Symbol) -> Expr:
    """The limit of an expression without cases."""
    if not expression.has(L):
        return expression
    if isinstance(expression, Min | Max):
        return expression.func(*(_limit(a, L) for a in expression.args))
    found = _rational_limit(expression, L)
    if found is not None:
        return found
    if isinstance(expression, Pow) and not expression.exp.has(L):
        base = _limit(expression.base, L)
        return _defined(base**expression.exp, (base,))
    if isinstance(expression, sympy.Add | sympy.Mul):
        parts = [_limit(a, L) for a in expression.args]
        return _defined(expression.func(*parts), parts)
    if isinstance(expression, CONTINUOUS):
        inner = _limit(expression.args[0], L)
        return _defined(expression.func(inner), (inner,))
    raise _Undecided


def _defined(value: Expr, parts: Iterable[Expr]) -> Expr:
    """The value of a continuous function at limits, unless it is an indeterminate form (`oo - oo`, `0 oo`, `0^-1`)."""
    parts = list(parts)
    infinite = any(p in (S.Infinity, S.NegativeInfinity) for p in parts)
    if value.has(S.NaN, S.ComplexInfinity) or (infinite and any(p.is_zero for p in parts)):
        raise _Undecided
    return value


def _rational_limit(expression: Expr, L: Symbol) -> Expr | None:
    """The limit of a rational function of `sqrt(L)` and of powers `Y = b(L)^L`; None where the expression is not one."""
    powers: dict[Symbol, Expr] = {}
    names: dict[Expr, Symbol] = {}

    def take_out(power: Pow) -> Expr:
        base, exponent = power.base, sympy.expand(power.exp)
        slope = exponent.coeff(L, 1)
        rest = sympy.expand(exponent - slope * L)
        if not slope.is_Integer or rest.has(L):
            raise _Undecided
        root = sympy.perfect_power(base) if base.is_Rational else False
        if isinstance(root, tuple):
            base, slope, rest = root[0], slope * root[1], rest * root[1]
        if base not in names:
            names[base] = sympy.Dummy("Y", positive=True)
            powers[names[base]] = base
        return names[base] ** slope * base**rest

    opaque = expression.replace(lambda e: isinstance(e, Pow) and e.exp.has(L), take_out)
    rational = sympy.together(opaque.subs(L, ROOT**2))
    if not rational.is_rational_function(ROOT, *powers):
        return None
    limits = {symbol: _power_limit(base, L) for symbol, base in powers.items()}
    unbounded = [y for y, at in limits.items() if at is S.Infinity]
    vanishing = [y for y, at in limits.items() if at == 0]
    if len(unbounded) + len(vanishing) > 1:
        return None
    rational = sympy.together(rational.subs({y: 1 / y for y in vanishing}))
    rational = rational.subs({y: at for y, at in limits.items() if at is not S.Infinity and at != 0})
    # exponential growth outweighs every power of the depth
    for fast in (*unbounded, *vanishing, ROOT):
        numerator, denominator = (sympy.Poly(part, fast) for part in sympy.fraction(sympy.together(rational)))
        if numerator.is_zero:
            return S.Zero
        top, bottom = (sympy.simplify(p.LC()) for p in (numerator, denominator))
        rise = numerator.degree() - denominator.degree()
        if top.is_zero is not False and not _surely_nonzero(top):
            raise _Undecided
        rational = top / bottom * fast**rise
        if rise == 0:
            continue
        if rise < 0:
            return S.Zero
        sign = _sign(top / bottom, fast)
        return sign * S.Infinity
    return sympy.simplify(rational)


def _surely_nonzero(value: Expr) -> bool:
    return sympy.simplify(value) != 0


def _sign(value: Expr, used: Symbol) -> Expr:
    """The sign of a leading coefficient, where it can be told (a polynomial in the slower `sqrt(L)`: by its own leading one)."""
    if value.has(ROOT) and used != ROOT:
        top, bottom = sympy.fraction(sympy.together(value))
        value = sympy.Poly(top, ROOT).LC() / sympy.Poly(bottom, ROOT).LC()
    if value.is_positive or (value.free_symbols and sympy.factor(value).is_positive):
        return S.One
    if value.is_negative:
        return S.NegativeOne
    raise _Undecided


def _power_limit(base: Expr, L: Symbol) -> Expr:
    """The limit of `base^L` for a positive base: `exp(lim L (base - 1))` where the base tends to 1."""
    at = _limit(base, L)
    gap = sympy.simplify(at - 1)
    if gap == 0:
        return sympy.exp(sympy.limit(L * (base - 1), L, S.Infinity))
    if at == 0 or (gap.is_negative and at.is_positive):
        return S.Zero
    if gap.is_positive:
        return S.Infinity
    raise _Undecided
