"""The 2-jet composition rule, written once, and what is read off it.

A network's bounds form a tree: a `LayerBounds` is a leaf, `Series` applies its members in turn, `Parallel` adds (or stacks) the
outputs of its branches. `propagate` carries the forward majorant of the 2-jet, where asked of the 3-jet, through the tree,

    a' = J a + D e        M' = J M + XX a a^T + XT (a e^T + e a^T) + TT e e^T
    T' = J T + 3 XX a M + XXX a a a + 3 XT e M + 3 XXT a a e + 3 XTT a e e + TTT e e e,

with `a` (norms of the first derivatives by each parameter index), `M` (norms of the blocks of the second derivative) and the cubic
form `T` of the third; parameters shared by several layers share one index. The same lines serve symbolic forms (`LinearForm`, `QuadraticForm`) and, along a direction `u` of non-negative numbers, plain balls:
`a` is then the number `a . u` and `M` the number `u^T M u`, in time linear in the depth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import sympy
from sympy import S

from theory.bound import Bound
from theory.records import SYMBOLS_OF_QUANTITIES, SYMBOLS_OF_THIRD, LayerBounds


@dataclass(frozen=True)
class Series:
    """Members applied one after the other; the empty series is the identity."""

    members: tuple[Any, ...]


@dataclass(frozen=True)
class Parallel:
    """All branches applied to one input; their outputs are added, or with `stacked` concatenated.

    The norm of stacked outputs is at most the sum of the branches' norms, so one majorant serves both; only lower bounds differ.
    """

    branches: tuple[Any, ...]
    stacked: bool = False


Tree = LayerBounds | Series | Parallel


def leaves(tree: Tree) -> Iterator[LayerBounds]:
    """All leaves in the order in which `propagate` meets them (branches in their order)."""
    stack: list[Tree] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, Series):
            stack.extend(reversed(node.members))
        elif isinstance(node, Parallel):
            stack.extend(reversed(node.branches))
        else:
            yield node


def compose(*trees: Tree) -> Series:
    """The series of the arguments, flattened: associative, with `Series(())` as neutral element."""
    members: list[Tree] = []
    for tree in trees:
        members.extend(tree.members if isinstance(tree, Series) else (tree,))
    return Series(tuple(members))


class Indices:
    """Numbers the parameters of a tree's leaves, read in order; leaves whose parameters have the same names share a number."""

    def __init__(self, first: int) -> None:
        self.next = first
        self.named: dict[str, int] = {}

    def __call__(self, leaf: LayerBounds) -> int:
        known = {self.named[name] for name in leaf.names if name in self.named}
        if len(known) > 1 or (known and any(name not in self.named for name in leaf.names)):
            raise ValueError(
                f"parameters {', '.join(leaf.names)} are shared in part with other layers: share all of a layer's parameters or none"
            )
        if known:
            return known.pop()
        index, self.next = self.next, self.next + 1
        self.named.update(dict.fromkeys(leaf.names, index))
        return index


def parameter_count(tree: Tree) -> int:
    """Number of parameter indices of a tree."""
    indices = Indices(0)
    for leaf in leaves(tree):
        if leaf.has_parameters:
            indices(leaf)
    return indices.next


class LinearForm(dict):
    """`sum_i a_i u_i` with bounds as coefficients; the product of two is a `QuadraticForm`."""

    def __rmul__(self, factor: Bound) -> LinearForm:
        return LinearForm({i: factor * a for i, a in self.items()})

    def __add__(self, other: LinearForm) -> LinearForm:
        return LinearForm({**self, **{i: self[i] + b if i in self else b for i, b in other.items()}})

    def __mul__(self, other: LinearForm) -> QuadraticForm:
        return QuadraticForm({(i, j): a * b for i, a in self.items() for j, b in other.items()})


class QuadraticForm(dict):
    """`sum_ij M_ij u_i u_j` with bounds as entries."""

    def __rmul__(self, factor: Bound) -> Self:
        return type(self)({key: factor * entry for key, entry in self.items()})

    def __add__(self, other: QuadraticForm) -> Self:
        return type(self)({**self, **{k: self[k] + b if k in self else b for k, b in other.items()}})

    def __mul__(self, other: LinearForm) -> CubicForm:
        return CubicForm({(*key, k): a * b for key, a in self.items() for k, b in other.items()})


class CubicForm(QuadraticForm):
    """`sum_ijk T_ijk u_i u_j u_k` with bounds as entries; the entries of a symmetric tensor may lie on one of its sides."""


