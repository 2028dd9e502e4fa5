"""Moments of Gaussian ReLU networks: recomputed steps, and values against numerical integration."""

from __future__ import annotations

import math

import mpmath
import pytest
import sympy

from theory.kernels.gaussian_relu import (
    angle_bounds,
    arc_steps,
    both_active,
    d,
    descent_steps,
    first_order_remainder,
    gradient_kernel,
    gradient_lower_steps,
    gradient_upper,
    m,
    next_angle,
    norm_deviation,
    norm_variance,
    pair_lambda_min,
    relu_product,
    semi_smooth_steps,
    single_gradient,
    symbols_of_remainder,
    theta,
)
from theory.symbols import L


def test_every_step_is_recomputed() -> None:
    for bound in (norm_variance(), single_gradient(), gradient_upper(), first_order_remainder(), *angle_bounds()):
        bound.verify()
    for steps in (arc_steps, descent_steps, gradient_lower_steps, semi_smooth_steps):
        found = steps()
        assert all(step.verify() for step in found)
        assert any(step.checks for step in found)


@pytest.mark.parametrize("angle", [0.2, 1.0, 2.5])
def test_means_of_two_correlated_normals_agree_with_integration(angle: float) -> None:
    # v = cos(angle) u + sin(angle) w; the inner integral over w is elementary
    c, s = math.cos(angle), math.sin(angle)

    def active(u: float) -> float:
        return mpmath.ncdf(c * u / s) * mpmath.npdf(u)

    def product(u: float) -> float:
        mean = c * u
        return u * (mean * mpmath.ncdf(mean / s) + s * mpmath.npdf(mean / s)) * mpmath.npdf(u)

    line = [0, 1, 3, 12]
    assert float(both_active().subs(theta, angle)) == pytest.approx(float(mpmath.quad(active, line)), abs=1e-10)
    assert float(relu_product().subs(theta, angle)) == pytest.approx(float(mpmath.quad(product, line)), abs=1e-10)


def test_the_angle_after_one_layer_lies_between_its_bounds() -> None:
    low, high = angle_bounds()
    for start in (0.01, 0.3, 1.0, 1.5):
        values = {theta: start, L: 1}
        after = float(next_angle(sympy.Float(start, 30)))
        assert float(low.expression.subs(values)) < after < float(high.expression.subs(values))
    # the rate of the upper bound is the best one: it is the first term of the series
    small = sympy.Rational(1, 1000)
    rate = (1 / next_angle(small) - 1 / small).evalf(30)
    assert float(rate) == pytest.approx(1 / (3 * math.pi), rel=1e-2)


def test_variance_of_one_layer_by_the_moments_of_chi_squared() -> None:
    # (2/m) sum relu(g_j)^2, exactly: 4/m^2 times m times Var relu(g)^2 = 3/2 - 1/4
    one = norm_variance().expression.subs(L, 0)
    assert sympy.simplify(one - 4 / m * (sympy.Rational(3, 2) - sympy.Rational(1, 4))) == 0
    assert norm_deviation(100, 0, 0.5) == pytest.approx(0.05 / 0.25)
    with pytest.raises(ValueError, match="give a positive number"):
        norm_deviation(10, 1, 0.0)


def test_least_eigenvalue_of_a_pair() -> None:
    matrix = sympy.Matrix([[sympy.S.Half, gradient_kernel(theta)], [gradient_kernel(theta), sympy.S.Half]])
    for angle in (0.1, 1.0, 1.5):
        values = [float(v) for v in matrix.subs(theta, angle).eigenvals()]
        assert float(pair_lambda_min().subs(theta, angle)) == pytest.approx(min(values))


def test_the_first_order_remainder_agrees_with_a_sum_over_drawn_units() -> None:
    # the best of the moves e = tau b of the nearest units, by quadrature over b and the density of z at 0
    v, h, r = symbols_of_remainder()
    width, radius = 10**6, 0.01
    value = float(first_order_remainder().expression.subs({m: width, d: 2, v: 3, h: 1.1, r: radius}))
    sigma, density = 3 / math.sqrt(2), math.sqrt(width) / (2 * math.sqrt(math.pi) * 1.1)
    third = float(mpmath.quad(lambda b: b**3 * mpmath.npdf(b, 0, sigma), [0, sigma, 12 * sigma]))
    tau = ((radius * 1.1) ** 2 / (width * density * third)) ** (1 / 3)
    gain = width * float(
        mpmath.quad(
            lambda b: (
                mpmath.npdf(b, 0, sigma) * 2 * density * mpmath.quad(lambda y: b * (tau * b - y), [0, tau * b / 2])
            ),
            [0, sigma, 12 * sigma],
        )
    )
    assert gain == pytest.approx(value, rel=1e-8)
