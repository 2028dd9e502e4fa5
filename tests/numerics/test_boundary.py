"""Distances to the boundary: certified from below, searched from above, both exact for affine networks."""

import pytest
import torch

from numerics.device import DTYPE, generator
from numerics.generalisation.boundary import certified, derivatives, search
from numerics.realise import realise
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.network import Chain, chain
from theory.records import Shape
from theory.spec import parse

TANH = parse("affine(6, bias=true), tanh, affine(6, bias=true), tanh, affine(4, bias=true)")
RELU = parse("affine(8, bias=true), relu, affine(6, bias=true), relu, affine(4, bias=true)")
AFFINE = chain(parse("affine(4, bias=true)"))
SHAPE = Shape(5, 20)


def drawn(network: Chain, seed: int = 0):
    source = generator(seed)
    realisation = realise(network, SHAPE)
    theta = 0.6 * torch.randn(3, realisation.size, generator=source, dtype=DTYPE)
    X = torch.randn(5, 20, generator=source, dtype=DTYPE)
    return realisation, theta, X, realisation(theta, X).argmax(-2)


def test_for_an_affine_network_all_distances_are_the_same() -> None:
    _, theta, X, labels = drawn(AFFINE)
    found = certified(AFFINE, SHAPE, theta, X, labels)
    for distance in (found.lipschitz, found.curvature, found.upper, search(AFFINE, SHAPE, theta, X, labels)):
        # certified numbers are moved by an allowance of 1e-9, bisection leaves 2^-30
        torch.testing.assert_close(distance, found.first_order, rtol=1e-8, atol=0)


@pytest.mark.parametrize("network", [TANH, RELU], ids=["tanh", "relu"])
def test_certified_distances_hold_under_search(network: Chain) -> None:
    _, theta, X, labels = drawn(network)
    found = certified(network, SHAPE, theta, X, labels)
    best = search(network, SHAPE, theta, X, labels)
    assert bool((found.lower <= best).all())
    assert bool((found.lower > 0).all() if network is TANH else (found.lipschitz > 0).all())
    assert bool((best <= found.upper * (1 + 1e-6)).all()), "a crossing is certified that the search has missed"
    if network is RELU:
        assert float(found.curvature.max()) == 0


def test_random_directions_find_nothing_nearer_than_the_search() -> None:
    realisation, theta, X, labels = drawn(TANH)
    best = search(TANH, SHAPE, theta, X, labels)
    # random points nearer than that keep their label: a search from one start alone fails this, with points that are not nearest
    source = generator(1)
    for _ in range(500):
        direction = torch.randn(3, 5, 20, generator=source, dtype=DTYPE)
        step = direction / direction.norm(dim=1, keepdim=True) * (0.999 * best).unsqueeze(1)
        assert bool((realisation(theta, X + step).argmax(-2) == labels).all())


def test_shrunk_constants_are_refuted_by_the_search() -> None:
    _, theta, X, labels = drawn(AFFINE)
    found = certified(AFFINE, SHAPE, theta, X, labels)
    best = search(AFFINE, SHAPE, theta, X, labels)
    assert bool((found.lower * 1.01 > best).all())


def test_more_starts_never_lose_and_bad_counts_are_refused() -> None:
    _, theta, X, labels = drawn(TANH)
    few, many = (search(TANH, SHAPE, theta, X, labels, starts=starts) for starts in (1, 8))
    # from the sample itself alone some nearest points are missed; rounding of the bisection, 2^-30
    assert bool((many <= few * (1 + 1e-8)).all())
    assert bool((many < 0.99 * few).any())
    with pytest.raises(ValueError, match="0 starts"):
        search(TANH, SHAPE, theta, X, labels, starts=0)


def test_misclassified_samples_have_distance_zero() -> None:
    _, theta, X, labels = drawn(TANH)
    wrong = (labels + 1) % 4
    found = certified(TANH, SHAPE, theta, X, wrong)
    for distance in (found.lower, found.upper, found.first_order, search(TANH, SHAPE, theta, X, wrong)):
        assert float(distance.abs().max()) == 0


def test_derivatives_bound_those_of_every_pair_of_outputs() -> None:
    _, theta, X, _ = drawn(TANH)
    lipschitz, curvature = derivatives(TANH, SHAPE, theta)
    one = realise(TANH, Shape(5, 1))
    for b in range(3):
        for i, j in ((0, 1), (2, 3)):

            def gap(x: torch.Tensor, b: int = b, i: int = i, j: int = j) -> torch.Tensor:
                out = one(theta[b], x.unsqueeze(1))[:, 0]
                return out[i] - out[j]

            first = max(float(torch.func.grad(gap)(x).norm()) for x in X.T)
            second = max(float(torch.linalg.matrix_norm(torch.func.hessian(gap)(x), 2)) for x in X.T)
            assert 0 < first <= float(lipschitz[b, i, j])
            assert 0 < second <= float(curvature[b, i, j])


def test_a_network_that_does_not_end_in_an_affine_layer_takes_the_general_bound() -> None:
    network = parse("affine(6, bias=true), tanh, affine(4, bias=true), tanh")
    _, theta, X, labels = drawn(network)
    found = certified(network, SHAPE, theta, X, labels)
    assert bool((found.lower <= search(network, SHAPE, theta, X, labels)).all())
    lipschitz, _ = derivatives(network, SHAPE, theta)
    norms = [torch.linalg.matrix_norm(a, 2) for a in realise(network, SHAPE).split(theta) if a.ndim == 3]
    torch.testing.assert_close(lipschitz[:, 0, 1], 2**0.5 * norms[0] * norms[1], rtol=1e-8, atol=0)


def test_rows_do_not_take_the_place_of_a_matrix_that_is_used_twice() -> None:
    shared = chain(Affine(5, path="w"), Activation("tanh"), Affine(5, path="w"))
    theta = torch.randn(2, 25, generator=generator(4), dtype=DTYPE)
    lipschitz, _ = derivatives(shared, SHAPE, theta)
    norm = torch.linalg.matrix_norm(theta.reshape(2, 5, 5), 2)
    torch.testing.assert_close(lipschitz[:, 0, 1], 2**0.5 * norm**2, rtol=1e-8, atol=0)


def test_what_the_closed_form_cannot_be_given_is_named() -> None:
    symbolic = parse("affine(6), scale(c), affine(4)")
    with pytest.raises(ValueError, match="depends on c: give"):
        derivatives(symbolic, SHAPE, torch.zeros(1, 54, dtype=DTYPE))


def test_gains_of_a_batch_norm_in_evaluation_mode_enter_by_their_norm() -> None:
    network = parse(
        "affine(6), frozen_batch_norm(gain=true, eps=1, mean=(0, 0, 0, 0, 0, 0), variance=(3, 3, 3, 3, 3, 3)), tanh, affine(4)"
    )
    _, theta, X, labels = drawn(network)
    found = certified(network, SHAPE, theta, X, labels)
    assert bool((found.lower <= search(network, SHAPE, theta, X, labels)).all())
    first, gain, last = realise(network, SHAPE).split(theta)
    expected = torch.linalg.matrix_norm(first, 2) * gain.norm(dim=1) / 2 * (last[:, 0] - last[:, 1]).norm(dim=1)
    lipschitz, _ = derivatives(network, SHAPE, theta)
    torch.testing.assert_close(lipschitz[:, 0, 1], expected, rtol=1e-8, atol=0)
