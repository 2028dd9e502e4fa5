"""Closed forms in the depth: comparisons that are proven, recursions that are solved, and a proof that fails where it should."""

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from sympy import Max, S, Symbol

from theory.bound import Step, gap
from theory.induction import at_least, closed_form, k, largest, shifted

L = Symbol("L", integer=True, positive=True)
J = Symbol("j", integer=True, nonnegative=True)


def test_comparisons_follow_from_declared_signs_only() -> None:
    assert at_least(3 * L - 1, 2)
    assert not at_least(3 * L - 2, 2)
    assert at_least(2**L, L + 1)
    assert at_least(6 * 2**L - 4 * L - 6, L**2 + L)
    assert not at_least(2**L, L + 2)
    assert largest(2, 3 * L - 1, L) == 3 * L - 1
    assert largest(S.NegativeInfinity, S.NegativeInfinity) is S.NegativeInfinity
    x = Symbol("x", integer=True, nonnegative=True)
    assert largest(x, 1) == Max(1, x)


@given(st.lists(st.integers(-6, 6), min_size=4, max_size=4), st.integers(0, 8))
def test_what_is_proven_non_negative_is_non_negative(c: list[int], j: int) -> None:
    expression = c[0] + c[1] * J + c[2] * J**2 + c[3] * 2**J
    if at_least(expression, 0):
        assert expression.subs(J, j) >= 0


def test_shifting_is_an_identity() -> None:
    expression = sympy.expand(3 * J**3 - 2 * J + 5)
    ff = {Symbol(f"ff(j, {i})", nonnegative=True): sympy.expand_func(sympy.ff(J, i)) for i in (2, 3)}
    assert sympy.expand(shifted(expression).subs(ff) - expression) == 0


@given(
    st.tuples(*(st.integers(0, 4) for _ in range(5))), st.sampled_from([1, 2, 3]), st.integers(0, 3), st.integers(0, 3)
)
def test_a_closed_form_is_the_recursion(c: tuple[int, ...], factor: int, start: int, other: int) -> None:
    def step(values: tuple) -> tuple:
        d, D = values
        return factor * d + c[0], largest(d + c[1], D + c[2], c[3])

    try:
        form = closed_form(step, (S(start), S(other)), ("d", "D"))
    except ValueError:
        # no single member of the maximum wins from the third depth on, or only an unproven comparison does
        return
    assert all(s.verify() for s in form.steps)
    state = (S(start), S(other))
    for depth in range(10):
        if depth >= form.first:
            assert form.at(S(depth)) == state
        state = step(state)


def test_degrees_of_a_perceptron_are_solved_not_refused() -> None:
    form = closed_form(lambda v: (S(1), largest(v[0], v[1] + 1) + 2), (S(1), S(2)), ("d", "D"))
    assert form.values == (1, 3 * k + 2)
    assert form.first == 0
    assert closed_form(lambda v: (2 * v[0] + 1,), (S(0),), ("d",)).values == (2**k - 1,)


def test_recursions_beyond_the_method_are_refused() -> None:
    with pytest.raises(ValueError, match="give the depth as a number"):
        closed_form(lambda v: (v[0] ** 2 + 1,), (S(2),), ("d",))
    with pytest.raises(ValueError, match="give the depth as a number"):
        closed_form(lambda v: (v[1] + v[0], v[0]), (S(1), S(1)), ("a", "b"))


def test_an_induction_with_a_wrong_closed_form_does_not_verify() -> None:
    wrong = 3 * k + 1
    assert not Step("step", (gap(wrong.subs(k, J + 1), wrong.subs(k, J) + 2),)).verify()
    assert not Step("choice", (), (shifted(J - 1),)).verify()
