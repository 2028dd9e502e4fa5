"""Balls around singular values and norms contain the exact ones, whatever basis is proposed, and are tight where doubles allow it.

The referee is exact: a double matrix times a power of two is an integer matrix, and the roots of the characteristic polynomial of its Gram
matrix are isolated by FLINT.
"""

from __future__ import annotations

import math
from fractions import Fraction

import flint
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from numerics.device import DTYPE, generator
from numerics.enclosures import enclosure_by_basis, frobenius_norm, largest_column_norm, singular_value_enclosure


def exact_extremes(X: Tensor) -> tuple[flint.arb, flint.arb]:
    """`sigma_N` and `sigma_1` from the roots of `det(t I - X^T X)`, as balls of relative width below 2^-90 (or exactly 0)."""
    rows = [[Fraction(entry) for entry in row] for row in X.tolist()]
    unit = math.lcm(*(entry.denominator for row in rows for entry in row))
    whole = flint.fmpz_mat([[int(entry * unit) for entry in row] for row in rows])
    roots = [root.real for root, _ in (whole.transpose() * whole).charpoly().complex_roots()]
    ordered = sorted(roots, key=lambda root: root.mid())
    assert all(root == 0 or root.rel_accuracy_bits() > 90 for root in ordered)
    least, largest = (root if root == 0 else root.sqrt() / unit for root in (ordered[0], ordered[-1]))
    return least, largest


def contains(ball: flint.arb, exact: flint.arb) -> bool:
    """Whether no point of the referee's tiny ball lies certainly outside."""
    return bool(ball.lower() <= exact.upper() and exact.lower() <= ball.upper())


def relative_width(ball: flint.arb) -> float:
    return float(2 * ball.rad() / ball.mid())


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=DTYPE)


def gaussian(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, dtype=DTYPE, generator=generator(seed))


def with_singular_values(rows: int, values: list[float]) -> Tensor:
    size = len(values)
    left, right = torch.linalg.qr(gaussian(rows, size, 1))[0], torch.linalg.qr(gaussian(size, size, 2))[0]
    return left * torch.tensor(values, dtype=DTYPE) @ right


KNOWN = {
    "roots of 45 and 5": (matrix([3, 0], [4, 5]), flint.arb(5).sqrt(), flint.arb(45).sqrt()),
    "identity": (torch.eye(4, dtype=DTYPE), flint.arb(1), flint.arb(1)),
    "orthogonal columns": (matrix([2, 3], [2, -3], [1, 0]), flint.arb(3), flint.arb(18).sqrt()),
    "golden ratio": (matrix([1, 1], [1, 0]), (flint.arb(5).sqrt() - 1) / 2, (flint.arb(5).sqrt() + 1) / 2),
    "one column": (matrix([3], [4]), flint.arb(5), flint.arb(5)),
    "ones": (torch.ones(4, 3, dtype=DTYPE), flint.arb(0), flint.arb(12).sqrt()),
    "zeros": (torch.zeros(4, 3, dtype=DTYPE), flint.arb(0), flint.arb(0)),
    "more columns than rows": (matrix([1, 0, 2], [0, 3, 0]), flint.arb(0), flint.arb(3)),
    "huge": (matrix([3e300, 0], [0, 1e300]), flint.arb(1e300), flint.arb(3e300)),
    "subnormal": (matrix([2**-1070, 0], [0, 2**-1074]), flint.arb(2**-1074), flint.arb(2**-1070)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_singular_values_known_in_closed_form_are_enclosed(name: str) -> None:
    X, least, largest = KNOWN[name]
    found = singular_value_enclosure(X)
    for ball, exact in zip(found, (least, largest), strict=True):
        assert contains(ball, exact)
        assert ball.lower() >= 0
        # 64 roundings of a double are far more than these small matrices need; where 0 is exact the rest is rounding of sigma_1
        scale = exact.mid() if exact > 0 else largest.mid()
        assert 2 * ball.rad() <= 64 * 2**-52 * scale


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (5, 3), (9, 9), (12, 7), (3, 5)])
@pytest.mark.parametrize("seed", range(4))
def test_singular_values_of_random_matrices_are_enclosed_tightly(rows: int, columns: int, seed: int) -> None:
    X = gaussian(rows, columns, seed)
    least, largest = singular_value_enclosure(X)
    exact_least, exact_largest = exact_extremes(X)
    assert contains(least, exact_least)
    assert contains(largest, exact_largest)
    assert least > 0 if columns <= rows else least == 0
    assert relative_width(largest) < 1e-13
    if columns <= rows:
        assert relative_width(least) < 1e-14 * float(largest.mid() / least.mid()) * columns


