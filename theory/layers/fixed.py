"""Fixed linear layers: scaling, the cropping readout, and features of zeros around those there are."""

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


@dataclass(frozen=True)
class FeaturePad(Layer):
    """Features of zeros, `before` and `after` those there are, at every position: a fixed isometry, not onto where it pads."""

    before: int
    after: int

    def __post_init__(self) -> None:
        fixed_linear.Pad(self.before, self.after)

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (fixed_linear.Pad(self.before, self.after),)
