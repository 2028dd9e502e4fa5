"""Kernels of wide networks: the published recursion against the fold, symbols against numbers, order relations, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
from sympy import S

from theory.kernels.dual import derivative, dual_values, mean_values
from theory.kernels.recursion import (
    branch_constant,
    fully_connected,
    kernels,
    least_eigenvalue,
    normaliser,
    residual_network,
)
from theory.network import substitute
from theory.spec import parse

rho = sympy.Symbol("rho", real=True)
PAIR = np.array([[S.One, rho], [rho, S.One]], object)


def inputs(samples: int, features: int, seed: int = 0, batch: tuple[int, ...] = ()) -> np.ndarray:
    points = np.random.default_rng(seed).standard_normal((*batch, samples, features))
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


def gram(points: np.ndarray) -> np.ndarray:
    return points @ np.swapaxes(points, -1, -2)


def test_the_width_cancels() -> None:
    for network in (fully_connected("relu", 3), residual_network("erf", 3)):
        assert all(
            sympy.Symbol("m", integer=True, positive=True) not in t[0, 1].free_symbols
            for t in kernels(network, PAIR).tangents
        )


@pytest.mark.parametrize("name", ["relu", "erf", "softplus"])
def test_fully_connected_gram_recursion_as_published(name: str) -> None:
    """`K^(h) = c E[sigma sigma]` on `K^(h-1)`; the tangent kernel of layer `H` is `c K^(H-1) E[sigma' sigma']` on `K^(H-1)`."""
    G, depth, scale = gram(inputs(4, 5)), 4, float(normaliser(name))
    K = G
    for _ in range(depth - 1):
        d = np.diag(K)
        K = scale * dual_values(name, d[:, None], d[None, :], K).value
    d = np.diag(K)
    tangent = scale * K * dual_values(derivative(name), d[:, None], d[None, :], K).value
    found = kernels(fully_connected(name, depth, S(7)), G)
    # the same closed forms or quadratures, in another order of operations
    np.testing.assert_allclose(found.tangents[depth - 1], tangent, rtol=1e-10)
    np.testing.assert_allclose(
        found.tangents[depth], scale * dual_values(name, d[:, None], d[None, :], K).value, rtol=1e-10
    )


@pytest.mark.parametrize("name", ["relu", "softplus"])
def test_residual_gram_recursion_as_published(name: str) -> None:
    G, depth, scale, constant = gram(inputs(4, 5)), 4, float(normaliser(name)), 0.7
    d = np.diag(G)
    K = scale * dual_values(name, d[:, None], d[None, :], G).value
    mean = np.sqrt(scale) * mean_values(name, d).value
    before = K
    for _ in range(depth - 1):
        before, d = K, np.diag(K)
        expected = mean_values(name, d).value
        share = constant / depth
        K = K + share * (np.outer(mean, expected) + np.outer(expected, mean))
        K = K + share**2 * dual_values(name, d[:, None], d[None, :], before).value
        mean = mean + share * expected
    slopes = dual_values(derivative(name), d[:, None], d[None, :], before).value
    found = kernels(residual_network(name, depth, S(7) / 10, S(5)), G)
    # on the diagonal the referee's closed forms of ReLU lose half the digits
    np.testing.assert_allclose(found.second, K, rtol=1e-7)
    np.testing.assert_allclose(found.tangents[depth - 1], (constant / depth) ** 2 * before * slopes, rtol=1e-7)


def test_symbols_and_numbers_agree() -> None:
    for network, values in ((fully_connected("gelu", 2), {}), (residual_network("relu", 3), {branch_constant: S(2)})):
        numeric = kernels(
            substitute(network, {**values, sympy.Symbol("m", integer=True, positive=True): S(3)}),
            np.array([[1.0, 0.4], [0.4, 1.0]]),
        )
        symbolic = kernels(network, PAIR)
        for by_symbols, by_numbers in zip(symbolic.tangents, numeric.tangents, strict=True):
            at = by_symbols[0, 1].subs({**values, rho: S(2) / 5})
            assert float(at) == pytest.approx(by_numbers[0, 1], rel=1e-12)
            assert float(by_symbols[0, 0].subs(values)) == pytest.approx(by_numbers[0, 0], rel=1e-12)


def test_normalised_chains_keep_unit_norms() -> None:
    K = kernels(fully_connected("silu", 6, S(4)), gram(inputs(3, 4)))
    # the quadrature error 1e-11 a layer
    np.testing.assert_allclose(np.diag(K.second), 1, atol=1e-9)


def test_batches_are_read_one_by_one() -> None:
    many = gram(inputs(3, 4, batch=(2, 3)))
    network = residual_network("tanh", 3, S.One, S(4))
    together = kernels(network, many)
    alone = kernels(network, many[1, 2])
    np.testing.assert_allclose(together.tangent[1, 2], alone.tangent, rtol=1e-13)
    assert least_eigenvalue(together.tangent).shape == (2, 3)


def test_pre_activation_blocks_stay_gaussian() -> None:
    """`x + W phi(x)` after an affine layer: a sum of independent Gaussians, so a further block is read."""
    network = parse("affine(8), repeat(3, residual(relu, affine(8), scale(1/2))), relu, affine(1)")
    found = kernels(network, gram(inputs(3, 4)))
    # each block multiplies the second moment by 1 + (1/4) 8 (1/2) = 2, relu halves it, and the readout sums 8 features
    np.testing.assert_allclose(np.diag(found.second), 8 * 2**3 / 2, rtol=1e-12)
    assert len(found.tangents) == 5


def test_a_linear_network_has_its_known_tangent_kernel() -> None:
    """`L` linear layers with unit scale: every layer contributes the input's Gram matrix."""
    G = gram(inputs(4, 6))
    found = kernels(parse("affine(9), scale(1/3), affine(9), scale(1/3), affine(1)"), G)
    np.testing.assert_allclose(found.tangent, 3 * G, rtol=1e-13)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("affine(4), softmax", "softmax is not known to this reading; known: affine"),
        ("affine(4, bias=true)", "has a bias"),
        ("tanh, affine(3)", "tanh acts on features that are not Gaussian"),
        ("affine(4), tanh, tanh", "not Gaussian"),
        ("affine(4), residual(tanh)", "no affine layer, so it is not independent of its skip"),
        ("repeat(L, affine(4))", "symbolic"),
        ("affine(m), tanh, affine(1)", "has symbols"),
    ],
)
def test_what_is_not_known_is_refused_by_name(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernels(parse(spec), np.eye(2))


def test_bad_gram_matrices_are_refused() -> None:
    network = parse("affine(2), tanh, affine(1)")
    for matrix, message in (
        (np.zeros((2, 2)), "an input is 0"),
        (np.array([[1.0, 0.2], [0.3, 1.0]]), "not symmetric"),
        (np.ones((2, 3)), "has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels(network, matrix)
    with pytest.raises(ValueError, match="no Gaussian expectation in closed form"):
        kernels(fully_connected("tanh", 1), PAIR)
    with pytest.raises(ValueError, match="nonzero mean to the inputs themselves"):
        kernels(parse("residual(affine(2), relu)"), np.eye(2), S(2))
