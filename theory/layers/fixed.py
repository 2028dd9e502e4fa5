"""Fixed linear layers: scaling and the cropping readout."""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Expr, S

from theory.atoms import fixed_linear
from theory.atoms.base import Atom
from theory.layers.base import Layer
from theory.records import Shape


@dataclass(frozen=True)
class Scaling(Layer):
    """`X -> factor X` with a fixed positive factor (a branch scale)."""

    factor: Expr = S.One

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", fixed_linear.Scale(self.factor).factor)

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (fixed_linear.Scale(self.factor),)


@dataclass(frozen=True)
class Cropping(Layer):
    """Keep the first `features` features: a fixed co-isometry."""

    features: Expr

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", sympy.sympify(self.features))
        Shape(self.features, S.One)

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (fixed_linear.Crop(self.features),)
