"""Facts about the costs: gradients, Hessians and the least split of the loss, with both tempting wrong forms refuted."""

from __future__ import annotations

import flint
import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import S, oo

from theory.costs import (
    CrossEntropy,
    SquaredError,
    equal_split,
    exact_least_split,
    gamma,
    least_split,
    least_split_steps,
    q,
    single_sample,
)
from theory.evaluate import evaluate

ROUNDING = 1e-12


def split_value(c: np.ndarray) -> np.ndarray:
    return (np.expm1(-c) ** 2).sum(axis=-1)


def brute_force(n: int, value: float) -> float:
    """Least value over all splits with at most three distinct levels of a fine grid (an upper bound of the infimum)."""
    total = n * value
    best = n * np.expm1(-value) ** 2
    shares = np.concatenate([np.linspace(0, 1, 4001), 1 - np.geomspace(1e-9, 1, 2000)])
    for group in range(1, n):
        for rest_zero in range(n - group):
            others = n - group - rest_zero
            a, b = total * shares / group, total * (1 - shares) / others
            best = min(best, (group * np.expm1(-a) ** 2 + others * np.expm1(-b) ** 2).min())
    return float(best)


VALUES = [0.001, 0.05, 0.2, 0.35, 0.5, 0.7, 1.0, 2.0, 5.0, 30.0]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("value", VALUES)
def test_the_exact_least_split_agrees_with_brute_force(n: int, value: float) -> None:
    exact, found = exact_least_split(n, flint.arb(value)), brute_force(n, value)
    # the grid of shares has spacing 1/4000 of a smooth function around its minimum: second order, and at most (N value / 4000)^2 N
    slack = n * (n * value / 4000) ** 2 + 1e-9
    assert float(exact.lower()) <= found * (1 + ROUNDING)
    assert found <= float(exact.upper()) + slack


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 20), min_size=1, max_size=8), st.integers(0, 2))
def test_no_split_lies_below_the_exact_least_one(losses, spike) -> None:
    c = np.array(losses)
    c[0] += 10 * spike
    if c.mean() > 0:
        assert (
            float(exact_least_split(len(c), flint.arb(float(c.mean()))).lower()) <= split_value(c) * (1 + 1e-9) + 1e-12
        )


@pytest.mark.parametrize("n", [2, 3, 10, 50])
@pytest.mark.parametrize("value", [*VALUES, 0.01, 0.1, 0.15])
def test_the_closed_lower_bound_lies_below_the_exact_least_split_and_that_below_the_equal_one(
    n: int, value: float
) -> None:
    closed, equal = float(least_split(S(n), S(value)).evalf(30)), float(equal_split(n, S(value)).evalf(30))
    exact = exact_least_split(n, flint.arb(value))
    assert closed <= float(exact.upper()) * (1 + ROUNDING)
    assert float(exact.lower()) <= equal * (1 + ROUNDING)


def test_the_equal_split_is_no_lower_bound() -> None:
    # three samples, mean loss 1: nearly all on one sample gives less than the equal split's 1.199
    c = np.array([2.8, 0.1, 0.1])
    assert c.mean() == pytest.approx(1.0, abs=1e-15)
    assert split_value(c) < 0.95
    assert float(equal_split(3, S(1))) > 1.19


def test_all_loss_on_one_sample_is_no_lower_bound() -> None:
    # two samples, mean loss 0.1: the equal split gives 0.0181, all on one sample 0.0329
    c = np.array([0.1, 0.1])
    assert split_value(c) < 0.019
    assert float(single_sample(2, S(1) / 10)) > 0.032


@pytest.mark.parametrize("n", [2, 3, 10, 100])
@pytest.mark.parametrize("value", VALUES)
def test_all_loss_on_one_sample_lies_strictly_above_the_least_split(n: int, value: float) -> None:
    # beyond N gamma = 30 both are 1 to the last digits and a ball of 128 bits need not tell them apart
    single = -((-n * flint.arb(value)).expm1())
    exact = exact_least_split(n, flint.arb(value))
    assert exact < single**2 if n * value < 30 else not exact > single**2


