"""The softmax atom `z -> exp(z) / sum exp(z)`, column by column.

Its derivatives are central moments of the random variable that takes the value `v_k` with probability `p_k`:
`v^T Dp v = Var(v)` and `v^T D^2p[v, v] = E (v - E v)^3`. For a given mean both are linear in the distribution, so they are largest at
two-point distributions, and a unit vector has entries at most `sqrt 2` apart. The third is the fourth cumulant. `cumulant_constants`
bounds the mixed cumulants of several functions of the class by their ranges; attention is made of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy
from sympy import Expr, S, Symbol

from theory.atoms.base import Atom, Domain
from theory.bound import Assumption, Bound, Step
from theory.records import FeatureBounds, LayerBounds
from theory.suprema import Extremum, supremum, supremum_abs


@dataclass(frozen=True)
class SoftmaxConstants:
    jacobian: Expr
    second: Expr
    variance: Extremum
    skewness: Extremum
    spread: Expr
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class CumulantConstants:
    """Largest mixed cumulants of functions whose values lie within intervals of length 1 (the range), under one distribution.

    Attributes:
        second: of `k(f, g)`.
        third: of `k(f, g, g)`.
        third_mixed: of `k(f, g, h)`.
        fourth: of `k(f, g, g, g)`.
        steps: their proofs.
    """

    second: Expr
    third: Expr
    third_mixed: Expr
    fourth: Expr
    steps: tuple[Step, ...]


@lru_cache(maxsize=1)
def softmax_constants() -> SoftmaxConstants:
    """Norms of the first two derivatives of the softmax, for every number of classes from 2 on."""
    t, p = Symbol("t", real=True), Symbol("p", real=True)
    v = sympy.symbols("v:3", real=True)
    z = sympy.symbols("z:3", real=True)
    weights = [sympy.exp(zk + t * vk) for zk, vk in zip(z, v, strict=True)]
    cumulant = sympy.log(sum(weights))
    at = {zk: sympy.log(Symbol(f"p{k}", positive=True)) for k, zk in enumerate(z)}
    ps = [Symbol(f"p{k}", positive=True) for k in range(3)]
    simplex = {ps[2]: 1 - ps[0] - ps[1]}
    mean = sum(pk * vk for pk, vk in zip(ps, v, strict=True))

    def moment(order: int) -> Expr:
        derived = cumulant.diff(t, order).subs(t, 0).subs(at).subs(simplex)
        central = sum(pk * (vk - mean) ** order for pk, vk in zip(ps, v, strict=True)).subs(simplex)
        return sympy.simplify(derived - central)

    two_point = [sympy.expand(p * (1 - p) ** k + (1 - p) * (-p) ** k) for k in (2, 3)]
    variance, skewness = (supremum_abs(m, p, S.Zero, S.One) for m in two_point)
    # entries of a unit vector: (v_i - v_j)^2 <= 2 (v_i^2 + v_j^2) <= 2
    gap = sympy.expand(2 * (v[0] ** 2 + v[1] ** 2) - (v[0] - v[1]) ** 2 - (v[0] + v[1]) ** 2)
    spread = sympy.sqrt(2)
    steps = (
        Step("second derivative of log sum exp along v is the variance (checked for three classes)", (moment(2),)),
        Step("third derivative is the third central moment (checked for three classes)", (moment(3),)),
        Step("2 (a^2 + b^2) - (a - b)^2 = (a + b)^2 >= 0: entries of a unit vector lie within sqrt 2", (gap,)),
        Step("at a given mean, moments are linear in the distribution, so two-point distributions are extreme"),
        Step("a symmetric trilinear form attains its norm at equal arguments (Banach)"),
    )
    return SoftmaxConstants(spread**2 * variance.value, spread**3 * skewness.value, variance, skewness, spread, steps)


@lru_cache(maxsize=1)
def cumulant_constants() -> CumulantConstants:
    """Derive the constants; all are attained (the mixed third one by independent fair signs and their product)."""
    p, y, b, v = (Symbol(name, nonnegative=True) for name in ("p", "y", "b", "v"))
    constants = softmax_constants()
    quarter, half = S.One / 4, S.Half
    second, third = constants.variance.value, constants.skewness.value
    # of k(f, g, g), cases of the third step below
    inside = p * (1 - p) * (y - 2 * p * y**2)
    best_y = sympy.solve(sympy.diff(inside, y) / p, y)[0]

    def largest(expression: Expr, low: Expr = S.Zero, high: Expr = S.One) -> Expr:
        return supremum(sympy.expand(sympy.cancel(expression)), p, low, high).value

    cases = (
        largest(inside.subs(y, 1)),
        largest(inside.subs(y, best_y), quarter, half),
        largest(inside.subs(y, half), half, S.One),
        largest(p * (1 - p) ** 2 / 2, S.Zero, half),
        largest(p * (1 - p) / 4, half, S.One),
    )
    third_mixed = largest(p * (1 - p) ** 3 + (1 - p) * p**3)
    # of k(f, g, g, g), the last three steps
    psi = y * (y - 3 * v) ** 2
    near = largest(4 * p**3, S.Zero, second)
    cap = sympy.Max(*sympy.solve(b**2 / 4 - b * (1 - b), b))
    far = sympy.Max(9 * (cap**2 / 4) ** 3, largest(p * (1 - 3 * p) ** 2, S.Zero, quarter))
    steps = (
        Step("|k(f, g)| <= std f std g, and a variance is at most that of two points"),
        Step("k(f, g, g) = Cov(f, (g - Eg)^2) is linear in f, so f is the indicator of a set A; P(A) = p, mean of g - Eg on A: (1-p) y >= 0"),
        Step(
            "largest with g constant off A and at the ends of its interval on A. Where the interval can be placed freely (y <= 1/2) that is "
            "p (1-p) (1/4 + (1-2p) y^2); else the constant is its lower end, and p (1-p) (y - 2 p y^2) with 1/2 <= y <= 1",
            (
                (p * (1 - p) * ((1 - p) ** 2 * y**2 + (1 - y) * y - p**2 * y**2) - inside),
                (p * (1 - p) * (quarter + (1 - 2 * p) * quarter) - p * (1 - p) ** 2 / 2),
            ),
        ),
        Step("the largest of these cases is that of two points, the skewness", (sympy.Max(*cases) - third,)),
        Step("|k(f, g, h)| <= (E|f - Ef|^3 E|g - Eg|^3 E|h - Eh|^3)^(1/3) (Hoelder), each convex, so largest at two points"),
        Step("k(f, g, g, g) = E (f - Ef) ((g - Eg)^3 - 3 v (g - Eg)) <= std f sqrt(E psi), psi = Y (Y - 3v)^2, Y = (g - Eg)^2, EY = v"),
        Step("|g - Eg| <= b <= 1 gives v <= b (1-b); where b^2 <= 4v: psi <= 4 v^3", ((4 * v**3 - psi - (4 * v - y) * (y - v) ** 2),)),
        Step("else psi <= Y max(9 v^2, (b^2 - 3v)^2) with v <= min(b^2/4, b - b^2): not larger", (sympy.Max(near, far) - near,)),
    )  # fmt: skip
    return CumulantConstants(second, third, third_mixed, sympy.sqrt(second * near), steps)


@dataclass(frozen=True)
class Softmax(Atom):
    """`z -> exp(z) / sum_k exp(z_k)` for every column."""

    @property
    def formula(self) -> str:
        return "z -> exp(z) / sum_k exp(z_k), column by column"

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        constants = softmax_constants()
        facts = {
            "source": "softmax atom: derivatives are central moments",
            "steps": constants.steps,
            "assumptions": (Assumption(features.shape.features, ">=", S(2), "one class has a constant softmax"),),
        }
        sharp = features.entry.expression is S.Infinity
        return LayerBounds.without_parameters(
            Bound.upper(constants.jacobian, attained=f"two classes, p = {constants.variance.at}", sharp=sharp, **facts),
            Bound.upper(constants.second, attained=f"two classes, p = {constants.skewness.at}", sharp=sharp, **facts),
            Bound.lower(0, attained="constants are in the kernel", sharp=True, **facts),
            sample_wise=True,
            third=self._third(facts, sharp) if domain.third else None,
        )

    def _third(self, facts: dict[str, Any], sharp: bool) -> Bound:
        fourth = cumulant_constants()
        value = softmax_constants().spread ** 4 * fourth.fourth
        facts = {**facts, "steps": (*softmax_constants().steps, *fourth.steps)}
        return Bound.upper(value, attained="two classes, p = 1/2", sharp=sharp, **facts)

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        one = Bound.upper(1, quantity="position norm", source="|p| <= sum p = 1", sharp=True)
        return FeatureBounds.from_norms(features.shape, {"position": one})


@dataclass(frozen=True)
class LogSoftmax(Atom):
    """`z -> z - log sum_k exp(z_k)` for every column, with Jacobian `I - 1 p^T` and second derivative `-1 D^2 logsumexp`.

    The norm of `I - 1 p^T` is convex in `p`, so largest at a vertex `p = e_y`: `sum_k (v_k - v_y)^2 <= d |v|^2`.
    """

    @property
    def formula(self) -> str:
        return "z -> z - log sum_k exp(z_k), column by column"

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        constants, classes = softmax_constants(), features.shape.features
        root, sharp = sympy.sqrt(classes), features.entry.expression is S.Infinity
        facts = {
            "source": "log-softmax atom: every output carries the same -log sum exp",
            "steps": (*_log_softmax_steps(), *constants.steps),
            "assumptions": (Assumption(classes, ">=", S(2), "one class has a constant softmax"),),
        }
        return LayerBounds.without_parameters(
            Bound.upper(root, attained="p -> e_y", sharp=sharp, **facts),
            Bound.upper(root * constants.jacobian, attained="two classes at p = 1/2", sharp=sharp, **facts),
            Bound.lower(0, attained="p itself: (I - p 1^T) p = 0", sharp=True, **facts),
            sample_wise=True,
            third=Bound.upper(root * constants.second, sharp=sharp, **facts),
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        entry = features.entry * 2 + sympy.log(features.shape.features)
        return FeatureBounds.from_norms(features.shape, {"entry": entry})


@lru_cache(maxsize=1)
def _log_softmax_steps() -> tuple[Step, ...]:
    """`d |v|^2 - sum_k (v_k - v_0)^2` is a sum of squares: for three classes with `p = e_0`."""
    a, b, c = sympy.symbols("a b c", real=True)
    gap = 3 * (a**2 + b**2 + c**2) - (b - a) ** 2 - (c - a) ** 2
    return (
        Step(
            "d |v|^2 - sum_k (v_k - v_y)^2 = (sum v)^2 + sum_{k<l, not y} (v_k - v_l)^2 >= 0 (three classes)",
            ((gap - (a + b + c) ** 2 - (b - c) ** 2),),
        ),
    )
