"""Spectral normalisation of a weight: `V -> V / sigma_max(V)`. It bounds the weight, not how the weight depends on its parameter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy
from sympy import Expr, Matrix

from theory.atoms.base import Atom, Domain
from theory.bound import Bound, Step
from theory.records import FeatureBounds, LayerBounds


def _inner(first: Matrix, second: Matrix) -> Expr:
    return sympy.Add(*(x * y for x, y in zip(first, second, strict=True)))


def _antisymmetric(size: int, name: str) -> Matrix:
    entries = {(i, j): sympy.Symbol(f"{name}{i}{j}", real=True) for i in range(size) for j in range(i + 1, size)}
    return Matrix(size, size, lambda i, j: entries.get((i, j), -entries.get((j, i), 0)))


def pulled_back(gradient: Matrix, weight: Matrix, left: Matrix, right: Matrix) -> Matrix:
    """`(G - <G, W/s> u v^T) / s` with `s = u^T W v`: the gradient by `W` of a loss whose gradient by `W / s` is `G`, all `m x n`, for unit vectors `u`, `v`.

    With the leading singular vectors `s = sigma_max(W)`; with others it is the gradient that power iteration short of its limit gives.
    """
    size = (left.T * weight * right)[0]
    return (gradient - _inner(gradient, weight) / size * left * right.T) / size


@lru_cache(maxsize=1)
def gradient_steps() -> tuple[Step, ...]:
    """Gradient through `W -> W / sigma_max(W)` where the largest singular value is simple.

    In the bases of the singular vectors (both sides of each identity are invariant under them) `W = S` is diagonal and moves by `Omega S + dS - S Omega'` with
    antisymmetric `Omega`, `Omega'`; written out for `3 x 2` with symbols for all entries.
    """
    s, t, ds, dt = sympy.symbols("s t ds dt", positive=True)
    weight, moved = (sympy.diag(*pair).col_join(sympy.zeros(1, 2)) for pair in ((s, t), (ds, dt)))
    change = _antisymmetric(3, "p") * weight + moved - weight * _antisymmetric(2, "q")
    left, right = Matrix([1, 0, 0]), Matrix([1, 0])
    gradient = Matrix(3, 2, sympy.symbols("g:6"))
    along = _inner(gradient, change) / s - _inner(gradient, weight) / s**2 * change[0, 0]
    free, other = (Matrix(2, 2, sympy.symbols(f"{name}:4")) for name in "wh")
    u, v = (Matrix(2, 1, sympy.symbols(f"{name}:2")) for name in "uv")
    x, y, z, r = sympy.symbols("x y z r", positive=True)
    image = (y * sympy.sqrt(r - 1)) ** 2 + y**2 + z**2
    return (
        Step("d sigma = u^T dW v: rotations of the singular vectors have zero diagonals", (change[0, 0] - ds,)),
        Step(
            "d <G, W/sigma> = <dL/dW, dW> with dL/dW = (G - <G, W/sigma> u v^T) / sigma, for every dW",
            (along - _inner(pulled_back(gradient, weight, left, right), change),),
        ),
        Step(
            "<dL/dW, W> = 0, for ANY vectors u, v with sigma = u^T W v: power iteration need not have converged",
            (_inner(pulled_back(other, free, u, v), free),),
        ),
        Step(
            "|G - <G, W/sigma> u v^T|^2 <= r |G|^2, r = |W|_F^2/sigma^2 (stable rank): with W/sigma = a + sqrt(r-1) b, a = u v^T, b unit and orthogonal, "
            "G = x a + y b + z c the left side is (sqrt(r-1) y)^2 + y^2 + z^2 and the gap r x^2 + (r-1) z^2; equality at G = b",
            (sympy.expand(r * (x**2 + y**2 + z**2) - image - r * x**2 - (r - 1) * z**2),),
        ),
    )


@dataclass(frozen=True)
class Spectral(Atom):
    """`V -> V / sigma_max(V)`.

    First order in the input it is sharp: the weight has operator norm 1. By the parameter nothing is uniformly bounded: the derivative
    is of order `1 / sigma_max`, the second one of order `1 / gap`, the distance of the two largest singular values.
    """

    @property
    def formula(self) -> str:
        return "V -> V / sigma_max(V)"

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        remedy = "no uniform constant exists; the Frobenius form (weight_norm=frobenius, with eps) has one"
        return LayerBounds.without_parameters(
            Bound.upper(
                "oo", source=f"spectral normalisation: of order 1 / sigma_max(V) near V = 0; {remedy}", sharp=True
            ),
            Bound.upper(
                "oo",
                source=f"spectral normalisation: of order 1 / gap of the two largest singular values; {remedy}",
                sharp=True,
            ),
            Bound.lower(0, source="the direction of V itself is in the kernel", sharp=True, steps=gradient_steps()),
            sample_wise=False,
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        one = Bound.upper(1, quantity="operator norm", source="sigma_max(V / sigma_max(V)) = 1", sharp=True)
        return FeatureBounds.from_norms(features.shape, {"operator": one})