def test_the_exact_least_split_rises_at_most_at_half_the_number_of_samples() -> None:
    for n in (1, 2, 5):
        grid = np.linspace(0.01, 4, 300)
        values = np.array([float(exact_least_split(n, flint.arb(g)).mid()) for g in grid])
        slopes = np.diff(values) / np.diff(grid)
        # rounding of a difference of doubles over a step of 0.013
        assert slopes.min() >= -1e-11
        assert slopes.max() <= n / 2 + 1e-11


def test_the_steps_of_the_split_are_identities() -> None:
    assert all(step.verify() for step in least_split_steps())


# Cross-entropy against numbers.


def probabilities(rng: np.random.Generator, classes: int) -> np.ndarray:
    logits = rng.standard_normal(classes) * rng.choice([0.1, 1, 5])
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_gradient_and_hessian_of_one_sample_obey_their_bounds_in_q(classes: int) -> None:
    rng = np.random.default_rng(3)
    low, high = CrossEntropy(classes).sample_gradient_range()
    for _ in range(200):
        p = probabilities(rng, classes)
        wrong = p[1:].sum()  # not 1 - p[0], which cancels
        gradient = np.hypot(wrong, np.linalg.norm(p[1:]))
        hessian = np.linalg.eigvalsh(np.diag(p) - np.outer(p, p)).max()
        assert evaluate(low, {q: wrong}) <= gradient * (1 + ROUNDING)
        assert gradient <= evaluate(high, {q: wrong}) * (1 + ROUNDING)
        assert hessian <= 2 * wrong * (1 + ROUNDING)
        assert hessian <= 0.5 * (1 + ROUNDING)


def test_both_ends_of_the_gradient_are_attained() -> None:
    low, high = CrossEntropy(4).sample_gradient_range()
    spread, single = np.array([0.4, 0.2, 0.2, 0.2]), np.array([0.4, 0.6, 0, 0])
    e = np.eye(4)[0]
    assert np.linalg.norm(spread - e) == pytest.approx(evaluate(low, {q: 0.6}), rel=1e-14)
    assert np.linalg.norm(single - e) == pytest.approx(evaluate(high, {q: 0.6}), rel=1e-14)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_gradient_domination_holds_for_random_logits(samples: int) -> None:
    rng = np.random.default_rng(7)
    bound = CrossEntropy(3).gradient_domination(S(samples))
    for _ in range(100):
        p = np.array([probabilities(rng, 3) for _ in range(samples)])
        loss = -np.log(p[:, 0]).mean()
        squared = ((p - np.eye(3)[0]) ** 2).sum() / samples**2
        assert evaluate(bound, {gamma: loss}) <= squared * (1 + 1e-10)


def test_fewer_than_two_classes_are_refused_by_number() -> None:
    for classes in (1, 0, S(5) / 2):
        with pytest.raises(ValueError, match=f"with {classes} classes"):
            CrossEntropy(classes)


def test_squared_error_has_equal_smoothness_and_domination_constants_and_an_unbounded_gradient() -> None:
    cost = SquaredError()
    assert cost.smoothness(S(4)).expression == S(1) / 4
    assert cost.gradient_domination(S(4)).expression == gamma / 2
    assert cost.gradient_norm(S(4)).expression is oo
    for bound in (cost.smoothness(S(4)), cost.gradient_domination(S(4))):
        bound.verify()


def test_every_bound_of_cross_entropy_verifies() -> None:
    cost = CrossEntropy()
    n = sympy.Symbol("N", integer=True, positive=True)
    for bound in (
        cost.smoothness(n),
        cost.gradient_norm(n),
        cost.sample_gradient(),
        cost.sample_hessian(),
        cost.gradient_domination(n),
        *cost.sample_gradient_range(),
    ):
        bound.verify()
