"""Correlation maps: Hermite series, depth laws against iteration, certified least eigenvalues against eigenvalues."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sympy
from sympy import S, Symbol

from theory.kernels.correlation import (
    correlation_map,
    correlations,
    depth_law,
    entrywise_power_bound,
    hermite_coefficients,
    least_eigenvalue_bound,
    power_bound_steps,
    power_law,
    rho,
    slope_at_one,
    slope_steps,
)
from theory.kernels.recursion import least_eigenvalue


def grams(samples: int, features: int, sets: int) -> np.ndarray:
    points = np.random.default_rng(3).standard_normal((sets, samples, features))
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    return points @ np.swapaxes(points, -1, -2)


@pytest.mark.parametrize("name", ["softplus", "tanh", "erf", "sigmoid"])
def test_the_hermite_series_is_the_map(name: str) -> None:
    weights = hermite_coefficients(name, 50) ** 2
    for r in (-0.7, 0.0, 0.4, 0.7):
        # the tail beyond degree 50 is at most 0.7^50 = 2e-8
        assert weights @ r ** np.arange(50) == pytest.approx(float(correlations(name, r)), abs=1e-7)


@pytest.mark.parametrize("name", ["softplus", "sigmoid", "silu", "gelu", "elu", "tanh", "erf"])
def test_depth_laws_are_what_iteration_shows(name: str) -> None:
    law = depth_law(name)
    values = [0.5]
    # until the distance from the fixed point is small, and well above rounding
    while len(values) < 2 or (abs(values[-1] - law.fixed_point) > 1e-6 and len(values) < 400):
        values.append(float(correlations(name, values[-1])))
    gaps = np.abs(np.array(values) - law.fixed_point)
    assert gaps[-1] <= 1e-6
    # the next order is at most of the size of the gap; quadrature errs by 1e-9 of 1e-6
    assert gaps[-1] / gaps[-2] == pytest.approx(law.rate, abs=5e-3)


def test_a_mean_zero_activation_is_never_ordered() -> None:
    """`chi - 1 = sum (k-1) h_k^2 - h_0^2`."""
    for name in ("tanh", "erf", "sin", "arctan", "softplus", "gelu"):
        weights = hermite_coefficients(name, 60) ** 2
        excess = float(slope_at_one(name)) - 1
        # arctan and tanh have coefficients that decay slowly: 60 of them leave 1e-2 of the sum
        assert weights @ (np.arange(60) - 1) == pytest.approx(excess, abs=2e-2)
        assert (excess > 0) or weights[0] > 0.1


def test_relu_follows_a_power_law_with_a_derived_constant() -> None:
    kappa, power, amplitude = power_law("relu")
    assert kappa == 2 * sympy.sqrt(2) / (3 * sympy.pi)
    assert power == S(3) / 2
    assert amplitude == 9 * sympy.pi**2 / 2
    assert correlation_map("relu").subs(rho, 1) == 1
    with pytest.raises(ValueError, match="slope 1"):
        power_law("erf")
    with pytest.raises(ValueError, match="a linear activation"):
        depth_law("identity")


@pytest.mark.parametrize("samples", [2, 3, 4])
def test_entrywise_powers_have_their_least_eigenvalue(samples: int) -> None:
    G = grams(samples, 3, 500)
    bound = entrywise_power_bound(G)
    for power in (samples - 1, samples, samples + 3):
        assert np.all(least_eigenvalue(G**power) >= bound * (1 - 1e-9) - 1e-14)


def test_two_nearly_parallel_inputs_attain_the_bound() -> None:
    r = 1 - 1e-6
    G = np.array([[1, r], [r, 1]])
    assert entrywise_power_bound(G) == pytest.approx(float(least_eigenvalue(G)), rel=1e-5)


def test_least_eigenvalues_are_certified() -> None:
    G = grams(4, 3, 200)
    for name in ("softplus", "tanh", "relu"):
        bound = least_eigenvalue_bound(name, G)
        assert np.all(bound > 0)
        assert np.all(bound <= least_eigenvalue(correlations(name, G)))
    # parallel inputs: nothing is certified
    assert entrywise_power_bound(np.ones((2, 2))) == 0


def test_every_link_of_the_proofs_is_recomputed_and_a_wrong_one_is_seen() -> None:
    steps = (*slope_steps(), *power_bound_steps())
    assert all(step.verify() for step in steps)
    assert [bool(step.zeros) for step in power_bound_steps()] == [True, False, True, False]
    # <n, x_i>^2 is 1 - r^2, not 1 - r
    zero = power_bound_steps()[0].zeros[2]
    assert not replace(power_bound_steps()[0], zeros=(zero + Symbol("r", positive=True),)).verify()
