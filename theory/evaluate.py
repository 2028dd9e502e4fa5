"""Values for symbols: a bound as a rigorous enclosure (python-flint ball arithmetic) or as a float rounded to its safe side."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Mapping
from typing import Any

import flint
import sympy
from sympy import Expr, S

from theory import symbols
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
    """A ball containing `value`: ints, fractions, SymPy and NumPy numbers, floats (taken as the exact binary number they are)."""
    if isinstance(value, flint.arb):
        return value
    if isinstance(value, sympy.Float):
        return exact_ball(sympy.Rational(value))
    if isinstance(value, sympy.Rational):
        return flint.arb(flint.fmpq(int(value.p), int(value.q)))
    if isinstance(value, Expr):
        return enclose_expression(value, {})
    if isinstance(value, numbers.Rational):
        return flint.arb(flint.fmpq(int(value.numerator), int(value.denominator)))
    return flint.arb(float(value) if isinstance(value, numbers.Real) else value)


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


def _whole_power(base: flint.arb, exponent: int) -> flint.arb:
    if exponent < 0:
        return 1 / _whole_power(base, -exponent)
    if exponent == 0 or not base.contains(0):
        return base**exponent
    # flint has no powers of balls with middle 0, and even powers are never negative
    top = abs(base).upper() ** exponent
    return (flint.arb(0) if exponent % 2 == 0 else -top).union(top)


def _power(base: flint.arb, exponent: Expr, exponent_ball: flint.arb) -> flint.arb:
    if exponent == -S.Half:
        return base.rsqrt()
    if isinstance(exponent, sympy.Integer):
        return _whole_power(base, int(exponent))
    if exponent_ball > 0 and not base > 0 and base.upper() >= 0:
        # powers other than whole ones are of non-negative numbers: what the ball holds below 0 is rounding
        top = base.upper()
        return flint.arb(0) if top == 0 else flint.arb(0).union(top**exponent_ball)
    return base.sqrt() if exponent is S.Half else base**exponent_ball


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
    """The value of the first case that holds; the hull of all cases up to it that cannot be ruled out."""
    possible: list[flint.arb] = []
    for value, condition in node.args:
        truth = _truth(condition, values)
        if truth is False:
            continue
        possible.append(enclose_expression(value, values))
        if truth:
            hull = possible[0]
            for other in possible[1:]:
                hull = hull.union(other)
            return hull
    raise ValueError(f"no case of {node} certainly applies: give exact values")


def _truth(condition: Any, values: Values) -> bool | None:
    """Whether a condition holds at `values`; None where neither balls nor exact arithmetic decide it."""
    if condition in (True, False, S.true, S.false):
        return bool(condition)
    if isinstance(condition, sympy.Not):
        inner = _truth(condition.args[0], values)
        return None if inner is None else not inner
    if isinstance(condition, sympy.And | sympy.Or):
        parts = [_truth(part, values) for part in condition.args]
        decisive = isinstance(condition, sympy.Or)
        return decisive if decisive in parts else None if None in parts else not decisive
    if not isinstance(condition, sympy.core.relational.Relational):
        return None
    left, right = enclose_expression(condition.lhs, values), enclose_expression(condition.rhs, values)
    decided: tuple[bool, bool] | None = {
        sympy.Eq: (left == right, not left.overlaps(right)),
        sympy.Ne: (not left.overlaps(right), left == right),
        sympy.StrictLessThan: (left < right, left >= right),
        sympy.LessThan: (left <= right, left > right),
        sympy.StrictGreaterThan: (left > right, left <= right),
        sympy.GreaterThan: (left >= right, left < right),
    }.get(type(condition))
    if decided is None or left.is_nan() or right.is_nan():
        return None
    return decided[0] if any(decided) else _exact_truth(condition, values)


def _exact_truth(condition: Any, values: Values) -> bool | None:
    """A relation decided by SymPy at exact values: rationals whose balls touch are told apart, or seen to be equal."""
    exact: dict[Any, Expr] = {}
    for symbol in condition.free_symbols:
        value = values.get(symbol, values.get(symbol.name))
        if isinstance(value, numbers.Rational) and not isinstance(value, Expr):
            value = sympy.Rational(int(value.numerator), int(value.denominator))
        if not (isinstance(value, Expr) and value.is_number):
            return None
        exact[symbol] = value
    decided = condition.subs(exact, simultaneous=True)
    return bool(decided) if decided in (S.true, S.false) else None


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


def check_declarations(values: Values) -> None:
    """Refuse values that no symbol of that name can have: a count below 1 or between whole numbers, a negative norm.

    The limit 0 of a positive number is taken: `sigma = 0` is what data of deficient rank have.

    Raises:
        ValueError: naming the symbol.
    """
    for key, value in values.items():
        symbol = key if isinstance(key, sympy.Symbol) else symbols.KNOWN.get(str(key))
        if symbol is None:
            continue
        ball = exact_ball(value)
        if symbol.is_integer and not ball.contains_integer() and ball.is_finite():
            raise ValueError(f"{symbol} = {value}: a whole number is needed")
        if symbol.is_positive and (ball < 0 or (symbol.is_integer and ball < 1)):
            raise ValueError(f"{symbol} = {value}: a positive number is needed")


def enclose(bound: Bound, values: Values) -> flint.arb:
    """A ball that certainly contains the bound's expression at `values`, after checking its assumptions.

    Raises:
        ValueError: naming the assumption that fails, or the symbol that has no value or one against its declaration.
    """
    check_declarations(values)
    check(bound.assumptions, values, of=str(bound.quantity or bound.expression))
    ball = enclose_expression(bound.expression, values)
    if ball.is_nan():
        raise ValueError(
            f"{bound} is undefined at {dict(values)} (0 times or over an infinity, or nan): give finite values"
        )
    return ball


def upper_float(ball: flint.arb) -> float:
    """The smallest float that is certainly not below the ball; `inf` where the ball is undefined."""
    if ball.is_nan():
        return math.inf
    top = ball.upper()
    value = float(top)
    if value == -math.inf and top.is_finite():
        return -sys.float_info.max
    return math.nextafter(value, math.inf) if math.isfinite(value) and exact_ball(value) < top else value


def lower_float(ball: flint.arb) -> float:
    """The largest float that is certainly not above the ball; `-inf` where the ball is undefined."""
    return -upper_float(-ball)


def evaluate(bound: Bound, values: Values) -> float:
    """The bound as a float, rounded to the safe side of its sense (up for an upper bound, down for a lower one).

    Raises:
        ValueError: naming the assumption that fails, or the symbol that has no value.
    """
    ball = enclose(bound, values)
    return upper_float(ball) if bound.sense is Sense.UPPER else max(0.0, lower_float(ball))
