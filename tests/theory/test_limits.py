"""Limits in the depth: exact forms, agreement with the bound at great depth, and refusal where nothing is decided."""

from __future__ import annotations

import pytest
import sympy
from sympy import Eq, Max, Min, Piecewise, exp, sqrt

from theory.bound import Bound
from theory.evaluate import enclose_expression
from theory.landscape import Landscape, landscape
from theory.limits import depth_limit
from theory.spec import parse
from theory.symbols import KNOWN, N, c, eps, sigma, x_0
from theory.symbols import L as depth

DEPTHBOUND = "affine(12), repeat(L, residual(tanh, affine(12, weight_norm=frobenius), scale(c/L))), crop(10)"
VALUES = {
    KNOWN["N"]: 16,
    KNOWN["x_0"]: 3,
    KNOWN["x_F"]: 5,
    KNOWN["sigma"]: 1,
    KNOWN["c"]: sympy.Rational(1, 2),
    eps: 2,
}


@pytest.fixture(scope="module")
def residual_landscape() -> Landscape:
    return landscape(parse(DEPTHBOUND), sympy.Integer(64))


def limit_of(expression: sympy.Expr) -> sympy.Expr | None:
    return depth_limit(Bound.upper(expression), depth)


def test_branch_scale_c_over_depth_makes_the_first_derivative_and_the_kernel_independent_of_depth(
    residual_landscape: Landscape,
) -> None:
    assert depth_limit(residual_landscape.first_derivative, depth) == x_0 * exp(c)
    assert depth_limit(residual_landscape.tangent_kernel_lambda_min, depth) == sigma**2 * exp(-2 * c)


@pytest.mark.parametrize("name", ["first_derivative", "second_derivative", "smoothness_constant"])
def test_a_limit_is_what_the_bound_tends_to(residual_landscape: Landscape, name: str) -> None:
    bound = getattr(residual_landscape, name)
    limit = depth_limit(bound, depth)
    assert limit is not None
    assert not limit.has(depth)
    # the remainder is of order 1 / sqrt(L): at L = 10^10 it is below 1e-4 of the limit
    far = float(enclose_expression(bound.expression, {**VALUES, depth: 10**10}).mid())
    assert far == pytest.approx(float(enclose_expression(limit, VALUES).mid()), rel=1e-4)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (x_0, x_0),
        (sympy.S(3) / depth, 0),
        ((1 + c / depth) ** depth, exp(c)),
        ((1 - c / depth) ** (3 * depth + 2), exp(-3 * c)),
        ((1 + c / sqrt(depth)) ** depth, sympy.oo),
        (sympy.Rational(1, 2) ** depth * depth**3, 0),
        (sympy.Rational(9, 4) ** depth / sympy.Rational(3, 2) ** (2 * depth), 1),
        (((1 + c / depth) ** (2 * depth) - 1) / (depth * ((1 + c / depth) ** 2 - 1)), (exp(2 * c) - 1) / (2 * c)),
        (Max(0, 1 - c / depth) ** (2 * depth), exp(-2 * c)),
        (Max(0, c / depth - 1), 0),
        (Min(x_0 + 1 / depth, depth), x_0),
        (Piecewise((depth, Eq(1 + c / depth, 1)), (1 / depth, True)), 0),
        (Piecewise((x_0, 1 + c / depth >= 1), (depth, True)), x_0),
        (sqrt(N) * depth / (depth + 1), sqrt(N)),
        (sqrt(exp(2 * c) - 2 * exp(c) + 1) + 1 / depth, exp(c) - 1),
    ],
)
def test_limits_are_exact(expression: sympy.Expr, expected: sympy.Expr) -> None:
    limit = limit_of(sympy.sympify(expression))
    assert limit is not None
    if expected is sympy.oo:
        assert limit is sympy.oo
    else:
        assert sympy.simplify(limit - expected) == 0


@pytest.mark.parametrize(
    "expression",
    [
        (1 + Max(0, 1 - c)) ** depth,
        Piecewise((depth, c > eps), (1 / depth, True)),
        sympy.floor(depth * c),
        sympy.sin(depth) + 1,
    ],
)
def test_an_undecided_limit_is_refused(expression: sympy.Expr) -> None:
    assert limit_of(expression) is None


def test_the_branch_scale_one_over_root_depth_is_too_large_and_the_limits_say_so() -> None:
    here = landscape(parse(DEPTHBOUND.replace("c/L", "c/sqrt(L)")), sympy.Integer(64))
    assert depth_limit(here.first_derivative, depth) is sympy.oo
    assert depth_limit(here.tangent_kernel_lambda_min, depth) == 0
