"""The gradient through spectral normalisation against a derivative of the closed form for 2 x 2 matrices."""

import sympy
from sympy import Matrix, Rational

from theory.atoms.base import EVERYWHERE
from theory.atoms.spectral import Spectral, gradient_steps, pulled_back
from theory.records import FeatureBounds, Shape

ENTRIES = sympy.symbols("w:4", real=True)
AT = dict(zip(ENTRIES, (Rational(2), Rational(1, 2), Rational(-1), Rational(3)), strict=True))


def test_every_step_is_recomputed_and_travels_with_the_bound() -> None:
    assert all(step.verify() for step in gradient_steps())
    shape = Shape(sympy.Integer(3), sympy.Integer(2))
    least = Spectral().bounds(FeatureBounds.unbounded(shape), EVERYWHERE).input_jacobian_sigma_min
    least.verify()
    assert gradient_steps()[2] in least.steps


def test_the_formula_is_the_derivative_of_the_closed_form() -> None:
    weight, gradient = Matrix(2, 2, ENTRIES), Matrix([[1, -2], [3, 1]])
    gram = weight.T * weight
    largest = sympy.sqrt((gram.trace() + sympy.sqrt(gram.trace() ** 2 - 4 * weight.det() ** 2)) / 2)
    loss = sum(g * w for g, w in zip(gradient, weight, strict=True)) / largest
    numbers = Matrix(2, 2, [AT[w] for w in ENTRIES])
    size = largest.subs(AT)
    right = (numbers.T * numbers - size**2 * sympy.eye(2)).row(0).T
    right = Matrix([-right[1], right[0]]).evalf(40).normalized()
    left = (numbers * right).evalf(40) / size.evalf(40)
    found = pulled_back(gradient, numbers, left, right)
    for entry, value in zip(ENTRIES, found, strict=True):
        assert abs(sympy.diff(loss, entry).subs(AT).evalf(40) - value) < 1e-30  # 40 digits were carried
