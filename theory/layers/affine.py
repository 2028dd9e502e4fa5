"""Affine layers, plain or with normalised weights."""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Expr, S

from theory import symbols
from theory.atoms.base import Atom, Domain
from theory.atoms.bilinear import Gain, MatMul
from theory.atoms.radial import Radial
from theory.layers.base import Layer
from theory.records import QUANTITIES, FeatureBounds, Shape

WEIGHT_AXES = {"row": "samples", "entry": "entries", "frobenius": "matrix"}
"""Which entries of the weight are normalised together; a row of the weight is a vector along its columns."""


@dataclass(frozen=True)
class Affine(Layer):
    """`X -> A X`, with `bias` `A X + b 1^T`; with `weight_norm` the matrix is `A = R(V)`, with `gain` `A = diag(g) R(V)`.

    On a grid the same matrix acts at every position. Layers with one `path` share their parameters. `R` normalises every row, every entry or all of `V`: `u -> u / sqrt(eps + |u|^2)`.
    """

    features: Expr
    bias: bool = False
    weight_norm: str | None = None
    gain: bool = False
    eps: Expr = symbols.eps
    path: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", sympy.sympify(self.features))
        object.__setattr__(self, "eps", sympy.sympify(self.eps))
        Shape(self.features, S.One)
        if self.weight_norm is not None and self.weight_norm not in WEIGHT_AXES:
            raise ValueError(f"unknown weight normalisation {self.weight_norm!r}: use one of {', '.join(WEIGHT_AXES)}")
        if self.gain and self.weight_norm is None:
            raise ValueError("a gain on a plain affine layer is redundant: set weight_norm to row, entry or frobenius")
        self.parameter_map()

    def claims(self, features: FeatureBounds, domain: Domain) -> frozenset[str]:
        if self.gain or domain.radius is not S.Infinity:
            return frozenset()
        always = frozenset(QUANTITIES) - {"param_jacobian_norm", "param_param"}
        return always if features.frobenius.expression is S.Infinity else frozenset(QUANTITIES)

    def parameter_map(self) -> tuple[Atom, ...]:
        if self.weight_norm is None:
            return ()
        radial = Radial(WEIGHT_AXES[self.weight_norm], self.eps)
        return (radial, Gain(path=self.path)) if self.gain else (radial,)

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (MatMul(self.features, self.bias, self.parameter_map(), path=self.path),)
