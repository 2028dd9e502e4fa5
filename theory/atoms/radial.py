"""The radial atom `u -> u / sqrt(eps + |u|^2)`, applied to every vector along an axis: one derivation for all normalisations.

By rotational symmetry only the plane spanned by `u` and the direction of differentiation matters, so SymPy differentiates the
map along a line `(r + t a, t b)`, `a^2 + b^2 = 1`, and takes the suprema over `r` and `a`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy
from sympy import Expr, S, Symbol

from theory.atoms.axes import OVER, check_axis
from theory.atoms.base import Atom, Domain
from theory.bound import Assumption, Bound, Step, minimum
from theory.records import FeatureBounds, LayerBounds
from theory.suprema import supremum_on_unit_square

AXES = tuple(OVER)


@dataclass(frozen=True)
class RadialConstants:
    """Suprema and infima of the radial map's derivatives, in `eps`: what the calculus below produced, and its steps."""

    jacobian: Expr
    second: Expr
    jacobian_inf: Expr
    """Least singular value of the Jacobian at `|u| = R`; decreasing in `R`."""
    jacobian_at: str
    second_at: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class RadialThird:
    """Supremum of the radial map's third derivative, in `eps`."""

    value: Expr
    at: str
    steps: tuple[Step, ...]


_EPS, _RADIUS = Symbol("eps", positive=True), Symbol("R", nonnegative=True)


_X, _RHO = Symbol("x", nonnegative=True), Symbol("rho_r", nonnegative=True)
"""Squared cosine of the angle between `v` and `u`, and `|u|^2 / (eps + |u|^2)`."""


def _squared_norm(order: int) -> Expr:
    """`|D^n R[v, .., v]|^2 eps^n` for a unit `v`, a polynomial in `x` and `rho_r`."""
    eps, radius = _EPS, Symbol("r", nonnegative=True)
    a, t = Symbol("a", real=True), Symbol("t", real=True)
    b = sympy.sqrt(1 - a**2)
    line = sympy.Matrix([radius + t * a, t * b])
    image = line / sympy.sqrt(eps + line.dot(line))
    derivative = image.diff(t, order).subs(t, 0)
    norm = sympy.simplify(sympy.expand(derivative.dot(derivative)))
    in_rho = norm.subs(radius, sympy.sqrt(eps * _RHO / (1 - _RHO)))
    return sympy.factor(sympy.simplify(in_rho * eps**order).subs(a, sympy.sqrt(_X)))


@lru_cache(maxsize=3)
def radial_beyond(order: int) -> tuple[Expr, tuple[Step, ...]]:
    """`C` with `|D^n R[v, .., v]| <= C / q^{n/2}`, `q = eps + |u|^2`: what is left of the derivatives away from zero, free of `eps`."""
    squared = _squared_norm(order)
    scaled = sympy.cancel(squared / (1 - _RHO) ** order)
    top = supremum_on_unit_square(sympy.expand(scaled), _X, _RHO)
    claim = f"|D^{order} R[v, .., v]|^2 = ({scaled}) / q^{order} with q = eps + |u|^2 = eps / (1 - rho_r)"
    return sympy.sqrt(top.value), (Step(claim, ((scaled * (1 - _RHO) ** order - squared),)),)


@lru_cache(maxsize=1)
def radial_third() -> RadialThird:
    """Derive the norm of the third derivative as those of the first two."""
    squared = _squared_norm(3)
    top = supremum_on_unit_square(sympy.expand(squared), _X, _RHO)
    claim = f"|D^3R[v,v,v]|^2 = ({squared}) / eps^3; a symmetric trilinear map attains its norm at equal arguments"
    at_zero = sympy.expand(squared.subs(_RHO, 0) - top.value)
    steps = (Step(claim), Step("at u = 0 it is the supremum for every v", (at_zero,)))
    return RadialThird(
        sympy.sqrt(top.value) / _EPS ** sympy.Rational(3, 2), f"(x, rho_r) = {top.at}; {top.method}", steps
    )


@lru_cache(maxsize=1)
def radial_constants() -> RadialConstants:
    """Derive the constants: with `q = eps + r^2`, `rho = r^2 / q` in [0, 1) and `x = a^2` in [0, 1], both squared norms are
    polynomials in `(x, rho)` divided by a power of `eps`."""
    eps, x, rho = _EPS, _X, _RHO
    first, second = _squared_norm(1), _squared_norm(2)
    sup_first = supremum_on_unit_square(sympy.expand(first), x, rho)
    sup_second = supremum_on_unit_square(sympy.expand(second), x, rho)
    # infimum of the Jacobian at fixed radius: the squared norm is affine in x, so an end decides; the radial end is lower
    at_radius = {end: sympy.simplify(first.subs(x, end) / eps) for end in (S.Zero, S.One)}
    gap = sympy.factor(at_radius[S.Zero] - at_radius[S.One])
    least = sympy.sqrt(sympy.factor(at_radius[S.One].subs(rho, _RADIUS**2 / (eps + _RADIUS**2))))
    steps = (
        Step(
            f"|DR[v]|^2 = ({first}) / eps with rho_r = |u|^2/(eps+|u|^2), x = cos^2 of the angle between v and u",
            (sympy.diff(first, x, 2),),
        ),
        Step(f"|D^2R[v,v]|^2 = ({second}) / eps^2; a symmetric bilinear map attains its norm at equal arguments"),
        Step(
            f"at fixed |u| the least singular value is the radial one: the squared gap {gap} >= 0",
            ((gap - rho * (1 - rho) * (2 - rho) / eps),),
        ),
    )
    return RadialConstants(
        jacobian=sympy.sqrt(sup_first.value) / sympy.sqrt(eps),
        second=sympy.sqrt(sup_second.value) / eps,
        jacobian_inf=least,
        jacobian_at=f"(x, rho_r) = {sup_first.at}",
        second_at=f"(x, rho_r) = {sup_second.at}",
        steps=steps,
    )


