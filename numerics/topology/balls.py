"""Balls through expressions: a SymPy expression as a function that encloses its values in ball arithmetic (python-flint)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flint
import sympy
from sympy import Expr, Symbol

Ball = flint.arb


def _method(name: str) -> Callable[..., Any]:
    return lambda x: getattr(flint.arb(x), name)()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: _method(name) for name in ("tanh", "exp", "log", "erf", "sin", "cos", "tan", "atan", "sqrt")
}
"""Elementary functions on balls, by SymPy's names."""


def power(x: Any, n: int) -> Ball:
    """`x^n` for a whole number `n`; python-flint's own is undefined on a ball around 0, and a product forgets that even powers are not negative."""
    ball = flint.arb(x)
    if n < 0:
        return 1 / power(ball, -n)
    if n % 2:
        return ball * power(ball, n - 1)
    low, high = ball.abs_lower(), ball.abs_upper()
    ends = [math.prod([end] * n, start=flint.arb(1)) for end in (low, high)]
    return ends[0].union(ends[1])


_POWER = sympy.Function("power")
FUNCTIONS["power"] = power


class Softplus(sympy.Function):
    """`log(1 + exp(u))`, kept whole: its derivative `(1 + tanh(u/2)) / 2` names `u` once, so that it is enclosed tightly."""

    def fdiff(self, argindex: int = 1) -> Expr:
        return (1 + sympy.tanh(self.args[0] / 2)) / 2


FUNCTIONS["Softplus"] = lambda x: flint.arb(x).exp().log1p()


def _exponent(e: Expr) -> Expr | None:
    """`u` where the expression is `1 + exp(u)`."""
    if isinstance(e, sympy.Add) and len(e.args) == 2 and e.args[0] == 1 and isinstance(e.args[1], sympy.exp):
        return e.args[1].args[0]
    return None


def rewritten(expression: Expr) -> Expr:
    """The same function with every `log(1 + e^u)` as `Softplus(u)` and every `1 / (1 + e^u)` as `(1 - tanh(u/2)) / 2`."""

    def whole(e: Expr) -> bool:
        return (isinstance(e, sympy.log) or (isinstance(e, sympy.Pow) and e.exp == -1)) and _exponent(
            e.args[0]
        ) is not None

    def new(e: Expr) -> Expr:
        u = sympy.sympify(_exponent(e.args[0]))
        return Softplus(u) if isinstance(e, sympy.log) else (1 - sympy.tanh(u / 2)) / 2

    return sympy.sympify(expression).replace(whole, new)


def compiled(expressions: Sequence[Expr], variables: Sequence[Symbol]) -> Callable[[Sequence[Any]], list[Ball]]:
    """A function from balls to balls that encloses every expression; all constants enter as balls, none as a rounded number."""
    constants: dict[Expr, Symbol] = {}

    def ready(e: Expr) -> Expr:
        if e.is_Integer or e.is_Symbol:
            return e
        if e.is_number:
            return constants.setdefault(e, sympy.Dummy("c", real=True))
        if isinstance(e, sympy.Pow):
            if not e.exp.is_Integer:
                raise ValueError(f"critical points: the power {e} has no whole exponent: rewrite it")
            return _POWER(ready(e.base), e.exp)
        return e.func(*map(ready, e.args))

    forms = [ready(sympy.sympify(e)) for e in expressions]
    code = sympy.lambdify([*variables, *constants.values()], forms, modules=[FUNCTIONS], cse=True)
    balls = [_constant(c) for c in constants]
    return lambda point: [flint.arb(value) for value in code(*point, *balls)]


def _constant(value: Expr) -> Ball:
    """A ball around a real constant."""
    if value.is_Rational:
        return flint.arb(flint.fmpq(int(value.p), int(value.q)))
    if value is sympy.pi:
        return flint.arb.pi()
    if isinstance(value, sympy.Add | sympy.Mul):
        start = flint.arb(0 if isinstance(value, sympy.Add) else 1)
        for part in map(_constant, value.args):
            start = start + part if isinstance(value, sympy.Add) else start * part
        return start
    if isinstance(value, sympy.Pow):
        return _constant(value.base) ** _constant(value.exp)
    if value.func.__name__ in FUNCTIONS:
        return FUNCTIONS[value.func.__name__](_constant(value.args[0]))
    raise ValueError(f"critical points: no enclosure is known for the constant {value}")
