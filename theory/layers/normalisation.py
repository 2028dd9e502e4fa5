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
from theory.atoms.axes import vector_length
from theory.atoms.base import Atom, Domain
from theory.atoms.bilinear import Gain
from theory.atoms.fixed_affine import Standardise
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
    groups: ClassVar[int] = 1

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
        if self.axis not in ("samples", "features"):
            # the second derivative is largest at a norm of order sqrt(n eps), which a bounded input need not reach
            bounded = features.frobenius.expression is not S.Infinity
            claimed = {"input_jacobian_norm"} if bounded else {"input_jacobian_norm", "input_input"}
            return frozenset(() if self.gain else claimed)
        # a single row of a matrix with centred columns holds at most the share 1 - 1/d of its square: layer norm's XT is not attained
        rowwise = frozenset({"input_param"} if self.gain and self.centred and self.axis == "features" else ())
        if features.frobenius.expression is S.Infinity:
            return frozenset(QUANTITIES) - rowwise
        return frozenset({"input_jacobian_norm", "input_param", "param_param", "tangent_kernel_lambda_min"}) - rowwise

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        length = vector_length(shape, self.axis, self.groups)
        if self.centred and length == 1:
            raise ValueError(
                f"{type(self).__name__} over a single entry of the {self.axis} is constantly zero: give at least two {self.axis}"
            )
        normalise = (Radial(self.axis, length * self.eps, self.groups), Scale(sympy.sqrt(length)))
        before = (Centre(self.axis, self.groups),) if self.centred else ()
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


@dataclass(frozen=True)
class GroupNorm(Normalisation):
    """Group normalisation: in every sample all positions of each of `groups` equal groups of consecutive features."""

    groups: int = 1  # type: ignore[misc]

    axis: ClassVar[str] = "group"
    centred: ClassVar[bool] = True


@dataclass(frozen=True)
class InstanceNorm(Normalisation):
    """Instance normalisation: every feature of every sample over its positions."""

    axis: ClassVar[str] = "instance"
    centred: ClassVar[bool] = True


@dataclass(frozen=True)
class SetNorm(Normalisation):
    """Set normalisation: one mean and one variance over all features and positions (members of the set) of a sample."""

    axis: ClassVar[str] = "sample"
    centred: ClassVar[bool] = True


@dataclass(frozen=True)
class FrozenBatchNorm(Layer):
    """Batch normalisation in evaluation mode: `(x - mean) / sqrt(variance + eps)` feature by feature, with fixed statistics."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]
    eps: Expr = symbols.eps
    gain: bool = False
    shift: bool = False
    path: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", sympy.sympify(self.eps))
        if self.shift and not self.gain:
            raise ValueError("shift without gain: set gain=True as well, or neither")
        Standardise(self.mean, self.variance, self.eps)

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (Standardise(self.mean, self.variance, self.eps), *((Gain(self.shift, self.path),) if self.gain else ()))