@dataclass(frozen=True)
class Jet:
    """The majorant at one point of the depth.

    Attributes:
        first: `a`.
        second: `M`, for the norm `|D^2 F[u, u]|_F`.
        by_sample: the sharper `M_1`, for `sum_i |D^2 F_i[u, u]|` over samples `i` (what the loss needs): where a layer acts sample by
            sample `XX` sums without loss and only `XT, TT` pick up `sqrt N`; a layer that couples samples falls back on `sqrt N M`.
        third, third_by_sample: the cubic forms for `|D^3 F[u, u, u]|_F` and `sum_i |D^3 F_i[u, u, u]|`; None where not asked for.
    """

    first: Any
    second: Any
    by_sample: Any
    third: Any = None
    third_by_sample: Any = None

    def __add__(self, other: Jet) -> Jet:
        third = self.third is not None
        return Jet(
            self.first + other.first,
            self.second + other.second,
            self.by_sample + other.by_sample,
            self.third + other.third if third else None,
            self.third_by_sample + other.third_by_sample if third else None,
        )


def through(leaf: Any, jet: Jet, e: Any | None, root_samples: Any) -> Jet:
    """The rule for one layer; `e` is its parameter's unit form (or its component of the direction), None without parameters."""
    first, second, by_sample = leaf.J * jet.first, leaf.J * jet.second, leaf.J * jet.by_sample
    square = jet.first * jet.first
    curvature = leaf.XX * square
    second, by_sample = second + curvature, by_sample + curvature
    if e is not None:
        first = first + leaf.D * e
        mixed = leaf.XT * (jet.first * e + e * jet.first) + leaf.TT * (e * e)
        second, by_sample = second + mixed, by_sample + root_samples * mixed
    if not leaf.sample_wise:
        by_sample = root_samples * second
    if jet.third is None:
        return Jet(first, second, by_sample)
    # sum_i XX |a_i| |m_i| <= XX |a| |m|, sum_i XT |m_i| |e| is the by-sample form itself, sum_i |a_i| <= sqrt N |a|
    same = 3 * (leaf.XX * (jet.second * jet.first)) + leaf.XXX * (square * jet.first)
    third, third_by_sample = leaf.J * jet.third + same, leaf.J * jet.third_by_sample + same
    if e is not None:
        squared = 3 * (leaf.XXT * (square * e))
        rest = 3 * (leaf.XTT * (e * e * jet.first)) + leaf.TTT * (e * e * e)
        third = third + 3 * (leaf.XT * (jet.second * e)) + squared + rest
        third_by_sample = third_by_sample + 3 * (leaf.XT * (jet.by_sample * e)) + squared + root_samples * rest
    if not leaf.sample_wise:
        third_by_sample = root_samples * third
    return Jet(first, second, by_sample, third, third_by_sample)


def propagate(
    tree: Any, jet: Jet, direction: Callable[[Any], Any], root_samples: Any, read: Callable[[Any], Any]
) -> Jet:
    """Carry the majorant through a tree.

    `read` turns a leaf into the coefficients `through` uses; `direction` gives the unit form (or the component of the direction) of
    the parameter of a leaf that has one.
    """
    if isinstance(tree, Series):
        for member in tree.members:
            jet = propagate(member, jet, direction, root_samples, read)
        return jet
    if isinstance(tree, Parallel):
        total = propagate(tree.branches[0], jet, direction, root_samples, read)
        for branch in tree.branches[1:]:
            total = total + propagate(branch, jet, direction, root_samples, read)
        return total
    return through(read(tree), jet, direction(tree) if tree.has_parameters else None, root_samples)


@dataclass(frozen=True)
class Coefficients:
    """One leaf's seven numbers under the short letters of the rule (bounds, balls or floats)."""

    J: Any
    D: Any
    XX: Any
    XT: Any
    TT: Any
    s: Any
    k: Any
    XXX: Any
    XXT: Any
    XTT: Any
    TTT: Any
    sample_wise: bool


def coefficients(leaf: LayerBounds, value: Callable[[Bound], Any] = lambda bound: bound) -> Coefficients:
    """The coefficients of a leaf, each bound turned into a number by `value` (as it is, by default)."""
    letters = {
        letter: value(getattr(leaf, name)) for name, letter in (SYMBOLS_OF_QUANTITIES | SYMBOLS_OF_THIRD).items()
    }
    return Coefficients(**letters, sample_wise=leaf.sample_wise)


