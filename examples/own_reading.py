"""A reading of one's own in one file: multiplications of a forward pass for one sample, in closed form, from the same description."""

from functools import singledispatch

import sympy

from theory import symbols
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import Cropping, Scaling
from theory.network import Chain, Network, Repeat, Residual
from theory.spec import describe, parse


@singledispatch
def multiplications(part: Network, features: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """`(multiplications, output features)`; a layer that the reading does not know is refused by name."""
    raise ValueError(f"multiplications: the reading does not know {describe(part)}")


@multiplications.register
def _(part: Affine, features: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    return features * part.features, part.features


@multiplications.register(Activation)
@multiplications.register(Scaling)
def _(part: Network, features: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    return (features if isinstance(part, Scaling) else sympy.S.Zero), features


@multiplications.register
def _(part: Cropping, features: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    return sympy.S.Zero, part.features


@multiplications.register
def _(part: Chain, features: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    total = sympy.S.Zero
    for member in part.members:
        count, features = multiplications(member, features)
        total += count
    return total, features


@multiplications.register
def _(part: Residual, features: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    return multiplications(part.branch, features)


@multiplications.register
def _(part: Repeat, features: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    return part.times * multiplications(part.block, features)[0], features


network = parse("affine(m), repeat(L, residual(tanh, affine(m), scale(c/L))), crop(K)")
print("multiplications:", sympy.expand(multiplications(network, symbols.d)[0]))
try:
    multiplications(parse("affine(m), softmax"), symbols.d)
except ValueError as error:
    print(error)
