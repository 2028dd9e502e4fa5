"""Bounds on solutions, critical points and Betti numbers: values that are known, and the arithmetic of huge numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sympy import Symbol

from theory.topology.betti import LARGEST_BITS, critical_points, khovanskii, sublevel_betti, zell

small = st.integers(1, 6)


def test_without_a_chain_the_bound_is_that_of_bezout() -> None:
    assert khovanskii(3, 0, 0, (2, 3, 4)).exact() == 24
    assert critical_points(2, 0, 0, 3).exact() == 9


def test_the_zeros_of_an_exponential_polynomial_are_below_the_bound() -> None:
    # e^x - p(x) with deg p = 2 has at most 3 zeros (its third derivative e^x has none)
    count = khovanskii(1, 1, 1, (2,))
    assert count.exact() == 2 * (2 - 1 + 1 + 1)
    assert count.exact() >= 3


@given(small, small, small, small)
def test_critical_points_are_khovanskii_on_the_gradient(n: int, l: int, alpha: int, beta: int) -> None:
    g = alpha + beta - 1
    count = critical_points(n, l, alpha, g)
    assert count.exact() == khovanskii(n, l, alpha, (g,) * n).exact()
    stated = 2 ** (l * (l - 1) // 2) * g**n * (n * (alpha + beta - 2) + min(n, l) * alpha + 1) ** l
    assert count.exact() == stated
    assert sublevel_betti(n, l, alpha, g).exact() == stated
    assert math.isclose(count.log2, math.log2(stated), rel_tol=1e-12)
    assert math.isclose(count.decades, math.log10(stated), rel_tol=1e-12)
    assert count.log2 - math.log2(stated) + 1e-12 >= 0


def test_symbols_are_filled_in_later() -> None:
    n, l = Symbol("n", integer=True, positive=True), Symbol("l", integer=True, positive=True)
    count = critical_points(n, l, 2, 5)
    with pytest.raises(ValueError, match="no value for l, n"):
        _ = count.log2
    assert count.at({n: 4, l: 3}).exact() == critical_points(4, 3, 2, 5).exact()
    assert count.bound.expression.subs({n: 4, l: 3}) == count.at({n: 4, l: 3}).exact()


def test_huge_numbers_stay_logarithms() -> None:
    count = critical_points(10**5, 10**5, 8, 11)
    assert count.log2 > LARGEST_BITS
    assert math.isclose(count.decades, count.log2 * math.log10(2), rel_tol=1e-12)
    with pytest.raises(ValueError, match="use log2 or decades"):
        count.exact()


def test_a_shape_is_no_bound() -> None:
    shape = zell(2, 3, 1, 2, conditions=2)
    assert shape.exact() == 2**2 * 2**3 * (2 * 2 + 2) ** 5
    assert zell(2, 3, 1, 2, constant=3).exact() == 2**3 * (3 * 6) ** 5
    with pytest.raises(ValueError, match="a shape and bounds nothing"):
        _ = shape.bound


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="as many equations as variables"):
        khovanskii(2, 1, 1, (1,))
    with pytest.raises(ValueError, match="variables = 0"):
        critical_points(0, 1, 1, 1)
    with pytest.raises(ValueError, match="gradient degree = 0"):
        critical_points(1, 1, 1, 0)
