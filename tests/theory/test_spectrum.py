"""The largest eigenvalue is enclosed: matrix products are those of the symbolic matrix, and numpy's eigenvalue lies in the ball."""

from __future__ import annotations

from typing import Any

import flint
import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import S, oo

from theory.atoms.fixed_linear import identity
from theory.bound import Bound
from theory.compose import Parallel, compose, jet_of, leaves, regularity
from theory.evaluate import evaluate
from theory.landscape import landscape
from theory.records import FeatureBounds, LayerBounds, Shape
from theory.spec import parse
from theory.spectrum import Weights, evaluated, first_norm, largest_eigenvalue, regularity_numbers, times

SAMPLES = 9
ROOT = flint.arb(3)
EIGH = 1e-12
"""Relative error of `eigvalsh` for matrices of at most 60 x 60 non-negative entries (about 60 x 2^-52), with a margin."""
rational = st.fractions("1/10", 3, max_denominator=10).map(lambda f: sympy.Rational(f.numerator, f.denominator))
SKIP = identity().bounds(FeatureBounds.unbounded(Shape(3, SAMPLES)), None)


@st.composite
def records(draw: Any) -> LayerBounds:
    J, D, XX, XT, TT = (draw(st.sampled_from([S(0), value])) for value in (draw(rational) for _ in range(5)))
    has_parameters = draw(st.sampled_from([True, True, False]))
    if not has_parameters:
        D = XT = TT = S(0)
    return LayerBounds(
        *map(Bound.upper, (J, D, XX, XT, TT)),
        Bound.lower(J / 2),
        Bound.lower(D),
        has_parameters=has_parameters,
        sample_wise=draw(st.booleans()),
    )


trees = st.recursive(
    records(),
    lambda inner: st.lists(inner, max_size=4).map(lambda m: compose(*m)) | inner.map(lambda b: Parallel((SKIP, b))),
    max_leaves=8,
)


def dense(tree, weights: tuple[float, float, float]) -> np.ndarray:
    """The weighted block matrix from the symbolic rule."""
    jet = jet_of(tree, SAMPLES)
    count = sum(leaf.has_parameters for leaf in leaves(tree))
    a = np.array([float(jet.first[i].expression) if i in jet.first else 0.0 for i in range(1, count + 1)])
    m, m1 = np.zeros((count, count)), np.zeros((count, count))
    for matrix, form in ((m, jet.second), (m1, jet.by_sample)):
        for (i, l), bound in form.items():
            matrix[i - 1, l - 1] = float(bound.expression)
    return weights[0] * np.outer(a, a) + weights[1] * m + weights[2] * m1


WEIGHTS = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.25, 2.0)]


