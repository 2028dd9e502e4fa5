r"""Affine maps of space from nine parameters: three rotations, three scales, three translations.

    x -> M x + t,        M = R_z(gamma) R_y(beta) R_x(alpha) diag(s_1, s_2, s_3),  s_i > 0

Rotations are right-handed about the axes; angles are in radians, translations in the units of `x`. Everything is derived by SymPy from this product: the
determinant, the inverse, the composition with another map, the way back to the parameters, and where that way is singular. Of the 12 dimensions of affine
maps the nine parameters reach those whose columns are orthogonal: there is no shear, so the family is not closed under products.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import sympy
from sympy import Expr, Matrix, Symbol

from theory.bound import Bound, Step, gap

ANGLES = sympy.symbols("alpha beta gamma", real=True)
SCALES = sympy.symbols("s1:4", positive=True)
SHIFTS = sympy.symbols("t1:4", real=True)
PARAMETERS: tuple[Symbol, ...] = (*ANGLES, *SCALES, *SHIFTS)
"""The order of the nine parameters wherever they are one vector."""

GIMBAL = 1e-24
"""Numbers `cos(beta)^2` below this count as the gimbal: beyond it the angles would come out of rounding."""


class Factors(NamedTuple):
    """Rotation (3 x 3), scales (3 x 3, diagonal) and translation (3 x 1)."""

    rotation: Matrix
    scale: Matrix
    shift: Matrix

    @property
    def matrix(self) -> Matrix:
        """`(M | t)`, 3 x 4."""
        return (self.rotation * self.scale).row_join(self.shift)


def axis_rotation(axis: int, angle: Expr) -> Matrix:
    """The right-handed rotation about axis 0, 1 or 2."""
    first, second = ((1, 2), (2, 0), (0, 1))[axis]
    matrix = sympy.eye(3)
    matrix[first, first] = matrix[second, second] = sympy.cos(angle)
    matrix[first, second], matrix[second, first] = -sympy.sin(angle), sympy.sin(angle)
    return matrix


def factors(parameters: tuple[Expr, ...] = PARAMETERS) -> Factors:
    """The three factors at nine parameters, symbols or numbers.

    Errors: `ValueError` for another number of parameters, or a scale that is not positive.
    """
    if len(parameters) != 9:
        raise ValueError(f"{len(parameters)} parameters: give 3 angles, 3 scales and 3 translations")
    values = tuple(map(sympy.sympify, parameters))
    if any(scale.is_nonpositive for scale in values[3:6]):
        raise ValueError(f"scales {', '.join(map(str, values[3:6]))}: all three must be positive")
    alpha, beta, gamma = values[:3]
    rotation = axis_rotation(2, gamma) * axis_rotation(1, beta) * axis_rotation(0, alpha)
    return Factors(rotation, sympy.diag(*values[3:6]), Matrix(values[6:]))


def compose(first: Matrix, second: Matrix) -> Matrix:
    """`first` after `second`: `(M_1 M_2 | M_1 t_2 + t_1)` of 3 x 4 matrices `(M | t)`."""
    linear = first[:, :3]
    return (linear * second[:, :3]).row_join(linear * second[:, 3] + first[:, 3])


def inverse(given: Factors) -> Matrix:
    """`(S^-1 R^T | -S^-1 R^T t)`, 3 x 4: the scales come after the rotation."""
    back = given.scale.inv() * given.rotation.T
    return back.row_join(-back * given.shift)


def in_family(linear: Matrix) -> tuple[Expr, Expr, Expr]:
    """The scalar products of different columns of a 3 x 3 matrix: all zero exactly where it is a rotation (or reflection) times a diagonal matrix."""
    first, second, third = (_tidy(linear[:, i].dot(linear[:, j])) for i, j in ((0, 1), (0, 2), (1, 2)))
    return first, second, third


def _tidy(value: Expr) -> Expr:
    """Expressions in symbols simplified; numbers are left as they are, as simplifying sines of numbers takes minutes."""
    return value if value.is_number else sympy.simplify(value)


def recover(matrix: Matrix) -> tuple[Expr, ...]:
    """Nine parameters of `(M | t)` with orthogonal columns and `det M > 0`; the middle angle comes out in `[-pi/2, pi/2]`.

    `s_i` are the norms of the columns; of the rotation `R = M S^-1` the last row is `(-sin beta, sin alpha cos beta, cos alpha cos beta)` and the first column
    `cos beta (cos gamma, sin gamma)` above it. Where `cos beta = 0` only `alpha - gamma` (or `alpha + gamma`) is determined; `gamma = 0` is chosen.

    Errors: `ValueError` for numbers whose columns are not orthogonal, or a reflection.
    """
    linear = matrix[:, :3]
    off = in_family(linear)
    if any(value.is_number and abs(sympy.N(value)) > 1e-12 * sympy.N(linear.norm() ** 2) for value in off):
        raise ValueError(
            f"columns with scalar products {', '.join(map(str, off))}: a map with shear has no nine parameters"
        )
    determinant = linear.det()
    if determinant.is_number and sympy.N(determinant) <= 0:
        raise ValueError("the determinant is not positive: reflections and projections have no nine parameters")
    scales = tuple(sympy.sqrt(_tidy(linear[:, i].dot(linear[:, i]))) for i in range(3))
    rotation = linear * sympy.diag(*scales).inv()
    beta = sympy.atan2(-rotation[2, 0], sympy.sqrt(rotation[2, 1] ** 2 + rotation[2, 2] ** 2))
    across = _tidy(rotation[2, 1] ** 2 + rotation[2, 2] ** 2)
    if across == 0 or (across.is_number and abs(sympy.N(across)) < GIMBAL):
        sign = -rotation[2, 0]
        alpha = sympy.atan2(sign * rotation[0, 1], sign * rotation[0, 2])
        return (alpha, beta, sympy.S.Zero, *scales, *matrix[:, 3])
    alpha = sympy.atan2(rotation[2, 1], rotation[2, 2])
    gamma = sympy.atan2(rotation[1, 0], rotation[0, 0])
    return (alpha, beta, gamma, *scales, *matrix[:, 3])


def reduced(expression: Expr) -> Expr:
    """A polynomial in sines and cosines of the three angles, modulo `sin^2 + cos^2 = 1`: the remainder is unique."""
    sines, cosines = sympy.symbols("S1:4"), sympy.symbols("C1:4")
    table = {f(x): y for f, ys in ((sympy.sin, sines), (sympy.cos, cosines)) for x, y in zip(ANGLES, ys, strict=True)}
    relations = [x**2 + y**2 - 1 for x, y in zip(sines, cosines, strict=True)]
    rest = sympy.reduced(sympy.expand(expression).subs(table), relations, *sines, *cosines)[1]
    return rest.subs({y: x for x, y in table.items()})


@cache
def parameter_gram() -> Matrix:
    """`G^T G` (9 x 9) of the derivative `G` of the twelve entries of `(M | t)` by the nine parameters, simplified.

    With the Frobenius norm on matrices `|d(M | t)|^2 = d theta^T (G^T G) d theta`.
    """
    entries = factors().matrix.reshape(12, 1)
    jacobian = entries.jacobian(Matrix(PARAMETERS))
    return (jacobian.T * jacobian).applyfunc(reduced)


@cache
def volume_factor() -> Expr:
    """`det G^T G`: zero exactly where the nine parameters are singular, which is the gimbal `cos beta = 0`.

    Scales and translations are orthonormal directions, so the block of the angles is all.
    """
    return sympy.factor(reduced(parameter_gram()[:3, :3].det(method="berkowitz")))


@cache
def identities() -> tuple[Step, ...]:
    """What the factorisation implies, each an identity: the zeros are remainders modulo `sin^2 + cos^2 = 1`, computed here from the product."""
    given = factors()
    matrix, unit = given.matrix, sympy.eye(3)
    c_beta = sympy.cos(ANGLES[1])
    product = sympy.Mul(*SCALES)
    pairs = sympy.Mul(*(SCALES[i] ** 2 + SCALES[j] ** 2 for i, j in ((0, 1), (0, 2), (1, 2))))
    linear, sines = matrix[:, :3], [sympy.sin(angle) for angle in ANGLES]
    angles = (
        (given.rotation[2, 0], -sines[1]),
        (given.rotation[2, 1], sines[0] * c_beta),
        (given.rotation[2, 2], sympy.cos(ANGLES[0]) * c_beta),
        (given.rotation[1, 0], sines[2] * c_beta),
        (given.rotation[0, 0], sympy.cos(ANGLES[2]) * c_beta),
    )
    claims: dict[str, Iterable[Expr]] = {
        "R^T R = 1": given.rotation.T * given.rotation - unit,
        "det R = 1": (given.rotation.det() - 1,),
        "det M = s_1 s_2 s_3": (linear.det() - product,),
        "M^T M = diag(s)^2: the columns are orthogonal, their lengths are the scales": linear.T * linear
        - given.scale**2,
        "the inverse is S^-1 R^T: R R^T = 1": given.rotation * given.rotation.T - unit,
        "the inverse is S^-1 R^T: S S^-1 = 1": given.scale * given.scale.inv() - unit,
        "scales and translations are orthonormal directions": parameter_gram()[3:, :] - sympy.eye(9)[3:, :],
        "the last row and first column of R hold the angles": (found - wanted for found, wanted in angles),
        "det G^T G = cos(beta)^2 prod_{i<j} (s_i^2 + s_j^2): the gimbal": (volume_factor() - c_beta**2 * pairs,),
    }
    return tuple(Step(claim, tuple(map(reduced, zeros))) for claim, zeros in claims.items())


def speed(scales: tuple[Expr, Expr, Expr]) -> Bound:
    """`sup |d(M | t)|_F / |d theta|` over all angles and translations at given scales: how fast the nine parameters move the map.

    Errors: `ValueError` for a scale that is not positive.
    """
    values = factors((0, 0, 0, *scales, 0, 0, 0)).scale.diagonal()
    unit = parameter_gram()[:3, :3].subs(dict.fromkeys(SCALES, sympy.S.One)) / 2
    x, sine = Symbol("x"), sympy.sin(ANGLES[1])
    roots = (x - 1) * (x - 1 - sine) * (x - 1 + sine)
    turns = Step(
        "angles turn by omega = E d(angles), eigenvalues of E^T E are 1 and 1 +- sin beta, at most 2",
        (gap(reduced(sympy.expand(unit.charpoly(x).as_expr() - roots)), 0),),
    )
    w, r = sympy.symbols("w1:4", real=True), sympy.symbols("r1:4", real=True)
    cross = Matrix(w).cross(Matrix(r))
    lagrange = sum(v**2 for v in w) * sum(v**2 for v in r) - Matrix(w).dot(Matrix(r)) ** 2
    columns = Step(
        "|omega x r|^2 = |omega|^2 |r|^2 - (omega . r)^2, so sum_j s_j^2 |omega x r_j|^2 <= |omega|^2 (sum s_j^2 - min s_j^2)",
        (gap(cross.dot(cross), lagrange),),
    )
    squares = [value**2 for value in values]
    return Bound.upper(
        sympy.sqrt(sympy.Max(1, 2 * (sum(squares) - sympy.Min(*squares)))),
        quantity="affine map by its nine parameters",
        source="scales and translations are orthonormal directions, orthogonal to those of the angles",
        steps=(turns, columns),
        attained="at the gimbal sin beta = 1 with alpha = -gamma, where the first scale is the least",
    )
