"""Shaping: the derivations are recomputed, a solution is certified, a wrong one is not, and what has no solution is refused with its reason."""

import math

import pytest
from sympy import Rational

from theory.kernels.shaping import (
    condition_steps,
    deep_limit_steps,
    deep_limits,
    holds_one_root,
    linearity_steps,
    relu_steps,
    residuals,
    shape,
)


def test_every_step_is_recomputed() -> None:
    steps = (*condition_steps(), *deep_limit_steps(), *relu_steps(), *linearity_steps())
    assert all(step.verify() for step in steps)


def test_a_solution_is_certified_and_a_point_beside_it_is_not() -> None:
    found = shape("tanh", 100)
    assert found.residual < 1e-12
    assert found.certified is not None
    target = Rational(3, 2) ** Rational(1, 100)
    assert not holds_one_root("tanh", target, found.alpha, found.beta + 10 * found.certified, found.certified)
    slope, length = residuals("tanh", found.alpha, found.beta + 0.01, target)
    # far from zero for certain: the enclosures exclude it
    assert not slope.contains(0)
    assert not length.contains(0)


def test_sigmoid_is_tanh_in_disguise() -> None:
    one, other = shape("tanh", 200), shape("sigmoid", 200)
    # sigmoid(z) = (1 + tanh(z/2))/2, and gamma, delta absorb the outer affine map
    assert other.alpha == pytest.approx(2 * one.alpha, rel=1e-10)
    assert other.beta == pytest.approx(2 * one.beta, rel=1e-10)


def test_deep_limits_have_their_closed_forms() -> None:
    assert deep_limits("softplus")[0][0] == pytest.approx(math.log(1.5), rel=1e-12)
    assert deep_limits("erf")[1] == pytest.approx((3**-0.5, 3**0.5 / 2), rel=1e-12)
    assert (math.atan(math.sqrt(2)), math.sqrt(0.5)) in [pytest.approx(pair, rel=1e-12) for pair in deep_limits("sin")]


@pytest.mark.parametrize(
    ("activation", "reason"),
    [("identity", "affine"), ("relu", "pi/\\(pi - 1\\)"), ("elu", "not analytic"), ("step", "unknown activation")],
)
def test_what_has_no_solution_is_refused(activation: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        shape(activation, 50)


def test_bad_depths_and_slopes_are_refused() -> None:
    with pytest.raises(ValueError, match="depth 0"):
        shape("tanh", 0)
    with pytest.raises(ValueError, match="slope above 1"):
        shape("tanh", 10, zeta=Rational(1))
