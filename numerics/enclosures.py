"""Proven enclosures of norms and extreme singular values of a double matrix, in ball arithmetic.

The entries of the matrix are taken as the exact binary numbers they are. A decomposition in floating point only proposes a basis; what is
returned is proven from products in ball arithmetic (`theory.evaluate.PRECISION` bits), whatever that basis is worth.
"""

from __future__ import annotations

import flint
import torch
from torch import Tensor

from theory.evaluate import exact_ball


def singular_value_enclosure(X: Tensor) -> tuple[flint.arb, flint.arb]:
    """Balls that certainly contain `sigma_N(X)` and `sigma_1(X)`, for `X` of shape `(d, N)` in float64.

    Singular values are counted by columns: `sigma_N` is exactly 0 where `N > d`. The widths are about `N 2^-52 sigma_1 / sigma_N` relative
    to `sigma_N`, and `N 2^-52` relative to `sigma_1`. Where `sigma_N > 0` cannot be proven (a matrix of deficient rank, or one that is
    within rounding of such a matrix) the lower end of the first ball is 0: no error.

    Raises:
        ValueError: not a float64 matrix, an empty one, or an entry that is not finite.
    """
    _check(X)
    tall = X if X.shape[1] <= X.shape[0] else X.mT
    _, _, basis = torch.linalg.svd(tall, full_matrices=False)
    least, largest = enclosure_by_basis(tall, basis.mT)
    return (least if tall is X else exact_ball(0)), largest


def enclosure_by_basis(X: Tensor, V: Tensor) -> tuple[flint.arb, flint.arb]:
    """`sigma_N(X)` and `sigma_1(X)` of `X` (`d x N`, `N <= d`), proven for any matrix `V` (`N x N`); tight where `V` is near a right basis.

    With `G = V^T V`, `M = (X V)^T (X V)` and `gamma = |G - I|_F < 1`: `|V|^2 <= 1 + gamma` and `|V^-1|^2 <= 1 / (1 - gamma)`, hence

    - `max_i M_ii / G_ii <= sigma_1^2 <= |M|_inf / (1 - gamma)`, by `|X v_i| / |v_i|` and by `X = (X V) V^-1`;
    - `sigma_N^2 <= min_i M_ii / G_ii`;
    - `sigma_N^2 >= min_i M_ii (1 - delta) / (1 + gamma)`: let `D = diag(|X v_i|)`, `T = V D^-1` and `B = X T`, whose columns have length 1, and
      `delta = |B^T B - I|_F < 1`, that is `delta^2 = sum_(i != j) M_ij^2 / (M_ii M_jj)`. Then `|X w| = |B T^-1 w| >= sqrt(1 - delta) |w| / |T|`
      for every `w`, and `|T| <= |V| / min_i |X v_i|`.

    Without `gamma < 1` the identity takes the place of `V`. Without `delta < 1` the lower bound of `sigma_N` is 0.
    """
    basis = exact_matrix(V)
    gram = basis.transpose() * basis
    gamma = _distance_from_identity(gram)
    if not gamma < 1:
        return enclosure_by_basis(X, torch.eye(V.shape[0], dtype=V.dtype))
    image = exact_matrix(X) * basis
    rows = (image.transpose() * image).tolist()
    squares = [row[i] for i, row in enumerate(rows)]
    quotients = [square / gram[i, i] for i, square in enumerate(squares)]
    norm = _largest([sum((abs(entry) for entry in row), exact_ball(0)) for row in rows])
    delta = _cosines(rows)
    least = _least(squares) * (1 - delta) / (1 + gamma) if delta < 1 else exact_ball(0)
    return (
        _root(least.lower(), _least(quotients).upper()),
        _root(_largest(quotients).lower(), (norm / (1 - gamma)).upper()),
    )


def largest_column_norm(X: Tensor) -> flint.arb:
    """A ball that contains `max_j |X e_j|`, the largest Euclidean norm of a column, for `X` of shape `(d, N)` in float64.

    Raises:
        ValueError: not a float64 matrix, an empty one, or an entry that is not finite.
    """
    _check(X)
    return _largest([_sum_of_squares(column) for column in X.mT]).sqrt()


def frobenius_norm(X: Tensor) -> flint.arb:
    """A ball that contains `|X|_F`, for a float64 matrix.

    Raises:
        ValueError: not a float64 matrix, an empty one, or an entry that is not finite.
    """
    _check(X)
    return _sum_of_squares(X.flatten()).sqrt()


def exact_matrix(X: Tensor) -> flint.arb_mat:
    """A double matrix with its entries as exact balls."""
    return flint.arb_mat(X.tolist())


def _check(X: Tensor) -> None:
    if X.ndim != 2 or X.dtype != torch.float64 or not X.numel():
        raise ValueError(f"X is {X.dtype} of shape {tuple(X.shape)}: give a float64 matrix with rows and columns")
    wrong = (~X.isfinite()).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ValueError(f"X[{row}, {column}] = {float(X[row, column])}: remove or impute it")


def _sum_of_squares(entries: Tensor) -> flint.arb:
    row = exact_matrix(entries[None])
    return (row * row.transpose())[0, 0]


def _distance_from_identity(matrix: flint.arb_mat) -> flint.arb:
    gaps = [entry - (i == j) for i, row in enumerate(matrix.tolist()) for j, entry in enumerate(row)]
    return _root(exact_ball(0), sum((gap * gap for gap in gaps), exact_ball(0)).upper()).upper()


def _cosines(gram: list[list[flint.arb]]) -> flint.arb:
    """`sqrt(sum_(i != j) M_ij^2 / (M_ii M_jj))`, rounded up; not a number where a diagonal entry may be 0."""
    total = exact_ball(0)
    inverse = [1 / row[i] if row[i] > 0 else flint.arb.nan() for i, row in enumerate(gram)]
    for i, row in enumerate(gram):
        total += inverse[i] * sum((row[j] * row[j] * inverse[j] for j in range(i)), exact_ball(0))
    return _root(exact_ball(0), (2 * total).upper()).upper()


def _least(balls: list[flint.arb]) -> flint.arb:
    least = balls[0]
    for ball in balls[1:]:
        least = least.min(ball)
    return least


def _largest(balls: list[flint.arb]) -> flint.arb:
    return -_least([-ball for ball in balls])


def _root(low: flint.arb, high: flint.arb) -> flint.arb:
    """A ball that contains `[sqrt(max(0, low)), sqrt(high)]`, without negative numbers; `high >= 0`."""
    bottom = low.sqrt().lower() if low > 0 else exact_ball(0)
    ball = bottom.union(high.sqrt().upper())
    return ball if ball > 0 else ball.nonnegative_part()
