"""A network description is data: layers and the combinators chain, residual and repeat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import sympy
from sympy import Expr, S

from theory.atoms.base import Atom
from theory.atoms.fixed_linear import Scale
from theory.layers.base import Layer
from theory.records import Shape


@dataclass(frozen=True)
class Chain:
    """Members applied in turn; the empty chain is the identity."""

    members: tuple[Layer | Chain | Residual | Repeat | Branches, ...]

    def output_shape(self, shape: Shape) -> Shape:
        for member in self.members:
            shape = member.output_shape(shape)
        return shape


@dataclass(frozen=True)
class Residual:
    """`X -> skip X + branch(X)` with a fixed positive skip factor (1: the identity skip)."""

    branch: Layer | Chain | Residual | Repeat | Branches
    skip: Expr = S.One

    def __post_init__(self) -> None:
        object.__setattr__(self, "skip", Scale(self.skip).factor)

    def output_shape(self, shape: Shape) -> Shape:
        out = self.branch.output_shape(shape)
        if out != shape:
            raise ValueError(
                f"residual branch turns {shape} into {out}, which does not match its skip: give the branch an output of {shape.features} features"
            )
        return shape


@dataclass(frozen=True)
class Branches:
    """All branches applied to one input, their outputs added, or with `stacked` concatenated along the features.

    An empty chain is a branch that passes its input on. Put the branch that the others perturb (the skip) first: of an added set its
    least singular value is the one that counts.
    """

    branches: tuple[Layer | Chain | Residual | Repeat | Branches, ...]
    stacked: bool = False

    def __post_init__(self) -> None:
        if not self.branches:
            raise ValueError("no branches: give at least one, an empty chain for the identity")

    def output_shape(self, shape: Shape) -> Shape:
        first, *others = (branch.output_shape(shape) for branch in self.branches)
        for other in others:
            fits = (other.samples, other.grid) == (first.samples, first.grid) if self.stacked else other == first
            if not fits:
                joined = "concatenated along the features" if self.stacked else "added"
                raise ValueError(
                    f"branches with outputs {first} and {other} cannot be {joined}: give them matching shapes"
                )
            if self.stacked:
                first = replace(first, features=first.features + other.features)
        return first


@dataclass(frozen=True)
class Repeat:
    """`block` applied `times` times with parameters of its own each time; `times` is a number or a symbol."""

    block: Layer | Chain | Residual | Repeat | Branches
    times: Expr

    def __post_init__(self) -> None:
        times = sympy.sympify(self.times)
        if (times.is_number and not (times.is_integer and times.is_positive)) or times.is_negative:
            raise ValueError(
                f"repeat {times} times: the number of repetitions must be a positive whole number or a symbol"
            )
        object.__setattr__(self, "times", times)

    def output_shape(self, shape: Shape) -> Shape:
        out = self.block.output_shape(shape)
        if out != shape and self.times != 1:
            raise ValueError(f"a repeated block must keep its shape: {shape} becomes {out}")
        return out

    def unrolled(self) -> Chain:
        """The repetition as a chain, for a concrete number of times."""
        if not self.times.is_Integer:
            raise ValueError(f"depth {self.times} is symbolic: give a number for it first")
        return Chain((self.block,) * int(self.times))


Network = Layer | Chain | Residual | Repeat | Branches


def chain(*members: Network) -> Chain:
    """Members applied in turn."""
    return Chain(members)


def residual(*branch: Network, skip: Expr = S.One) -> Residual:
    """`skip X + branch(X)`, the branch being the given members in turn."""
    return Residual(branch[0] if len(branch) == 1 else Chain(branch), skip)


def added(*branches: Network) -> Branches:
    """The sum of branches applied to one input; `chain()` is the identity."""
    return Branches(branches)


def stacked(*branches: Network) -> Branches:
    """Branches applied to one input, their outputs concatenated along the features."""
    return Branches(branches, stacked=True)


def repeat(times: Expr, *block: Network) -> Repeat:
    """The given members in turn, `times` times."""
    return Repeat(block[0] if len(block) == 1 else Chain(block), times)


def substitute(network: Network, values: dict) -> Network:
    """The description at given values of its symbols."""
    if isinstance(network, Chain):
        return Chain(tuple(substitute(m, values) for m in network.members))
    if isinstance(network, Residual):
        return Residual(substitute(network.branch, values), _at(network.skip, values))
    if isinstance(network, Branches):
        return replace(network, branches=tuple(substitute(b, values) for b in network.branches))
    if isinstance(network, Repeat):
        return Repeat(substitute(network.block, values), _at(network.times, values))
    return type(network)(**{name: _at(value, values) for name, value in vars(network).items()})


def _at(value: Any, values: dict) -> Any:
    if isinstance(value, tuple):
        return tuple(_at(item, values) for item in value)
    return value.subs(values, simultaneous=True) if isinstance(value, sympy.Expr) else value


@dataclass(frozen=True)
class Join:
    """In an expanded network: branches whose outputs are added or concatenated."""

    branches: tuple[tuple[Atom | Join, ...], ...]
    stacked: bool = False


def output_shape(part: Atom | Join, shape: Shape) -> Shape:
    """The shape after an atom or a join of an expanded network."""
    if isinstance(part, Atom):
        return part.output_shape(shape)
    shapes = []
    for branch in part.branches:
        here = shape
        for member in branch:
            here = output_shape(member, here)
        shapes.append(here)
    total = sympy.Add(*(s.features for s in shapes)) if part.stacked else shapes[0].features
    return replace(shapes[0], features=total)


def expand(network: Network, shape: Shape) -> tuple[tuple[Atom | Join, ...], Shape]:
    """The network as a nested tuple of atoms, and its output shape; this is all a realisation needs to know.

    Raises:
        ValueError: naming the mismatching shapes, or the symbolic depth.
    """
    if isinstance(network, Layer):
        return network.atoms(shape), network.output_shape(shape)
    if isinstance(network, Residual):
        network.output_shape(shape)
        return (Join(((Scale(network.skip),), expand(network.branch, shape)[0])),), shape
    if isinstance(network, Branches):
        out = network.output_shape(shape)
        return (Join(tuple(expand(branch, shape)[0] for branch in network.branches), network.stacked),), out
    members = network.unrolled().members if isinstance(network, Repeat) else network.members
    atoms: list[Atom | Join] = []
    for member in members:
        here, shape = expand(member, shape)
        atoms.extend(here)
    return tuple(atoms), shape


def named(network: Network, prefix: str = "") -> Network:
    """The description with a name for the parameters of every layer: its own where it has one, else its place (`2.branch.0`).

    Repetitions are unrolled, as each has parameters of its own.

    Raises:
        ValueError: a repetition with a symbolic depth.
    """
    if isinstance(network, Repeat):
        network = network.unrolled()
    below = f"{prefix}." if prefix else ""
    if isinstance(network, Chain):
        return Chain(tuple(named(m, f"{below}{i}") for i, m in enumerate(network.members)))
    if isinstance(network, Residual):
        return replace(network, branch=named(network.branch, f"{below}branch"))
    if isinstance(network, Branches):
        return replace(network, branches=tuple(named(b, f"{below}{i}") for i, b in enumerate(network.branches)))
    if getattr(network, "path", None) != "":
        return network
    return type(network)(**{**vars(network), "path": prefix or "layer"})


def walk(network: Network) -> Iterator[Network]:
    """The network and all its parts, outside in."""
    yield network
    inner: tuple[Network, ...] = ()
    if isinstance(network, Chain):
        inner = network.members
    elif isinstance(network, Residual):
        inner = (network.branch,)
    elif isinstance(network, Branches):
        inner = network.branches
    elif isinstance(network, Repeat):
        inner = (network.block,)
    for part in inner:
        yield from walk(part)
