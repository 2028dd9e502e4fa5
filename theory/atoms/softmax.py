"""The softmax atom `z -> exp(z) / sum exp(z)`, column by column.

Its derivatives are central moments of the random variable that takes the value `v_k` with probability `p_k`:
`v^T Dp v = Var(v)` and `v^T D^2p[v, v] = E (v - E v)^3`. For a given mean both are linear in the distribution, so they are largest at
two-point distributions, and a unit vector has entries at most `sqrt 2` apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy
from sympy import Expr, S, Symbol

from theory.atoms.base import Atom, Domain
from theory.bound import Assumption, Bound, Step
from theory.records import FeatureBounds, LayerBounds
from theory.suprema import Extremum, supremum_abs


@dataclass(frozen=True)
class SoftmaxConstants:
    jacobian: Expr
    second: Expr
    variance: Extremum
    skewness: Extremum
    spread: Expr
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
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        one = Bound.upper(1, quantity="sample norm", source="|p| <= sum p = 1", sharp=True)
        return FeatureBounds.from_norms(features.shape, {"sample": one})
