"""Affine maps from nine parameters: identities, the way back, the gimbal, and what composition does to the family."""

import numpy as np
import pytest
import sympy
from sympy import Rational, pi

from theory.volumetric.affine_maps import (
    ANGLES,
    PARAMETERS,
    SCALES,
    axis_rotation,
    compose,
    factors,
    identities,
    in_family,
    inverse,
    parameter_gram,
    recover,
    reduced,
    speed,
    volume_factor,
)

POINT = (Rational(1, 3), Rational(-2, 5), Rational(9, 4), 1, 2, Rational(1, 2), 0, 1, 2)


def test_every_identity_of_the_factorisation_holds_and_a_wrong_one_does_not() -> None:
    for step in identities():
        assert step.verify(), step.claim
        assert step.zeros, step.claim
    given = factors()
    assert reduced((given.rotation * given.scale).det() - SCALES[0]) != 0
    assert reduced(sympy.sin(ANGLES[0]) ** 2 + sympy.cos(ANGLES[0]) ** 2) == 1


def test_axis_rotations_are_right_handed() -> None:
    for axis in range(3):
        e = [sympy.Matrix([int(i == (axis + k) % 3) for i in range(3)]) for k in range(3)]
        assert axis_rotation(axis, pi / 2) * e[1] == e[2]


def test_parameters_are_recovered_away_from_the_gimbal() -> None:
    found = recover(factors(POINT).matrix)
    assert max(abs(sympy.N(x - y)) for x, y in zip(found, POINT, strict=True)) < 1e-12


@pytest.mark.parametrize("sign", [1, -1])
def test_at_the_gimbal_the_map_is_recovered_but_not_the_angles(sign: int) -> None:
    point = (POINT[0], sign * pi / 2, *POINT[2:])
    found = recover(factors(point).matrix)
    assert found[2] == 0
    assert (factors(found).matrix - factors(point).matrix).applyfunc(sympy.N).norm() < 1e-12
    # one direction of the angles does not move the map
    gram = np.array(parameter_gram().subs(dict(zip(PARAMETERS, point, strict=True)))[:3, :3].evalf(), float)
    spectrum = np.linalg.eigvalsh(gram)
    assert abs(spectrum[0]) < 1e-12 < spectrum[1]
    assert volume_factor().subs(ANGLES[1], point[1]) == 0


def test_the_inverse_and_products_leave_the_family_unless_scales_are_equal() -> None:
    given = factors(POINT)
    unit = sympy.eye(3).row_join(sympy.zeros(3, 1))
    assert (compose(given.matrix, inverse(given)) - unit).applyfunc(sympy.N).norm() < 1e-12
    assert any(abs(sympy.N(value)) > 0.1 for value in in_family(inverse(given)[:, :3]))
    alike = factors((*POINT[:3], 2, 2, 2, *POINT[6:]))
    assert all(abs(sympy.N(value)) < 1e-12 for value in in_family(inverse(alike)[:, :3]))
    twice = compose(given.matrix, given.matrix)
    assert any(abs(sympy.N(value)) > 0.1 for value in in_family(twice[:, :3]))
    with pytest.raises(ValueError, match="shear"):
        recover(twice.applyfunc(sympy.N))


def test_the_speed_bounds_the_derivative_and_is_attained_at_the_gimbal() -> None:
    gram = sympy.lambdify([PARAMETERS], parameter_gram(), "numpy")
    source = np.random.default_rng(0)
    for scales in ((Rational(1, 2), 1, 2), (2, 1, Rational(1, 2)), (Rational(1, 3),) * 3):
        bound = speed(scales)
        bound.verify()
        value = float(bound.expression)
        found = []
        for angles in source.uniform(-np.pi, np.pi, (300, 3)):
            point = [*angles, *map(float, scales), 0.0, 0.0, 0.0]
            found.append(np.linalg.eigvalsh(np.array(gram(point), float))[-1] ** 0.5)
        assert max(found) <= value * (1 + 1e-12)
    point = [0.4, np.pi / 2, -0.4, 0.5, 1.0, 2.0, 0.0, 0.0, 0.0]
    top = np.linalg.eigvalsh(np.array(gram(point), float))[-1] ** 0.5
    assert top == pytest.approx(float(speed((Rational(1, 2), 1, 2)).expression), rel=1e-12)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="8 parameters"):
        factors(PARAMETERS[:8])
    with pytest.raises(ValueError, match="scales 1, 0, 1"):
        factors((0, 0, 0, 1, 0, 1, 0, 0, 0))
    with pytest.raises(ValueError, match="determinant"):
        recover(sympy.diag(1, 1, -1).row_join(sympy.zeros(3, 1)))
