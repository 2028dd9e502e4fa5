"""Evaluation is rigorous: balls contain the value, floats lie on the safe side, failing assumptions are refused by name."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import flint
import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import And, Eq, Max, Min, Not, Or, Piecewise, Pow, S, Symbol, oo, sqrt

from theory import symbols
from theory.bound import Assumption, Bound
from theory.evaluate import check, enclose, enclose_expression, evaluate, exact_ball, holds, lower_float, upper_float

x, y, n = Symbol("x", positive=True), Symbol("y", positive=True), Symbol("n", integer=True, positive=True)

EXPRESSIONS = [
    x + y,
    x * y / (1 + x),
    sqrt(x**2 + 4 * y**2),
    x**n,
    Min(x, y, x * y),
    Max(x, y) ** (S(3) / 2),
    sympy.exp(-x) * sympy.log(1 + y),
    sympy.tanh(x) + sympy.atan(y),
    sympy.erf(x) / y,
    Piecewise((x, x < y), (y, True)),
]
positive = st.fractions("1/1000", 1000, max_denominator=1000)


@settings(max_examples=40, deadline=None)
@given(positive, positive, st.integers(1, 12), st.sampled_from(EXPRESSIONS))
def test_the_ball_contains_the_value_computed_with_sixty_digits(a, b, k, expression) -> None:
    values = {x: sympy.Rational(a.numerator, a.denominator), y: sympy.Rational(b.numerator, b.denominator), n: k}
    ball = enclose_expression(expression, values)
    exact = sympy.Rational(sympy.sympify(expression.subs(values)).evalf(60))
    # the sixty-digit value is itself only good to 1e-58 relative, and to half a ball of 128 bits where it is converted
    assert ball.overlaps(exact_ball(exact * (1 + S(10) ** -55)).union(exact_ball(exact * (1 - S(10) ** -55))))
    # and it is narrow: 128 bits less a few for a dozen operations
    assert float(ball.rad()) <= 1e-30 * float(abs(ball.mid())) + 1e-35


@settings(max_examples=80, deadline=None)
@given(st.fractions("1/10000000", 10**7))
def test_floats_lie_on_the_safe_side_and_are_neighbours(value: Fraction) -> None:
    ball = flint.arb(flint.fmpq(value.numerator, value.denominator))
    low, high = lower_float(ball), upper_float(ball)
    assert Fraction(low) <= value <= Fraction(high)
    assert math.nextafter(low, math.inf) >= high


def test_a_float_is_taken_as_the_binary_number_it_is() -> None:
    assert exact_ball(0.1) == flint.arb(flint.fmpq(*(0.1).as_integer_ratio()))
    assert exact_ball(0.1) != exact_ball(S(1) / 10)
    assert exact_ball(sympy.Float(0.1)) == exact_ball(0.1)


def test_an_upper_bound_is_rounded_up_and_a_lower_one_down() -> None:
    third = S(1) / 3
    assert Fraction(evaluate(Bound.upper(third), {})) > Fraction(1, 3) > Fraction(evaluate(Bound.lower(third), {}))


def test_infinity_is_an_honest_value() -> None:
    assert evaluate(Bound.upper(oo), {}) == math.inf
    assert evaluate(Bound.upper(x * y), {x: oo, y: 2}) == math.inf
    assert evaluate(Bound.lower(0), {}) == 0.0


def test_symbols_are_found_by_name_or_by_symbol() -> None:
    bound = Bound.upper(symbols.x_F)
    assert evaluate(bound, {"x_F": 2}) == evaluate(bound, {symbols.x_F: 2}) == 2.0


def test_a_missing_value_is_named_together_with_those_given() -> None:
    with pytest.raises(ValueError, match=r"symbol y: give one \(values known: x\)"):
        evaluate(Bound.upper(x * y), {x: 1})


def test_a_function_without_enclosure_is_named() -> None:
    with pytest.raises(ValueError, match="zeta"):
        enclose_expression(sympy.zeta(x), {x: 3})


@pytest.mark.parametrize("relation", ["<", "<=", ">", ">="])
@pytest.mark.parametrize("value", [1, 2, 3])
def test_an_assumption_holds_exactly_where_its_relation_does(relation: str, value: int) -> None:
    truth = {"<": value < 2, "<=": value <= 2, ">": value > 2, ">=": value >= 2}[relation]
    assert holds(Assumption(x, relation, S(2)), {x: value}) is truth


def test_an_undecided_assumption_counts_as_failing() -> None:
    wide = flint.arb(2, 1)
    for relation in ("<", "<=", ">", ">="):
        assert not holds(Assumption(x, relation, S(2)), {x: wide})


def test_evaluation_refuses_a_failing_assumption_by_name_reason_and_values() -> None:
    bound = Bound.upper(x, quantity="input_jacobian_norm", assumptions=(Assumption(n, ">=", S(2), "one class"),))
    assert evaluate(bound, {x: 1, n: 2}) == 1.0
    with pytest.raises(
        ValueError, match=r"input_jacobian_norm assumes n >= 2  \(one class\), which fails: 1 against 2"
    ):
        evaluate(bound, {x: 1, n: 1})


def test_every_assumption_is_checked_not_only_the_first() -> None:
    both = (Assumption(x, ">", S(0)), Assumption(y, "<", S(1), "too large"))
    check(both, {x: 1, y: S.Half}, "it")
    with pytest.raises(ValueError, match="too large"):
        check(both, {x: 1, y: 2}, "it")


def test_cases_are_decided_by_balls_and_never_guessed() -> None:
    f = Piecewise((x, x < 1), (7, True))
    assert enclose_expression(f, {x: S.Half}) == 0.5
    assert enclose_expression(f, {x: 1}) == 7
    # where the ball straddles the border an error is honest, and so is a ball over both cases
    try:
        both = enclose_expression(f, {x: flint.arb(1, 0.5)})
    except ValueError as error:
        assert "cannot decide" in str(error)  # noqa: PT017  (either answer is allowed)
    else:
        assert both.contains(flint.arb(0.5))
        assert both.contains(flint.arb(7))


def test_zero_to_the_power_zero_is_one_and_positive_powers_of_zero_are_zero() -> None:
    assert enclose_expression(x ** (n - 1), {x: 0, n: 1}) == 1
    assert enclose_expression(x ** (n - 1), {x: 0, n: 3}) == 0
    assert enclose_expression(x ** (S(3) / 2), {x: 0}) == 0


def test_deep_expressions_do_not_overflow_the_stack() -> None:
    deep = x
    for _ in range(3000):
        deep = sympy.Add(1, sympy.Mul(x, deep, evaluate=False), evaluate=False)
    # x = 0: every level is 1
    assert enclose_expression(deep, {x: 0}) == 1


def test_a_lower_float_of_a_huge_ball_is_still_below_it() -> None:
    assert lower_float(flint.arb(10) ** 400) < math.inf


@pytest.mark.parametrize(
    ("expression", "values"), [(x * y, {x: 0, y: oo}), (x, {x: math.nan}), (x / y, {x: 0, y: 0})], ids=str
)
def test_a_value_that_is_not_a_number_is_refused(expression, values) -> None:
    with pytest.raises(ValueError, match=r"nan|not a number|undefined"):
        evaluate(Bound.upper(expression), values)


def test_the_root_of_a_sum_of_squares_exists_where_the_squares_cancel() -> None:
    third = S(1) / 3
    ball = enclose_expression(sqrt((x - y) ** 2 + 4 * n**2), {x: third, y: third, n: 0})
    assert ball.is_finite()


def test_compound_conditions_are_decided() -> None:
    f = Piecewise((1, And(x > 1, y > 1)), (2, True))
    assert enclose_expression(f, {x: 2, y: 3}) == 1


@pytest.mark.parametrize("f", [Piecewise((x, x < y), (y, True)), Piecewise((1, Eq(x * 1000, 1)), (2, True))], ids=str)
def test_cases_are_decided_where_exact_values_were_given(f) -> None:
    ball = enclose_expression(f, {x: S(1) / 1000, y: S(1) / 1000})
    assert ball.overlaps(exact_ball(f.subs({x: S(1) / 1000, y: S(1) / 1000})))


def test_a_case_that_cannot_be_decided_gives_the_hull_of_its_values() -> None:
    f = Piecewise((3, Eq(x**2, 2)), ((x**6 - 1) / (x**2 - 1) / 7 * 3, True))
    assert enclose_expression(f, {x: sqrt(S(2))}).overlaps(flint.arb(3))


@pytest.mark.parametrize(
    ("value", "exact"), [(Fraction(1, 3), S(1) / 3), (np.int64(3), S(3)), (np.float32(0.5), S(1) / 2)], ids=repr
)
def test_fractions_and_numpy_numbers_are_numbers(value, exact) -> None:
    assert exact_ball(value).overlaps(exact_ball(exact))
    assert float(exact_ball(value).rad()) <= 1e-38  # 128 bits


@pytest.mark.parametrize("value", [{"x_F": -1}, {"x_F": 0.5, "N": 2.5}, {"x_F": 1, "N": 0}], ids=str)
def test_a_value_against_the_declaration_of_its_symbol_is_refused(value) -> None:
    with pytest.raises(ValueError, match=r"x_F|N"):
        evaluate(Bound.upper(symbols.x_F * symbols.N), {"N": 1, **value})


def test_enclose_checks_assumptions_too() -> None:
    bound = Bound.lower(x, assumptions=(Assumption(x, ">", S(1)),))
    with pytest.raises(ValueError, match="assumes x > 1"):
        enclose(bound, {x: 1})


def test_zero_is_taken_as_the_limit_of_a_positive_number() -> None:
    assert evaluate(Bound.lower(symbols.sigma), {"sigma": 0}) == 0.0


def test_floats_of_an_undefined_ball_are_on_the_safe_side() -> None:
    assert upper_float(flint.arb("nan")) == math.inf
    assert lower_float(flint.arb("nan")) == -math.inf


def test_floats_of_balls_beyond_the_largest_float_are_on_the_safe_side() -> None:
    huge = flint.arb(10) ** 400
    assert (lower_float(huge), upper_float(huge)) == (sys.float_info.max, math.inf)
    assert (lower_float(-huge), upper_float(-huge)) == (-math.inf, -sys.float_info.max)


def test_compound_conditions_undecided_in_one_part_follow_the_other() -> None:
    wide = flint.arb(1, 0.5)
    either = Piecewise((1, Or(x > 1, y > 1)), (2, True))
    assert enclose_expression(either, {x: wide, y: 3}) == 1
    both = enclose_expression(either, {x: wide, y: 0})
    assert both.contains(1)
    assert both.contains(2)
    assert enclose_expression(Piecewise((1, Not(And(x > 1, y > 1))), (2, True)), {x: wide, y: 0}) == 1


def test_roots_of_balls_around_zero_contain_the_roots_of_what_is_not_negative() -> None:
    around = flint.arb(0, 0.25)
    for exponent, top in ((S(1) / 2, 0.5), (S(3) / 2, 0.125)):
        ball = enclose_expression(Pow(x, exponent), {x: around})
        assert ball.contains(0)
        assert ball.contains(flint.arb(top))
    assert enclose_expression(sqrt(x), {x: flint.arb(-2, 1)}).is_nan()


@pytest.mark.parametrize("exponent", [-2, -1, 0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    "ball", [flint.arb(0, 0.25), flint.arb(0.125, 0.25), flint.arb(-1, 0.5), flint.arb(0)], ids=str
)
def test_whole_powers_of_balls_contain_those_of_their_points(ball, exponent: int) -> None:
    power = enclose_expression(Pow(y, exponent, evaluate=False), {y: ball})
    for share in (-1, -0.5, 0, 0.5, 1):
        point = Fraction(float(ball.mid())) + Fraction(share) * Fraction(float(ball.rad()))
        # the radius is stored rounded up by 2^-30 of itself at most, so shares of it lie inside
        if point == 0 and exponent < 0:
            assert not power.is_finite()
        elif power.is_finite():
            assert power.overlaps(exact_ball(point**exponent))
    if exponent >= 0:
        assert power.is_finite()
