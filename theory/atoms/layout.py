"""Changes of layout: the numbers of a sample under other features and positions. Isometries that move or only regroup."""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy
from sympy import Expr, S

from theory.atoms.base import Domain
from theory.atoms.fixed_linear import FixedLinear
from theory.records import FeatureBounds, Shape


class Layout(FixedLinear):
    """`S S^T = I`; norms over all of a sample, and of single entries, stay."""

    def gram(self, shape: Shape) -> tuple[Expr, Expr]:
        self.output_shape(shape)
        return S.One, S.Zero

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        norms = {name: getattr(features, name) for name in ("frobenius", "sample", "entry")}
        return FeatureBounds.from_norms(self.output_shape(features.shape), norms)


@dataclass(frozen=True)
class Regrouping(Layout):
    """The same numbers in the same order as `features x grid`."""

    features: Expr
    grid: tuple[Expr, ...]

    @property
    def formula(self) -> str:
        return f"the numbers of a sample read as {' x '.join(map(str, (self.features, *self.grid)))}"

    def output_shape(self, shape: Shape) -> Shape:
        out = Shape(self.features, shape.samples, self.grid)
        if sympy.simplify(out.sample_size - shape.sample_size) != 0:
            raise ValueError(
                f"reshape of a sample of {shape.sample_size} numbers to {out.sample_size}: the two must be equal"
            )
        return out


@dataclass(frozen=True)
class Permutation(Layout):
    """The axes `(features, *grid)` in another order."""

    order: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"order {self.order} is not a permutation of 0 .. {len(self.order) - 1}")

    @property
    def formula(self) -> str:
        return f"axes in the order {self.order}"

    def output_shape(self, shape: Shape) -> Shape:
        axes = (shape.features, *shape.grid)
        if len(axes) != len(self.order):
            raise ValueError(f"permutation of {len(self.order)} axes on features of shape {shape}")
        features, *grid = (axes[i] for i in self.order)
        return replace(shape, features=features, grid=tuple(grid))
