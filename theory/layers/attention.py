"""Attention over the tokens of every sample."""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Expr

from theory.atoms.attention import ScaledDotProduct
from theory.atoms.base import Atom
from theory.layers.affine import Affine
from theory.layers.base import Layer
from theory.network import Chain, chain
from theory.records import Shape


@dataclass(frozen=True)
class Attend(Layer):
    """`[Q; K; V] -> V softmax(K^T Q / sqrt e)` in each of the heads; see `ScaledDotProduct`."""

    heads: int = 1
    causal: bool = False

    def __post_init__(self) -> None:
        ScaledDotProduct(self.heads, self.causal)

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (ScaledDotProduct(self.heads, self.causal),)


def self_attention(
    features: Expr, heads: int = 1, *, causal: bool = False, bias: bool = False, path: str = ""
) -> Chain:
    """Queries, keys and values by one affine map, attention, and an affine map of the heads' stacked outputs.

    The weights are named `path.in_proj` and `path.out_proj`; without a path they are their own.
    """
    width = sympy.sympify(features)
    if (width / heads).is_integer is False:
        raise ValueError(f"self-attention of {width} features with {heads} heads: the heads must divide the features")

    def named(part: str) -> str:
        return f"{path}.{part}" if path else ""

    return chain(
        Affine(3 * width, bias=bias, path=named("in_proj")),
        Attend(heads, causal),
        Affine(width, bias=bias, path=named("out_proj")),
    )