@pytest.mark.parametrize("least_value", [1e-6, 1e-10, 1e-12, 1e-13])
def test_a_matrix_near_deficient_rank_is_still_proven_to_have_full_rank(least_value: float) -> None:
    X = with_singular_values(10, [1, 0.8, 0.5, 0.1, 0.05, least_value])
    least, largest = singular_value_enclosure(X)
    for ball, exact in zip((least, largest), exact_extremes(X), strict=True):
        assert contains(ball, exact)
    assert least > 0
    assert relative_width(least) < 1e-14 / least_value  # six columns, each off by rounding of sigma_1 = 1


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_a_repeated_column_has_lower_end_zero_and_no_error(columns: int) -> None:
    X = gaussian(8, columns)
    repeated = torch.cat([X, X[:, :1]], 1)
    least, largest = singular_value_enclosure(repeated)
    assert least.lower() == 0
    assert least.upper() < 1e-14 * largest.upper()
    assert exact_extremes(repeated)[0] == 0


def test_a_matrix_within_rounding_of_deficient_rank_has_lower_end_zero() -> None:
    X = matrix([1, 1], [1, 1 + 2**-52], [0, 0])
    least, _ = singular_value_enclosure(X)
    exact = exact_extremes(X)[0]
    assert exact > 0
    assert contains(least, exact)
    assert least.upper() < 1e-15


small_matrices = st.integers(1, 4).flatmap(
    lambda columns: st.lists(
        st.lists(st.integers(-9, 9), min_size=columns, max_size=columns), min_size=1, max_size=5
    ).map(lambda rows: torch.tensor(rows, dtype=DTYPE))
)


@given(small_matrices)
def test_small_integer_matrices_are_enclosed(X: Tensor) -> None:
    found = singular_value_enclosure(X)
    exact_least, exact_largest = exact_extremes(X)
    if X.shape[1] > X.shape[0]:
        assert exact_least == 0
    assert contains(found[0], exact_least)
    assert contains(found[1], exact_largest)
    # an integer matrix of full rank has |det X^T X| >= 1, so sigma_N >= sigma_1^-(N - 1) >= 41^-3: far above rounding
    assert (found[0] > 0) == (exact_least > 0)


@given(
    small_matrices, st.integers(0, 10**6), st.sampled_from([0.0, 1e-3, 0.1, 0.3, 1.0]), st.sampled_from([0.9, 1, 1.1])
)
def test_the_enclosure_is_true_for_any_proposed_basis(X: Tensor, seed: int, noise: float, factor: float) -> None:
    X = X if X.shape[1] <= X.shape[0] else X.mT.contiguous()
    size = X.shape[1]
    basis = torch.linalg.svd(X, full_matrices=False)[2].mT
    proposed = factor * (basis + noise * gaussian(size, size, seed))
    for ball, exact in zip(enclosure_by_basis(X, proposed), exact_extremes(X), strict=True):
        assert contains(ball, exact)


@pytest.mark.parametrize("value", [0.0, 1e300, math.nan, math.inf])
def test_a_worthless_basis_gives_wide_but_true_balls(value: float) -> None:
    X = matrix([3, 0], [4, 5])
    for ball, exact in zip(
        enclosure_by_basis(X, torch.full((2, 2), value, dtype=DTYPE)), exact_extremes(X), strict=True
    ):
        assert contains(ball, exact)
        assert ball.is_finite()


def test_norms_are_enclosed_to_many_more_digits_than_a_double_has() -> None:
    X = matrix([3, 1, 1], [4, 1, 0], [0, 1, 0])
    assert largest_column_norm(X) == 5
    assert frobenius_norm(X).overlaps(flint.arb(29).sqrt())
    tenths = matrix([0.1, 0.2], [0.3, -0.5])
    total = sum(Fraction(entry) ** 2 for entry in tenths.flatten().tolist())
    assert (frobenius_norm(tenths) ** 2).contains(flint.fmpq(total.numerator, total.denominator))
    column = Fraction(0.2) ** 2 + Fraction(0.5) ** 2
    assert (largest_column_norm(tenths) ** 2).contains(flint.fmpq(column.numerator, column.denominator))
    assert relative_width(frobenius_norm(gaussian(20, 30))) < 1e-30
    assert frobenius_norm(torch.zeros(2, 2, dtype=DTYPE)) == 0
    assert frobenius_norm(matrix([1e300, 1e300])).is_finite()


@pytest.mark.parametrize("function", [singular_value_enclosure, largest_column_norm, frobenius_norm])
def test_what_is_no_finite_double_matrix_is_refused_by_name(function) -> None:
    with pytest.raises(ValueError, match=r"float32 of shape \(2, 2\).*float64"):
        function(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        function(torch.ones(3, dtype=DTYPE))
    with pytest.raises(ValueError, match=r"shape \(3, 0\)"):
        function(torch.ones(3, 0, dtype=DTYPE))
    with pytest.raises(ValueError, match=r"X\[1, 0\] = nan"):
        function(matrix([1, 2], [math.nan, math.inf]))
