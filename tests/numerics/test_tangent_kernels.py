"""Finite tangent kernels against automatic differentiation and against their limit; gradient descent against a run by hand."""

from __future__ import annotations

import pytest
import torch
from sympy import S

from numerics.device import DTYPE, generator
from numerics.measure import tangent_kernel
from numerics.realise import realise
from numerics.scaling.estimates import Mean
from numerics.scaling.weights import sphere
from numerics.tangent_kernels import descend, finite_kernels
from theory.kernels.recursion import fully_connected, kernels, residual_network
from theory.records import Shape
from theory.spec import parse

X = sphere(3, 4, generator(0)).T


@pytest.mark.parametrize("make", [fully_connected, lambda *a: residual_network(*a[:2], S.One, a[2])])
def test_kernels_agree_with_automatic_differentiation(make) -> None:
    """The same draws, layer by layer, as one flat parameter vector."""
    network, networks = make("softplus", 3, S(5)), 4
    f = realise(network, Shape(*X.shape))
    source = generator(7)
    theta = torch.cat([torch.randn(networks, spec.size, dtype=DTYPE, generator=source) for spec in f.parameters], 1)
    found = finite_kernels(network, X, networks, generator(7))
    torch.testing.assert_close(found.outputs, f(theta, X)[:, 0], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.tangent, tangent_kernel(f, theta, X), rtol=1e-11, atol=1e-12)


def test_the_mean_of_a_linear_network_is_its_limit_at_any_width() -> None:
    network = parse("affine(3), scale(sqrt(1/3)), affine(1)")
    found = finite_kernels(network, X, 4000, generator(1)).tangent
    limit = kernels(network, (X.T @ X).numpy()).tangent
    # nine entries, five of them different: five standard errors leave a chance of 3e-6
    for i in range(3):
        for j in range(i + 1):
            assert Mean.of(found[:, i, j]).deviations(limit[i, j]) < 5


def test_descent_is_gradient_descent_with_the_readout_fixed() -> None:
    network = fully_connected("tanh", 2, S(4))
    y = torch.tensor([1.0, -1.0, 0.5], dtype=DTYPE)
    run = descend(network, X, y, 2, 0.1, 3, generator(2))
    f = realise(network, Shape(*X.shape))
    theta = torch.randn(2, f.size, dtype=DTYPE, generator=generator(2))
    for step in range(4):
        losses = []
        for row in theta:
            weights = row.clone().requires_grad_()
            loss = ((f(weights, X)[0] - y) ** 2).sum() / 2
            loss.backward()
            losses.append(loss.detach())
            row -= 0.1 * torch.cat([weights.grad[:-4], torch.zeros(4, dtype=DTYPE)])
        torch.testing.assert_close(run.losses[step], torch.stack(losses), rtol=1e-12, atol=0)
    assert run.losses.shape == (4, 2)
    away = descend(network, X, lambda outputs: outputs + y, 5, 0.1, 0, generator(3))
    torch.testing.assert_close(away.losses[0], torch.full((5,), float((y**2).sum() / 2), dtype=DTYPE))


def test_unknown_layers_and_several_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match="softmax is not known"):
        finite_kernels(parse("affine(3), softmax"), X, 2, generator(0))
    with pytest.raises(ValueError, match="2 outputs"):
        finite_kernels(parse("affine(2)"), X, 2, generator(0))
    with pytest.raises(ValueError, match="no value for m"):
        finite_kernels(fully_connected("tanh", 1), X, 2, generator(0))
