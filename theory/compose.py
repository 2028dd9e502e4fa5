"""The 2-jet composition rule, written once, and what is read off it.

A network's bounds form a tree: a `LayerBounds` is a leaf, `Series` applies its members in turn, `Parallel` adds a fixed skip
and a branch. `propagate` carries the forward majorant of the 2-jet through the tree,

    a' = J a + D e        M' = J M + XX a a^T + XT (a e^T + e a^T) + TT e e^T,

with `a` (norms of the first derivatives by each parameter index) and `M` (norms of the blocks of the second derivative). The
same lines serve symbolic forms (`LinearForm`, `QuadraticForm`) and, along a direction `u` of non-negative numbers, plain balls:
`a` is then the number `a . u` and `M` the number `u^T M u`, in time linear in the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import S

from theory.bound import Bound
from theory.records import SYMBOLS_OF_QUANTITIES, LayerBounds


@dataclass(frozen=True)
class Series:
    """Members applied one after the other; the empty series is the identity."""

    members: tuple[Any, ...]


@dataclass(frozen=True)
class Parallel:
    """`X -> S X + branch(X)` with a fixed skip `S`."""

    skip: LayerBounds
    branch: Any


Tree = LayerBounds | Series | Parallel


def leaves(tree: Tree) -> Iterator[LayerBounds]:
    """All leaves in the order in which `propagate` meets them (a skip before its branch)."""
    stack: list[Tree] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, Series):
            stack.extend(reversed(node.members))
        elif isinstance(node, Parallel):
            stack.extend((node.branch, node.skip))
        else:
            yield node


def compose(*trees: Tree) -> Series:
    """The series of the arguments, flattened: associative, with `Series(())` as neutral element."""
    members: list[Tree] = []
    for tree in trees:
        members.extend(tree.members if isinstance(tree, Series) else (tree,))
    return Series(tuple(members))


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

    def __rmul__(self, factor: Bound) -> QuadraticForm:
        return QuadraticForm({key: factor * entry for key, entry in self.items()})

    def __add__(self, other: QuadraticForm) -> QuadraticForm:
        return QuadraticForm({**self, **{k: self[k] + b if k in self else b for k, b in other.items()}})


@dataclass(frozen=True)
class Jet:
    """The majorant at one point of the depth.

    Attributes:
        first: `a`.
        second: `M`, for the norm `|D^2 F[u, u]|_F`.
        by_sample: the sharper `M_1`, for `sum_i |D^2 F_i[u, u]|` over samples `i` (what the loss needs): where a layer acts sample by
            sample `XX` sums without loss and only `XT, TT` pick up `sqrt N`; a layer that couples samples falls back on `sqrt N M`.
    """

    first: Any
    second: Any
    by_sample: Any


def through(leaf: Any, jet: Jet, e: Any | None, root_samples: Any) -> Jet:
    """The rule for one layer; `e` is its parameter's unit form (or its component of the direction), None without parameters."""
    first, second, by_sample = leaf.J * jet.first, leaf.J * jet.second, leaf.J * jet.by_sample
    curvature = leaf.XX * (jet.first * jet.first)
    second, by_sample = second + curvature, by_sample + curvature
    if e is not None:
        first = first + leaf.D * e
        mixed = leaf.XT * (jet.first * e + e * jet.first) + leaf.TT * (e * e)
        second, by_sample = second + mixed, by_sample + root_samples * mixed
    if not leaf.sample_wise:
        by_sample = root_samples * second
    return Jet(first, second, by_sample)


def propagate(tree: Any, jet: Jet, directions: Iterator[Any], root_samples: Any, read: Callable[[Any], Any]) -> Jet:
    """Carry the majorant through a tree; `read` turns a leaf into the coefficients `through` uses."""
    if isinstance(tree, Series):
        for member in tree.members:
            jet = propagate(member, jet, directions, root_samples, read)
        return jet
    if isinstance(tree, Parallel):
        skip = propagate(tree.skip, jet, directions, root_samples, read)
        branch = propagate(tree.branch, jet, directions, root_samples, read)
        return Jet(skip.first + branch.first, skip.second + branch.second, skip.by_sample + branch.by_sample)
    leaf = read(tree)
    return through(leaf, jet, next(directions) if leaf.has_parameters else None, root_samples)


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
    has_parameters: bool
    sample_wise: bool


def coefficients(leaf: LayerBounds, value: Callable[[Bound], Any] = lambda bound: bound) -> Coefficients:
    """The coefficients of a leaf, each bound turned into a number by `value` (as it is, by default)."""
    letters = {SYMBOLS_OF_QUANTITIES[name]: value(bound) for name, bound in leaf.quantities()}
    return Coefficients(**letters, has_parameters=leaf.has_parameters, sample_wise=leaf.sample_wise)


INPUT = 0
"""Index of the input in the forms of `jet_of`; parameters count from 1 in the order of the leaves."""


def jet_of(tree: Tree, samples: Any, *, by_input: bool = False) -> Jet:
    """Symbolic majorant of a tree: `first[l]`, `second[l, m]`, `by_sample[l, m]` as bounds, parameters counted from 1.

    With `by_input` the input counts as index 0 (else it is fixed data and does not appear).
    """
    one = Bound.upper(1, quantity="exact")
    zero = Jet(LinearForm({INPUT: one} if by_input else {}), QuadraticForm(), QuadraticForm())
    units = (LinearForm({index: one}) for index in range(1, 1 << 30))
    root_samples = Bound.upper(sympy.sqrt(samples), quantity="exact")
    return propagate(tree, zero, units, root_samples, coefficients)


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
    """Fold of `J`, `s` and `lambda_min(DF DF^T) >= sum_l k_l prod_{j>l} s_j^2` over a tree (the regularity inequality)."""
    if isinstance(tree, Series):
        total = Regularity(algebra.one_upper, algebra.one_lower, algebra.zero_lower)
        for member in tree.members:
            here = regularity(member, algebra)
            total = Regularity(
                here.jacobian * total.jacobian,
                here.sigma_min * total.sigma_min,
                here.sigma_min**2 * total.lambda_min + here.lambda_min,
            )
        return total
    if isinstance(tree, Parallel):
        branch, skip = regularity(tree.branch, algebra), algebra.read(tree.skip)
        return Regularity(skip.J + branch.jacobian, algebra.subtract(skip.s, branch.jacobian), branch.lambda_min)
    leaf = algebra.read(tree)
    return Regularity(leaf.J, leaf.s, leaf.k)


def collapse(tree: Tree, samples: Any) -> LayerBounds:
    """One record for a whole tree, all its parameters taken together as one index."""
    if isinstance(tree, LayerBounds):
        return tree
    jet, low = jet_of(tree, samples, by_input=True), regularity(tree)
    count = sum(leaf.has_parameters for leaf in leaves(tree))
    parameters = range(1, count + 1)
    zero = Bound.upper(0, quantity="exact")
    return LayerBounds(
        low.jacobian,
        euclidean_norm([jet.first.get(i, zero) for i in parameters], "param_jacobian_norm"),
        jet.second.get((INPUT, INPUT), zero),
        euclidean_norm([jet.second.get((INPUT, i), zero) for i in parameters], "input_param"),
        lambda_max({k: b for k, b in jet.second.items() if INPUT not in k}, "param_param"),
        low.sigma_min,
        low.lambda_min,
        has_parameters=count > 0,
        sample_wise=all(leaf.sample_wise for leaf in leaves(tree)),
    )