INPUT = 0
"""Index of the input in the forms of `jet_of`; parameters count from 1 in the order of the leaves."""


def jet_of(tree: Tree, samples: Any, *, by_input: bool = False, third: bool = False) -> Jet:
    """Symbolic majorant of a tree: `first[l]`, `second[l, m]`, `by_sample[l, m]` as bounds, parameters counted from 1.

    With `by_input` the input counts as index 0 (else it is fixed data and does not appear); with `third` the 3-jet is carried as well.
    """
    one = Bound.upper(1, quantity="exact")
    cubic = (CubicForm(), CubicForm()) if third else (None, None)
    zero = Jet(LinearForm({INPUT: one} if by_input else {}), QuadraticForm(), QuadraticForm(), *cubic)
    index = Indices(1)
    root_samples = Bound.upper(sympy.sqrt(samples), quantity="exact")
    return propagate(tree, zero, lambda leaf: LinearForm({index(leaf): one}), root_samples, coefficients)


def euclidean_norm(bounds: list[Bound], quantity: str) -> Bound:
    """`sqrt(sum b_i^2)`: the norm of a map from a product space, from the norms of its parts."""
    present = [b for b in bounds if b.expression != 0]
    if not present:
        return Bound.upper(0, quantity=quantity)
    if len(present) == 1:
        return present[0].named(quantity)
    total = present[0] ** 2
    for bound in present[1:]:
        total = total + bound**2
    return (total**S.Half).named(quantity, source="Euclidean norm over the parameter blocks")


def lambda_max(form: dict[tuple[int, int], Bound], quantity: str) -> Bound:
    """A closed-form upper bound of the largest eigenvalue of a symmetric non-negative block matrix.

    Exact for one or two indices; the Frobenius norm beyond. (`theory.landscape` encloses the eigenvalue itself.)
    """
    indices = sorted({i for pair in form for i in pair})
    entries = {k: b for k, b in form.items() if b.expression != 0}
    if not entries:
        return Bound.upper(0, quantity=quantity)
    if len(indices) == 1:
        return entries[indices[0], indices[0]].named(quantity)
    parents = tuple(entries.values())
    value = {key: b.expression for key, b in entries.items()}
    assumptions = tuple(dict.fromkeys(a for b in parents for a in b.assumptions))
    if any(v is S.Infinity for v in value.values()):
        expression = S.Infinity
    elif len(indices) == 2:
        i, j = indices
        a, b, off = value.get((i, i), S.Zero), value.get((j, j), S.Zero), value.get((i, j), S.Zero)
        expression = (a + b + sympy.sqrt((a - b) ** 2 + 4 * off**2)) / 2
    else:
        expression = sympy.sqrt(sympy.Add(*(v**2 for v in value.values())))
    rule = "largest eigenvalue of the 2 x 2 block matrix" if len(indices) == 2 else "Frobenius norm of the block matrix"
    return Bound.upper(expression, quantity=quantity, assumptions=assumptions, parents=parents, source=rule)


def difference(lower: Bound, upper: Bound, quantity: str) -> Bound:
    """`max(0, lower - upper)` as a lower bound: `inf |(S + G)^T y| >= inf |S^T y| - sup |G^T y|`."""
    infinite = upper.expression is S.Infinity
    expression = S.Zero if infinite else sympy.Max(0, lower.expression - upper.expression)
    return Bound.lower(
        expression,
        quantity=quantity,
        source="|(S + G)^T y| >= |S^T y| - |G^T y|",
        parents=(lower, upper),
        assumptions=tuple(dict.fromkeys(lower.assumptions + upper.assumptions)),
    )


@dataclass(frozen=True)
class Regularity:
    """Lower bounds carried along the depth: `sigma_min` of the input Jacobian, `lambda_min` of the tangent kernel."""

    jacobian: Any
    sigma_min: Any
    lambda_min: Any


@dataclass(frozen=True)
class Algebra:
    """What the regularity fold needs of its numbers: how to read a leaf, the constants, and `max(0, lower - upper)`."""

    read: Callable[[Any], Any]
    one_upper: Any
    one_lower: Any
    zero_lower: Any
    subtract: Callable[[Any, Any], Any]


SYMBOLIC = Algebra(
    coefficients,
    Bound.upper(1, quantity="exact"),
    Bound.lower(1, quantity="exact"),
    Bound.lower(0, quantity="exact"),
    lambda lower, upper: difference(lower, upper, "input_jacobian_sigma_min"),
)


