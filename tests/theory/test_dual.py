"""Dual activations: Price's identity, published kernels as referees, quadrature against closed forms and against sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy
from scipy.integrate import quad
from sympy import S

from theory.atoms.entrywise import ACTIVATIONS, z
from theory.kernels.dual import _polar as polar
from theory.kernels.dual import (
    a,
    b,
    c,
    derivative,
    dual,
    dual_values,
    evaluate,
    mean,
    mean_values,
    second_moment,
    second_moment_values,
)

CLOSED = ("identity", "erf", "sin", "relu", "gelu")
# (1, 1, 1) is the degenerate law u = v, where asin and sqrt of closed forms lose half the digits: there to 1e-7
LAWS = np.array(
    [[1.0, 1.0, 0.3], [0.5, 1.5, -0.5], [2.0, 0.3, 0.1], [1.0, 1.0, 0.999], [1.0, 1.0, 1.0], [9.0, 0.04, 0.2]]
)
# rounding of double precision in sums of some 5,000 terms of size at most 10
ROUNDING = 1e-12


@pytest.mark.parametrize("name", CLOSED)
def test_price_identity_holds_for_the_closed_forms(name: str) -> None:
    """`d/dc E[phi phi] = E[phi' phi']`, both sides derived on their own."""
    gap = sympy.diff(dual(name), c) - dual(derivative(name))
    for at in ({a: S(3) / 2, b: S(1) / 2, c: S(1) / 3}, {a: S(1), b: S(2), c: -S(4) / 5}):
        assert abs(sympy.N(gap.subs(at), 40)) < 1e-35


def test_relu_gives_the_arc_cosine_kernels() -> None:
    """Cho and Saul 2009: kernels of orders 0 and 1, with cos theta = c / sqrt(a b), halved because theirs are doubled."""
    theta = sympy.acos(c / sympy.sqrt(a * b))
    zeroth = (sympy.pi - theta) / (2 * sympy.pi)
    first = sympy.sqrt(a * b) * (sympy.sin(theta) + (sympy.pi - theta) * sympy.cos(theta)) / (2 * sympy.pi)
    for found, known in ((dual(derivative("relu")), zeroth), (dual("relu"), first)):
        for at in ({a: S(3), b: S(1) / 2, c: -S(1)}, {a: S(1), b: S(1), c: S(1) / 7}):
            assert abs(sympy.N((found - known).subs(at), 30)) < 1e-25


def test_erf_gives_the_arcsine_kernel() -> None:
    """Williams 1997."""
    known = 2 / sympy.pi * sympy.asin(2 * c / sympy.sqrt((1 + 2 * a) * (1 + 2 * b)))
    assert sympy.simplify(dual("erf") - known) == 0


@pytest.mark.parametrize(
    ("phi", "known"),
    [
        (z**3, 9 * a * b * c + 6 * c**3),
        (sympy.exp(z), sympy.exp((a + b) / 2 + c)),
        (sympy.sin(z), sympy.exp(-(a + b) / 2) * sympy.sinh(c)),
        (sympy.exp(-(z**2)), 1 / sympy.sqrt((1 + 2 * a) * (1 + 2 * b) - 4 * c**2)),
        (sympy.Abs(z), 2 / sympy.pi * (sympy.sqrt(a * b - c**2) + c * sympy.asin(c / sympy.sqrt(a * b)))),
    ],
)
def test_known_kernels_come_out(phi: sympy.Expr, known: sympy.Expr) -> None:
    assert sympy.simplify((dual(phi) - known).rewrite(sympy.exp)) == 0


def test_two_different_functions() -> None:
    assert dual(z, z**3) == 3 * c * b
    assert sympy.simplify(dual("erf", z) - 2 * c / sympy.sqrt(sympy.pi * (1 + 2 * a))) == 0
    found = dual_values("relu", 1.0, 2.0, 0.7, psi="tanh")
    # E[phi(u) psi(v)] = sum over the Gaussian density on a grid fine enough for ten digits
    x = np.linspace(-9, 9, 1201)
    u, v = x[:, None], 0.7 * x[:, None] + math.sqrt(2 - 0.49) * x
    weight = np.exp(-(x[:, None] ** 2 + x**2) / 2) / (2 * np.pi) * (x[1] - x[0]) ** 2
    assert float(found.value) == pytest.approx(float((np.maximum(u, 0) * np.tanh(v) * weight).sum()), abs=2e-5)


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("prime", [False, True])
def test_quadrature_agrees_with_closed_forms(name: str, prime: bool) -> None:
    phi = derivative(name) if prime else ACTIVATIONS[name]
    exact = dual_values(phi, *LAWS.T)
    assert np.all(exact.error == 0)
    found = polar(phi, phi, LAWS, 64)
    np.testing.assert_allclose(np.delete(found, 4), np.delete(exact.value, 4), atol=ROUNDING)
    assert found[4] == pytest.approx(exact.value[4], abs=1e-7)
    assert found[4] == pytest.approx(second_moment_values(phi, 1.0).value, abs=ROUNDING)


@pytest.mark.parametrize("name", ["tanh", "softplus", "arctan", "elu", "silu"])
def test_the_error_estimate_covers_the_error(name: str) -> None:
    for phi in (ACTIVATIONS[name], derivative(name)):
        found = dual_values(phi, *LAWS.T, order=36)
        finer = polar(phi, phi, LAWS, 96)
        assert np.all(np.abs(found.value - finer) <= found.error + ROUNDING)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_sampling_agrees(name: str) -> None:
    """Five standard errors over 400,000 samples: for 11 activations and three laws a chance of 2e-5."""
    g = np.random.default_rng(5).standard_normal((2, 400_000))
    phi = ACTIVATIONS[name]
    for law in LAWS[:3]:
        u = math.sqrt(law[0]) * g[0]
        v = law[2] / math.sqrt(law[0]) * g[0] + math.sqrt(law[1] - law[2] ** 2 / law[0]) * g[1]
        for samples, found in (
            (evaluate(phi)(u) * evaluate(phi)(v), dual_values(phi, *law)),
            (evaluate(phi)(u) ** 2, second_moment_values(phi, law[0])),
            (evaluate(derivative(phi))(u) ** 2, second_moment_values(derivative(phi), law[0])),
        ):
            error = samples.std() / math.sqrt(len(samples)) + 1e-12
            assert abs(float(found.value) - samples.mean()) < 5 * error


@pytest.mark.parametrize("name", ["relu", "gelu", "erf", "identity", "softplus", "tanh"])
def test_means_agree_with_sympy_or_with_the_diagonal(name: str) -> None:
    """Where there is no closed form: `E[phi(u)^2]` is the dual at `a = b = c`."""
    phi = ACTIVATIONS[name]
    if mean(name) is not None:
        density = lambda x: float(evaluate(phi)(np.asarray(math.sqrt(1.7) * x))) * math.exp(-x * x / 2)  # noqa: E731
        plain = sum(quad(density, *ends, epsabs=1e-13)[0] for ends in ((-12, 0), (0, 12))) / math.sqrt(2 * math.pi)
        assert float(mean_values(name, 1.7).value) == pytest.approx(plain, abs=ROUNDING)
    square, diagonal = second_moment_values(phi, 1.7), dual_values(phi, 1.7, 1.7, 1.7)
    assert abs(square.value - diagonal.value) <= square.error + diagonal.error + ROUNDING


def test_second_moments_in_closed_form() -> None:
    assert second_moment("relu") == a / 2
    assert second_moment(derivative("relu")) == S(1) / 2
    assert sympy.simplify(second_moment("sin") - (1 - sympy.exp(-2 * a)) / 2) == 0
    # no closed form of the pairs, but E[elu(u)^2] has none either: quadrature
    assert second_moment("elu") is None


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="unknown activation 'swosh': use one of identity"):
        dual("swosh")
    with pytest.raises(ValueError, match="has the symbols"):
        mean(z * sympy.Symbol("k"))
    with pytest.raises(ValueError, match="exceeds sqrt"):
        dual_values("relu", 1.0, 1.0, 1.1)
    with pytest.raises(ValueError, match="least variance is 0"):
        mean_values("tanh", np.array([1.0, 0.0]))
    assert dual("tanh") is None
    assert mean("softplus") is None
