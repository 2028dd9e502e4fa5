"""The entry-wise atom `X -> phi(X)`: one SymPy expression per activation, all constants derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import sympy
from sympy import Expr, Piecewise, S, Symbol, exp

from theory.atoms.base import Atom, Domain
from theory.bound import Bound, Step, minimum
from theory.records import FeatureBounds, LayerBounds
from theory.suprema import Extremum, infimum, stationary_points, supremum_abs

z = Symbol("z", real=True)

ACTIVATIONS: dict[str, Expr] = {
    "identity": z,
    "tanh": sympy.tanh(z),
    "sigmoid": 1 / (1 + exp(-z)),
    "softplus": sympy.log(1 + exp(z)),
    "arctan": sympy.atan(z),
    "erf": sympy.erf(z),
    "sin": sympy.sin(z),
    "gelu": z * (1 + sympy.erf(z / sympy.sqrt(2))) / 2,
    "silu": z / (1 + exp(-z)),
    "elu": Piecewise((z, z > 0), (exp(z) - 1, True)),
    "relu": Piecewise((z, z > 0), (S.Zero, True)),
}
"""The activations, each by its formula in `z`; nothing else about them is written down."""


@dataclass(frozen=True)
class ActivationFacts:
    """What calculus says of one activation `phi`.

    Attributes:
        slope: supremum of `|phi'|`.
        curvature: supremum of `|phi''|` (the Lipschitz constant of `phi'`), `oo` where `phi'` jumps.
        slope_inf: infimum of `|phi'|` on the line.
        size: supremum of `|phi|`, possibly `oo`.
        growth: a constant with `|phi(z) - phi(0)| <= growth |z|`.
    """

    slope: Extremum
    curvature: Extremum
    slope_inf: Extremum
    size: Extremum
    growth: Expr


def jumps(expression: Expr) -> bool:
    """Whether a piecewise expression is discontinuous where its pieces meet."""
    if not expression.has(Piecewise):
        return False
    whole = sympy.Interval(-S.Infinity, S.Infinity)
    pieces, remaining = [], whole
    for value, condition in expression.args:
        where = remaining & (whole if condition in (True, S.true) else condition.as_set())
        pieces.append((value, where))
        remaining = remaining - where
    meeting = {p for _, where in pieces for p in where.boundary if p.is_finite}
    for point in meeting:
        limits = {sympy.limit(value, z, point) for value, where in pieces if point in where.closure}
        if len(limits) > 1:
            return True
    return False


def _growth(phi: Expr, slope: Expr) -> Expr:
    """A constant with `|phi(z) - phi(0)| <= growth |z|`: `sup |phi(z) / z|` where `phi` is `z` times something, else the slope."""
    ratio = sympy.Mul(*(f for f in sympy.Mul.make_args(phi) if f != z))
    if ratio * z != phi:
        return slope
    return sympy.Min(slope, supremum_abs(ratio, z).value)


@cache
def activation_facts(name: str) -> ActivationFacts:
    """Derive the facts of one activation from its formula.

    Raises:
        ValueError: naming the unknown activation and those that are known.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: use one of {', '.join(ACTIVATIONS)}")
    phi = ACTIVATIONS[name]
    first = sympy.diff(phi, z)
    slope = supremum_abs(first, z)
    if jumps(first):
        curvature = Extremum(S.Infinity, True, 0.0, None, "the first derivative jumps, so it has no Lipschitz constant")
    else:
        curvature = supremum_abs(sympy.diff(first, z), z)
    low = infimum(first, z)
    slope_inf = (
        low if low.value > 0 else Extremum(S.Zero, True, 0.0, low.at, f"infimum of phi' is {sympy.N(low.value, 6)}")
    )
    return ActivationFacts(slope, curvature, slope_inf, supremum_abs(phi, z), _growth(phi, slope.value))


@cache
def third_derivative(name: str) -> Extremum:
    """Supremum of `|phi'''|` (the Lipschitz constant of `phi''`), `oo` where `phi''` jumps."""
    second = sympy.diff(ACTIVATIONS[name], z, 2)
    if activation_facts(name).curvature.value is S.Infinity or jumps(second):
        return Extremum(S.Infinity, True, 0.0, None, "the second derivative jumps, so it has no Lipschitz constant")
    return supremum_abs(sympy.diff(second, z), z)


@cache
def _slope_range(name: str) -> Expr:
    """A number `q` such that on `[-b, b]` with `b < q` the infimum of `phi'` is at an end."""
    slope = sympy.diff(ACTIVATIONS[name], z)
    points = stationary_points(slope, z) if not slope.has(Piecewise) else []
    if points is not None:
        minima = [p for p in points if sympy.diff(slope, z, 2).subs(z, p).evalf(30) >= 0]
        nearest = min((sympy.Abs(p) for p in minima), default=S.Infinity)
        return nearest
    q = sympy.Integer(8)
    while not infimum(sympy.diff(slope, z), z, -q, q).value > 0:
        q = q / 2
    return q


