"""The distance from a sample to the boundary between two classes: first order, and enclosed by bounds of the network's derivatives in its input.

With `m = f_i - f_j > 0` at the sample, `g = |grad m|` there, `K` a Lipschitz constant of `m` and `beta` one of its gradient,

    distance >= m / K,        distance >= 2 m / (g + sqrt(g^2 + 2 beta m)),        distance <= 2 m / (g + sqrt(g^2 - 2 beta m))  where  g^2 >= 2 beta m,

and both of the last two tend to the first-order distance `m / g` as `beta -> 0`: for an affine `m` it is the distance. The composition rule gives `K` and `beta` from the
norms of the weights (`input_derivatives`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import sympy
from sympy import Expr, S, Symbol

from theory.atoms.base import Domain
from theory.bound import Assumption, Bound, Step, gap
from theory.compose import INPUT, compose, jet_of, regularity
from theory.derive import derive
from theory.network import Network, named
from theory.records import FeatureBounds, Shape

m, g, K = (Symbol(name, positive=True) for name in ("m", "g", "K"))
beta = Symbol("beta", positive=True)
r = Symbol("r", real=True)
QUANTITY = "distance to the boundary"


def first_order() -> Expr:
    """`m / g`: where the linearisation of `m` vanishes, nearest to the sample."""
    (root,) = sympy.solve(m - g * r, r)
    return root


@cache
def point_to_hyperplane() -> tuple[Step, ...]:
    """Why `m / g` is the distance where `m` is affine, `m(x + d) = m + a . d`."""
    a = sympy.symbols("a:3", real=True, nonzero=True)
    square = sum(entry**2 for entry in a)
    nearest = [-m * entry / square for entry in a]
    length = sum(entry**2 for entry in nearest)
    return (
        Step("on the boundary m = -a . d <= |a| |d| (Cauchy-Schwarz), so |d| >= m / |a|"),
        Step("d = -m a / |a|^2 lies on it", (gap(m + sum(x * y for x, y in zip(a, nearest, strict=True)), 0),)),
        Step("and has length m / |a|", (gap(length, first_order().subs(g, sympy.sqrt(square)) ** 2),)),
    )


def lower_by_lipschitz() -> Bound:
    """`m / K`."""
    return Bound.lower(
        m / K,
        quantity=QUANTITY,
        source="m = m(x) - m(x') <= K |x - x'| at a point x' of the boundary",
        sharp=True,
        attained="m affine",
    )


def _root(curvature: Expr) -> Expr:
    """The least positive root of `m - g r + curvature r^2 / 2`, written without cancellation."""
    roots = sympy.solve(m - g * r + curvature * r**2 / 2, r)
    probe = {m: S.One, g: S(3), beta: S.One}
    best = min((root for root in roots if root.subs(probe) > 0), key=lambda root: root.subs(probe))
    conjugate = next(root for root in roots if root != best)
    # the product of the roots is 2 m / curvature
    return 2 * m / sympy.simplify(curvature * conjugate)


@cache
def lower_by_curvature() -> Bound:
    """`2 m / (g + sqrt(g^2 + 2 beta m))`: along any way of length `r`, `m` keeps at least `m - g r - beta r^2 / 2`."""
    value = _root(-beta)
    return Bound.lower(
        value,
        quantity=QUANTITY,
        source="Taylor's inequality m(x + d) >= m - g |d| - beta |d|^2 / 2",
        steps=(
            Step("the root of m - g r - beta r^2 / 2", (gap(m - g * value - beta * value**2 / 2, 0),)),
            Step("its limit as beta -> 0 is the first-order distance", (gap(sympy.limit(value, beta, 0), m / g),)),
        ),
        sharp=True,
        attained="m quadratic with Hessian -beta",
    )


@cache
def upper_by_curvature() -> Bound:
    """`2 m / (g + sqrt(g^2 - 2 beta m))` where `g^2 >= 2 beta m`: against the gradient `m` falls to at most `m - g r + beta r^2 / 2`, which has a root."""
    value = _root(beta)
    return Bound.upper(
        value,
        quantity=QUANTITY,
        source="Taylor's inequality m(x - r grad m / g) <= m - g r + beta r^2 / 2",
        assumptions=(Assumption(g**2, ">=", 2 * beta * m, "else the parabola never reaches zero"),),
        steps=(
            Step("the root of m - g r + beta r^2 / 2", (gap(m - g * value + beta * value**2 / 2, 0),)),
            Step("its limit as beta -> 0 is the first-order distance", (gap(sympy.limit(value, beta, 0), m / g),)),
        ),
        sharp=True,
        attained="m quadratic with Hessian beta",
    )


@dataclass(frozen=True)
class WeightNorms(Domain):
    """Fixed weights, known by symbols for the operator norms of their matrices: `s(path)`."""

    def parameter(self, shape: Shape, path: str = "") -> FeatureBounds:
        known = FeatureBounds.unbounded(shape)
        norm = Bound.upper(norm_symbol(path), quantity="operator norm", source="weight")
        # every other norm stays unbounded but those that the operator norm bounds
        return replace(known, operator=norm, feature=norm, sample=norm, position=norm, entry=norm)


def norm_symbol(path: str) -> Symbol:
    """The operator norm of the array of that name (`3.weight`)."""
    return Symbol(f"s({path})", positive=True)


@dataclass(frozen=True)
class InputDerivatives:
    """Bounds over all inputs of a network with given weights, in the symbols `norm_symbol(path)`.

    Attributes:
        lipschitz: of the operator norm of its first derivative in one sample.
        curvature: of its second derivative as a bilinear map; `oo` where an activation's slope jumps.
        names: the arrays whose norms occur.
    """

    lipschitz: Bound
    curvature: Bound
    names: tuple[str, ...]


def input_derivatives(network: Network, features: Expr | int, grid: tuple[Expr, ...] = ()) -> InputDerivatives:
    """Compose the bounds of a network in its input, its weights being fixed.

    Args:
        network: a description; its layers are named by their places (`theory.network.named`), those with a path by it.
        features, grid: of one sample.
    """
    shape = Shape(sympy.sympify(features), S.One, grid)
    tree = compose(derive(named(network), FeatureBounds.unbounded(shape), WeightNorms()).tree)
    first = regularity(tree).jacobian.named("input_jacobian_norm")
    zero = Bound.upper(0, quantity="exact")
    second = jet_of(tree, S.One, by_input=True).second.get((INPUT, INPUT), zero).named("input_input")
    symbols = {s.name for b in (first, second) for s in b.expression.free_symbols}
    return InputDerivatives(first, second, tuple(sorted(name[2:-1] for name in symbols)))