@settings(max_examples=60, deadline=None)
@given(trees, st.sampled_from(WEIGHTS))
def test_the_product_in_two_sweeps_is_that_of_the_symbolic_matrix(tree, weights) -> None:
    network, matrix = evaluated(tree, {}), dense(tree, weights)
    vector = [1 + i / 2 for i in range(network.parameters)]
    if vector:
        image = times(network, [flint.arb(v) for v in vector], Weights(*map(flint.arb, weights)), ROOT)
        # a sum of a dozen terms rounded in double precision on the dense side
        np.testing.assert_allclose([float(v.mid()) for v in image], matrix @ vector, rtol=1e-12, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(trees, st.sampled_from(WEIGHTS))
def test_the_enclosure_contains_the_eigenvalue_that_numpy_finds(tree, weights) -> None:
    network, matrix = evaluated(tree, {}), dense(tree, weights)
    ball = largest_eigenvalue(network, Weights(*map(flint.arb, weights)), ROOT)
    top = np.linalg.eigvalsh(matrix).max() if len(matrix) else 0.0
    assert float(ball.lower()) <= top * (1 + EIGH) + 1e-13
    assert top <= float(ball.upper()) * (1 + EIGH) + 1e-13


@settings(max_examples=40, deadline=None)
@given(trees)
def test_the_norm_of_a_and_the_regularity_fold_agree_with_the_symbolic_ones(tree) -> None:
    jet, network = jet_of(tree, SAMPLES), evaluated(tree, {})
    a = [float(b.expression) for b in jet.first.values()]
    assert float(first_norm(network).mid()) == pytest.approx(np.linalg.norm(a), rel=1e-12, abs=1e-14)
    symbolic = regularity(tree)
    assert float(regularity_numbers(network).lambda_min.lower()) == pytest.approx(
        float(symbolic.lambda_min.expression), rel=1e-12, abs=1e-14
    )


def record(j, d, xx, xt, tt) -> LayerBounds:
    return LayerBounds(*map(Bound.upper, (j, d, xx, xt, tt)), Bound.lower(0), Bound.lower(0), True)


def enclosure(tree) -> flint.arb:
    return largest_eigenvalue(evaluated(tree, {}), Weights(second=flint.arb(1)), ROOT)


def test_a_zero_matrix_has_eigenvalue_zero_exactly() -> None:
    assert enclosure(compose(record(1, 1, 0, 0, 0), record(1, 1, 0, 0, 0))) == 0
    assert enclosure(compose()) == 0


def test_a_reducible_matrix_gets_the_eigenvalue_of_its_larger_block() -> None:
    # no coupling at all: M is diagonal with entries 2 j^2 and 3 at j = 1
    ball = enclosure(compose(record(1, 0, 0, 0, 2), record(1, 0, 0, 0, 3)))
    assert ball.overlaps(flint.arb(3))
    assert float(ball.upper()) < 3 * (1 + 1e-6)


def test_a_rank_one_matrix_gets_its_squared_norm() -> None:
    # the first layer's curvature seen through D only: M = XX a a^T on the first two of three
    tree = compose(record(1, 3, 0, 0, 0), record(1, 4, 0, 0, 0), LayerBounds.without_parameters(
        Bound.upper(1), Bound.upper(2), Bound.lower(0), sample_wise=True))  # fmt: skip
    ball = enclosure(tree)
    assert ball.overlaps(flint.arb(50))
    assert float(ball.rad()) < 1e-6


def test_an_oscillating_matrix_is_enclosed_narrowly() -> None:
    # off-diagonal only: eigenvalues +- XT D, on which an unshifted power iteration oscillates
    ball = enclosure(compose(record(1, 5, 0, 0, 0), record(1, 0, 0, 7, 0)))
    assert ball.overlaps(flint.arb(35))
    assert float(ball.rad()) < 35e-6


def test_depth_fifty_is_right() -> None:
    j, d, xx, xt, tt = numbers = (S(101) / 100, S(1) / 2, S(1) / 3, S(1) / 5, S(1) / 7)
    a, m = np.zeros(50), np.zeros((50, 50))
    for e in np.eye(50):
        m = (
            float(j) * m
            + float(xx) * np.outer(a, a)
            + float(xt) * (np.outer(a, e) + np.outer(e, a))
            + float(tt) * np.outer(e, e)
        )
        a = float(j) * a + float(d) * e
    top = np.linalg.eigvalsh(m).max()
    ball = enclosure(compose(*[record(*numbers)] * 50))
    assert float(ball.lower()) <= top * (1 + EIGH)
    assert top <= float(ball.upper()) * (1 + EIGH)
    assert float(ball.rad()) <= 1e-8 * top


def test_an_infinite_coefficient_makes_the_enclosure_infinite_unless_nothing_reaches_it() -> None:
    assert not enclosure(compose(record(1, 1, 1, 1, 1), record(1, 1, oo, 1, 1))).is_finite()
    # nothing before the first layer depends on a parameter, so its curvature in the input does not matter
    assert enclosure(compose(record(oo, 1, oo, oo, 1), record(1, 1, 1, 1, 1))).is_finite()


def test_a_failing_assumption_of_any_leaf_is_named() -> None:
    network = landscape(parse("affine(3), layer_norm, crop(2)"), 3, 2)
    values = {"x_F": 2, "x_0": 1, "sigma": 1, "eps": 1}
    evaluated(network.derived.tree, values)
    with pytest.raises(ValueError, match=r"assumes .*> 0"):
        evaluated(network.derived.tree, values | {"eps": 0})


def test_the_evaluated_least_singular_value_is_the_symbolic_one() -> None:
    network = landscape(parse("residual(tanh, affine(4, weight_norm=frobenius, eps=4)), crop(3)"), 4, 2)
    values = {"x_F": 1, "x_0": 1, "sigma": 1}
    numbers = regularity_numbers(evaluated(network.derived.tree, values))
    # symbolic: max(0, 1 - 1) = 0; evaluated: 1
    assert float(numbers.sigma_min) <= evaluate(network.regularity.sigma_min, values)
