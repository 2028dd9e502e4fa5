"""The closed forms of a repeated block are those of the unrolled rule, and its row sum bounds the largest eigenvalue."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sympy
from sympy import S, oo

from theory.bound import Bound
from theory.compose import INPUT, compose, jet_of, regularity
from theory.evaluate import evaluate
from theory.records import LayerBounds
from theory.repeated import Entries, geometric, repeated

j, D, XX, XT, TT = CONSTANTS = sympy.symbols("j D XX XT TT", positive=True)
s, k, L = (
    sympy.Symbol("s", positive=True),
    sympy.Symbol("k", positive=True),
    sympy.Symbol("L", integer=True, positive=True),
)
DEPTHS = range(1, 7)
RATIOS = [S(0), S(1) / 10, S(1) / 2, S(9) / 10, S(99) / 100, S(1), S(101) / 100, S(3) / 2, S(4)]


def block(j, D, XX, XT, TT, s=0, k=0) -> LayerBounds:
    uppers = [Bound.upper(value) for value in (j, D, XX, XT, TT)]
    return LayerBounds(*uppers, Bound.lower(s), Bound.lower(k), has_parameters=True)


def is_zero(expression) -> bool:
    """Whether a rational function of the constants is identically zero."""
    return sympy.cancel(sympy.piecewise_fold(expression)) == 0


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_entry_equals_that_of_the_unrolled_rule(depth: int) -> None:
    jet = jet_of(compose(*[block(*CONSTANTS)] * depth), S(1), by_input=True)
    ratio = j + 1  # any ratio but 1, so that the closed forms need no case distinction
    entries = Entries((ratio, D, XX, XT, TT), S(depth))

    def same(unrolled: Bound, closed) -> bool:
        return is_zero(unrolled.expression.subs(j, ratio) - closed)

    assert same(jet.second[INPUT, INPUT], entries.input_input())
    for l in range(1, depth + 1):
        assert same(jet.first[l], entries.first(S(l)))
        assert same(jet.second[l, l], entries.diagonal(S(l)))
        assert same(jet.second[INPUT, l], entries.input_param(S(l)))
        for m in range(l + 1, depth + 1):
            assert same(jet.second[l, m], entries.mixed(S(l), S(m)))
            assert same(jet.second[m, l], entries.mixed(S(l), S(m)))


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_entries_hold_at_ratio_one_as_well(depth: int) -> None:
    jet = jet_of(compose(*[block(S(1), D, XX, XT, TT)] * depth), S(1), by_input=True)
    entries = Entries((S(1), D, XX, XT, TT), S(depth))
    assert is_zero(jet.second[INPUT, INPUT].expression - entries.input_input())
    for l in range(1, depth + 1):
        assert is_zero(jet.second[l, l].expression - entries.diagonal(S(l)))
        for m in range(l + 1, depth + 1):
            assert is_zero(jet.second[l, m].expression - entries.mixed(S(l), S(m)))


def matrix(values, depth: int) -> np.ndarray:
    """`M` by the recursion `M_l = j M + XX a a^T + XT (a e^T + e a^T) + TT e e^T`, independently of the package."""
    q, d, xx, xt, tt = map(float, values)
    a, m = np.zeros(depth), np.zeros((depth, depth))
    for l in range(depth):
        e = np.eye(depth)[l]
        m = q * m + xx * np.outer(a, a) + xt * (np.outer(a, e) + np.outer(e, a)) + tt * np.outer(e, e)
        a = q * a + d * e
    return m


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
def test_the_row_sum_is_at_least_the_largest_eigenvalue(ratio) -> None:
    for depth, d, xx, xt, tt in itertools.product(
        (1, 2, 3, 7, 12), (S(0), S(1) / 5, S(7)), (S(0), S(3)), (S(0), S(1) / 9, S(2)), (S(0), S(5))
    ):
        values = (ratio, d, xx, xt, tt)
        top = np.linalg.eigvalsh(matrix(values, depth)).max()
        bound = float(Entries(values, S(depth)).row_sum())
        # eigvalsh is good to 1e-14 times the norm of a 12 x 12 matrix
        assert top <= bound * (1 + 1e-12), (values, depth)


@pytest.mark.parametrize("ratio", [S(1) / 2, S(1), S(3) / 2], ids=str)
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_symbolic_ratio_takes_the_right_case_at_every_number(ratio, depth: int) -> None:
    closed = repeated(block(*CONSTANTS, s, k), L, S(1))
    values = {"j": ratio, "D": 2, "XX": 3, "XT": S(1) / 3, "TT": 5, "L": depth, "s": 1, "k": 2}
    numbers = (ratio, 2, 3, S(1) / 3, 5)
    m = matrix(numbers, depth)
    a = 2 * float(ratio) ** np.arange(depth)
    assert evaluate(closed.param_param, values) >= np.linalg.eigvalsh(m).max() * (1 - 1e-12)
    assert evaluate(closed.param_jacobian_norm, values) == pytest.approx(np.linalg.norm(a), rel=1e-12)
    assert evaluate(closed.input_jacobian_norm, values) == pytest.approx(float(ratio) ** depth, rel=1e-12)
    # s = 1: every one of the L kernels counts in full
    assert evaluate(closed.tangent_kernel_lambda_min, values) == pytest.approx(2 * depth, rel=1e-12)


def test_the_parameter_kernel_and_the_least_singular_value_follow_the_regularity_fold() -> None:
    closed = repeated(block(*CONSTANTS, s, k), L, S(1))
    for depth in DEPTHS:
        fold = regularity(compose(*[block(*CONSTANTS, s, k)] * depth))
        values = {"s": S(3) / 5, "k": S(2), "L": depth, "j": 1}
        assert evaluate(fold.sigma_min, values) == pytest.approx(
            evaluate(closed.input_jacobian_sigma_min, values), rel=1e-14
        )
        assert evaluate(fold.lambda_min, values) == pytest.approx(
            evaluate(closed.tangent_kernel_lambda_min, values), rel=1e-14
        )


def test_the_mixed_norm_is_at_least_the_euclidean_norm_of_its_entries() -> None:
    for ratio, depth in itertools.product(RATIOS, (1, 2, 6)):
        values = (ratio, S(2), S(3), S(1) / 2, S(1))
        entries = Entries(values, S(depth))
        exact = np.linalg.norm([float(entries.input_param(S(l))) for l in range(1, depth + 1)])
        assert exact <= float(entries.input_param_norm()) * (1 + 1e-12)


@pytest.mark.parametrize("ratio", [S(0), S(1) / 3, S(1), S(5)], ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_the_geometric_sum_is_the_sum(ratio, count: int) -> None:
    assert geometric(ratio, S(count)) == sum(ratio**i for i in range(count))
    symbolic = geometric(j, L).subs({j: ratio}).subs({L: count}) if ratio != 0 else sympy.Min(1, count)
    assert symbolic == sum(ratio**i for i in range(count))


@pytest.mark.parametrize("infinite", range(5))
def test_an_unbounded_constant_of_the_block_never_gives_a_finite_composed_bound_it_enters(infinite: int) -> None:
    constants = [S(2)] * 5
    constants[infinite] = oo
    closed = repeated(block(*constants), L, S(1))
    enters = {
        "input_jacobian_norm": {0},
        "param_jacobian_norm": {0, 1},
        "input_input": {0, 2},
        "input_param": {0, 1, 2, 3},
        "param_param": {0, 1, 2, 3, 4},
    }
    for name, uses in enters.items():
        assert (getattr(closed, name).expression is oo) is (infinite in uses), name


def test_a_block_without_parameters_keeps_having_none() -> None:
    closed = repeated(block(S(2), S(0), S(3), S(0), S(0)), L, S(1))
    assert closed.param_jacobian_norm.expression == closed.input_param.expression == closed.param_param.expression == 0
