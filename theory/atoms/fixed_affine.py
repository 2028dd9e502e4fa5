"""The fixed affine map of frozen statistics: `(x - mean) / sqrt(variance + eps)`, feature by feature."""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Expr, S

from theory.atoms.base import Atom, Domain
from theory.bound import Bound
from theory.records import FeatureBounds, LayerBounds, Shape


@dataclass(frozen=True)
class Standardise(Atom):
    """`X -> diag(a) (X - mean 1^T)` with `a = 1 / sqrt(variance + eps)`: a diagonal map's singular values are its entries."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]
    eps: Expr

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", sympy.sympify(self.eps))
        if len(self.mean) != len(self.variance) or not self.mean:
            raise ValueError(f"{len(self.mean)} means and {len(self.variance)} variances: give one of each a feature")
        if min(self.variance) < 0 or (self.eps + sympy.Float(min(self.variance))).is_positive is False:
            raise ValueError(f"variance {min(self.variance)} with eps = {self.eps}: their sum must be positive")

    @property
    def formula(self) -> str:
        return "X -> (X - mean) / sqrt(variance + eps), fixed statistics"

    def output_shape(self, shape: Shape) -> Shape:
        if (shape.features - len(self.mean)).is_nonzero:
            raise ValueError(
                f"statistics of {len(self.mean)} features on an input of {shape.features}: they must agree"
            )
        return shape

    def _scale(self, variance: float) -> Expr:
        return 1 / sympy.sqrt(sympy.Float(variance) + self.eps)

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        self.output_shape(features.shape)
        source = f"{self.formula}: singular values of a diagonal map are its entries"
        return LayerBounds.without_parameters(
            Bound.upper(
                self._scale(min(self.variance)), source=source, sharp=True, attained="the feature of least variance"
            ),
            Bound.upper(0, source="an affine map has no second derivative", sharp=True),
            Bound.lower(
                self._scale(max(self.variance)), source=source, sharp=True, attained="the feature of largest variance"
            ),
            sample_wise=True,
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        shape, largest = self.output_shape(features.shape), self._scale(min(self.variance))
        offsets = [abs(sympy.Float(m)) * self._scale(v) for m, v in zip(self.mean, self.variance, strict=True)]
        total, most = sympy.sqrt(sympy.Add(*(o**2 for o in offsets))), sympy.Max(*offsets)
        columns, positions = sympy.sqrt(shape.columns), sympy.sqrt(shape.positions)
        moved = {
            "frobenius": total * columns,
            "operator": total * columns,
            "sample": total * positions,
            "position": total,
            "feature": most * columns,
            "entry": most,
        }
        norms = {name: bound * largest + moved[name] for name, bound in features.norms().items()}
        least = self._scale(max(self.variance))
        kept = features.sigma_min * least if total == 0 else None
        return FeatureBounds.of(shape, norms, sigma_min=kept, centred=features.centred and total is S.Zero)
