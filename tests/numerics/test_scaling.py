"""Ensembles of deep residual networks against the derived laws; orders of convergence; the samplers against their exact covariances.

Seeds and sizes are fixed. A mean is held to 4 standard errors of the derived one: over the 48 comparisons below a true law fails with probability 0.3 per cent.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from numerics.device import DTYPE, generator
from numerics.scaling.change import heat_map, linear_response, log_change
from numerics.scaling.convergence import ode_errors, sde_errors
from numerics.scaling.estimates import Mean, critical_beta, slope
from numerics.scaling.moments import Forward, ensemble, log_growth
from numerics.scaling.processes import (
    embedding_eigenvalues,
    fractional_covariance,
    fractional_noise,
    published_covariance_error,
    smooth,
    smooth_covariance,
)
from numerics.scaling.weights import fractional_layers, iid_layers, smooth_layers, sphere, weights
from theory.bound import Sense
from theory.signal.depth_scaling import log_normal
from theory.signal.propagation import propagate
from theory.spec import parse

RES3 = "repeat({L}, residual(affine({d}), relu, affine({d}), scale({a!r})))"
LINEAR = "repeat({L}, residual(affine({d}), scale({a!r})))"
SETTINGS = [
    (RES3, 4, 8, 0.5, "uniform"),
    (RES3, 4, 8, 0.5, "rademacher"),
    (RES3, 16, 4, 0.5, "gaussian"),
    (RES3, 16, 8, 0.5, "uniform"),
    (RES3, 16, 8, 1.0, "gaussian"),
    (RES3, 16, 8, 0.25, "uniform"),
    (RES3, 32, 6, 0.75, "uniform"),
    (RES3, 32, 10, 0.5, "rademacher"),
    (RES3, 48, 8, 0.5, "gaussian"),
    (LINEAR, 16, 6, 0.5, "uniform"),
    (LINEAR, 32, 6, 0.75, "gaussian"),
    (LINEAR, 8, 8, 1.0, "rademacher"),
]


@pytest.mark.parametrize(("spec", "depth", "width", "beta", "law"), SETTINGS)
def test_mean_growth_of_activations_and_gradients_is_the_derived_law(
    spec: str, depth: int, width: int, beta: float, law: str
) -> None:
    network = parse(spec.format(L=depth, d=width, a=depth**-beta))
    # |h_L|^2 spreads more in narrow and in exploding networks
    networks = 6000 if width == 4 or beta == 0.25 else 2000
    derived, measured = propagate(network, width), ensemble(network, width, networks, 3, law=law)
    for values, bound in (
        (measured.second, derived.second_upper),
        (measured.change, derived.change()),
        (measured.gradient, derived.gradient()),
        (measured.gradient_change, derived.gradient_change(Sense.LOWER)),
    ):
        found, at = Mean.of(values), float(bound.expression)
        assert found.deviations(at) < 4
        # the same measurement refutes a law that is 8 standard errors away, which is less than a quarter of the value
        assert 8 * found.error < 0.25 * at


def test_the_measurement_refutes_the_published_upper_bound_as_a_law() -> None:
    # (1 + alpha^2)^L is an upper bound of the growth; as its value it is refuted
    network = parse(RES3.format(L=16, d=8, a=0.25))
    found = Mean.of(ensemble(network, 8, 2000, 3, gradient=False).second)
    assert found.deviations((1 + 1 / 16) ** 16) > 8


@pytest.mark.parametrize("activation", ["relu", "arctan"])
def test_res1_lies_between_its_two_bounds(activation: str) -> None:
    network = parse(f"repeat(16, residual({activation}, affine(8), scale(1/4)))")
    derived, found = propagate(network, 8), ensemble(network, 8, 1000, 0)
    for values, low, high in (
        (found.second, derived.second_lower, derived.second_upper),
        (found.gradient, derived.gradient(Sense.LOWER), derived.gradient()),
    ):
        mean = Mean.of(values)
        assert float(low.expression) + 4 * mean.error < mean.value < float(high.expression) - 4 * mean.error


def test_gradients_that_are_recomputed_part_by_part_are_the_gradients() -> None:
    # the same draws, and the product with the Jacobian by central differences of the forward pass
    network = parse("repeat(3, residual(tanh, affine(5), scale(1/2)))")
    found = ensemble(network, 5, 2, 7)

    def run(move: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seeds = generator(7)
        start = generator(int(torch.randint(2**62, (), generator=seeds)))
        h0 = sphere(2, 5, start) + move
        return Forward("uniform", seeds, torch.device("cpu"))(network, h0), sphere(2, 5, start)

    total, h = torch.zeros(2, dtype=DTYPE), 1e-6
    for j in range(5):
        move = h * torch.eye(5, dtype=DTYPE)[j].expand(2, 5)
        (above, p), (below, _) = run(move), run(-move)
        total += ((above - below) / (2 * h) * p).sum(-1) ** 2
    assert found.gradient is not None
    assert torch.allclose(found.gradient, total, atol=1e-8)


def test_the_log_growth_follows_its_normal_law_and_agrees_with_networks_of_matrices() -> None:
    depth, width = 64, 16
    found = log_growth(width, depth, 4000, 0)
    mean, variance = log_normal().at(depth, width)
    estimate = Mean.of(found)
    assert estimate.deviations(mean) < 4
    # the variance of a sample variance of a normal law is 2 v^2 / n
    assert abs(float(found.var()) - variance) < 4 * variance * math.sqrt(2 / 4000)
    assert stats.kstest(found.numpy(), "norm", args=(mean, math.sqrt(variance))).pvalue > 1e-3
    network = parse(RES3.format(L=depth, d=width, a=depth**-0.5))
    matrices = ensemble(network, width, 1000, 1, law="gaussian", gradient=False).second.log()
    assert stats.ks_2samp(found.numpy(), matrices.numpy()).pvalue > 1e-3
    # the mean 1/2 without its term -1/d, and the variance 3/d instead of 2/d, are refuted
    for wrong in ((mean + 1 / width, math.sqrt(variance)), (mean, math.sqrt(1.5 * variance))):
        assert stats.kstest(found.numpy(), "norm", args=wrong).pvalue < 1e-6


@pytest.mark.parametrize("hurst", [0.1, 0.5, 0.75, 0.95])
def test_fractional_noise_has_the_exact_covariance(hurst: float) -> None:
    length, paths = 12, 40_000
    x = fractional_noise(hurst, length, (paths,), generator(0))
    exact = fractional_covariance(hurst, torch.arange(length)[:, None] - torch.arange(length)[None])
    sample = x @ x.T / paths
    # Var of a sample covariance of a Gaussian vector: (r_0^2 + r_k^2) / n
    error = ((1 + exact**2) / paths).sqrt()
    assert float(((sample - exact).abs() / error).max()) < 4.5
    assert stats.kstest(x[-1].numpy(), "norm").pvalue > 1e-3


def test_the_embedding_reproduces_the_covariance_to_rounding_and_a_wrong_nyquist_coefficient_does_not() -> None:
    for hurst in (0.05, 0.3, 0.8, 0.97):
        eigenvalues = embedding_eigenvalues(hurst, 100)
        row = torch.fft.ifft(eigenvalues).real[:100]
        exact = fractional_covariance(hurst, torch.arange(100))
        assert float((row - exact).abs().max()) < 1e-12
        wrong = eigenvalues.clone()
        wrong[100] = eigenvalues[0]
        error = float((torch.fft.ifft(wrong).real[:100] - exact).abs().max())
        assert error == pytest.approx(published_covariance_error(hurst, 100), rel=1e-9)
    assert published_covariance_error(0.97, 1000) > 0.6
    assert published_covariance_error(0.5, 1000) < 1e-12


def test_parts_of_one_transform_are_independent() -> None:
    # real and imaginary part serve as two networks: no correlation between them
    x = fractional_noise(0.9, 4, (2, 20_000), generator(1))
    assert float((x[:, 0] @ x[:, 1].T / 20_000).abs().max()) < 4.5 / math.sqrt(20_000)


@pytest.mark.parametrize("lag", [0.0, 0.1])
def test_smooth_weights_have_the_covariance_of_normalised_increments(lag: float) -> None:
    times = torch.linspace(0, 1, 11, dtype=DTYPE)
    found = smooth(10, (30_000,), generator(0), lag=lag)
    exact = smooth_covariance(times, lag=lag)
    values = torch.stack([found.at(k) for k in range(11)])
    assert torch.allclose(exact.diagonal(), torch.ones(11, dtype=DTYPE))
    error = ((1 + exact**2) / 30_000).sqrt()
    assert float(((values @ values.T / 30_000 - exact).abs() / error).max()) < 4.5
    # increments tend to the derivative
    assert float((smooth_covariance(times, lag=1e-3) - smooth_covariance(times)).abs().max()) < 1e-3


def test_strong_order_one_half_of_the_sde_and_order_one_of_the_ode() -> None:
    depths = (16, 32, 64, 128)
    order = slope(torch.tensor(depths), sde_errors(depths, 6, 400, 0))
    assert abs(order.value + 0.5) < 0.1
    assert order.within(-0.5, 0.1)
    depths = (64, 128, 256)
    order = slope(torch.tensor(depths), ode_errors(depths, 8, 60, 0))
    assert order.within(-1, 0.1)


def test_the_relative_change_to_first_order_is_the_sum_over_the_covariance() -> None:
    depth, width, networks = 48, 5, 2000
    for hurst in (0.2, 0.8):
        source = generator(5)
        layers = fractional_layers(hurst, depth, networks, width, source)
        scale = 1e-4
        logs = log_change(layers, depth, torch.tensor([scale], dtype=DTYPE), sphere(networks, width, source))
        found = Mean.of((2 * logs[:, 0]).exp() / scale**2)
        assert found.deviations(linear_response(hurst, depth)) < 4


def test_the_exponent_of_the_linear_response_tends_to_the_larger_of_hurst_and_one_half() -> None:
    for hurst in (0.05, 0.3, 0.5, 0.7, 0.95):
        local = math.log(linear_response(hurst, 20_000) / linear_response(hurst, 10_000)) / (2 * math.log(2))
        assert local == pytest.approx(max(hurst, 0.5), abs=0.025)


def test_the_critical_line_of_the_heat_map_is_the_larger_of_hurst_and_one_half() -> None:
    hurst = (0.1, 0.3, 0.5, 0.7, 0.9)
    betas = torch.linspace(0, 1.3, 27, dtype=DTYPE)
    shallow, deep = heat_map(hurst, betas, 32, 10, 80, 1), heat_map(hurst, betas, 256, 10, 80, 2)
    assert bool(deep.isfinite().all())
    for i, H in enumerate(hurst):
        found = critical_beta(betas, shallow[i], deep[i])
        assert abs(found.value - max(H, 0.5)) < 0.1
        assert found.high - found.low < 0.12
    # the line H itself is refuted below 1/2
    assert critical_beta(betas, shallow[0], deep[0]).low > 0.1 + 0.1


def test_relative_change_for_smooth_weights_is_identity_critical_and_explosion() -> None:
    slopes = {}
    for beta in (2.0, 1.0, 0.5):
        logs = []
        for depth in (16, 64, 256):
            source = generator(depth)
            layers = smooth_layers(depth, 16, 10, source)
            scales = torch.tensor([depth**-beta], dtype=DTYPE)
            logs.append(float(log_change(layers, depth, scales, sphere(16, 10, source)).mean()))
        slopes[beta] = (logs[2] - logs[1]) / math.log(4)
    assert slopes[2.0] == pytest.approx(-1, abs=0.2)
    assert slopes[1.0] == pytest.approx(0, abs=0.2)
    assert slopes[0.5] > 0.5


def test_rescaling_an_exploding_network_does_not_change_its_logarithm() -> None:
    depth, scales = 400, torch.tensor([3.0], dtype=DTYPE)
    h0 = sphere(2, 4, generator(0))
    found = log_change(iid_layers(2, 4, generator(1)), depth, scales, h0)
    assert float(found.min()) > math.log(1e100)
    layers, h = iid_layers(2, 4, generator(1)), h0[..., None]
    for k in range(depth):
        V, W = layers(k)
        h = h + 3.0 * torch.bmm(V, torch.bmm(W, h).clamp(min=0))
    assert bool(h.isfinite().all())
    assert torch.allclose((h - h0[..., None]).norm(dim=1).log(), found, rtol=1e-10)


@pytest.mark.parametrize("law", ["uniform", "gaussian", "rademacher"])
def test_weights_are_symmetric_with_variance_one_over_fan_in(law: str) -> None:
    x = weights(law, (200_000,), 5, generator(0))
    assert Mean.of(x).deviations(0) < 4
    assert float(x.var()) == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weights("cauchy", (1,), 1, generator(0)), "cauchy"),
        (lambda: ensemble(parse("affine(4), layer_norm(eps=1)"), 4, 2, 0), "layer_norm"),
        (lambda: ensemble(parse("affine(m)"), 4, 2, 0), "symbolic"),
        (lambda: ensemble(parse("affine(4)"), 4, 1, 0), "at least 2"),
        (lambda: fractional_noise(1.0, 4, (1,), generator(0)), "Hurst index 1.0"),
        (lambda: fractional_noise(0.5, 0, (1,), generator(0)), "length 0"),
        (lambda: smooth(4, (1,), generator(0), bandwidth=0), "bandwidth 0"),
        (lambda: sde_errors((3, 4), 2, 2, 0), "does not divide"),
        (lambda: slope(torch.tensor([1.0]), torch.ones(3, 1)), "at least 2"),
        (lambda: critical_beta(torch.tensor([0.0, 1.0]), torch.zeros(2, 2), torch.ones(2, 2)), "no critical scale"),
    ],
)
def test_bad_input_is_refused_by_name(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
