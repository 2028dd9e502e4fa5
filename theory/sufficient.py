"""What suffices for a hypothesis: a condition on one symbol, solved from the bound that decides it (a variance floor `eps`, a branch scale `c`)."""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Expr, S, Symbol

from theory.bound import Assumption
from theory.hypotheses import Hypothesis, hypotheses
from theory.landscape import Landscape


@dataclass(frozen=True)
class Sufficient:
    """A hypothesis holds where `condition` does."""

    hypothesis: Hypothesis
    condition: Assumption

    def __str__(self) -> str:
        return f"{self.condition} suffices for {self.hypothesis.name}: {self.hypothesis.statement}"


def sufficient(landscape: Landscape, symbol: Symbol) -> tuple[Sufficient, ...]:
    """For every hypothesis that some value of `symbol` breaks: the side of the threshold on which it holds.

    A lower bound `max(0, e)` (to some power, times what is positive) is positive exactly where `e` is. Where `e` has one zero in the
    symbol, its sign far on either side decides. Hypotheses that do not contain the symbol, or whose threshold has no closed form, are
    left out; equal conditions are named once.
    """
    found: dict[Assumption, Sufficient] = {}
    for hypothesis in hypotheses(landscape):
        if hypothesis.needs != "positive" or not hypothesis.bound.expression.has(symbol):
            continue
        for inside in _gaps(hypothesis.bound.expression):
            condition = _threshold(inside, symbol)
            if condition is not None:
                found.setdefault(condition, Sufficient(hypothesis, condition))
    return tuple(found.values())


def _gaps(expression: Expr) -> list[Expr]:
    """The `e` of every `max(0, e)` in an expression."""
    gaps = []
    for term in expression.atoms(sympy.Max):
        others = [argument for argument in term.args if argument != 0]
        if S.Zero in term.args and len(others) == 1:
            gaps.append(others[0])
    return gaps


def _threshold(inside: Expr, symbol: Symbol) -> Assumption | None:
    """`symbol > root` or `symbol < root`, where `inside` has one root among the positive numbers and changes its sign there."""
    if not inside.has(symbol):
        return None
    # a positive root r = t^2 of an expression in sqrt(eps): solve in t
    root = Symbol("t", positive=True)
    numerator = sympy.numer(sympy.together(inside.subs(symbol, root**2)))
    try:
        solutions = [s for s in sympy.solve(numerator, root) if not s.is_negative and s != 0]
    except NotImplementedError:
        return None
    if len(solutions) != 1:
        return None
    where = sympy.simplify(solutions[0] ** 2)
    far, near = (sympy.simplify(inside.subs(symbol, where * factor)) for factor in (S(4), S.One / 4))
    if far.is_positive and not near.is_positive:
        return Assumption(symbol, ">", where)
    if near.is_positive and not far.is_positive:
        return Assumption(symbol, "<", where)
    return None
