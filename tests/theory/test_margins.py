"""Distances to the boundary: the first-order one, its enclosure, and the composed bounds that enter."""

import pytest
import sympy
from sympy import S

from theory.margins import (
    K,
    beta,
    first_order,
    g,
    input_derivatives,
    lower_by_curvature,
    lower_by_lipschitz,
    m,
    norm_symbol,
    point_to_hyperplane,
    upper_by_curvature,
)
from theory.spec import parse


def test_the_first_order_distance_is_the_distance_to_a_hyperplane() -> None:
    assert first_order() == m / g
    assert all(step.verify() for step in point_to_hyperplane())


def test_the_enclosure_recomputes_and_closes_as_the_curvature_goes() -> None:
    for bound in (lower_by_lipschitz(), lower_by_curvature(), upper_by_curvature()):
        bound.verify()
    for bound in (lower_by_curvature(), upper_by_curvature()):
        assert sympy.limit(bound.expression, beta, 0) == first_order()


@pytest.mark.parametrize("curvature", [S(1) / 10, S(1), S(4)])
def test_parabolas_attain_both_ends(curvature: sympy.Expr) -> None:
    # m(x) = 1 - 3 x -+ curvature x^2 / 2 with m = 1, g = 3 at x = 0; on the line the boundary is the least root in absolute value
    x = sympy.Symbol("x", real=True)
    for bound, sign in ((lower_by_curvature(), -1), (upper_by_curvature(), 1)):
        roots = sympy.solve(1 - 3 * x + sign * curvature * x**2 / 2, x)
        value = bound.expression.subs({m: 1, g: 3, beta: curvature})
        assert sympy.simplify(min(map(abs, roots)) - value) == 0


def test_the_upper_bound_states_when_it_says_nothing() -> None:
    (assumption,) = upper_by_curvature().assumptions
    assert assumption.difference == g**2 - 2 * beta * m


def test_the_bounds_are_those_of_the_composition_rule_in_the_norms_of_the_weights() -> None:
    found = input_derivatives(parse("affine(6, bias=true), tanh, affine(3, bias=true)"), 4)
    first, last = norm_symbol("0.weight"), norm_symbol("2.weight")
    assert found.lipschitz.expression == first * last
    # sup |tanh''| = 4 / (3 sqrt 3)
    assert sympy.simplify(found.curvature.expression - 4 / (3 * sympy.sqrt(3)) * first**2 * last) == 0
    assert found.names == ("0.weight", "2.weight")


def test_rectifiers_have_no_curvature_bound_and_affine_networks_none_to_bound() -> None:
    assert input_derivatives(parse("affine(6), relu, affine(3)"), 4).curvature.expression is S.Infinity
    assert input_derivatives(parse("affine(6), affine(3)"), 4).curvature.expression == 0
    assert K in lower_by_lipschitz().expression.free_symbols
