"""The generalized discrimination value (GDV) of Schilling et al. (arXiv 1811.01753): its definition in exact arithmetic, and its range, derived.

`T` samples in `D` dimensions, `K` classes of sizes `N_l >= 2`. Every dimension is z-scored over all samples and halved, `s = (x - mean)/(2 std)`. With `A_l` the
mean distance of two samples of class `l` and `B_lm` that of a sample of `l` and one of `m`, `GDV = D^{-1/2} (mean_l A_l - mean_{l<m} B_lm)`. The derivation:

    sum_{i<j} |s_i - s_j|^2 <= T^2 D / 4                                               z-scored and halved
    B_lm >= ((1 - 1/N_l) A_l + (1 - 1/N_m) A_m) / 2, and the same of squared distances    energy distance
    mean distance <= root of the mean squared distance, and (sum d)^2 <= sum w sum d^2/w  Cauchy-Schwarz

give `-(T/(K(K-1))) sqrt(sum_{l<m} 1/(N_l N_m)) <= GDV <= (1/K) sqrt((T/2) sum_l 1/(N_l^2 (N_l - 1)))`. For `K` classes of `n` samples this is

    -sqrt(K / (2(K-1))) <= GDV <= 1 / sqrt(2 n (n-1)),

and both ends are attained: below by `K` collapsed classes at the vertices of a regular simplex (-1 for `K = 2` alone; the end rises to `-1/sqrt 2` with `K`), above by
classes that are all the same regular simplex of `n` points. Over all ways to deal the labels the mean is exactly 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import sympy
from sympy import Expr, Matrix, S, Symbol

from theory.bound import Bound, Step, gap

K = Symbol("K", integer=True, positive=True)
"""Number of classes."""
n = Symbol("n", integer=True, positive=True)
"""Samples of every class, where the classes are balanced."""


def _members(labels: Sequence[int]) -> list[list[int]]:
    """Places of the samples of each class.

    Raises:
        ValueError: a single class, or a class with fewer than two samples, by name.
    """
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise ValueError(f"GDV: all {len(labels)} samples are of one class: two or more are needed")
    members = [[i for i, label in enumerate(labels) if label == c] for c in classes]
    for c, places in zip(classes, members, strict=True):
        if len(places) < 2:
            raise ValueError(f"GDV: class {c} has 1 sample: its mean distance needs two; add one or leave it out")
    return members


def discrimination_value(samples: Matrix, labels: Sequence[int]) -> Expr:
    """The GDV of samples in exact arithmetic; small cases only.

    Args:
        samples: `D x T`, one column a sample; constant dimensions become 0 and count in `D`.
        labels: the class of each column.

    Raises:
        ValueError: labels that do not match, one class, or a class with one sample, by name.
    """
    dimensions, total = samples.shape
    if len(labels) != total:
        raise ValueError(f"GDV: {len(labels)} labels for {total} samples: give one for each column")
    members = _members(labels)
    rows = []
    for row in range(dimensions):
        values = list(samples.row(row))
        mean = sympy.Add(*values) / total
        centred = [sympy.nsimplify(v - mean) for v in values]
        deviation = sympy.sqrt(sympy.Add(*(c**2 for c in centred)) / total)
        rows.append([S.Zero] * total if deviation == 0 else [c / (2 * deviation) for c in centred])
    scores = Matrix(rows)

    def mean_distance(pairs: list[tuple[int, int]]) -> Expr:
        squares = [sympy.expand((scores[:, i] - scores[:, j]).dot(scores[:, i] - scores[:, j])) for i, j in pairs]
        return sympy.Add(*map(sympy.sqrt, squares)) / len(pairs)

    count = len(members)
    within = [mean_distance([(i, j) for i in m for j in m if i < j]) for m in members]
    between = [mean_distance([(i, j) for i in members[a] for j in members[b]]) for a in range(count) for b in range(a)]
    value = sympy.Add(*within) / count - sympy.Add(*between) / len(between)
    return sympy.simplify(value / sympy.sqrt(dimensions))


@cache
def inequalities() -> tuple[Step, ...]:
    """The facts about distances that the range rests on, each proven by an identity."""
    t, first, second, s, sd = sympy.symbols("T S_1 S_2 s sigma", positive=True)
    p, q = sympy.symbols("p q", nonnegative=True)
    mean_x, mean_y, square_x, square_y = sympy.symbols("m_x m_y q_x q_y", real=True)
    w, weights, d, total = sympy.symbols("w W d S", positive=True)
    rest = Symbol("r", nonnegative=True)
    # (sum w)(sum d^2/w) - (sum d)^2 = r after some terms; one more term w, d
    grown = (weights + w) * ((total**2 + rest) / weights + d**2 / w) - (total + d) ** 2
    left = rest * (1 + w / weights) + (weights * d - w * total) ** 2 / (weights * w)
    return (
        Step(
            "sum_{i<j} (s_i - s_j)^2 = T sum s_i^2 - (sum s_i)^2, by induction on T: both sides grow alike with one more s",
            (
                gap(
                    second - 2 * s * first + t * s**2,
                    (t + 1) * (second + s**2) - (first + s) ** 2 - t * second + first**2,
                ),
            ),
        ),
        Step(
            "a z-scored and halved dimension has sum 0 and mean square 1/4 (0 if constant): sum over pairs at most T^2 D/4",
            (gap((sd / (2 * sd)) ** 2, S(1) / 4),),
        ),
        Step(
            "Cauchy-Schwarz, (sum d)^2 <= sum w sum d^2/w: the difference stays non-negative with one more term",
            (gap(grown, left),),
            (left - (weights * d - w * total) ** 2 / (weights * w),),
        ),
        Step(
            "energy distance on a line: |x - y| = int (1[x <= t] - 1[y <= t])^2 dt, and for indicators of means p and q "
            "2 E(a - b)^2 - E(a - a')^2 - E(b - b')^2 = 2 (p - q)^2 >= 0; pairs of equal index included",
            (gap(2 * (p + q - 2 * p * q) - (2 * p - 2 * p**2) - (2 * q - 2 * q**2), 2 * (p - q) ** 2),),
        ),
        Step("in D dimensions |x| is a multiple of the mean of |<x, u>| over directions u (rotation invariance)"),
        Step(
            "the same of squared distances: the difference is 2 |E x - E y|^2 >= 0",
            (
                gap(
                    2 * (square_x + square_y - 2 * mean_x * mean_y)
                    - (2 * square_x - 2 * mean_x**2)
                    - (2 * square_y - 2 * mean_y**2),
                    2 * (mean_x - mean_y) ** 2,
                ),
            ),
        ),
    )


@dataclass(frozen=True)
class Range:
    """Both ends of the GDV for given sizes of the classes.

    Attributes:
        separated: upper bound of `-GDV`.
        mixed: upper bound of `GDV`.
    """

    separated: Bound
    mixed: Bound

    def verify(self) -> None:
        """Recompute every identity and sign of the derivation.

        Raises:
            AssertionError: naming the first step that fails.
        """
        self.separated.verify()
        self.mixed.verify()


def _range(classes: Expr, total: Expr, pairs: Expr, crowding: Expr, sharp: bool, more: Sequence[Step] = ()) -> Range:
    """Both ends from `pairs = sum_{l<m} 1/(N_l N_m)` and `crowding = sum_l 1/(N_l^2 (N_l - 1))`."""
    size, whole, square = sympy.symbols("N T I", positive=True)
    budget = total**2 / 4
    # a class's squared distances as they count in the sum over all pairs, those to other classes replaced by the lower bound
    alone = size * (size - 1) / 2 * square
    shared = size * (whole - size) * (1 - 1 / size) * square / 2
    steps = inequalities()
    below = (
        *steps[:3],
        Step("A >= 0, so -sqrt(D) GDV <= mean B; mean B^2 <= (2/(K(K-1)))^2 sum 1/(N_l N_m) sum N_l N_m B_lm^2"),
        *more[:1],
    )
    above = (
        *steps,
        Step(
            "mean B >= mean (1 - 1/N_l) A_l, so sqrt(D) GDV <= mean A_l/N_l",
            (gap(S.One - (1 - 1 / size), 1 / size),),
        ),
        Step(
            "with the same of squares, sum_l (N_l - 1) A_l^2 <= T D/2",
            (gap(alone + shared, (size - 1) * whole * square / 2), gap(budget / (total / 2), total / 2)),
        ),
        Step("Cauchy-Schwarz: (sum A_l/N_l)^2 <= sum 1/(N_l^2 (N_l - 1)) sum (N_l - 1) A_l^2"),
        *more[1:],
    )
    low = sympy.sqrt(sympy.simplify((2 / (classes * (classes - 1))) ** 2 * pairs * budget))
    high = sympy.sqrt(sympy.simplify(crowding * (total / 2) / classes**2))
    source = "z-score, energy distance, Cauchy-Schwarz"
    return Range(
        Bound.upper(
            low,
            quantity="-GDV",
            source=source,
            steps=below,
            sharp=sharp,
            attained="each class one vertex of a regular simplex; D >= K - 1" if sharp else "",
        ),
        Bound.upper(
            high,
            quantity="GDV",
            source=source,
            steps=above,
            sharp=sharp,
            attained="all classes the same regular simplex of n points; D >= n - 1" if sharp else "",
        ),
    )


def _simplex_step(points: Expr) -> Step:
    """One-hot vectors, each equally often: their distance after z-scoring, squared and per dimension."""
    variance = (1 / points) * (1 - 1 / points)
    return Step(
        f"{points} one-hot vectors, each equally often: variance {variance} in each of {points} dimensions, squared distance over D",
        (gap(2 / (4 * variance) / points, points / (2 * (points - 1))),),
    )


@cache
def balanced() -> Range:
    """The range for `K` classes of `n >= 2` samples; both ends attained."""
    i, j = sympy.symbols("i j", integer=True, positive=True)
    pairs = sympy.summation(sympy.summation(1 / n**2, (j, i + 1, K)), (i, 1, K))
    crowding = sympy.summation(1 / (n**2 * (n - 1)), (i, 1, K))
    low, high = K / (2 * (K - 1)), 1 / (2 * n * (n - 1))
    one = _simplex_step(K)
    spread = n / (2 * (n - 1))
    found = _range(
        K,
        K * n,
        pairs,
        crowding,
        True,
        (
            one,
            _simplex_step(n),
            # A = sqrt(spread D), B = (1 - 1/n) A
            Step("the same simplex in every class: GDV^2 = (A/n)^2 / D", (gap(spread * (1 - (1 - 1 / n)) ** 2, high),)),
        ),
    )
    for bound, square in ((found.separated, low), (found.mixed, high)):
        if sympy.simplify(bound.expression**2 - square) != 0:
            raise AssertionError(f"{bound.quantity}: derived {bound.expression}, attained {sympy.sqrt(square)}")
    return found


def unbalanced(sizes: Sequence[int]) -> Range:
    """The range for classes of the given sizes; the lower end is attained for two classes, for more it need not be.

    Raises:
        ValueError: fewer than two classes, or a class with fewer than two samples, by its place.
    """
    if len(sizes) < 2:
        raise ValueError(f"GDV: {len(sizes)} class: two or more are needed")
    for place, size in enumerate(sizes):
        if size < 2:
            raise ValueError(f"GDV: class {place} has {size} sample: its mean distance needs two")
    counts = [sympy.Integer(size) for size in sizes]
    pairs = sympy.Add(*(1 / (a * b) for place, a in enumerate(counts) for b in counts[:place]))
    crowding = sympy.Add(*(1 / (a**2 * (a - 1)) for a in counts))
    return _range(sympy.Integer(len(counts)), sympy.Add(*counts), pairs, crowding, len(set(sizes)) == 1)


def collapsed_simplex(sizes: Sequence[int]) -> tuple[Matrix, list[int]]:
    """`len(sizes)` classes, each collapsed to a one-hot vector: samples as columns, and labels. The lower end if balanced, or two classes."""
    labels = [c for c, size in enumerate(sizes) for _ in range(size)]
    return Matrix(len(sizes), len(labels), lambda row, column: int(labels[column] == row)), labels


def repeated_simplex(classes: int, size: int) -> tuple[Matrix, list[int]]:
    """`classes` classes, each made of the same `size` one-hot vectors: samples as columns, and labels. The upper end."""
    labels = [c for c in range(classes) for _ in range(size)]
    return Matrix(size, len(labels), lambda row, column: int(column % size == row)), labels
