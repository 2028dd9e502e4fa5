"""What part of a second moment an activation keeps: pointwise, or as a mean over an entry and its negative."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import sympy
from sympy import Expr, Piecewise, S, Symbol

from theory.atoms.entrywise import ACTIVATIONS, activation_facts, z
from theory.bound import Step, gap
from theory.suprema import infimum, supremum

Y = Symbol("y", positive=True)


@dataclass(frozen=True)
class Shares:
    """Bounds of `phi(y)^2 / y^2` and of `phi'(y)^2`, pointwise or as means over `y` and `-y`, with the steps that show them."""

    second: tuple[Expr, Expr]
    slope: tuple[Expr, Expr]
    steps: tuple[Step, ...]


def _range(expression: Expr) -> tuple[Expr, Expr] | None:
    """Infimum and supremum over `y > 0`, or None where they are not found."""
    if not expression.has(Y):
        return expression, expression
    try:
        f = expression.subs(Y, z)
        return infimum(f, z, S.Zero, S.Infinity).value, supremum(f, z, S.Zero, S.Infinity).value
    except NotImplementedError:
        return None


@cache
def shares(name: str, symmetric: bool) -> Shares:
    """The part of the second moment that an activation keeps.

    Pointwise, `phi(0) = 0` gives `inf|phi'|^2 <= phi(z)^2/z^2 <= growth^2`. Where `z` and `-z` have one law, the mean
    `(phi(y)^2 + phi(-y)^2) / (2 y^2)` over the two counts: for ReLU it is 1/2 at every `y`.

    Raises:
        ValueError: an unknown activation, or one with `phi(0) != 0`, whose output does not scale with its input.
    """
    facts = activation_facts(name)
    phi = ACTIVATIONS[name]
    if sympy.simplify(phi.subs(z, 0)) != 0:
        raise ValueError(
            f"moments: {name} has phi(0) != 0, so E|F(x)|^2 is no multiple of |x|^2: use an activation with phi(0) = 0"
        )
    second = (facts.slope_inf.value**2, facts.growth**2)
    slope = (facts.slope_inf.value**2, facts.slope.value**2)
    pointwise = Step(f"phi(0) = 0 and |phi'| lies between {facts.slope_inf.value} and {facts.slope.value}")
    if not symmetric:
        return Shares(second, slope, (pointwise,))
    first = sympy.diff(phi, z)
    squares = phi.subs(z, Y) ** 2 + phi.subs(z, -Y) ** 2, first.subs(z, Y) ** 2 + first.subs(z, -Y) ** 2
    scales = 2 * Y**2, S(2)
    texts = "phi(y)^2 / y^2", "phi'(y)^2, for almost all y"
    found, steps = [], []
    for text, square, scale, pointwise_range in zip(texts, squares, scales, (second, slope), strict=True):
        mean = sympy.simplify(square / scale)
        here = _range(mean)
        if here is None:
            found.append(pointwise_range)
            steps.append(pointwise)
            continue
        low, high = sympy.Max(here[0], pointwise_range[0]), sympy.Min(here[1], pointwise_range[1])
        found.append((low, high))
        zeros = (gap(square, scale * low),) if low == high else ()
        steps.append(Step(f"the mean of {text} over y and -y is {mean}", zeros))
    return Shares(found[0], found[1], tuple(dict.fromkeys(steps)))


def is_odd(name: str) -> bool:
    """Whether `phi(-z) = -phi(z)`."""
    phi = ACTIVATIONS[name]
    return not phi.has(Piecewise) and sympy.simplify(phi + phi.subs(z, -z)) == 0