def regularity(tree: Any, algebra: Algebra = SYMBOLIC) -> Regularity:
    """Fold of `J`, `s` and `lambda_min(DF DF^T) >= sum_l k_l prod_{j>l} s_j^2` over a tree (the regularity inequality).

    The tangent kernel is the sum over the parameters of positive semi-definite terms; those of shared parameters are left out. Of
    branches whose outputs are added the first one's `s` counts, less the Jacobians of the others; stacked outputs have neither.
    """
    uses = Counter(name for leaf in leaves(tree) for name in leaf.names)
    return _regularity(tree, algebra, frozenset(name for name, count in uses.items() if count > 1))


def _regularity(tree: Any, algebra: Algebra, shared: frozenset[str]) -> Regularity:
    if isinstance(tree, Series):
        total = Regularity(algebra.one_upper, algebra.one_lower, algebra.zero_lower)
        for member in tree.members:
            here = _regularity(member, algebra, shared)
            total = Regularity(
                here.jacobian * total.jacobian,
                here.sigma_min * total.sigma_min,
                here.sigma_min**2 * total.lambda_min + here.lambda_min,
            )
        return total
    if isinstance(tree, Parallel):
        first, *others = (_regularity(branch, algebra, shared) for branch in tree.branches)
        jacobian, sigma, kernel = first.jacobian, first.sigma_min, first.lambda_min
        for other in others:
            jacobian, kernel = jacobian + other.jacobian, kernel + other.lambda_min
            sigma = algebra.subtract(sigma, other.jacobian)
        return Regularity(jacobian, *((algebra.zero_lower,) * 2 if tree.stacked else (sigma, kernel)))
    leaf = algebra.read(tree)
    return Regularity(leaf.J, leaf.s, algebra.zero_lower if shared.intersection(tree.names) else leaf.k)


def collapse(tree: Tree, samples: Any) -> LayerBounds:
    """One record for a whole tree, all its parameters taken together as one index."""
    if isinstance(tree, LayerBounds):
        return tree
    low = regularity(tree)
    members = list(leaves(tree))
    # the third derivatives are worth their price for the few atoms of a layer only
    third = len(members) <= COLLAPSED_TO_THIRD_ORDER
    jet = jet_of(tree, samples, by_input=True, third=third)
    count = parameter_count(tree)
    parameters = range(1, count + 1)
    zero = Bound.upper(0, quantity="exact")
    cubic = {"input_input_input": 0, "input_input_param": 1, "input_param_param": 2, "param_param_param": 3}
    return LayerBounds(
        low.jacobian,
        euclidean_norm([jet.first.get(i, zero) for i in parameters], "param_jacobian_norm"),
        jet.second.get((INPUT, INPUT), zero),
        euclidean_norm([jet.second.get((INPUT, i), zero) for i in parameters], "input_param"),
        lambda_max({k: b for k, b in jet.second.items() if INPUT not in k}, "param_param"),
        low.sigma_min,
        low.lambda_min,
        has_parameters=count > 0,
        sample_wise=all(leaf.sample_wise for leaf in members),
        names=tuple(dict.fromkeys(name for leaf in members for name in leaf.names)),
        **{name: _trilinear(jet.third, order, name) for name, order in cubic.items()} if third else {},
    )


COLLAPSED_TO_THIRD_ORDER = 8
"""Most atoms of a tree whose third derivatives `collapse` carries; beyond they count as unknown."""


def _trilinear(form: CubicForm, order: int, quantity: str) -> Bound:
    """Norm of the part of a cubic form of the given order in the parameters, as a trilinear form of input and parameters.

    `3! / (order! (3 - order)!)` entries of the form share one trilinear block; the norm is at most the Euclidean one over the blocks.
    """
    blocks: dict[tuple[int, ...], Bound] = {}
    for key, bound in form.items():
        if bound.expression == 0 or sum(k != INPUT for k in key) != order:
            continue
        place = tuple(sorted(key))
        blocks[place] = blocks[place] + bound if place in blocks else bound
    repeats = {0: 1, 1: 3, 2: 3, 3: 1}[order]
    # a block with distinct parameters stands for several ordered ones; keeping its sum in one place only enlarges the norm
    return euclidean_norm([b * sympy.Rational(1, repeats) for b in blocks.values()], quantity)
