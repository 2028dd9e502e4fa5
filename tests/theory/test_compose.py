"""The composition rule: a monoid, exact on networks of one dimension, and its sharper form never worse than sqrt N times the plain one."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import S, sqrt

from theory.atoms.fixed_linear import identity
from theory.bound import Bound
from theory.compose import (
    Parallel,
    Series,
    collapse,
    compose,
    difference,
    euclidean_norm,
    jet_of,
    lambda_max,
    regularity,
)
from theory.records import THIRD, FeatureBounds, LayerBounds, Shape

rational = st.fractions("1/20", 4, max_denominator=20).map(lambda f: sympy.Rational(f.numerator, f.denominator))
FEATURES = FeatureBounds.unbounded(Shape(3, 4))
SKIP = identity().bounds(FEATURES, None)  # the identity needs no domain
SAMPLES = S(9)


@st.composite
def records(draw: Any) -> LayerBounds:
    has_parameters = draw(st.booleans())
    J, D, XX, XT, TT, k = (draw(rational) for _ in range(6))
    if not has_parameters:
        D = XT = TT = k = S(0)
    uppers = [Bound.upper(v) for v in (J, D, draw(st.sampled_from([S(0), XX])), XT, TT)]
    return LayerBounds(
        *uppers,
        Bound.lower(J * draw(st.sampled_from([S(0), S(1) / 2, S(1)]))),
        Bound.lower(k),
        has_parameters=has_parameters,
        sample_wise=draw(st.booleans()),
    )


trees = st.recursive(
    records(),
    lambda inner: st.lists(inner, max_size=3).map(lambda m: compose(*m)) | inner.map(lambda b: Parallel((SKIP, b))),
    max_leaves=4,
)


def numbers(tree) -> tuple:
    """Everything that is read off a tree, as exact numbers."""
    jet, low = jet_of(tree, SAMPLES, by_input=True), regularity(tree)
    forms = [
        {key: b.expression for key, b in form.items() if b.expression != 0}
        for form in (jet.first, jet.second, jet.by_sample)
    ]
    return (*forms, low.jacobian.expression, low.sigma_min.expression, low.lambda_min.expression)


def same(first: tuple, second: tuple) -> bool:
    """Equality of rationals: with nine samples `sqrt N` is one as well."""
    forms = all(
        a.keys() == b.keys() and all(a[key] == b[key] for key in a) for a, b in zip(first[:3], second[:3], strict=True)
    )
    return forms and all(a == b for a, b in zip(first[3:], second[3:], strict=True))


@settings(max_examples=15, deadline=None)
@given(trees, trees, trees)
def test_composition_is_associative(a, b, c) -> None:
    left, right = Series((Series((a, b)), c)), Series((a, Series((b, c))))
    assert same(numbers(left), numbers(right))
    assert same(numbers(left), numbers(compose(a, b, c)))


@settings(max_examples=15, deadline=None)
@given(trees)
def test_the_identity_layer_and_the_empty_series_are_neutral(a) -> None:
    assert same(numbers(compose(SKIP, a)), numbers(a))
    assert same(numbers(compose(a, SKIP)), numbers(a))
    assert same(numbers(compose(compose(), a, compose())), numbers(a))


@settings(max_examples=20, deadline=None)
@given(trees)
def test_the_rule_for_the_loss_is_never_worse_than_root_n_times_the_plain_one(tree) -> None:
    jet = jet_of(tree, SAMPLES, by_input=True)
    for key, entry in jet.by_sample.items():
        assert entry.expression <= 3 * jet.second[key].expression
        assert entry.expression >= jet.second[key].expression  # nor better than what a single sample needs


@settings(max_examples=20, deadline=None)
@given(st.lists(records(), min_size=1, max_size=4))
def test_without_coupling_the_pure_input_curvature_sums_without_loss(members) -> None:
    tree = compose(*(replace(m, sample_wise=True) for m in members))
    jet = jet_of(tree, SAMPLES, by_input=True)
    assert jet.by_sample[0, 0].expression == jet.second[0, 0].expression


def test_one_coupling_layer_costs_exactly_root_n() -> None:
    layer = LayerBounds(*(Bound.upper(v) for v in (2, 3, 5, 7, 11)), Bound.lower(0), Bound.lower(0), True, False)
    jet = jet_of(compose(layer, layer), SAMPLES, by_input=True)
    for key, entry in jet.by_sample.items():
        assert entry.expression == 3 * jet.second[key].expression


def test_the_rule_is_exact_for_positive_scalar_layers_and_a_residual() -> None:
    # f(t, x) = x + t x^2 / 2 on scalars, at x = 1, t = 1, then once more with its own parameter
    x, t, u = sympy.symbols("x t u", positive=True)
    f = x + t * x**2 / 2
    whole = f.subs({x: f, t: u}, simultaneous=True)
    at = {x: 1, t: 1, u: 1}

    def leaf(value) -> LayerBounds:
        branch = t * x**2 / 2
        d = [sympy.diff(branch, *v).subs({x: value, t: 1}) for v in ((x,), (t,), (x, x), (x, t), (t, t))]
        return LayerBounds(*map(Bound.upper, d), Bound.lower(0), Bound.lower(0), True)

    jet = jet_of(compose(Parallel((SKIP, leaf(1))), Parallel((SKIP, leaf(f.subs(at))))), S(1), by_input=True)
    order = (x, t, u)
    for i, v in enumerate(order):
        assert jet.first[i].expression == sympy.diff(whole, v).subs(at)
        for l, w in enumerate(order):
            assert jet.second[i, l].expression == sympy.diff(whole, v, w).subs(at)


def test_the_cubic_rule_is_exact_for_positive_scalar_layers_and_a_residual() -> None:
    # f(t, x) = x + t x^2 + t^2 x^3 / 3 with every third derivative, at x = t = 1, then once more with its own parameter
    x, t, u = sympy.symbols("x t u", positive=True)
    branch = t * x**2 + t**2 * x**3 / 3 + t**3 * x
    whole = (x + branch).subs({x: x + branch, t: u}, simultaneous=True)
    at = {x: 1, t: 1, u: 1}

    def leaf(value) -> LayerBounds:
        def bound(*order) -> Bound:
            return Bound.upper(sympy.diff(branch, *order).subs({x: value, t: 1}))

        low = Bound.lower(0)
        return LayerBounds(
            *(bound(*v) for v in ((x,), (t,), (x, x), (x, t), (t, t))),
            low,
            low,
            has_parameters=True,
            input_input_input=bound(x, x, x),
            input_input_param=bound(x, x, t),
            input_param_param=bound(x, t, t),
            param_param_param=bound(t, t, t),
        )

    tree = compose(Parallel((SKIP, leaf(1))), Parallel((SKIP, leaf((x + branch).subs(at)))))
    jet = jet_of(tree, S(1), by_input=True, third=True)
    order = (x, t, u)
    for places in itertools.combinations_with_replacement(range(3), 3):
        orders = set(itertools.permutations(places))
        total = sum((b.expression for key, b in jet.third.items() if tuple(sorted(key)) == places), S(0))
        assert total == len(orders) * sympy.diff(whole, *(order[i] for i in places)).subs(at), places
        sampled = sum((b.expression for key, b in jet.third_by_sample.items() if tuple(sorted(key)) == places), S(0))
        assert sampled == total  # one sample


def test_a_collapsed_tree_keeps_the_third_derivatives_by_input_and_bounds_the_others() -> None:
    layer = LayerBounds(
        *(Bound.upper(v) for v in (2, 3, 5, 7, 11)),
        Bound.lower(0),
        Bound.lower(0),
        has_parameters=True,
        **{name: Bound.upper(v) for name, v in zip(THIRD, (13, 17, 19, 23), strict=True)},
    )
    tree = compose(layer, layer)
    record, jet = collapse(tree, SAMPLES), jet_of(tree, SAMPLES, by_input=True, third=True)

    def form(*u: int) -> sympy.Expr:
        return sum((b.expression * u[key[0]] * u[key[1]] * u[key[2]] for key, b in jet.third.items()), S(0))

    assert record.input_input_input.expression == form(1, 0, 0)
    XXX, XXT, XTT, TTT = (getattr(record, name).expression for name in THIRD)
    for x, a, b in itertools.product((0, 1, 2, 5), repeat=3):
        together = sqrt(S(a * a + b * b))
        one_index = XXX * x**3 + 3 * XXT * x**2 * together + 3 * XTT * x * together**2 + TTT * together**3
        assert one_index >= form(x, a, b)


@settings(max_examples=20, deadline=None)
@given(st.lists(rational, min_size=6, max_size=6), st.sampled_from([1, 2, 3]))
def test_the_closed_largest_eigenvalue_is_exact_up_to_two_indices_and_above_beyond(entries, size) -> None:
    pairs = [(i, l) for i in range(size) for l in range(i, size)]
    matrix, form = np.zeros((size, size)), {}
    for (i, l), value in zip(pairs, entries, strict=False):
        matrix[i, l] = matrix[l, i] = float(value)
        form[i, l] = form[l, i] = Bound.upper(value)
    top, closed = np.linalg.eigvalsh(matrix).max(), float(lambda_max(form, "it").expression)
    if size <= 2:
        assert closed == pytest.approx(top, rel=1e-12)
    assert closed >= top * (1 - 1e-12)


def test_an_infinite_block_makes_the_eigenvalue_infinite_and_no_block_makes_it_zero() -> None:
    inf = Bound.upper(sympy.oo)
    assert lambda_max({(1, 1): inf, (1, 2): Bound.upper(1), (2, 1): Bound.upper(1)}, "it").expression is sympy.oo
    assert lambda_max({}, "it").expression == 0
    assert euclidean_norm([], "it").expression == 0
    assert euclidean_norm([Bound.upper(3), Bound.upper(4)], "it").expression == 5


def test_a_difference_of_singular_values_stops_at_zero() -> None:
    assert difference(Bound.lower(3), Bound.upper(2), "s").expression == 1
    assert difference(Bound.lower(3), Bound.upper(4), "s").expression == 0
    assert difference(Bound.lower(3), Bound.upper(sympy.oo), "s").expression == 0


def test_a_residual_loses_its_branch_slope_and_gains_nothing_from_its_kernel() -> None:
    branch = LayerBounds(*(Bound.upper(v) for v in (S(1) / 4, 1, 0, 1, 0)), Bound.lower(0), Bound.lower(3), True)
    low = regularity(compose(Parallel((SKIP, branch)), Parallel((SKIP, branch))))
    assert low.sigma_min.expression == S(9) / 16
    assert low.lambda_min.expression == S(9) / 16 * 3 + 3


@settings(max_examples=20, deadline=None)
@given(trees)
def test_a_collapsed_tree_keeps_norms_and_regularity(tree) -> None:
    record, low = collapse(tree, SAMPLES), regularity(tree)
    assert record.input_jacobian_norm.expression == low.jacobian.expression
    assert record.input_jacobian_sigma_min.expression == low.sigma_min.expression
    jet = jet_of(tree, SAMPLES)
    total = sum((b.expression**2 for b in jet.first.values()), S(0))
    assert sympy.simplify(record.param_jacobian_norm.expression - sqrt(total)) == 0