@dataclass(frozen=True)
class Radial(Atom):
    """`u -> u / sqrt(eps + |u|^2)` for every vector `u` along `axis`.

    `axis` says which entries form one vector: `samples` (each row; batch norm, row-wise weight norm), `features` (each
    column; layer and RMS norm), `entries` (each entry alone), `matrix` (all of it; Frobenius weight norm), or of one sample all (`sample`;
    set norm), each feature (`instance`) or each group of features (`group`).
    """

    axis: str
    eps: Expr
    groups: int = 1

    def __post_init__(self) -> None:
        check_axis(self.axis, self.groups, AXES)
        eps = sympy.sympify(self.eps)
        if not eps.is_positive:
            raise ValueError(f"eps = {eps}: a normalisation needs eps > 0, without it neither derivative is bounded")
        object.__setattr__(self, "eps", eps)

    @property
    def formula(self) -> str:
        return f"u -> u / sqrt({self.eps} + |u|^2) along {self.axis}"

    @property
    def sample_wise(self) -> bool:
        return "samples" not in OVER[self.axis]

    def _vector_norm(self, features: FeatureBounds) -> Bound:
        return {
            "samples": features.feature,
            "features": features.position,
            "entries": features.entry,
            "matrix": features.frobenius,
            "sample": features.sample,
            "group": features.sample,
            "instance": features.sample,
        }[self.axis]

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        constants = radial_constants()
        at = {_EPS: self.eps}
        facts = {
            "source": f"radial atom {self.formula}, blockwise, so the norm is the largest of the blocks' norms",
            "assumptions": (Assumption(self.eps, ">", S.Zero, "without eps the map is not differentiable at 0"),),
            "steps": constants.steps,
        }
        norm = self._vector_norm(features)
        if norm.expression is S.Infinity:
            least = Bound.lower(0, attained="|u| -> oo", sharp=True, **facts)
        else:
            value = constants.jacobian_inf.subs({**at, _RADIUS: norm.expression})
            least = Bound.lower(
                value, attained="radial direction at the largest norm", parents=(norm,), sharp=norm.sharp, **facts
            )
        floor = dict(features.floors).get(self.axis)
        if floor is not None and floor.expression.is_positive:
            first, second, *third = (self._beyond(order, floor, facts) for order in range(1, 4 if domain.third else 3))
            return LayerBounds.without_parameters(
                first, second, least, sample_wise=self.sample_wise, third=third[0] if third else None
            )
        return LayerBounds.without_parameters(
            Bound.upper(constants.jacobian.subs(at), attained=constants.jacobian_at, sharp=True, **facts),
            Bound.upper(constants.second.subs(at), attained=constants.second_at, sharp=True, **facts),
            least,
            sample_wise=self.sample_wise,
            third=self._third(facts) if domain.third else None,
        )

    def _beyond(self, order: int, floor: Bound, facts: dict[str, Any]) -> Bound:
        """Norm of a derivative where every vector has at least the norm `floor`: it falls with the norm."""
        constant, steps = radial_beyond(order)
        value = constant / (self.eps + floor.expression**2) ** sympy.Rational(order, 2)
        return Bound.upper(value, parents=(floor,), **{**facts, "steps": steps})

    def _third(self, facts: dict[str, Any]) -> Bound:
        third = radial_third()
        return Bound.upper(
            third.value.subs({_EPS: self.eps}), attained=third.at, sharp=True, **{**facts, "steps": third.steps}
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        one = Bound.upper(1, quantity="norm of a normalised vector", source="|u| / sqrt(eps + |u|^2) < 1", sharp=True)
        shrink = radial_constants().jacobian.subs({_EPS: self.eps})
        shape = features.shape
        rows, columns, groups = shape.features, shape.columns, S(self.groups)
        # numbers of vectors (of norm at most 1) that each norm runs over
        counts = {
            "samples": {"feature": S.One, "frobenius": rows},
            "features": {"position": S.One, "sample": shape.positions, "frobenius": columns},
            "entries": {"entry": S.One, "frobenius": rows * columns},
            "matrix": {"frobenius": S.One},
            "sample": {"sample": S.One, "frobenius": shape.samples},
            "instance": {"entry": S.One, "feature": shape.samples, "sample": rows, "frobenius": rows * shape.samples},
            "group": {"entry": S.One, "sample": groups, "frobenius": groups * shape.samples},
        }[self.axis]
        norms = {name: one if count == 1 else one * sympy.sqrt(count) for name, count in counts.items()}
        if not shape.grid and self.axis == "features":
            del norms["position"]
        shrunk = features.frobenius * shrink
        if shrunk.expression is not S.Infinity:
            norms["frobenius"] = minimum(norms["frobenius"], shrunk)
        else:
            del norms["frobenius"]
            if not norms:
                norms["frobenius"] = one
        return FeatureBounds.from_norms(
            features.shape,
            norms,
            centred=features.centred and self.axis in ("samples", "matrix"),
            centred_samples=features.centred_samples and self.axis in ("features", "matrix"),
        )
