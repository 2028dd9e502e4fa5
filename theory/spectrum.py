"""Rigorous enclosure of the largest eigenvalue of the composed, non-negative block matrix, at any depth.

`M` is never formed: for non-negative `u` the rule gives `u^T M u` in one sweep over the depth, and half its gradient, `M u`, in one
more sweep back. A power iteration finds a positive vector `v`; then Collatz and Wielandt enclose:
`min_l (M v)_l / v_l <= lambda_max(M) <= max_l (M v)_l / v_l`, evaluated in ball arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import flint
from sympy import Expr

from theory.bound import Bound
from theory.compose import (
    Algebra,
    Coefficients,
    Indices,
    Jet,
    Parallel,
    Regularity,
    Series,
    Tree,
    coefficients,
    propagate,
    regularity,
)
from theory.evaluate import Values, check, enclose_expression

ITERATIONS = 60
"""Most power iterations; the enclosure is rigorous after any number of them, more make it narrower."""
NARROW = 1e-9
"""Relative width at which the power iteration stops."""

_ZERO, _ONE = flint.arb(0), flint.arb(1)


@dataclass(frozen=True)
class Numbers:
    """A leaf's coefficients as balls, with the index of its parameter (None without one).

    In `at` what multiplies zero (no parameter before this leaf) is zero; `whole` is what the leaf says, for the regularity fold.
    """

    at: Coefficients
    parameter: int | None
    whole: Coefficients
    names: tuple[str, ...] = ()

    @property
    def has_parameters(self) -> bool:
        return self.parameter is not None


@dataclass(frozen=True)
class Evaluated:
    """A tree whose leaves hold balls; what `lambda_max` and the regularity fold work on."""

    tree: Any
    parameters: int
    infinite: bool

    def jet(self, direction: list[Any], root_samples: Any) -> Jet:
        """`(a . u, u^T M u, u^T M_1 u)` along a non-negative direction, by the rule itself."""
        zero = Jet(_ZERO, _ZERO, _ZERO)
        return propagate(self.tree, zero, lambda leaf: direction[leaf.parameter], root_samples, lambda leaf: leaf.at)


def evaluated(tree: Tree, values: Values, *, fed: bool = False) -> Evaluated:
    """Evaluate every leaf of a tree, checking all assumptions on the way.

    `fed` says whether the tree's input depends on parameters; for fixed data it does not.

    Raises:
        ValueError: naming the assumption that fails or the symbol without value.
    """
    memo: dict[Expr, flint.arb] = {}
    checked: set[Any] = set()

    def ball(bound: Bound) -> flint.arb:
        if bound.expression not in memo:
            memo[bound.expression] = enclose_expression(bound.expression, values)
        for assumption in bound.assumptions:
            if assumption not in checked:
                check((assumption,), values, bound.quantity)
                checked.add(assumption)
        return memo[bound.expression]

    parameter = Indices(0)
    infinite = False

    def leaf_numbers(leaf: Any, fed: bool) -> Numbers:
        nonlocal infinite
        here = whole = coefficients(leaf, ball)
        if not fed:
            # nothing before this layer depends on a parameter: J, XX and XT multiply zero
            here = replace(here, J=_ZERO, XX=_ZERO, XT=_ZERO)
        infinite |= any(not value.is_finite() for value in (here.J, here.D, here.XX, here.XT, here.TT))
        return Numbers(here, parameter(leaf) if leaf.has_parameters else None, whole, leaf.names)

    def convert(node: Any, fed: bool) -> tuple[Any, bool]:
        if isinstance(node, Series):
            members = []
            for member in node.members:
                new, fed = convert(member, fed)
                members.append(new)
            return Series(tuple(members)), fed
        if isinstance(node, Parallel):
            branches = [convert(branch, fed) for branch in node.branches]
            return replace(node, branches=tuple(new for new, _ in branches)), any(fed for _, fed in branches)
        return leaf_numbers(node, fed), fed or node.has_parameters

    converted, _ = convert(tree, fed)
    return Evaluated(converted, parameter.next, infinite)


def _firsts(node: Any, first: Any, direction: list[Any], store: dict[int, Any], position: Iterator[int]) -> Any:
    """`a . u` on entering every leaf, by position."""
    if isinstance(node, Series):
        for member in node.members:
            first = _firsts(member, first, direction, store, position)
        return first
    if isinstance(node, Parallel):
        return sum((_firsts(branch, first, direction, store, position) for branch in node.branches), _ZERO)
    store[next(position)] = first
    out = node.at.J * first
    return out if node.parameter is None else out + node.at.D * direction[node.parameter]


@dataclass
class _Adjoint:
    """Derivatives of the final value by `a . u`, `u^T M u` and `u^T M_1 u` at one point of the depth."""

    first: Any
    second: Any
    by_sample: Any

    def __add__(self, other: _Adjoint) -> _Adjoint:
        return _Adjoint(self.first + other.first, self.second + other.second, self.by_sample + other.by_sample)


def _back(
    node: Any,
    adjoint: _Adjoint,
    direction: list[Any],
    firsts: dict[int, Any],
    position: Iterator[int],
    root_samples: Any,
    out: list[Any],
) -> _Adjoint:
    """Carry the adjoint of the rule backwards; `position` counts the leaves down."""
    if isinstance(node, Series):
        for member in reversed(node.members):
            adjoint = _back(member, adjoint, direction, firsts, position, root_samples, out)
        return adjoint
    if isinstance(node, Parallel):
        total = _Adjoint(_ZERO, _ZERO, _ZERO)
        for branch in reversed(node.branches):
            total = total + _back(branch, adjoint, direction, firsts, position, root_samples, out)
        return total
    at, first = node.at, firsts[next(position)]
    second, by_sample = adjoint.second, adjoint.by_sample
    if not at.sample_wise:
        second, by_sample = second + root_samples * by_sample, _ZERO
    curved = second + by_sample
    mixed = second + root_samples * by_sample
    into_first = at.J * adjoint.first + 2 * at.XX * first * curved
    if node.parameter is not None:
        u = direction[node.parameter]
        into_first = into_first + 2 * at.XT * u * mixed
        out[node.parameter] += at.D * adjoint.first + 2 * (at.XT * first + at.TT * u) * mixed
    return _Adjoint(into_first, at.J * second, at.J * by_sample)


@dataclass(frozen=True)
class Weights:
    """Which matrix: `outer a a^T + second M + by_sample M_1`, with non-negative weights."""

    outer: flint.arb = _ZERO
    second: flint.arb = _ZERO
    by_sample: flint.arb = _ZERO


def times(network: Evaluated, direction: list[Any], weights: Weights, root_samples: Any) -> list[Any]:
    """The weighted block matrix applied to a non-negative vector, in two sweeps over the depth."""
    firsts: dict[int, Any] = {}
    counter = iter(range(1 << 30))
    last = _firsts(network.tree, _ZERO, direction, firsts, counter)
    out: list[Any] = [_ZERO] * network.parameters
    seed = _Adjoint(2 * weights.outer * last, weights.second, weights.by_sample)
    _back(network.tree, seed, direction, firsts, iter(range(len(firsts) - 1, -1, -1)), root_samples, out)
    return [value / 2 for value in out]


def largest_eigenvalue(network: Evaluated, weights: Weights, root_samples: flint.arb) -> flint.arb:
    """A ball containing `lambda_max` of the weighted block matrix; infinite where a coefficient is."""
    if network.infinite:
        return flint.arb.pos_inf()
    if network.parameters == 0:
        return _ZERO
    vector = [_ONE] * network.parameters
    best_low, best_high = _ZERO, flint.arb.pos_inf()
    for _ in range(ITERATIONS):
        image = times(network, vector, weights, root_samples)
        ratios = [image_l / v_l for image_l, v_l in zip(image, vector, strict=True)]
        high, low = ratios[0].upper(), ratios[0].lower()
        for ratio in ratios[1:]:
            high, low = high.max(ratio.upper()), low.min(ratio.lower())
        best_low, best_high = best_low.max(low), best_high.min(high)
        if best_high == 0 or best_high - best_low <= NARROW * best_high:
            break
        # the shift keeps a matrix with an eigenvalue -lambda_max from oscillating, the floor keeps the vector positive
        shift = high / 32
        vector = [(image_l + shift * v_l).mid() for image_l, v_l in zip(image, vector, strict=True)]
        top = vector[0]
        for value in vector[1:]:
            top = top.max(value)
        floor = top * flint.arb(2) ** (-2000)
        vector = [value.max(floor).mid() for value in vector]
    return best_low.union(best_high)


def first_norm(network: Evaluated) -> flint.arb:
    """`|a|`, an upper bound of `|DF|`: `sqrt` of the largest eigenvalue of `a a^T`, by one backward sweep."""
    if network.infinite:
        return flint.arb.pos_inf()
    ones = [_ONE] * network.parameters
    last: list[Any] = [_ZERO] * network.parameters
    firsts: dict[int, Any] = {}
    _firsts(network.tree, _ZERO, ones, firsts, iter(range(1 << 30)))
    _back(network.tree, _Adjoint(_ONE, _ZERO, _ZERO), ones, firsts, iter(range(len(firsts) - 1, -1, -1)), _ONE, last)
    total = _ZERO
    for value in last:
        total += value * value
    return total.sqrt()


def _subtract(lower: flint.arb, upper: flint.arb) -> flint.arb:
    gap = lower - upper
    return gap.max(_ZERO) if gap.is_finite() else _ZERO


BALLS = Algebra(lambda leaf: leaf.whole, _ONE, _ONE, _ZERO, _subtract)
"""How the regularity fold reads and subtracts balls."""


def regularity_numbers(network: Evaluated) -> Regularity:
    """The regularity fold in balls: `sigma_min` of the input Jacobian and `lambda_min` of the tangent kernel, from below."""
    return regularity(network.tree, BALLS)
