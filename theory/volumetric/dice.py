r"""The soft Dice coefficient of two volumes: its range, where 1 is attained, its gradient and the gradient's supremum.

    D(p, g) = (2 sum_i p_i g_i + delta s) / (sum_i p_i^k + sum_i g_i^k + s),        p, g in [0, 1]^n,  s >= 0

Conventions differ: `k = 1` or 2 (squares), and the smoothing `s` in the denominator alone (`delta = 0`) or in both places (`delta = 1`).
The loss is `1 - D`. For a binary `g` with `m` ones only `a = sum p_i g_i`, `b` (the mass of `p` off the support) and `Q = sum p_i^2` count, so the
suprema below are those of functions of one or two variables, found by SymPy.

Source: F. Milletari, N. Navab, S.-A. Ahmadi, V-Net, 3DV 2016 (`k = 2`, no smoothing); the smoothed forms are common practice.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Expr, S, Symbol

from theory.bound import Bound, Step, gap

a, b, q = sympy.symbols("a b Q", nonnegative=True)
"""Overlap `sum p_i g_i`, mass of `p` off the support of `g`, and sum of the squares of `p`."""
m, n, s = sympy.symbols("m n s", positive=True)
"""Ones of `g`, voxels, smoothing."""
_rest = Symbol("r", nonnegative=True)


@dataclass(frozen=True)
class SoftDice:
    """One convention: `power` 1 or 2, and whether the smoothing stands in the numerator as well.

    Errors: `ValueError` for another power.
    """

    power: int = 2
    smoothed_numerator: bool = True

    def __post_init__(self) -> None:
        if self.power not in (1, 2):
            raise ValueError(f"power {self.power}: the soft Dice coefficient has power 1 or 2 in its denominator")

    @property
    def delta(self) -> Expr:
        return S.One if self.smoothed_numerator else S.Zero

    def coefficient(self, p: tuple[Expr, ...], g: tuple[Expr, ...], smoothing: Expr = s) -> Expr:
        """`D(p, g)` by its definition, for volumes of any length."""
        overlap = sympy.Add(*(x * y for x, y in zip(p, g, strict=True)))
        total = sympy.Add(*(x**self.power for x in (*p, *g)))
        return (2 * overlap + self.delta * smoothing) / (total + smoothing)

    @property
    def supremum(self) -> Bound:
        """`sup D` over `p, g in [0, 1]^n`: 1 with the smoothing in both places, `2 n / (2 n + s)` without, in `n` and `s`."""
        x, y = sympy.symbols("x y", nonnegative=True)
        if self.power == 2:
            voxel = (Step("x^2 + y^2 - 2 x y = (x - y)^2 >= 0", (gap(x**2 + y**2 - 2 * x * y, (x - y) ** 2),)),)
        else:
            u, v = 1 - x, 1 - y
            voxel = (
                Step(
                    "x + y - 2 x y = x (1 - y) + y (1 - x) >= 0 on the unit square, 0 only at (0, 0) and (1, 1)",
                    (gap(x + y - 2 * x * y, x * v + y * u),),
                ),
            )
        # with t = sum p^k + sum g^k <= 2 n: D <= (t + delta s) / (t + s), which does not fall with t
        t = 2 * n - _rest
        least = (2 * n + self.delta * s) / (2 * n + s) - (t + self.delta * s) / (t + s)
        expected = (1 - self.delta) * s * _rest / ((2 * n + s) * (t + s))
        monotone = Step("(t + delta s)/(t + s) does not fall with t <= 2 n", (gap(least, expected),))
        value = sympy.simplify((2 * n + self.delta * s) / (2 * n + s))
        where = "p = g" + (" binary" if self.power == 1 else "") if self.smoothed_numerator else "p = g = 1"
        return Bound.upper(
            value,
            quantity="soft Dice coefficient",
            source="voxel by voxel 2 x y <= x^k + y^k",
            steps=(*voxel, monotone),
            sharp=True,
            attained=where,
        )

    @property
    def infimum(self) -> Bound:
        """`inf D` over `p, g in [0, 1]^n`: 0 without the smoothing in the numerator, else `s / (n + s)`.

        On the unit square `x^k + y^k <= x + y <= 1 + x y`; with the overlap `c` this sums to `D >= (2 c + s)/(n + c + s) >= s/(n + s)`.
        """
        x, y, c = sympy.symbols("x y c", nonnegative=True)
        if not self.smoothed_numerator:
            return Bound.lower(
                0, quantity="soft Dice coefficient", source="no term is negative", sharp=True, attained="overlap 0"
            )
        corner = Step(
            "1 + x y - x - y = (1 - x)(1 - y) >= 0 and x^2 <= x on the unit square",
            (gap(1 + x * y - x - y, (1 - x) * (1 - y)), gap(x - x**2, x * (1 - x))),
        )
        trade = Step(
            "(2 c + s)/(n + c + s) - s/(n + s) = c (2 n + s)/((n + s)(n + c + s)) >= 0",
            (gap((2 * c + s) / (n + c + s) - s / (n + s), c * (2 * n + s) / ((n + s) * (n + c + s))),),
            (c * (2 * n + s) / ((n + s) * (n + c + s)),),
        )
        return Bound.lower(
            s / (n + s),
            quantity="soft Dice coefficient",
            source="x^k + y^k <= 1 + x y on the unit square",
            steps=(corner, trade),
            sharp=True,
            attained="disjoint binary supports that fill the grid",
        )

    def gradient_square(self) -> Expr:
        """`|grad_p D|^2` for a binary `g`, in `a, b, m, n, s` (`k = 1`) or `a, Q, m, s` (`k = 2`).

        `k = 1`: the partial derivative is `(2 T - N)/T^2` on the support and `-N/T^2` off it; `k = 2`: `2 (g - D p)/T`.
        """
        top = 2 * a + self.delta * s
        if self.power == 1:
            bottom = a + b + m + s
            return (m * (2 * bottom - top) ** 2 + (n - m) * top**2) / bottom**4
        bottom = q + m + s
        ratio = top / bottom
        return 4 * (m - 2 * a * ratio + q * ratio**2) / bottom**2

    def lipschitz(self, ones: int, voxels: int, smoothing: Expr) -> Bound:
        """`sup |grad_p D|` over `p in [0, 1]^n` (Euclidean norm), the Lipschitz constant in `p`, for a binary `g` with that many ones.

        Exact, but for `k = 2` with the smoothing in both places, where it is an upper bound. Errors: `ValueError` for numbers of ones and voxels or a smoothing
        that fit no volume.
        """
        smoothing = sympy.nsimplify(smoothing)
        if not 0 < ones <= voxels or not smoothing.is_nonnegative:
            raise ValueError(
                f"{ones} ones among {voxels} voxels, smoothing {smoothing}: give 0 < ones <= voxels and smoothing >= 0"
            )
        values = {m: sympy.Integer(ones), n: sympy.Integer(voxels), s: smoothing}
        if self.power == 1:
            return self._lipschitz_of_sums(values)
        return self._lipschitz_of_squares(values)

    def _lipschitz_of_sums(self, values: dict[Symbol, Expr]) -> Bound:
        """At fixed `a` the gradient does not grow with `b`; along `b = 0` the critical points are the roots of a quadratic."""
        bottom = a + b + m + s
        top = 2 * a + self.delta * s
        on = (2 * bottom - top) / bottom**2
        slope = sympy.factor(sympy.diff(on, b) * bottom**3)
        # a = m - r with r >= 0: overlap is at most the number of ones
        falling = sympy.expand(-slope.subs(a, m - _rest))
        steps = (
            Step("(2 T - N)/T^2 falls with b", (gap(sympy.diff(on, b) * bottom**3, slope),), (falling,)),
            Step("N/T^2 falls with b, as T grows"),
            Step("the supremum is that of a function of a in [0, m]; critical points exactly"),
        )
        along = self.gradient_square().subs(b, 0)
        numerator = sympy.numer(sympy.together(sympy.diff(along, a)))
        polynomial = sympy.Poly(numerator.subs(values), a)
        roots = sympy.real_roots(polynomial) if polynomial.degree() > 0 else []
        inside = [root for root in dict.fromkeys(roots) if 0 < root < values[m]]
        candidates = {point: along.subs(values).subs(a, point) for point in (S.Zero, values[m], *inside)}
        where = max(candidates, key=lambda point: sympy.N(candidates[point], 30))
        return Bound.upper(
            sympy.sqrt(candidates[where]),
            quantity="soft Dice gradient",
            source="suprema over the overlap and the mass off the support",
            steps=steps,
            sharp=True,
            attained=f"p = {sympy.N(where / values[m], 6)} on the support, 0 off it",
        )

    def _lipschitz_of_squares(self, values: dict[Symbol, Expr]) -> Bound:
        """`|g - D p|^2 = m (1 - D^2) + s D (delta - D)`, from `2 a + delta s = D T` and `Q = T - m - s`."""
        d, bottom = sympy.symbols("D T", positive=True)
        identity = (
            self.gradient_square().subs(a, (d * bottom - self.delta * s) / 2).subs(q, bottom - m - s) * bottom**2 / 4
        )
        inner = m * (1 - d**2) + s * d * (self.delta - d)
        steps = [Step("|g - D p|^2 = m (1 - D^2) + s D (delta - D)", (gap(identity, inner),))]
        if self.smoothed_numerator:
            peak = sympy.solve(sympy.diff(inner, d), d)[0]
            largest = sympy.simplify(inner.subs(d, peak))
            steps.append(Step("a concave parabola in D", (gap(largest - inner, (m + s) * (d - peak) ** 2),)))
        else:
            largest = m
            steps.append(Step("largest at D = 0", (gap(m - inner, (m + s) * d**2),), ((m + s) * d**2,)))
        value = 2 * sympy.sqrt(largest) / (m + s)
        return Bound.upper(
            value.subs(values),
            quantity="soft Dice gradient",
            source="|grad D| = 2 |g - D p| / T, T >= m + s",
            steps=tuple(steps),
            sharp=not self.smoothed_numerator,
            attained="p = 0" if not self.smoothed_numerator else "",
        )
