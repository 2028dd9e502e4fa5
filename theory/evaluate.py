"""Values for symbols: a bound as a rigorous enclosure (python-flint ball arithmetic) or as a float rounded to its safe side."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import flint
import sympy
from sympy import Expr, S

from theory.bound import Assumption, Bound, Sense

PRECISION = 128
"""Working precision of enclosures, in bits."""

flint.ctx.prec = PRECISION

Values = Mapping[Any, Any]

_FUNCTIONS = {
    sympy.exp: lambda x: x.exp(),
    sympy.log: lambda x: x.log(),
    sympy.tanh: lambda x: x.tanh(),
    sympy.sinh: lambda x: x.sinh(),
    sympy.cosh: lambda x: x.cosh(),
    sympy.sech: lambda x: x.sech(),
    sympy.sin: lambda x: x.sin(),
    sympy.cos: lambda x: x.cos(),
    sympy.tan: lambda x: x.tan(),
    sympy.atan: lambda x: x.atan(),
    sympy.erf: lambda x: x.erf(),
    sympy.erfc: lambda x: x.erfc(),
    sympy.Abs: abs,
    sympy.floor: lambda x: x.floor(),
    sympy.ceiling: lambda x: x.ceil(),
}


def exact_ball(value: Any) -> flint.arb:
    """A ball containing `value`: ints, fractions, SymPy numbers, floats (taken as the exact binary number they are)."""
    if isinstance(value, flint.arb):
        return value
    if isinstance(value, sympy.Float):
        return exact_ball(sympy.Rational(value))
    if isinstance(value, sympy.Rational):
        return flint.arb(flint.fmpq(int(value.p), int(value.q)))
    if isinstance(value, Expr):
        return enclose_expression(value, {})
    return flint.arb(value)


def _symbol_table(values: Values) -> dict[Any, flint.arb]:
    return {
        (key if isinstance(key, sympy.Basic) else sympy.Symbol(str(key))): exact_ball(v) for key, v in values.items()
    }


def _lookup(symbol: sympy.Symbol, table: Mapping[Any, flint.arb], by_name: Mapping[str, flint.arb]) -> flint.arb:
    if symbol in table:
        return table[symbol]
    if symbol.name in by_name:
        return by_name[symbol.name]
    known = ", ".join(sorted(by_name)) or "none"
    raise ValueError(f"no value for the symbol {symbol.name}: give one (values known: {known})")


def _power(base: flint.arb, exponent: Expr, exponent_ball: flint.arb) -> flint.arb:
    if exponent is S.Half:
        return base.sqrt()
    if exponent is S.NegativeOne / 2 or exponent == -S.Half:
        return base.rsqrt()
    if isinstance(exponent, sympy.Integer):
        return base ** int(exponent)
    if base == 0 and exponent_ball > 0:
        return flint.arb(0)
    return base**exponent_ball


def enclose_expression(expression: Expr, values: Values) -> flint.arb:
    """A ball that certainly contains `expression` at `values` (keys: symbols or their names; infinity comes back as such).

    Raises:
        ValueError: naming a symbol without value, or a function that has no enclosure.
    """
    table = _symbol_table(values)
    by_name = {key.name: value for key, value in table.items() if isinstance(key, sympy.Symbol)}
    memo: dict[Expr, flint.arb] = {}
    # post-order without recursion: composed bounds nest deeper than Python's stack
    stack: list[tuple[Any, bool]] = [(expression, False)]
    while stack:
        node, ready = stack.pop()
        if node in memo:
            continue
        if isinstance(node, sympy.Symbol):
            memo[node] = _lookup(node, table, by_name)
        elif node is S.Infinity:
            memo[node] = flint.arb.pos_inf()
        elif isinstance(node, sympy.Rational | sympy.Float):
            memo[node] = exact_ball(node)
        elif isinstance(node, sympy.CRootOf):
            approximate = node.eval_rational(n=50)
            memo[node] = exact_ball(approximate) + flint.arb(
                0, flint.arb(10) ** -49 * (1 + abs(exact_ball(approximate)))
            )
        elif node is S.Pi:
            memo[node] = flint.arb.pi()
        elif node is S.Exp1:
            memo[node] = flint.arb(1).exp()
        elif isinstance(node, sympy.Piecewise):
            memo[node] = _enclose_piecewise(node, values)
        elif not ready:
            stack.append((node, True))
            stack.extend((child, False) for child in node.args)
        else:
            memo[node] = _apply(node, [memo[child] for child in node.args])
    return memo[expression]


def _apply(node: Expr, args: list[flint.arb]) -> flint.arb:
    if isinstance(node, sympy.Add):
        return sum(args[1:], args[0])
    if isinstance(node, sympy.Mul):
        return math.prod(args[1:], start=args[0])
    if isinstance(node, sympy.Pow):
        return _power(args[0], node.args[1], args[1])
    if isinstance(node, sympy.Min | sympy.Max):
        result = args[0]
        for other in args[1:]:
            result = result.min(other) if isinstance(node, sympy.Min) else result.max(other)
        return result
    function = _FUNCTIONS.get(type(node))
    if function is None:
        raise ValueError(
            f"no enclosure is known for the function {type(node).__name__} in {node}: add it to theory/evaluate.py"
        )
    return function(args[0])


def _enclose_piecewise(node: sympy.Piecewise, values: Values) -> flint.arb:
    for value, condition in node.args:
        if condition is S.true or condition == True:  # noqa: E712  (SymPy's own truth value)
            return enclose_expression(value, values)
        left, right = enclose_expression(condition.lhs, values), enclose_expression(condition.rhs, values)
        decided = {
            sympy.Eq: (left == right, not left.overlaps(right)),
            sympy.Ne: (not left.overlaps(right), left == right),
            sympy.StrictLessThan: (left < right, left >= right),
            sympy.LessThan: (left <= right, left > right),
            sympy.StrictGreaterThan: (left > right, left <= right),
            sympy.GreaterThan: (left >= right, left < right),
        }.get(type(condition))
        if decided is None or not any(decided):
            raise ValueError(f"cannot decide the case {condition} of {node}: give exact values")
        if decided[0]:
            return enclose_expression(value, values)
    raise ValueError(f"no case of {node} applies")


def holds(assumption: Assumption, values: Values) -> bool:
    """Whether the assumption certainly holds at `values`: undecided counts as not holding."""
    gap = enclose_expression(assumption.difference, values)
    return bool(gap > 0) or (("=" in assumption.relation) and bool(gap >= 0))


def check(assumptions: tuple[Assumption, ...], values: Values, of: str) -> None:
    """Refuse values that break an assumption.

    Raises:
        ValueError: naming the first assumption that fails, with the values of its two sides.
    """
    for assumption in assumptions:
        if not holds(assumption, values):
            left, right = (enclose_expression(side, values) for side in (assumption.left, assumption.right))
            raise ValueError(
                f"{of} assumes {assumption}, which fails: {float(left.mid()):.6g} against {float(right.mid()):.6g}"
            )


def enclose(bound: Bound, values: Values) -> flint.arb:
    """A ball that certainly contains the bound's expression at `values`, after checking its assumptions.

    Raises:
        ValueError: naming the assumption that fails, or the symbol that has no value.
    """
    check(bound.assumptions, values, of=str(bound.quantity or bound.expression))
    ball = enclose_expression(bound.expression, values)
    if ball.is_nan():
        raise ValueError(
            f"{bound} is undefined at {dict(values)} (0 times or over an infinity, or nan): give finite values"
        )
    return ball


def upper_float(ball: flint.arb) -> float:
    """The smallest float that is certainly not below the ball."""
    value = float(ball.upper())
    return math.nextafter(value, math.inf) if math.isfinite(value) and exact_ball(value) < ball.upper() else value


def lower_float(ball: flint.arb) -> float:
    """The largest float that is certainly not above the ball."""
    value = float(ball.lower())
    if value == math.inf and ball.lower().is_finite():
        return sys.float_info.max
    return math.nextafter(value, -math.inf) if math.isfinite(value) and exact_ball(value) > ball.lower() else value


def evaluate(bound: Bound, values: Values) -> float:
    """The bound as a float, rounded to the safe side of its sense (up for an upper bound, down for a lower one).

    Raises:
        ValueError: naming the assumption that fails, or the symbol that has no value.
    """
    ball = enclose(bound, values)
    return upper_float(ball) if bound.sense is Sense.UPPER else max(0.0, lower_float(ball))
