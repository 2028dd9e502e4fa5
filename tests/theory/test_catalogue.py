"""The whole catalogue: every bound verifies, is written in sympifiable form, and keeps its senses and zeros in order."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import sympy
from sympy import S, oo

from theory import symbols
from theory.catalogue import DOMAINS, SHAPE, Entry, catalogue, entry, layers
from theory.evaluate import evaluate
from theory.network import Residual
from theory.records import LOWER, QUANTITIES
from theory.spec import describe, parse
from theory.symbols import KNOWN


@cache
def entries() -> tuple[Entry, ...]:
    return tuple(catalogue())


IDS = [f"{describe(network)} [{domain}]" for network in layers() for domain in DOMAINS]
VALUES = [
    {"N": 2, "d": 3, "m": 2, "eps": S(1) / 10, "r": S(1) / 2, "rho": S(2), "c": S(1) / 3},
    {"N": 7, "d": 2, "m": 2, "eps": S(3), "r": S(5), "rho": S(1) / 4, "c": S(3)},
]


@pytest.mark.parametrize("index", range(len(IDS)), ids=IDS)
def test_every_bound_of_the_catalogue_verifies_and_is_well_formed(index: int) -> None:
    found = entries()[index]
    for name, bound in found.bounds.quantities():
        bound.verify()
        assert bound.quantity == name
        assert bound.sense == ("lower" if name in LOWER else "upper")
        assert bound.expression.free_symbols <= set(KNOWN.values()), bound
        # its printed form is the expression again, once evaluated (minima are kept unevaluated)
        again = sympy.sympify(str(bound.expression), locals=dict(KNOWN))
        for values in VALUES:
            at = {KNOWN[key]: value for key, value in values.items()}
            left, right = again.subs(at), bound.expression.subs(at)
            assert left == right or abs(float(left - right)) <= 1e-12 * abs(float(right)), name


@pytest.mark.parametrize("index", range(len(IDS)), ids=IDS)
def test_every_bound_evaluates_to_a_number_that_is_not_negative(index: int) -> None:
    for values in VALUES:
        for name, bound in entries()[index].bounds.quantities():
            value = evaluate(bound, values)
            assert value >= 0, name  # false for nan as well
            if name in LOWER:
                assert value < float("inf")


def test_bounds_only_improve_from_no_limit_to_a_ball() -> None:
    order = list(DOMAINS)
    table = {(e.name, e.domain): e.bounds for e in entries()}
    for network in layers():
        for wide, narrow in itertools.pairwise(order):
            for values in VALUES:
                for quantity in QUANTITIES:
                    large = evaluate(getattr(table[describe(network), wide], quantity), values)
                    small = evaluate(getattr(table[describe(network), narrow], quantity), values)
                    better = small >= large * (1 - 1e-12) if quantity in LOWER else small <= large * (1 + 1e-12)
                    assert better, (describe(network), quantity, wide, narrow)


def test_lower_and_upper_bounds_of_one_jacobian_are_in_order() -> None:
    for found in entries():
        for values in VALUES:
            low = evaluate(found.bounds.input_jacobian_sigma_min, values)
            assert low <= evaluate(found.bounds.input_jacobian_norm, values) * (1 + 1e-12), found.name


def test_every_entry_of_the_catalogue_can_be_written_and_read_back() -> None:
    for network in layers():
        assert parse(describe(network)) == network
    assert len({describe(network) for network in layers()}) == len(layers())


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "gelu", "tanh"])
def test_only_activations_with_a_jump_in_the_slope_have_no_second_order_bound(name: str) -> None:
    bounds = entry(parse(name), "everywhere").bounds
    assert (bounds.input_input.expression is oo) is (name in ("relu", "leaky_relu"))


def test_what_normalisation_and_skips_repair_can_be_read_off() -> None:
    plain = entry(parse("affine(m)"), "everywhere").bounds
    normalised = entry(parse("affine(m, weight_norm=frobenius)"), "everywhere").bounds
    assert plain.input_jacobian_norm.expression is oo
    assert normalised.input_jacobian_norm.expression == 1
    assert plain.input_jacobian_sigma_min.expression == normalised.input_jacobian_sigma_min.expression == 0
    block = next(n for n in layers() if isinstance(n, Residual) and "weight_norm" in describe(n))
    assert entry(block, "everywhere").bounds.input_jacobian_sigma_min.expression == sympy.Max(0, 1 - symbols.c)


def test_no_parameter_means_no_parameter_derivative() -> None:
    for found in entries():
        if not found.bounds.has_parameters:
            for name in ("param_jacobian_norm", "input_param", "param_param", "tangent_kernel_lambda_min"):
                assert getattr(found.bounds, name).expression == 0


def test_the_catalogue_speaks_of_the_declared_shape() -> None:
    assert (SHAPE.features, SHAPE.samples) == (symbols.d, symbols.N)
