"""Bounds on critical points and on the sum of Betti numbers of sublevel sets, from Pfaffian formats; as exact integers and as logarithms.

The numbers are astronomically large, so a bound is kept as a product of powers: `log2` and `decades` are enclosed in ball arithmetic without ever
forming it, `exact` forms the integer where it fits into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import flint
import sympy
from sympy import Expr, S

from theory.bound import Bound
from theory.evaluate import upper_float

LARGEST_BITS = 10_000_000
"""Integers of more binary digits are not formed."""


@dataclass(frozen=True)
class Count:
    """`count <= prod base^exponent`, bases positive and exponents non-negative whole numbers, or expressions of those.

    Attributes:
        quantity: what is counted.
        factors: pairs `(base, exponent)`.
        source: the theorem.
        constant_free: False where the theorem holds up to a constant in its base that is not known; the value with constant 1 is then a
            shape, not a bound.
    """

    quantity: str
    factors: tuple[tuple[Expr, Expr], ...]
    source: str
    constant_free: bool = True

    @property
    def expression(self) -> Expr:
        """The product, unevaluated."""
        powers = [sympy.Pow(b, e, evaluate=False) for b, e in self.factors]
        return sympy.Mul(*powers, evaluate=False)

    @property
    def bound(self) -> Bound:
        """The inequality as a record, for formats in symbols.

        Raises:
            ValueError: a shape without its constant, which bounds nothing.
        """
        if not self.constant_free:
            raise ValueError(f"{self.source}: known up to a constant only, so it is a shape and bounds nothing")
        return Bound.upper(self.expression, quantity=self.quantity, source=self.source)

    def at(self, values: dict) -> Count:
        """The count at values of its symbols."""
        factors = tuple((b.subs(values, simultaneous=True), e.subs(values, simultaneous=True)) for b, e in self.factors)
        return Count(self.quantity, factors, self.source, self.constant_free)

    def _whole(self) -> list[tuple[int, int]]:
        open_symbols = sorted({str(s) for f in self.factors for side in f for s in side.free_symbols})
        if open_symbols:
            raise ValueError(
                f"{self.quantity}: no value for {', '.join(open_symbols)}; use .at({{symbol: number}}) first"
            )
        factors = [(int(b), int(e)) for b, e in self.factors]
        if any(b < 1 or e < 0 for b, e in factors):
            raise ValueError(f"{self.quantity}: a factor of {factors} has a base below 1 or a negative exponent")
        return factors

    def _log(self, base: int) -> flint.arb:
        total = flint.arb(0)
        for b, e in self._whole():
            total += flint.arb(e) * flint.arb(b).log()
        return total / flint.arb(base).log()

    @property
    def log2(self) -> float:
        """Binary logarithm, rounded upwards."""
        return upper_float(self._log(2))

    @property
    def decades(self) -> float:
        """Decimal logarithm, rounded upwards."""
        return upper_float(self._log(10))

    def exact(self) -> int:
        """The integer.

        Raises:
            ValueError: more than `LARGEST_BITS` binary digits.
        """
        if self.log2 > LARGEST_BITS:
            raise ValueError(
                f"{self.quantity}: an integer of {self.log2:.3g} binary digits does not fit; use log2 or decades"
            )
        out = 1
        for b, e in self._whole():
            out *= b**e
        return out


def _count(value: Expr | int, name: str, least: int) -> Expr:
    value = sympy.sympify(value)
    if value.is_number and not (value.is_integer and value >= least):
        raise ValueError(f"{name} = {value}: a whole number >= {least} is needed")
    return value


def khovanskii(variables: Expr | int, length: Expr | int, alpha: Expr | int, degrees: Sequence[Expr | int]) -> Count:
    """Nondegenerate solutions in `R^n` of `n` Pfaffian equations of degrees `beta_i` on one chain (Khovanskii).

    `2^{l(l-1)/2} prod beta_i (sum beta_i - n + min(n, l) alpha + 1)^l`.

    Raises:
        ValueError: a number of degrees other than `n`, or an entry out of range.
    """
    n, l, a = _count(variables, "variables", 1), _count(length, "length", 0), _count(alpha, "alpha", 0)
    beta = [_count(b, "degree", 1) for b in degrees]
    if len(beta) != n:
        raise ValueError(
            f"{len(beta)} degrees for {n} equations: Khovanskii's theorem is for as many equations as variables"
        )
    base = sympy.Add(*beta) - n + sympy.Min(n, l) * a + 1
    factors = ((S(2), l * (l - 1) / 2), *((b, S.One) for b in beta), (base, l))
    return Count("nondegenerate_solutions", factors, "Khovanskii")


def critical_points(
    variables: Expr | int,
    length: Expr | int,
    alpha: Expr | int,
    gradient: Expr | int,
    quantity: str = "critical_points",
) -> Count:
    """Nondegenerate critical points in `R^n`, by Khovanskii's theorem on the `n` equations `df/dx_i = 0` of degree `g`.

    `2^{l(l-1)/2} g^n (n (g - 1) + min(n, l) alpha + 1)^l`, where `g <= alpha + beta - 1`.
    """
    n, l, a = _count(variables, "variables", 1), _count(length, "length", 0), _count(alpha, "alpha", 0)
    g = _count(gradient, "gradient degree", 1)
    base = sympy.expand(n * (g - 1) + sympy.Min(n, l) * a + 1)
    factors = ((S(2), l * (l - 1) / 2), (g, n), (base, l))
    return Count(quantity, factors, "Khovanskii on the gradient")


def sublevel_betti(variables: Expr | int, length: Expr | int, alpha: Expr | int, gradient: Expr | int) -> Count:
    """Sum of the Betti numbers of `{f <= c}` for a Morse function with compact sublevel sets: Morse's inequality, then `critical_points`.

    `B({f <= c}) <=` number of critical points of value at most `c`. Functions that are not Morse, or whose sublevel sets are not compact,
    are not covered: add an L2 term with a coefficient in general position.
    """
    return critical_points(variables, length, alpha, gradient, "sublevel_betti")


def zell(
    variables: Expr | int,
    length: Expr | int,
    alpha: Expr | int,
    beta: Expr | int,
    conditions: int = 1,
    constant: int = 1,
) -> Count:
    """Shape of the bound of Gabrielov, Vorobjov and Zell for a compact semi-Pfaffian set with `s` sign conditions.

    `s^n 2^{l(l-1)/2} (C (n beta + min(n, l) alpha))^{n+l}`; the constant `C` is not stated in the sources at hand, so this is a shape.
    """
    n, l, a = _count(variables, "variables", 1), _count(length, "length", 0), _count(alpha, "alpha", 0)
    base = _count(constant, "constant", 1) * (n * _count(beta, "beta", 1) + sympy.Min(n, l) * a)
    factors = ((_count(conditions, "sign conditions", 1), n), (S(2), l * (l - 1) / 2), (base, n + l))
    return Count("sublevel_betti", factors, "Zell / Gabrielov-Vorobjov, up to a constant", constant_free=False)
