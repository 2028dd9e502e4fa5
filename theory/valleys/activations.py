"""Whether an activation increases strictly, is real-analytic and no polynomial, decided by SymPy from its formula, and what that is good for."""

from __future__ import annotations

from functools import cache

import sympy
from sympy import Expr, Piecewise

from theory.atoms.entrywise import ACTIVATIONS, jumps, z
from theory.bound import Step, gap
from theory.suprema import infimum

ORDERS = 6
"""Derivatives of a piecewise activation that are looked at for a jump."""
ANALYTIC = (sympy.exp, sympy.tanh, sympy.atan, sympy.erf, sympy.sin, sympy.cos, sympy.sinh, sympy.cosh)
"""Functions that are analytic on the whole real line, where their arguments are."""


def not_analytic(phi: Expr) -> str:
    """Why `phi(z)` is not known to be real-analytic on the line; empty where it is, by closure under sums, products and composition.

    A piecewise formula is refuted by the first derivative that jumps; one without a jump up to order `ORDERS` stays undecided, which counts as a failure.
    """
    if phi.has(Piecewise):
        derivative = phi
        for order in range(ORDERS):
            if jumps(derivative):
                return f"its derivative of order {order} jumps"
            derivative = sympy.diff(derivative, z)
        return f"it is piecewise, and no derivative below order {ORDERS} decides"
    for part in sympy.preorder_traversal(phi):
        if isinstance(part, sympy.Pow):
            whole = part.exp.is_integer and part.exp.is_nonnegative
            if part.base.has(z) and not whole and not part.base.is_positive:
                return f"{part.base} may vanish"
        elif isinstance(part, sympy.log):
            if not part.args[0].is_positive:
                return f"the logarithm of {part.args[0]}, which may vanish"
        elif isinstance(part, sympy.Function) and not isinstance(part, ANALYTIC):
            return f"{part.func} is not known to be analytic"
    return ""


def not_increasing(phi: Expr) -> str:
    """Why `phi` is not strictly increasing; empty where it is.

    `phi' >= 0` (its proven infimum) and `phi'` vanishes on no interval: of an analytic function that is no constant it has isolated zeros only.
    """
    slope = sympy.diff(phi, z)
    low = infimum(slope, z)
    if low.value < 0:
        where = "" if low.at is None else f" at z = {sympy.N(low.at, 6)}"
        return f"phi' falls to {sympy.N(low.value, 6)}{where}"
    pieces = [value for value, _ in slope.args] if isinstance(slope, Piecewise) else [slope]
    return "phi' is 0 on an interval" if any(sympy.simplify(piece) == 0 for piece in pieces) else ""


@cache
def activation_conditions(name: str) -> tuple[tuple[str, bool, str], ...]:
    """`(condition, holds, reason)` for an activation named in `ACTIVATIONS`: increasing, analytic, no polynomial.

    Raises:
        ValueError: an unknown activation.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: use one of {', '.join(ACTIVATIONS)}")
    phi = ACTIVATIONS[name]
    increasing, analytic = not_increasing(phi), not_analytic(phi)
    found = [
        (
            "5",
            not increasing,
            f"{name} is strictly increasing" if not increasing else f"{name} does not increase strictly: {increasing}",
        ),
        ("5", not analytic, f"{name} is real-analytic" if not analytic else f"{name} is not analytic: {analytic}"),
    ]
    if not phi.has(Piecewise) and sympy.diff(phi, z, 2) == 0:
        found.append(("growth", False, f"{name} is a linear activation"))
    else:
        polynomial = phi.is_polynomial(z)
        found.append(("growth", not polynomial, f"{name} is {'a' if polynomial else 'no'} polynomial"))
    return tuple(found)


@cache
def independence_steps(samples: int = 4) -> tuple[Step, ...]:
    """Why `x -> phi(s u.x + b)`, over all `s` and `b`, takes linearly independent values on distinct samples: what makes `det Psi` no zero function.

    For a direction `u` that keeps the samples distinct, `t_i = u.x_i`; the Taylor coefficients in `s` of the row `(phi(s t_i + b))_i` are
    `phi^(k)(b)/k! t_i^k`, and a vector orthogonal to all rows is orthogonal to every coefficient.
    """
    t = sympy.symbols(f"t_1:{samples + 1}", real=True)
    c = sympy.symbols(f"c_0:{samples}", nonzero=True)
    matrix = sympy.Matrix(samples, samples, lambda k, i: c[k] * t[i] ** k)
    vandermonde = sympy.prod(t[j] - t[i] for j in range(samples) for i in range(j))
    b, s = sympy.symbols("b s", real=True)
    generic = sympy.Function("phi")
    first = sympy.diff(generic(s * t[0] + b), s).doit().subs(s, 0).doit()
    return (
        Step("distinct samples keep distinct projections u.x_i off finitely many hyperplanes of u"),
        Step(
            "the k-th derivative in s at 0 is phi^(k)(b) t^k (k = 1)", (gap(first, t[0] * sympy.diff(generic(b), b)),)
        ),
        Step("phi is analytic and no polynomial: off a countable set of b no phi^(k)(b) is 0"),
        Step(
            f"the determinant of the first {samples} coefficients is prod c_k times Vandermonde's, not 0 for distinct t_i",
            (gap(sympy.factor(matrix.det(method="berkowitz")), sympy.prod(c) * vandermonde),),
        ),
        Step(
            "hence the units' own weights can be chosen one after the other, each row outside the span of those before"
        ),
        Step("below them, strictly increasing units keep distinct samples distinct for almost all weights"),
        Step("det Psi is analytic in the hidden weights and not identically 0: its zeros are a null set"),
    )
