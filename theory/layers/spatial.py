"""Layers on a grid (pixels, voxels, tokens): convolutions, pooling, selections and changes of layout."""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Expr, S

from theory import symbols
from theory.atoms.base import Atom
from theory.atoms.bilinear import MatMul
from theory.atoms.layout import Permutation, Regrouping
from theory.atoms.windows import TapMax, TapMean, Windows
from theory.layers.affine import weight_map
from theory.layers.base import Layer
from theory.records import Shape


@dataclass(frozen=True)
class Convolution(Layer):
    """`X -> A W(X) + b`: the same `features x (d taps / groups)` matrix on the windows `W` at every position (cross-correlation).

    Options as in `Affine`; a row of the weight belongs to one output feature.
    """

    features: Expr
    windows: Windows
    bias: bool = False
    groups: int = 1
    weight_norm: str | None = None
    gain: bool = False
    eps: Expr = symbols.eps
    path: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", sympy.sympify(self.features))
        object.__setattr__(self, "eps", sympy.sympify(self.eps))
        Shape(self.features, S.One)
        self.parameter_map()

    def parameter_map(self) -> tuple[Atom, ...]:
        return weight_map(self.weight_norm, self.eps, self.gain, self.path)

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        matmul = MatMul(
            self.features, self.bias, self.parameter_map(), self.windows, groups=self.groups, path=self.path
        )
        return (matmul,)


@dataclass(frozen=True)
class TransposedConvolution(Layer):
    """`X -> W^T(A X) + b`: the transpose of a convolution whose windows map `grid`, the output's, to the grid of the input.

    `A` has `features taps` rows, the taps row by row within a feature.
    """

    features: Expr
    windows: Windows
    grid: tuple[Expr, ...]
    bias: bool = False
    path: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", sympy.sympify(self.features))
        object.__setattr__(self, "grid", tuple(map(sympy.sympify, self.grid)))
        self.atoms(Shape(S.One, S.One))

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (MatMul(self.features, self.bias, (), self.windows, transposed=True, grid=self.grid, path=self.path),)


@dataclass(frozen=True)
class AveragePool(Layer):
    """The mean over every window; filled positions count as zeros."""

    windows: Windows

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return self.windows, TapMean(self.windows.taps)


@dataclass(frozen=True)
class MaxPool(Layer):
    """The largest entry of every window; windows in mode `lowest` pad with minus infinity."""

    windows: Windows

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return self.windows, TapMax(self.windows.taps)


@dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """The mean over the whole grid, which the output no longer has."""

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        taps = shape.positions
        return Regrouping(shape.sample_size, ()), TapMean(taps)


@dataclass(frozen=True)
class Selection(Layer):
    """Windows of one position: padding, cropping (negative padding), or every `stride`-th position."""

    windows: Windows

    def __post_init__(self) -> None:
        if self.windows.taps != 1:
            raise ValueError(f"a selection has windows of one position, got {self.windows.taps}")

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (self.windows,)


@dataclass(frozen=True)
class Reshape(Layer):
    """The numbers of a sample in the same order under another `features` and `grid`; flattening is `Reshape(all, ())`."""

    features: Expr
    grid: tuple[Expr, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", sympy.sympify(self.features))
        object.__setattr__(self, "grid", tuple(map(sympy.sympify, self.grid)))
        Shape(self.features, S.One, self.grid)

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (Regrouping(self.features, self.grid),)


@dataclass(frozen=True)
class Permute(Layer):
    """The axes `(features, *grid)` of every sample in another order: output axis `i` is input axis `order[i]`."""

    order: tuple[int, ...]

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (Permutation(self.order),)
