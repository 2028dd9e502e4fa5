"""Suprema are proven: exact ones are exact, enclosed ones lie above, and what cannot be proven is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Eq, Piecewise, S, Symbol, cos, exp, oo, pi, sin, sqrt, tan, tanh

from theory.atoms.entrywise import ACTIVATIONS, activation_facts, slope_infimum_on, z
from theory.suprema import (
    Extremum,
    _larger,
    infimum,
    stationary_points,
    supremum,
    supremum_abs,
    supremum_on_unit_square,
)

GRID = np.linspace(-12, 12, 48_001)
"""Spacing 5e-4: with `|f''| <= 10` a grid maximum is within `10 (2.5e-4)^2 / 2 < 4e-7` of the true one; TOUCH allows 1e-6."""
TOUCH = 1e-6
ROUNDING = 1e-12
"""Relative rounding of float evaluation of formulas of a dozen operations, with a wide margin over 2^-53."""


def numeric(expression: sympy.Expr) -> np.ndarray:
    """Values on GRID."""
    from_scipy = sympy.lambdify(z, expression, modules=[{"erf": np.vectorize(math.erf)}, "numpy"])
    with np.errstate(over="ignore", invalid="ignore"):
        return np.broadcast_to(from_scipy(GRID), GRID.shape)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("order", [1, 2])
def test_the_supremum_of_every_activation_derivative_is_above_all_values_and_touched_by_them(
    name: str, order: int
) -> None:
    facts = activation_facts(name)
    found: Extremum = facts.slope if order == 1 else facts.curvature
    values = np.abs(numeric(sympy.diff(ACTIVATIONS[name], z, order)))
    values = values[np.isfinite(values)]
    if found.value is oo:
        assert name in ("relu", "leaky_relu")
        assert order == 2
        return
    bound = float(found.value)
    assert values.max() <= bound * (1 + ROUNDING)
    # limits at infinity (sigmoid-like slopes reach 1 to within e^-12 on the grid) and jumps are approached, not attained
    assert values.max() >= bound - max(TOUCH, math.exp(-11))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_size_and_growth_of_every_activation_hold_on_a_grid(name: str) -> None:
    facts, values = activation_facts(name), numeric(ACTIVATIONS[name])
    finite = np.isfinite(values)
    assert facts.size.value is oo or np.abs(values[finite]).max() <= float(facts.size.value) * (1 + ROUNDING)
    at_zero = float(ACTIVATIONS[name].subs(z, 0))
    allowed = float(facts.growth) * np.abs(GRID) * (1 + ROUNDING) + 1e-15
    assert (np.abs(values - at_zero) <= allowed)[finite].all()


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("b", [S(1) / 100, S(1) / 3, S(1), S(5) / 4, S(2), sympy.pi, S(4), S(11)], ids=str)
def test_the_slope_infimum_on_an_interval_is_below_dense_samples_of_the_slope(name: str, b: sympy.Expr) -> None:
    claimed = slope_infimum_on(name, b)
    claimed = float(claimed.subs({}) if claimed.is_number else claimed)
    assert claimed >= 0
    inside = np.abs(GRID) <= float(b)
    slope = numeric(sympy.diff(ACTIVATIONS[name], z))[inside]
    assert claimed <= np.abs(slope).min() + 1e-15


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "arctan", "erf", "elu", "identity"])
def test_the_slope_infimum_of_monotone_activations_is_the_value_at_an_end(name: str) -> None:
    slope = sympy.diff(ACTIVATIONS[name], z)
    for b in (S(1) / 3, S(2)):
        ends = [float(slope.subs(z, end)) for end in (-b, b)]
        # both sides are one float evaluation of the same exact number
        assert float(slope_infimum_on(name, b)) == pytest.approx(min(ends), rel=1e-14)


# cubics at most: zeros of a derivative of degree three need `CRootOf`, which is a finding below
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=2, max_size=4),
    st.fractions(-3, 3, max_denominator=8),
    st.fractions(min_value="1/8", max_value=3, max_denominator=8),
)
def test_polynomials_on_an_interval_have_the_supremum_that_a_dense_grid_approaches(coefficients, start, length) -> None:
    low = sympy.Rational(start.numerator, start.denominator)
    high = low + sympy.Rational(length.numerator, length.denominator)
    polynomial = sum(c * z**k for k, c in enumerate(coefficients))
    found = supremum(sympy.sympify(polynomial), z, low, high)
    xs = np.linspace(float(low), float(high), 4001)
    top = np.polyval(coefficients[::-1], xs).max()
    assert found.exact
    # |p'| <= 5 (1 + 2*6 + 3*36) < 610 on [-6, 6]; half a grid step is at most 3/8000
    assert top - 1e-9 <= float(found.value) <= top + 610 * 3 / 8000
    # exact means: attained at the point it names (a rational end turned into a product of roots is the finding below)
    attained = sympy.sympify(polynomial).subs(z, found.at)
    assert sympy.simplify(attained - found.value) == 0 or (attained.is_Rational and not found.value.is_Rational)


def test_a_rational_supremum_stays_the_rational_number_it_is() -> None:
    found = supremum(5 * z**3 - 2 * z**2 - 2 * z - 3, z, S(2), S(9) / 4)
    assert found.exact
    assert found.value == S(2517) / 64


@pytest.mark.parametrize(
    ("f", "value", "at"),
    [
        (tanh(z), 1, oo),
        (tanh(z) * (1 - tanh(z) ** 2), 2 * sqrt(3) / 9, sympy.atanh(1 / sqrt(3))),
        (z * exp(-(z**2)), exp(-S(1) / 2) / sqrt(2), sqrt(2) / 2),
        (sin(z), 1, pi / 2),
        (exp(z) / (1 + exp(2 * z)), S(1) / 2, 0),
    ],
    ids=str,
)
def test_exact_suprema_are_the_closed_forms_known_from_calculus(f, value, at) -> None:
    found = supremum(f, z)
    assert found.exact
    assert found.gap == 0
    assert sympy.simplify(found.value - value) == 0
    assert sympy.simplify(found.at - at) == 0 or found.at is at


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_slopes_of_gelu_and_silu_exceed_one(name: str) -> None:
    assert activation_facts(name).slope.value > 1.09


def test_an_enclosed_supremum_says_so_and_carries_a_small_gap() -> None:
    found = activation_facts("silu").slope
    assert not found.exact
    assert 0 <= found.gap < 1e-10
    assert "branch and bound" in found.method


def test_pieces_contribute_on_their_own_interval_only() -> None:
    f = Piecewise((z, z < 0), (1 - z, True))
    assert supremum(f, z).value == 1
    assert infimum(Piecewise((exp(z), z < 0), (2 + z, True)), z).value == 0
    assert supremum_abs(Piecewise((-3, z < 0), (2, True)), z).value == 3


def test_open_ends_count_as_limits() -> None:
    assert supremum(z**2, z, S(-1), S(2)).value == 4
    assert infimum(1 / z, z, S(0), oo).value == 0
    assert supremum(1 / z, z, S(0), S(1)).value is oo


def test_a_divergent_function_has_supremum_infinity() -> None:
    assert supremum(z / (1 + exp(-z)), z).value is oo
    assert supremum_abs(-exp(z), z).value is oo


def test_stationary_points_of_a_quartic_are_complete() -> None:
    points = stationary_points(z**4 - 2 * z**2, z)
    assert points == [-1, 0, 1]


def test_of_higher_degree_the_square_needs_a_proof_and_refuses_without_one() -> None:
    x, y = sympy.symbols("x y", nonnegative=True)
    f = sympy.expand(1 + x**3 - 2 * x**3 * y + y**2 / 2)
    found = supremum_on_unit_square(f, x, y)
    assert found.value == 2
    assert f.subs({x: found.at[0], y: found.at[1]}) == 2
    # flat along a whole side: 3 (1 - y) (1 + x^3 y), largest at y = 0
    assert supremum_on_unit_square(sympy.expand(3 * (1 - y) * (1 + x**3 * y)), x, y).value == 3
    inside = sympy.expand(x**3 * (1 - x) * y * (1 - y))
    with pytest.raises(NotImplementedError, match="sides"):
        supremum_on_unit_square(inside, x, y)


def test_the_supremum_on_the_unit_square_agrees_with_a_grid() -> None:
    x, y = sympy.symbols("x y", nonnegative=True)
    f = x * (1 - x) * (1 + y) - y**2 * x
    found = supremum_on_unit_square(sympy.expand(f), x, y)
    grid = np.linspace(0, 1, 401)
    values = grid[:, None] * (1 - grid[:, None]) * (1 + grid) - grid**2 * grid[:, None]
    # both slopes are at most 4, half a grid step 1/800
    assert values.max() <= float(found.value) + ROUNDING
    assert values.max() >= float(found.value) - 4 / 800
    assert sympy.simplify(f.subs({x: found.at[0], y: found.at[1]}) - found.value) == 0


def test_candidates_closer_than_the_working_precision_are_refused_unless_they_are_equal() -> None:
    close = sqrt(S(2)) + S(10) ** -60
    with pytest.raises(NotImplementedError, match="cannot tell"):
        _larger((sqrt(S(2)), S(0)), (close, S(1)))
    assert _larger((sqrt(S(8)), S(0)), (2 * sqrt(S(2)), S(1)))[1] == 0


def test_what_cannot_be_proven_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="tail"):
        supremum(sin(2 * z), z)


# Findings: claims of the module that these examples refute.


def test_the_slope_of_mish_exceeds_one() -> None:
    mish = z * tanh(sympy.log(1 + exp(z)))
    try:
        found = supremum_abs(sympy.diff(mish, z), z)
    except NotImplementedError:
        return  # a refusal is a good answer; 1 is not: the slope at z = 1.5 is 1.0868
    assert found.value > 1.08


def test_a_product_of_z_and_a_polynomial_in_tanh_is_enclosed() -> None:
    found = supremum(z * (1 - tanh(z) ** 2), z)
    assert 0.4477 < found.value < 0.4478  # 0.447743... at z = 0.77


@pytest.mark.parametrize(
    ("f", "low", "high", "least"),
    [(sin(z), S(4), S(10), 1), (sin(z), -oo, S(0), 1), (sin(z) + z / 2, S(0), S(10), 5.05), (cos(z), S(5), S(7), 1)],
    ids=str,
)
def test_suprema_of_sines_beyond_one_period_are_found_or_refused(f, low, high, least) -> None:
    try:
        found = supremum(f, z, low, high)
    except NotImplementedError:
        return
    assert found.value >= least


@pytest.mark.parametrize("f", [1 / z, 1 / z**2], ids=str)
def test_a_pole_inside_the_interval_makes_the_supremum_infinite_or_refused(f) -> None:
    try:
        found = supremum(f, z, S(-1), S(1))
    except NotImplementedError:
        return
    assert found.value is oo


@pytest.mark.parametrize(
    ("f", "low", "high", "least"), [(sin(z) / z, S(-1), S(2), 1), (tan(z), S(0), S(3), 10**6)], ids=str
)
def test_branch_and_bound_survives_boxes_without_an_enclosure(f, low, high, least) -> None:
    try:
        found = supremum(f, z, low, high)
    except NotImplementedError:
        return
    assert found.gap >= 0
    assert found.value >= least


def test_critical_points_that_are_roots_of_irreducible_cubics_are_compared() -> None:
    found = supremum(z**4 - z**3 + z, z, S(0), S(1) / 8)
    assert found.value == (z**4 - z**3 + z).subs(z, S(1) / 8)


def test_a_piece_of_one_point_counts() -> None:
    assert supremum(Piecewise((5, Eq(z, 0)), (-(z**2), True)), z).value == 5


def test_an_extremum_of_an_expression_without_the_variable_is_the_expression() -> None:
    a = Symbol("a", positive=True)
    assert supremum(a, z).value == a


def test_coefficients_that_are_no_fractions_are_enclosed_not_refused() -> None:
    x = sympy.Symbol("x", real=True)
    found = supremum(x * (sympy.pi - x) ** 2 / (1 + sympy.pi + x), x, S.Zero, S(1))
    points = [
        float((t * (sympy.pi - t) ** 2 / (1 + sympy.pi + t)).evalf()) for t in (S(k) / 200 for k in range(1, 200))
    ]
    # a grid of step 1/200 is within 1e-4 of the maximum
    assert max(points) <= float(found.value) <= max(points) + 1e-4
    assert not found.exact
