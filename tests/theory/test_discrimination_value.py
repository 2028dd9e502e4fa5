"""The range of the generalized discrimination value: its steps hold, both ends are attained exactly, unbalanced classes leave it."""

import dataclasses

import pytest
import sympy
from sympy import Integer, Matrix, Rational, S, oo, sqrt

from theory.bound import Step
from theory.separability import (
    K,
    balanced,
    collapsed_simplex,
    discrimination_value,
    inequalities,
    n,
    repeated_simplex,
    unbalanced,
)


def test_every_step_of_the_range_holds_and_a_wrong_one_does_not() -> None:
    balanced().verify()
    assert all(step.verify() for step in inequalities())
    assert sum(bool(step.zeros) for step in balanced().mixed.steps) >= 7
    energy = inequalities()[3]
    assert not Step(energy.claim, (energy.zeros[0] + 1,)).verify()
    broken = dataclasses.replace(balanced().mixed, steps=(Step("false", (S.One,)),))
    with pytest.raises(AssertionError):
        broken.verify()


def test_the_closed_forms_and_their_limits() -> None:
    low, high = balanced().separated.expression, balanced().mixed.expression
    assert sympy.simplify(low - sqrt(K / (2 * (K - 1)))) == 0
    assert sympy.simplify(high - 1 / sqrt(2 * n * (n - 1))) == 0
    assert low.subs(K, 2) == 1
    # decreasing in K, so -1 is reached for two classes alone
    assert sympy.simplify(sympy.diff(low**2, K) + 1 / (2 * (K - 1) ** 2)) == 0
    assert sympy.limit(low, K, oo) == sqrt(2) / 2
    assert sympy.limit(high, n, oo) == 0


@pytest.mark.parametrize(("classes", "size"), [(2, 2), (2, 4), (3, 2), (4, 3), (5, 2)])
def test_both_ends_are_attained_exactly(classes: int, size: int) -> None:
    at = {K: Integer(classes), n: Integer(size)}
    low = discrimination_value(*collapsed_simplex([size] * classes))
    high = discrimination_value(*repeated_simplex(classes, size))
    assert sympy.simplify(low + balanced().separated.expression.subs(at)) == 0
    assert sympy.simplify(high - balanced().mixed.expression.subs(at)) == 0


def test_unbalanced_classes_pass_the_balanced_end_and_reach_their_own() -> None:
    here = unbalanced((2, 5))
    here.verify()
    value = discrimination_value(*collapsed_simplex((2, 5)))
    assert value == -here.separated.expression == -7 * sqrt(10) / 20
    assert value < -1
    for size in (3, 4):
        equal = unbalanced((size,) * 3)
        at = {K: Integer(3), n: Integer(size)}
        for general, special in ((equal.separated, balanced().separated), (equal.mixed, balanced().mixed)):
            assert sympy.simplify(general.expression - special.expression.subs(at)) == 0


def test_the_definition_by_hand() -> None:
    """One dimension, -2, -1 | 1, 2: variance 5/2, so distances are divided by sqrt(10); within 1, between (3 + 4 + 2 + 3)/4."""
    value = discrimination_value(Matrix([[-2, -1, 1, 2]]), [0, 0, 1, 1])
    assert sympy.simplify(value + 2 / sqrt(10)) == 0
    constant = Matrix([[-2, -1, 1, 2], [Rational(1, 3)] * 4])
    assert sympy.simplify(discrimination_value(constant, [0, 0, 1, 1]) * sqrt(2) - value) == 0


def test_errors_name_the_offender() -> None:
    with pytest.raises(ValueError, match="class 1 has 1 sample"):
        discrimination_value(Matrix([[0, 1, 2]]), [0, 0, 1])
    with pytest.raises(ValueError, match="of one class"):
        discrimination_value(Matrix([[0, 1]]), [0, 0])
    with pytest.raises(ValueError, match="2 labels for 3 samples"):
        discrimination_value(Matrix([[0, 1, 2]]), [0, 0])
    with pytest.raises(ValueError, match="class 1 has 1 sample"):
        unbalanced((2, 1))
    with pytest.raises(ValueError, match="1 class"):
        unbalanced((2,))
