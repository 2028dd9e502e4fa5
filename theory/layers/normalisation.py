"""Normalisation of features: batch norm (training mode), layer norm, RMS norm.

Each is `sqrt(n)` times the radial atom at `n eps`, `n` the number of entries normalised together, batch and layer norm after
centring them: `x -> x / sqrt(eps + mean(x^2))`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy
from sympy import Expr, S

from theory import symbols
from theory.atoms.base import Atom, Domain
from theory.atoms.bilinear import Gain
from theory.atoms.fixed_linear import Centre, Scale
from theory.atoms.radial import Radial
from theory.layers.base import Layer
from theory.records import QUANTITIES, FeatureBounds, Shape


@dataclass(frozen=True)
class Normalisation(Layer):
    """Common expansion; `gain` multiplies each feature by a learned factor, `shift` adds a learned constant to it."""

    eps: Expr = symbols.eps
    gain: bool = False
    shift: bool = False
    path: str = ""

    axis: ClassVar[str]
    centred: ClassVar[bool]

    def __post_init__(self) -> None:
        eps = sympy.sympify(self.eps)
        if not eps.is_positive:
            raise ValueError(f"eps = {eps}: a normalisation needs eps > 0, without it neither derivative is bounded")
        if self.shift and not self.gain:
            raise ValueError("shift without gain: set gain=True as well, or neither")
        object.__setattr__(self, "eps", eps)

    def claims(self, features: FeatureBounds, domain: Domain) -> frozenset[str]:
        if domain.radius is not S.Infinity:
            return frozenset()
        # a single row of a matrix with centred columns holds at most the share 1 - 1/d of its square: layer norm's XT is not attained
        rowwise = frozenset({"input_param"} if self.gain and self.centred and self.axis == "features" else ())
        if features.frobenius.expression is S.Infinity:
            return frozenset(QUANTITIES) - rowwise
        return frozenset({"input_jacobian_norm", "input_param", "param_param", "tangent_kernel_lambda_min"}) - rowwise

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        length = shape.columns if self.axis == "samples" else shape.features
        if self.centred and length == 1:
            raise ValueError(
                f"{type(self).__name__} over a single entry of the {self.axis} is constantly zero: give at least two {self.axis}"
            )
        normalise = (Radial(self.axis, length * self.eps), Scale(sympy.sqrt(length)))
        before = (Centre(self.axis),) if self.centred else ()
        after = (Gain(self.shift, self.path),) if self.gain else ()
        return before + normalise + after


@dataclass(frozen=True)
class BatchNorm(Normalisation):
    """Batch normalisation in training mode: every feature over the samples. It couples samples."""

    axis: ClassVar[str] = "samples"
    centred: ClassVar[bool] = True


@dataclass(frozen=True)
class LayerNorm(Normalisation):
    """Layer normalisation: every sample over its features."""

    axis: ClassVar[str] = "features"
    centred: ClassVar[bool] = True


@dataclass(frozen=True)
class RMSNorm(Normalisation):
    """Root-mean-square normalisation: every sample over its features, without centring."""

    axis: ClassVar[str] = "features"
    centred: ClassVar[bool] = False
