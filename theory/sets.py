"""What a normalisation does to one set, exactly: its output as SymPy expressions, what it keeps of the members and what it loses.

A set is one sample, its members the positions of a grid: a matrix `d x n` with one column for each member. Set normalisation has one mean and one deviation
for all of it, `x -> (x - mu) / s`; layer normalisation has one for each member. Both come from the layers' own atoms.
"""

from __future__ import annotations

from functools import lru_cache, singledispatch

import sympy
from sympy import Expr, Matrix, Rational, S, Symbol

from theory.atoms.axes import OVER
from theory.atoms.base import Atom
from theory.atoms.fixed_linear import Centre, Scale
from theory.atoms.radial import Radial
from theory.bound import Step
from theory.layers.normalisation import LayerNorm, Normalisation, SetNorm
from theory.records import Shape


def _vectors(axis: str, shape: tuple[int, int]) -> list[list[tuple[int, int]]]:
    """The entries of `features x members` that one vector along the axis runs over."""
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for i in range(shape[0]):
        for j in range(shape[1]):
            outside = tuple(k for name, k in (("features", i), ("positions", j)) if name not in OVER[axis])
            groups.setdefault(outside, []).append((i, j))
    return list(groups.values())


@singledispatch
def image(atom: Atom, members: Matrix) -> Matrix:
    """One set after one atom.

    Raises:
        ValueError: naming an atom that is not known here.
    """
    raise ValueError(f"sets: the atom {type(atom).__name__} is not known here: known are Centre, Radial and Scale")


@image.register
def _(atom: Scale, members: Matrix) -> Matrix:
    return atom.factor * members


@image.register
def _(atom: Centre, members: Matrix) -> Matrix:
    out = members.copy()
    for entries in _vectors(atom.axis, members.shape):
        mean = sympy.Add(*(members[e] for e in entries)) / len(entries)
        for e in entries:
            out[e] = members[e] - mean
    return out


@image.register
def _(atom: Radial, members: Matrix) -> Matrix:
    out = members.copy()
    for entries in _vectors(atom.axis, members.shape):
        norm = sympy.sqrt(atom.eps + sympy.Add(*(members[e] ** 2 for e in entries)))
        for e in entries:
            out[e] = members[e] / norm
    return out


def normalised(layer: Normalisation, members: Matrix) -> Matrix:
    """The output `d x n` of a normalisation without gain on one set `d x n` of members (columns)."""
    shape = Shape(sympy.Integer(members.rows), S.One, (sympy.Integer(members.cols),))
    for atom in layer.atoms(shape):
        members = image(atom, members)
    return members


def kept_directions(layer: Normalisation, members: Matrix, eps: Expr) -> int:
    """Rank of the Jacobian of the normalisation at an exact set: how many of the `d n` directions its output still depends on, to first order.

    `eps` may be 0, which a layer may not: it is put in after differentiation.
    """
    free = Matrix(members.rows, members.cols, sympy.symbols(f"x:{members.rows * members.cols}", real=True))
    symbolic = Symbol("eps", positive=True)
    whole = normalised(type(layer)(symbolic), free).reshape(len(members), 1).jacobian(free.reshape(len(members), 1))
    return whole.subs({**dict(zip(free, members, strict=True)), symbolic: eps}).rank(simplify=True)


@lru_cache(maxsize=1)
def set_norm_steps() -> tuple[Step, ...]:
    """Set normalisation against layer normalisation of each member, on `2 x 3` symbols; every statement is one about the mean and the deviation, whatever the size."""
    eps, a = sympy.symbols("eps a", positive=True)
    x, shifts = Matrix(2, 3, sympy.symbols("x:6", real=True)), sympy.symbols("c:3", real=True)
    whole, each = SetNorm(eps), LayerNorm(eps)
    out = normalised(whole, x)
    swap, turn = ([x[:, j] for j in order] for order in ((1, 0, 2), (1, 2, 0)))
    moved = [normalised(whole, Matrix.hstack(*columns)) for columns in (swap, turn)]
    expected = [Matrix.hstack(*(out[:, j] for j in order)) for order in ((1, 0, 2), (1, 2, 0))]
    shifted = x + Matrix(2, 3, lambda i, j: shifts[j])
    ratio = (out[0] - out[1]) * (x[2] - x[4]) - (out[2] - out[4]) * (x[0] - x[1])
    stretched = normalised(each, a * x)[0] - normalised(LayerNorm(eps / a**2), x)[0]
    return (
        Step(
            "set norm is permutation equivariant: on a swap and a cyclic shift, which generate all permutations",
            tuple(entry for m, e in zip(moved, expected, strict=True) for entry in m - e),
        ),
        Step("set norm keeps all ratios of differences of entries, for every eps: it is x -> (x - mu)/s", (ratio,)),
        Step(
            "layer norm of each member loses the member's mean: adding c_j to all features of member j changes nothing, for every eps",
            tuple(normalised(each, shifted) - normalised(each, x)),
        ),
        Step("and, but for eps, its scale: LN at eps of a x is LN at eps/a^2 of x", (stretched,)),
    )


@lru_cache(maxsize=1)
def merged_sets() -> tuple[Matrix, Matrix]:
    """Two different sets that layer normalisation of each member maps to the same: a member has its mean moved."""
    first = Matrix([[1, 2], [3, 5], [Rational(1, 2), -1]])
    return first, first + Matrix([[0, 7]] * 3)
