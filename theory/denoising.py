"""A linear denoising autoencoder with bottleneck `k`: its minimisers on a sample and in the population, with and without skip connection.

Data `X`, noise `A`, observed `Y = X + A`, all `d x n`. Without skip `min |X - W2 W1 Y|_F^2`; with skip the network is `Y + W2 W1 Y` and the residual
`X - Y - W2 W1 Y = -(A + W2 W1 Y)`. Both are `min |T - M Y|_F^2` over matrices `M` of rank at most `k`, with the target `T = X` (network `W = M`) or
`T = A` (`W = I - M`). With `P = Y^+ Y`, the projection on the row space of `Y`, and `[.]_k` the best approximation of rank `k`:

    minimiser   M* = [T P]_k Y^+,     least loss   |T|^2 - (sum of the k largest eigenvalues of T P T^T).

`[T]_k Y^+`, without the projection, loses `sum of the k largest eigenvalues of T P T^T - tr(Q T P T^T)` more, `Q` the projection on the first `k` left
singular vectors of `T`. Nothing is lost exactly when those span an eigenspace of the `k` largest eigenvalues of `T P T^T`: always where `P = I` (`Y` of full
column rank, so `n <= d`) or `k >= rank T`; in general not where `n > d`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import sympy
from sympy import Expr, Matrix, S, Symbol

from theory.bound import Step

_T, _TT, _P, _Q, _M, _MT, _Y, _YT = sympy.symbols("T T' P Q M M' Y Y'", commutative=False)
_RULES: Mapping[tuple[Symbol, ...], tuple[Symbol, ...]] = {
    (_P, _P): (_P,),
    (_Q, _Q): (_Q,),
    (_P, _YT): (_YT,),
    (_Y, _P): (_Y,),
}
"""Products of matrices that are known: `P` and `Q` are projections, and `P` keeps the rows of `Y`."""


def _reduced(word: tuple[Symbol, ...], cyclic: bool) -> tuple[Symbol, ...]:
    """A product rewritten by the rules until none applies; of a trace the first of its rotations."""
    for turn in range(len(word) if cyclic else 1):
        turned = word[turn:] + word[:turn]
        for i in range(len(turned) - 1):
            if turned[i : i + 2] in _RULES:
                return _reduced(turned[:i] + _RULES[turned[i : i + 2]] + turned[i + 2 :], cyclic)
    return min((word[i:] + word[:i] for i in range(len(word))), key=str) if cyclic else word


def matrix_identity(expression: Expr, *, trace: bool = False) -> Expr:
    """A polynomial in the matrices above (or its trace) in normal form, as a polynomial in words: zero where it vanishes for matrices of every size."""
    total = S.Zero
    for term in sympy.Add.make_args(sympy.expand(expression)):
        numbers, factors = term.args_cnc()
        powers = (factor.as_base_exp() for factor in factors)
        word = _reduced(tuple(base for base, exponent in powers for _ in range(int(exponent))), trace)
        name = Symbol("tr(" + " ".join(map(str, word)) + ")") if trace else sympy.Mul(*word)
        total += sympy.Mul(*numbers) * name
    return sympy.expand(total)


@lru_cache(maxsize=1)
def minimiser_steps() -> tuple[Step, ...]:
    """The derivation of the minimiser, for matrices of every size; each identity is a normal form in the matrices."""
    outside, inside, inside_t = _T - _T * _P, _T * _P - _M * _Y, _P * _TT - _YT * _MT
    pythagoras = matrix_identity(outside * inside_t)
    whole = (_T - _M * _Y) * (_TT - _YT * _MT)
    split = outside * (_TT - _P * _TT) + inside * inside_t
    plain = (_T - _Q * _T * _P) * (_TT - _P * _TT * _Q)
    claimed = _T * _TT - _Q * _T * _P * _TT
    apart = (_T - _Q * _T) * (_TT - _TT * _Q) + _Q * outside * (_TT - _P * _TT) * _Q
    return (
        Step("(T - T P)(T P - M Y)^T = 0: the part of the target outside the row space of Y is lost", (pythagoras,)),
        Step(
            "|T - M Y|^2 = |T - T P|^2 + |T P - M Y|^2",
            (matrix_identity(whole - split, trace=True),),
        ),
        Step(
            "M Y runs over the matrices B = B P of rank at most k (M = B Y^+), [T P]_k is one: Eckart, Young and Mirsky give M* = [T P]_k Y^+"
        ),
        Step(
            "|T - Q T P|^2 = |T|^2 - tr(Q T P T^T) for every projection Q; [T]_k Y^+ Y = Q T P with Q on the first k left singular vectors of T",
            (matrix_identity(plain - claimed, trace=True),),
        ),
        Step(
            "|T - Q T P|^2 = |T - Q T|^2 + |Q (T - T P)|^2, and neither |T - [T]_k|^2 nor |T - T P|^2 exceeds the least loss: [T]_k Y^+ loses at most twice the least",
            (matrix_identity(plain - apart, trace=True),),
        ),
        Step(
            "Ky Fan: tr(Q S) over projections of rank k is largest, the sum of the k largest eigenvalues of S, exactly on their eigenspaces"
        ),
    )


def row_projection(observed: Matrix) -> Matrix:
    """`P = Y^+ Y`, exactly."""
    return observed.pinv() * observed


def _leading(matrix: Matrix, k: int) -> tuple[Expr, Matrix]:
    """Sum of the `k` largest eigenvalues of a symmetric matrix, and the projection on their eigenspace.

    Raises:
        ValueError: the `k`-th and the next eigenvalue are equal, so that the eigenspace is not unique.
    """
    pairs = [(value, v) for value, _, space in matrix.eigenvects() for v in sympy.GramSchmidt(space, True)]
    pairs.sort(key=lambda pair: -pair[0].evalf(50))
    if 0 < k < len(pairs) and sympy.simplify(pairs[k - 1][0] - pairs[k][0]) == 0:
        raise ValueError(f"eigenvalues {k} and {k + 1} of {matrix} are equal: the best approximation is not unique")
    kept = pairs[:k]
    projection = sum((v * v.T for _, v in kept), sympy.zeros(*matrix.shape))
    return sympy.Add(*(value for value, _ in kept)), projection


@dataclass(frozen=True)
class Losses:
    """Squared errors on one sample, exact: of the minimiser `[T P]_k Y^+`, and of `[T]_k Y^+`."""

    least: Expr
    unprojected: Expr


def losses(target: Matrix, observed: Matrix, k: int) -> Losses:
    """The two losses of exact matrices `T`, `Y` (`d x n`), from `minimiser_steps`.

    Raises:
        ValueError: shapes that differ, a bottleneck outside `0 .. d`, or a tie that leaves `[T]_k` undetermined.
    """
    if target.shape != observed.shape:
        raise ValueError(f"target {target.shape} and observations {observed.shape}: give matrices of one shape (d, n)")
    if not 0 <= k <= target.rows:
        raise ValueError(f"bottleneck {k}: use 0 to d = {target.rows}")
    gram, seen = target * target.T, target * row_projection(observed) * target.T
    total = gram.trace()
    return Losses(
        sympy.simplify(total - _leading(seen, k)[0]), sympy.simplify(total - (_leading(gram, k)[1] * seen).trace())
    )


@dataclass(frozen=True)
class Population:
    """Infinitely many samples, signal and noise independent with covariances diagonal in one basis: `signal[i]` and `noise[i]` along direction `i`.

    The target's share along `i` that a linear map of `Y` recovers is `t_i^2 / (signal_i + noise_i)`, `t` the signal (no skip) or the noise (skip): the
    eigenvalues of the limit of `T P T^T / n`.
    """

    signal: Sequence[Expr]
    noise: Sequence[Expr]

    def __post_init__(self) -> None:
        if len(self.signal) != len(self.noise) or not self.signal:
            raise ValueError(f"{len(self.signal)} signal and {len(self.noise)} noise variances: give as many of each")

    def recovered(self, skip: bool) -> list[Expr]:
        target = self.noise if skip else self.signal
        return [sympy.cancel(t**2 / (s + a)) for t, s, a in zip(target, self.signal, self.noise, strict=True)]

    def risk(self, k: int, skip: bool) -> Expr:
        """Least `E|x - W (x + a)|^2` with bottleneck `k`, for numbers."""
        target = self.noise if skip else self.signal
        return sympy.Add(*target) - sympy.Add(*sorted(self.recovered(skip), key=lambda e: -e.evalf())[:k])

    def unprojected_risk(self, k: int, skip: bool) -> Expr:
        """The risk of `[T]_k Y^+` in the limit: directions ranked by the target's own variance. Equal variances are averaged over all choices of the directions,
        as the sample's singular vectors are uniformly distributed there (rotations of Gaussian noise)."""
        target = list(self.noise if skip else self.signal)
        shares = dict(enumerate(self.recovered(skip)))
        left, kept = k, S.Zero
        for value in sorted(set(target), key=lambda e: -e.evalf()):
            tied = [i for i, t in enumerate(target) if t == value]
            taken = min(left, len(tied))
            kept += sympy.Rational(taken, len(tied)) * sympy.Add(*(shares[i] for i in tied))
            left -= taken
        return sympy.Add(*target) - kept


@lru_cache(maxsize=1)
def isotropic_steps() -> tuple[Step, ...]:
    """Noise of one variance `s` in all directions: without skip `[X]_k Y^+` has the right limit, with skip the minimiser takes the directions of least signal."""
    signal, s = sympy.symbols("lambda s", positive=True)
    (plain,), (skipped,) = Population((signal,), (s,)).recovered(False), Population((signal,), (s,)).recovered(True)
    return (
        Step(
            "lambda^2/(lambda + s) increases with lambda: the k directions of largest signal, as in [X]_k",
            non_negative=(sympy.factor(sympy.diff(plain, signal)),),
        ),
        Step(
            "s^2/(lambda + s) decreases with lambda: the k directions of LEAST signal, while all directions of [A]_k are equally likely",
            non_negative=(sympy.factor(-sympy.diff(skipped, signal)),),
        ),
        Step(
            "excess over the Wiener filter, whose risk is lambda s/(lambda + s) a direction: lambda^2/(lambda + s) a lost one without, s^2/(lambda + s) with skip",
            (
                sympy.cancel(signal - signal * s / (signal + s) - plain),
                sympy.cancel(s - signal * s / (signal + s) - skipped),
            ),
        ),
    )
