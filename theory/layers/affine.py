"""Affine layers, plain or with normalised weights."""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Expr, S

from theory import symbols
from theory.atoms.base import Atom, Domain
from theory.atoms.bilinear import Gain, MatMul
from theory.atoms.radial import Radial
from theory.atoms.spectral import Spectral
from theory.layers.base import Layer
from theory.records import QUANTITIES, FeatureBounds, Shape

WEIGHT_AXES = {"row": "samples", "entry": "entries", "frobenius": "matrix"}
"""Which entries of the weight are normalised together; a row of the weight is a vector along its columns."""
WEIGHT_NORMS = (*WEIGHT_AXES, "spectral")


def weight_map(weight_norm: str | None, eps: Expr, gain: bool, path: str) -> tuple[Atom, ...]:
    """The atoms that make the weight of its parameters.

    Raises:
        ValueError: an unknown normalisation, or a gain without one.
    """
    if weight_norm is None:
        if gain:
            raise ValueError(f"a gain on a plain weight is redundant: set weight_norm to {', '.join(WEIGHT_AXES)}")
        return ()
    if weight_norm not in WEIGHT_NORMS:
        raise ValueError(f"unknown weight normalisation {weight_norm!r}: use one of {', '.join(WEIGHT_NORMS)}")
    normalise = Spectral() if weight_norm == "spectral" else Radial(WEIGHT_AXES[weight_norm], eps)
    return (normalise, Gain(path=path)) if gain else (normalise,)


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
        self.parameter_map()

    def claims(self, features: FeatureBounds, domain: Domain) -> frozenset[str]:
        if self.gain or self.weight_norm == "spectral" or domain.radius is not S.Infinity:
            return frozenset()
        always = frozenset(QUANTITIES) - {"param_jacobian_norm", "param_param"}
        return always if features.frobenius.expression is S.Infinity else frozenset(QUANTITIES)

    def parameter_map(self) -> tuple[Atom, ...]:
        return weight_map(self.weight_norm, self.eps, self.gain, self.path)

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (MatMul(self.features, self.bias, self.parameter_map(), path=self.path),)
