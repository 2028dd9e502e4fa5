"""A bound keeps its sense, its assumptions and its parents; dropping options never costs validity."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Min, S, Symbol, oo, sqrt

from theory import symbols
from theory.bound import Assumption, Bound, Step, _at_least_one, _exceeds, minimum
from theory.derive import derive
from theory.evaluate import enclose_expression
from theory.landscape import data_features
from theory.spec import parse

x, y, N, d = Symbol("x", positive=True), Symbol("y", positive=True), symbols.N, symbols.d
WIDE = Assumption(N, ">=", S(2), "two samples")
TALL = Assumption(d, ">", S(3), "four features")


def upper(expression, **facts) -> Bound:
    return Bound.upper(expression, quantity=facts.pop("quantity", "it"), **facts)


def lower(expression, **facts) -> Bound:
    return Bound.lower(expression, quantity=facts.pop("quantity", "it"), **facts)


def test_mixing_senses_is_an_error_that_names_both_bounds() -> None:
    for combine in (lambda a, b: a + b, lambda a, b: a * b):
        with pytest.raises(ValueError, match=r"upper bound it <= x with lower bound it >= y"):
            combine(upper(x), lower(y))


@pytest.mark.parametrize("expression", [-1, -x, sympy.nan])
def test_a_negative_or_undefined_expression_is_no_bound(expression) -> None:
    with pytest.raises(ValueError, match="not a non-negative number"):
        upper(expression)


def test_infinity_absorbs_sums_and_products_and_zero_absorbs_infinity() -> None:
    assert (upper(oo) + upper(x)).expression is oo
    assert (upper(x) * upper(oo)).expression is oo
    assert (upper(0) * upper(oo)).expression == 0
    assert (upper(oo) * 0).expression == 0
    assert (upper(oo) ** S.Half).expression is oo
    assert (lower(0) * lower(x)).expression == 0
    assert (lower(0) + lower(x)).expression == x


def test_powers_must_be_positive() -> None:
    assert (upper(x) ** 2).expression == x**2
    for exponent in (0, -1, Symbol("a", real=True)):
        with pytest.raises(ValueError, match="positive power only"):
            upper(x) ** exponent


def test_assumptions_are_united_without_repetition() -> None:
    both = upper(x, assumptions=(WIDE,)) * upper(y, assumptions=(WIDE, TALL)) + upper(x, assumptions=(TALL,))
    assert both.assumptions == (WIDE, TALL)


def test_plain_expressions_take_either_sense_and_leave_no_parent() -> None:
    total = 2 * lower(x) + y
    assert total.sense == "lower"
    assert [b.expression for b in total.ancestors()] == [2 * x + y, 2 * x, x]


def test_a_python_float_is_not_an_exact_factor() -> None:
    with pytest.raises(TypeError):
        upper(x) * 0.5


def test_an_unknown_relation_names_itself() -> None:
    with pytest.raises(ValueError, match="'=='"):
        Assumption(x, "==", y)


def test_substitution_reaches_the_assumptions() -> None:
    at = upper(N * x, assumptions=(WIDE,)).substitute({N: 5})
    assert at.expression == 5 * x
    assert at.assumptions[0].left == 5
    assert "N = 5" in at.source


def test_explain_prints_every_bound_once_and_refers_back_by_number() -> None:
    shared = upper(x, quantity="shared", source="somewhere", assumptions=(WIDE,))
    left, right = (shared * upper(y)).named("left"), (shared + upper(y, quantity="other")).named("right")
    text = (left + right).named("top").explain()
    ids = {id(b): b for b in (left + right).ancestors()}
    for bound in ids.values():
        full = [line for line in text.splitlines() if line.strip().endswith(f"] {bound}")]
        assert len(full) == 1 or bound.quantity in ("top", ""), (str(bound), text)
    assert text.count("shared <= x") == 2
    assert text.count("shared <= x  (above)") == 1
    assert text.count("from: somewhere") == 1
    assert text.count("assumes: N >= 2") >= 1


def test_a_chain_of_doublings_is_explained_in_linear_length() -> None:
    bound = upper(x, quantity="start")
    for _ in range(40):
        bound = (bound + bound).named("sum")
    assert len(bound.explain().splitlines()) < 40 * 6
    assert sum(1 for _ in bound.ancestors()) < 100


def test_verify_recomputes_every_identity_of_every_ancestor() -> None:
    good = upper(x, steps=(Step("a square", (sympy.expand((x + y) ** 2) - (x + y) ** 2,)),))
    (good * upper(y) + upper(x)).verify()
    bad = upper(y, steps=(Step("wrong by one", ((x + 1) ** 2 - x**2 - 2 * x,)),))
    with pytest.raises(AssertionError, match="wrong by one"):
        (good * bad + upper(x)).verify()


def test_a_quoted_fact_has_nothing_to_verify() -> None:
    assert Step("a symmetric form attains its norm on the diagonal").verify()


# minimum: any subset of valid bounds is valid, so what must hold is: one of the given ones at every value


factor = st.sampled_from([S(1), S(2), S(1) / 3, sqrt(S(2)), x, y, 1 / x, N, sqrt(N), 1 / N, sqrt(d), d**2, 1 / sqrt(d)])
# at most one share: its square is a difference, which is a finding below
share = st.sampled_from([S(1), sqrt(1 - 1 / N), sqrt(1 - 1 / d)])
monomial = st.builds(lambda factors, part: sympy.prod(factors) * part, st.lists(factor, min_size=1, max_size=4), share)
sums = st.lists(monomial, min_size=1, max_size=3).map(lambda terms: sympy.Add(*terms))
POINTS = [
    {x: sympy.Rational(*a), y: sympy.Rational(*b), N: n, d: k}
    for a, b, n, k in itertools.product([(1, 10), (7, 1)], [(1, 9), (1, 1), (30, 1)], [2, 3, 50], [2, 40])
]
"""Samples of the symbols; `N` and `d` from 2 on, as the shares `1 - 1/N` only appear after a mean was removed."""


def at_points(expression) -> np.ndarray:
    """Values at POINTS in float arithmetic: a dozen operations on positive numbers, good to 1e-14 relative."""
    function = sympy.lambdify((x, y, N, d), expression, "math")
    return np.array([function(*(float(values[s]) for s in (x, y, N, d))) for values in POINTS])


@settings(max_examples=100, deadline=None)
@given(st.lists(sums, min_size=1, max_size=4))
def test_the_minimum_equals_the_smallest_option_at_every_value(expressions) -> None:
    best = minimum(*map(upper, expressions))
    least = np.min([at_points(e) for e in expressions], axis=0)
    np.testing.assert_allclose(at_points(best.expression), least, rtol=1e-12)


@settings(max_examples=150, deadline=None)
@given(sums, sums)
def test_an_option_that_is_said_to_exceed_another_does_so_at_every_value(one, other) -> None:
    if _exceeds(one, other):
        assert (at_points(one) >= at_points(other) * (1 - 1e-12)).all()


def test_domination_by_whole_numbers_is_recognised_and_by_bare_symbols_is_not() -> None:
    assert _at_least_one(sqrt(N) * d)
    assert _at_least_one(sqrt(N) * sqrt(1 - 1 / N))
    assert not _at_least_one(x)
    assert not _at_least_one(1 / N)
    assert not _at_least_one(sqrt(1 - 1 / N))
    assert minimum(upper(sqrt(N) * x), upper(x), upper(y)).expression == Min(x, y)


def test_the_minimum_of_nested_minima_drops_dominated_members() -> None:
    nested = Bound.upper(Min(x, sqrt(N) * y), quantity="it")
    assert minimum(nested, upper(y)).expression == Min(x, y)


def test_the_minimum_keeps_the_assumptions_of_what_it_keeps() -> None:
    best = minimum(upper(x, assumptions=(WIDE,)), upper(y, assumptions=(TALL,)), upper(N * y))
    assert set(best.assumptions) == {WIDE, TALL}
    assert minimum(upper(0), upper(oo)).expression == 0


def test_the_minimum_is_for_upper_bounds_only() -> None:
    with pytest.raises(ValueError, match="upper"):
        minimum(lower(x), lower(y))


def test_a_product_with_a_minimum_has_the_value_of_the_product() -> None:
    product = Bound.upper(Min(x, y)) * upper(sqrt(N))
    for values in POINTS:
        expected = (Min(x, y) * sqrt(N)).subs(values)
        assert enclose_expression(product.expression, values).overlaps(enclose_expression(expected, {}))


# Findings.


@pytest.mark.parametrize(
    "combine",
    [
        lambda: upper(x) * upper(1, assumptions=(WIDE,)),
        lambda: upper(1, assumptions=(WIDE,)) * upper(x),
        lambda: upper(x) + upper(0, assumptions=(WIDE,)),
        lambda: upper(0, assumptions=(WIDE,)) + upper(x),
        lambda: lower(x) * lower(1, assumptions=(WIDE,)),
    ],
)
def test_neutral_elements_hand_on_their_assumptions(combine) -> None:
    assert combine().assumptions == (WIDE,)


@pytest.mark.parametrize("spec", ["repeat(L, scale(3/2)), tanh", "repeat(L, scale(2/3)), rms_norm"])
def test_powers_of_numbers_with_a_symbolic_exponent_are_compared(spec) -> None:
    derive(parse(spec), data_features(d, N))


@pytest.mark.parametrize(("better", "worse"), [(x * y - y, x * y), (1 - 1 / N, S(1))], ids=str)
def test_a_difference_is_not_said_to_exceed_its_first_term(better, worse) -> None:
    assert not _exceeds(better, worse)


def test_substitution_is_simultaneous() -> None:
    assert upper(x * y**2).substitute({x: y, y: x}).expression == y * x**2


def test_a_division_by_zero_is_no_bound() -> None:
    with pytest.raises(ValueError, match="not a non-negative"):
        upper(1 / x).substitute({x: 0})


def test_substitution_is_simultaneous_in_the_assumptions_too() -> None:
    at = upper(x, assumptions=(Assumption(x, ">", 2 * y),)).substitute({x: y, y: x})
    assert (at.assumptions[0].left, at.assumptions[0].right) == (y, 2 * x)


def test_the_numbers_of_a_ratio_are_judged_together() -> None:
    assert _at_least_one(sqrt(6) / 2 * sqrt(N))  # each factor alone says nothing: 1/2 is below 1
    assert not _at_least_one(sqrt(3) / 2 * sqrt(N))
    assert minimum(upper(sqrt(6) / 2 * x), upper(x)).expression == x