_END = Symbol("b", positive=True)


def slope_infimum_on(name: str, b: Expr) -> Expr:
    """A lower bound of `|phi'|` on `[-b, b]`, attained for `b` up to the first interior minimum of `phi'`."""
    if b is S.Infinity:
        return activation_facts(name).slope_inf.value
    return _slope_infimum(name).subs(_END, b)


@cache
def _slope_infimum(name: str) -> Expr:
    facts = activation_facts(name)
    if facts.slope_inf.value == facts.slope.value:
        return facts.slope_inf.value
    slope = sympy.diff(ACTIVATIONS[name], z)
    if slope.has(Piecewise):
        # the slope increases on every piece and across them, so the left end is the least
        rising = infimum(sympy.diff(slope, z), z).value >= 0 and not jumps(slope)
        left_piece = sympy.piecewise_fold(slope).args[-1][0]
        return left_piece.subs(z, -_END) if rising else S.Zero
    right, left = sympy.simplify(slope.subs(z, _END)), sympy.simplify(slope.subs(z, -_END))
    least = right if sympy.simplify(right - left) == 0 else sympy.Min(right, left)
    reach = _slope_range(name)
    if infimum(slope, z).value < 0:
        least = sympy.Max(0, least)
    return least if reach is S.Infinity else Piecewise((least, reach > _END), (S.Zero, True))


@dataclass(frozen=True)
class Entrywise(Atom):
    """`X -> phi(X)`, entry by entry, for an activation named in `ACTIVATIONS`."""

    activation: str

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}: use one of {', '.join(ACTIVATIONS)}")

    @property
    def formula(self) -> str:
        return f"phi(z) = {ACTIVATIONS[self.activation]}"

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        facts = activation_facts(self.activation)
        everywhere = features.entry.expression is S.Infinity
        source = f"entry-wise atom, {self.formula}; a diagonal map's norm is its largest entry"
        first = sympy.diff(ACTIVATIONS[self.activation], z)
        if everywhere:
            least = Bound.lower(facts.slope_inf.value, source=source, attained=f"z = {facts.slope_inf.at}", sharp=True)
        else:
            value = slope_infimum_on(self.activation, features.entry.expression)
            least = Bound.lower(value, source=source + ", on |z| <= the entry bound", parents=(features.entry,))
        return LayerBounds.without_parameters(
            Bound.upper(
                facts.slope.value,
                source=source,
                attained=f"z = {facts.slope.at}; {facts.slope.method}",
                sharp=everywhere,
                steps=(Step(f"phi' = {first}"),),
            ),
            Bound.upper(
                facts.curvature.value,
                source=source,
                attained=f"z = {facts.curvature.at}; {facts.curvature.method}",
                sharp=everywhere,
                steps=(
                    Step(f"phi'' = {sympy.diff(first, z)}"),
                    Step("sum_ij phi''(z_ij)^2 u_ij^2 v_ij^2 <= sup|phi''|^2 |u|^2 |v|^2, equality on a single entry"),
                ),
            ),
            least,
            sample_wise=True,
            third=self._third(source) if domain.third else None,
        )

    def _third(self, source: str) -> Bound:
        third = third_derivative(self.activation)
        return Bound.upper(third.value, source=source, attained=f"z = {third.at}; {third.method}")

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        facts = activation_facts(self.activation)
        if self.activation == "identity":
            return features
        shape = features.shape
        at_zero = sympy.Abs(ACTIVATIONS[self.activation].subs(z, 0))
        size = Bound.upper(facts.size.value, quantity="entry norm", source=f"sup |phi|, {facts.size.method}")
        counts = {
            "frobenius": shape.size,
            "sample": shape.sample_size,
            "position": shape.features,
            "feature": shape.columns,
            "entry": S.One,
        }
        norms = {}
        # the operator norm is deliberately absent: sigma_max(phi(Z)) <= Lip sigma_max(Z) is false
        for name, count in counts.items():
            bound = getattr(features, name)
            grown = bound * facts.growth
            if at_zero != 0:
                grown = grown + at_zero * sympy.sqrt(count)
            capped = size * sympy.sqrt(count)
            options = [b for b in (grown, capped) if b.expression is not S.Infinity] or [capped]
            norms[name] = minimum(*options).named(f"{name} norm")
        return FeatureBounds.from_norms(shape, norms)
