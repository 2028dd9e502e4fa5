"""The smoothness constant as a function of the loss: `|hess ell(theta)| <= beta(ell(theta))` everywhere, `beta` non-decreasing.

Cross-entropy's Hessian and gradient vanish with the loss: a sample with loss `c` and `q = 1 - e^{-c}` contributes at most
`h(c) = 2 q (1 - q)` (1/2 beyond `q = 1/2`) to the first and `sqrt 2 q` to the second. With `a, M` the majorants of `|DF|, |D^2 F|`:

    by the mean:     |hess ell| <= 1/N sum_i lambda_max(h(c_i) a a^T + sqrt2 q(c_i) M)                a, M of ONE sample
    by the largest:  |hess ell| <= max_i lambda_max(h(c_i)/N a a^T + sqrt2 q(c_i)/N M_1)              a, M_1 of all samples.

`lambda_max` is convex in `r = h/q`, which lies in [1/2, 2], so it is at most its chord there: both are `outer h + slope q` with
`outer = (C_2 - C_half) / (3/2)`, `slope = C_half - outer / 2`, `C_r = lambda_max(r a a^T + sqrt2 M)`. `h` and `q` are concave in the
loss: the first rule holds at the mean loss, the second at the largest loss of a sample, at most `N ell`. The better one counts.

Under squared error `|F - Y|^2 / (2 N)` the outputs' Hessian is `1/N` and their gradient `sqrt(2 ell / N)`:
`beta = |a|^2 / N + sqrt(2 ell / N) lambda_max(M)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy
from sympy import S, Symbol

from theory.bound import Step, gap
from theory.costs import concavity_steps

CHORD = (0.5, 2.0)
"""Between these values of `r = h / q` the chord is drawn."""


@dataclass(frozen=True)
class Weights:
    """`outer h + slope q`, with coefficients rounded up."""

    outer: float
    slope: float

    @classmethod
    def chord(cls, at_half: float, at_two: float) -> Weights:
        """From `C_half` and `C_two`; rounding of the two operations is covered by a unit or two in the last place."""
        outer = max(0.0, (at_two - at_half) / 1.5) * _UP
        # a larger `outer` only raises the sum, since h >= q / 2
        return cls(outer, max(0.0, at_half - outer / 2) * _UP)

    @property
    def at_zero(self) -> float:
        """The limit of `(outer h + slope q) / c` as `c -> 0`."""
        return (2 * self.outer + self.slope) * _UP

    @property
    def at_most(self) -> float:
        """The supremum over all losses: `h -> 1/2`, `q -> 1`."""
        return (self.outer / 2 + self.slope) * _UP


_UP = 1 + 2.0**-50
"""Covers the rounding of a few double operations on positive numbers."""


class Curvature(ABC):
    """A non-decreasing `beta` with `|hess ell| <= beta(ell)`; works on balls (`flint.arb`) and on tensors alike."""

    @abstractmethod
    def __call__(self, loss: Any) -> Any:
        """`beta(ell)`, rounded up by a relative `2^-50`; a ball or a tensor of losses gives its like."""

    @property
    @abstractmethod
    def everywhere(self) -> float:
        """`sup beta`, the smoothness constant; `inf` where there is none."""


def wrong_mass(loss: Any) -> Any:
    """`q = 1 - e^{-c}` of a ball or tensor."""
    return -(-loss).expm1()


def hessian_weight(q: Any) -> Any:
    """`h = 2 q (1 - q)` up to `q = 1/2`, 1/2 beyond."""
    capped = q.min(0 * q + 0.5)
    return 2 * capped * (1 - capped)


@dataclass(frozen=True)
class CrossEntropyCurvature(Curvature):
    """`min(outer h(ell) + slope q(ell), outer' h(N ell) + slope' q(N ell))`.

    Attributes:
        mean: weights of the rule by the mean loss, from the majorants of one sample (of all, where samples are coupled).
        largest: weights of the rule by the largest loss of a sample.
        samples: `N`.
        first: upper bound of `|DF_i|`, the Jacobian of one sample's outputs.
    """

    mean: Weights
    largest: Weights
    samples: int
    first: float

    def __call__(self, loss: Any) -> Any:
        q, top = wrong_mass(loss), wrong_mass(self.samples * loss)
        by_mean = self.mean.outer * hessian_weight(q) + self.mean.slope * q
        return by_mean.min(self.by_largest(top)) * _UP

    def by_largest(self, q: Any) -> Any:
        """`outer' h(q) + slope' q` at the largest `q` of a sample."""
        return (self.largest.outer * hessian_weight(q) + self.largest.slope * q) * _UP

    @property
    def everywhere(self) -> float:
        return min(self.mean.at_most, self.largest.at_most)

    @property
    def at_zero(self) -> float:
        """`C = lim beta(ell) / ell` as `ell -> 0`; also `beta(ell) <= C ell`."""
        return min(self.mean.at_zero, self.samples * self.largest.at_zero * _UP)


@dataclass(frozen=True)
class SquaredErrorCurvature(Curvature):
    """`outer + slope sqrt(ell)` with `outer = |a|^2 / N` and `slope = sqrt(2/N) lambda_max(M)`, both rounded up."""

    outer: float
    slope: float

    def __call__(self, loss: Any) -> Any:
        return (self.outer + self.slope * loss.sqrt()) * _UP

    @property
    def everywhere(self) -> float:
        return float("inf") if self.slope else self.outer


def squared_error_steps() -> tuple[Step, ...]:
    """The links under squared error."""
    n, residual = Symbol("N", positive=True), Symbol("R", nonnegative=True)
    loss = residual**2 / (2 * n)
    return (
        *rule_steps()[:2],
        Step("|grad gamma| = |F - Y| / N = sqrt(2 ell / N)", (gap(residual / n, sympy.sqrt(2 * loss / n)),)),
        Step("the largest eigenvalue of a sum is at most the sum of the largest eigenvalues (Weyl)"),
    )


def curvature_steps() -> tuple[Step, ...]:
    """All links between the derivatives of network and cost and `beta`, under cross-entropy."""
    return (*rule_steps(), *chord_steps(), *concavity_steps())


@lru_cache(maxsize=1)
def rule_steps() -> tuple[Step, ...]:
    """The two rules: how the cost's derivatives and the network's make the Hessian of the loss, sample by sample."""
    t = Symbol("t", real=True)
    c, f = sympy.Function("c"), sympy.Function("F")
    whole = c(f(t)).diff(t, 2)
    inner = Symbol("F_0", real=True)
    first, second = (c(inner).diff(inner, k).subs(inner, f(t)) for k in (1, 2))
    weight, x, y = sympy.symbols("w_i x_i y", nonnegative=True)
    return (
        Step(
            "along a line c(F)'' = c''(F) F'^2 + c'(F) F'' (chain rule; in several outputs c'' is a quadratic form and c' a gradient)",
            (gap(whole, second * f(t).diff(t) ** 2 + first * f(t).diff(t, 2)),),
        ),
        Step(
            "|DF_i u| <= a . |u| and |D^2 F_i[u, u]| <= |u|^T M |u|, |u| the norms of u's parameter blocks (theory.compose)"
        ),
        Step(
            "so sample i contributes at most |u|^T (h(c_i) a a^T + sqrt2 q(c_i) M) |u|, at most its largest eigenvalue: the rule by the mean"
        ),
        Step(
            "sum_i w_i x_i <= max w sum_i x_i for x_i >= 0, as each max w = w_i + y adds y x_i >= 0: the rule by the largest, as h and q rise with the loss of a sample",
            (gap((weight + y) * x - weight * x, y * x),),
            (y * x,),
        ),
        Step("losses are non-negative, so the largest of N with mean ell is at most N ell"),
    )


@lru_cache(maxsize=1)
def chord_steps() -> tuple[Step, ...]:
    """`h / q` lies in [1/2, 2]; the chord of a convex function; signs of its coefficients."""
    q, y = Symbol("q", positive=True), Symbol("y", nonnegative=True)
    half, two = sympy.symbols("C_half C_two", positive=True)
    outer = (two - half) / sympy.Rational(3, 2)
    slope = half - outer / 2
    a, m = sympy.symbols("a M", nonnegative=True)
    # C_half is at least C_two / 4
    quarter = two / 4 + y
    return (
        Step(
            "h / q = 2 (1 - q) lies in [1, 2] up to q = 1/2",
            (gap(2 * q * (1 - q) / q, 2 * (1 - q)),),
            # q = 1/2 - y
            (2 * y,),
        ),
        Step(
            "h / q = 1 / (2 q) lies in [1/2, 1] for q in [1/2, 1]",
            (gap((1 / (2 * q)).subs(q, 1), S.Half), gap((1 / (2 * q)).subs(q, S.Half), 1)),
        ),
        Step("C_r = lambda_max(r a a^T + sqrt2 M) is convex in r: a supremum over unit v of functions linear in r"),
        Step(
            "the chord outer r + slope of the convex C_r meets it at r = 1/2 and r = 2, and lies above it between",
            ((gap(outer / 2 + slope, half)), (gap(2 * outer + slope, two))),
        ),
        Step(
            "entry by entry 4 (a a^T / 2 + sqrt2 M) - (2 a a^T + sqrt2 M) = 3 sqrt2 M >= 0, and the largest eigenvalue of a non-negative matrix rises with its "
            "entries (Perron and Frobenius): C_two <= 4 C_half",
            (gap(4 * (a**2 / 2 + sympy.sqrt(2) * m) - (2 * a**2 + sympy.sqrt(2) * m), 3 * sympy.sqrt(2) * m),),
            (3 * sympy.sqrt(2) * m,),
        ),
        Step("slope >= 0, as C_two <= 4 C_half", (), (sympy.expand(slope.subs(half, quarter)),)),
    )
