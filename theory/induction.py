"""Closed forms of recursions in depth: found by summation, proven by induction.

A fold over a repeated block is a map on a few whole numbers (degrees, lengths, counts) made of sums, multiples by constants and maxima.
Which member of a maximum wins is read off the first iterates; that makes the recursion linear, and summation solves it. Nothing
is believed of it: the base case and the step from `k` to `k + 1`, the choice in every maximum included, are identities and signs that
`theory.bound.Step.verify` recomputes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sympy
from sympy import Expr, Max, S, Symbol
from sympy.functions.combinatorial.numbers import stirling

from theory.bound import Step, gap

k = Symbol("k", integer=True, nonnegative=True)
"""Number of repetitions in a closed form."""
_J = Symbol("j", integer=True, nonnegative=True)
ITERATES = 6
"""Iterates from which the winner of a maximum is read; the proof does not rest on them."""

TERMS = 4
"""Terms of the binomial series that a comparison keeps."""

Values = tuple[Expr, ...]


def shifted(expression: Expr) -> Expr:
    """The expression in unknowns that are non-negative whatever the symbols are; non-negative coefficients then prove it non-negative.

    A positive whole symbol `s` becomes `1 + s'`; a power `b^e`, `b >= 1` and `e >= 0` whole, becomes the first terms
    `sum_i C(e, i) (b - 1)^i` of the binomial series plus a rest `u >= 0`; powers of a whole `j` become falling factorials `j (j-1) .. (j-i+1) >= 0`.
    """
    expression = sympy.expand(sympy.sympify(expression))
    positive = [s for s in sorted(expression.free_symbols, key=str) if s.is_integer and s.is_positive]
    moved = {s: 1 + Symbol(f"{s.name}_less_1", integer=True, nonnegative=True) for s in positive}
    expression = sympy.powsimp(expression.subs(moved, simultaneous=True))
    expression = sympy.expand(expression.replace(_is_exponential, sympy.expand_power_exp))
    expression = sympy.expand(expression.replace(_is_exponential, _binomial))
    for j in sorted(expression.free_symbols, key=str):
        if j.is_integer and j.is_nonnegative:
            expression = sympy.expand(
                expression.replace(lambda e, j=j: isinstance(e, sympy.Pow) and e.base == j, _falling)
            )
    return expression


def _binomial(power: Expr) -> Expr:
    base, e = power.args
    rest = Symbol(f"rest({power})", nonnegative=True)
    terms = ((base - 1) ** i * sympy.expand_func(sympy.ff(e, i)) / sympy.factorial(i) for i in range(TERMS))
    return sympy.expand(sympy.Add(*terms)) + rest


def _falling(power: Expr) -> Expr:
    j, degree = power.args
    if not (degree.is_Integer and degree > 0):
        return power
    names = [j, *(Symbol(f"ff({j}, {i})", nonnegative=True) for i in range(2, int(degree) + 1))]
    return sympy.Add(*(stirling(int(degree), i + 1) * name for i, name in enumerate(names)))


def _is_exponential(e: Expr) -> bool:
    return bool(
        isinstance(e, sympy.Pow)
        and e.base.is_Integer
        and e.base >= 1
        and not e.exp.is_number
        and e.exp.is_integer
        and sympy.expand(e.exp).is_nonnegative
    )


def at_least(one: Expr, other: Expr) -> bool:
    """Whether `one >= other` follows from the declared signs of the symbols."""
    difference = sympy.sympify(one) - sympy.sympify(other)
    if difference.is_nonnegative:
        return True
    return not difference.has(Max) and bool(shifted(difference).is_nonnegative)


def largest(*options: Expr | int) -> Expr:
    """The largest of several numbers; members that another one certainly reaches are dropped, `-oo` is the empty maximum."""
    kept: list[Expr] = []
    finite = [o for o in map(sympy.sympify, options) if o is not S.NegativeInfinity]
    if not finite:
        return S.NegativeInfinity
    for one in finite:
        if any(at_least(other, one) for other in kept):
            continue
        kept = [other for other in kept if not at_least(one, other)] + [one]
    return kept[0] if len(kept) == 1 else Max(*kept)


@dataclass(frozen=True)
class ClosedForm:
    """State after `k` repetitions, for every `k >= first`; `steps` is the induction."""

    values: Values
    first: int
    steps: tuple[Step, ...]

    def at(self, times: Expr) -> Values:
        """The values after `times` repetitions."""
        return tuple(sympy.expand(value.subs(k, times)) for value in self.values)


def closed_form(step: Callable[[Values], Values], start: Values, names: Sequence[str]) -> ClosedForm:
    """The state after `k` applications of `step` to `start`, from the least `k` on for which one closed form holds.

    Args:
        step: the recursion, written with `largest`; called on numbers and on symbols.
        start: state after no repetition.
        names: one name a component.

    Raises:
        ValueError: no closed form was found that an induction proves.
    """
    symbols = tuple(Symbol(name, integer=True, nonnegative=True) for name in names)
    iterates = [tuple(map(sympy.sympify, start))]
    for _ in range(ITERATES):
        iterates.append(step(iterates[-1]))
    recursion, comparisons = _without_maxima(step(symbols), symbols, iterates[2:-1])
    for first in range(3):
        if S.NegativeInfinity in iterates[first]:
            continue
        try:
            values = _solve(recursion, symbols, iterates[first], first)
        except _Unsolved:
            break
        base = Step(
            f"base: the recursion's state at k = {first}",
            tuple(gap(v.subs(k, first), x) for v, x in zip(values, iterates[first], strict=True)),
        )
        if not base.verify():
            continue
        here = dict(zip(symbols, (v.subs(k, first + _J) for v in values), strict=True))
        following = [v.subs(k, first + 1 + _J) for v in values]
        zeros = tuple(gap(v, r.subs(here, simultaneous=True)) for v, r in zip(following, recursion, strict=True))
        signs = tuple(shifted(c.subs(here, simultaneous=True)) for c in comparisons)
        link = Step(
            f"step: with k = {first} + j, j >= 0, one more repetition turns the state at k into that at k + 1; of every maximum the stated member wins",
            zeros,
            tuple(dict.fromkeys(s for s in signs if s != 0)),
        )
        if link.verify():
            return ClosedForm(values, first, (base, link))
    shown = ", ".join(f"{n} -> {r}" for n, r in zip(names, recursion, strict=True))
    raise ValueError(f"no closed form in the depth was proven for the recursion {shown}: give the depth as a number")


class _Unsolved(Exception):
    """The recursion is not triangular and linear."""


def _without_maxima(values: Values, symbols: Values, iterates: list[Values]) -> tuple[Values, list[Expr]]:
    """The recursion with every maximum replaced by the member that wins at all given iterates, and `winner - other` for each."""
    others = {s for x in iterates for value in x for s in value.free_symbols} | {
        s for value in values for s in value.free_symbols
    }
    sample = {s: S(3 + i) for i, s in enumerate(sorted(others - set(symbols), key=str))}
    points = [{**sample, **{s: v.subs(sample) for s, v in zip(symbols, x, strict=True)}} for x in iterates]
    comparisons: list[Expr] = []
    while True:
        maxima = [m for value in values for m in value.atoms(Max) if not any(a.has(Max) for a in m.args)]
        if not maxima:
            return tuple(map(sympy.expand, values)), comparisons
        maximum = maxima[0]
        table = [[a.subs(p) for p in points] for a in maximum.args]
        best = [max(column) for column in zip(*table, strict=True)]
        winner = next((a for a, row in zip(maximum.args, table, strict=True) if row == best), None)
        if winner is None:
            raise ValueError(f"no member of {maximum} wins at every depth: give the depth as a number")
        comparisons += [winner - a for a in maximum.args if a != winner]
        values = tuple(value.xreplace({maximum: winner}) for value in values)


def _solve(recursion: Values, symbols: Values, start: Values, first: int) -> Values:
    """Solve `x_i(k+1) = a x_i(k) + g(x_1 .. x_{i-1}, k)` one component after the other, from `x(first) = start`."""
    solved: dict[Expr, Expr] = {}
    pending = list(range(len(symbols)))
    i = Symbol("i", integer=True, nonnegative=True)
    while pending:
        ready = [p for p in pending if recursion[p].free_symbols & set(symbols) <= {symbols[p], *solved}]
        if not ready:
            raise _Unsolved
        for p in ready:
            pending.remove(p)
            own = symbols[p]
            factor = sympy.expand(recursion[p]).coeff(own, 1)
            rest = sympy.expand(recursion[p] - factor * own)
            if rest.has(own) or factor.has(*symbols):
                raise _Unsolved
            rest = sympy.expand(rest.subs(solved, simultaneous=True))
            if factor == 0:
                value = rest.subs(k, k - 1)
            else:
                terms = factor ** (k - 1 - i) * rest.subs(k, i)
                value = factor ** (k - first) * start[p] + sympy.summation(terms, (i, first, k - 1))
            solved[own] = sympy.expand(sympy.simplify(value))
    return tuple(solved[s] for s in symbols)
