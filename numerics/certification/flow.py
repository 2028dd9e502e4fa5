"""Values of a torch graph as steps of a description: which torch dimension is which axis, and the graph as series and parallels.

A `Value` is a tensor of the traced module: the step of the description that computes it, and for each axis (features first, then the
grid) the torch dimension that it is. Transposing a tensor only renames dimensions; an operation that needs other features asks for them
by `arranged`, which inserts a `Permute` where the numbers have to move and a `Reshape` where they only regroup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import sympy

from theory.atoms.windows import Windows
from theory.layers.base import Layer
from theory.layers.fixed import Cropping, Scaling
from theory.layers.spatial import Permute, Reshape, Selection
from theory.network import Branches, Chain, Network, Residual, added, chain, residual, stacked, walk
from theory.records import Shape

Sizes = tuple[int, ...]

LARGEST = 32
"""A graph that is not series-parallel is described by repeating what its branches share; beyond this factor it is refused."""


@dataclass(frozen=True, eq=False)
class Step:
    """One value of the description: a layer on an earlier value, or earlier values added or stacked; without inputs, the input.

    Attributes:
        sizes: features and grid.
        part: of a slice of features, the step that it was cut from and the first and last feature.
        depth: length of the longest path from the input.
    """

    sizes: Sizes
    inputs: tuple[Step, ...] = ()
    layer: Network | None = None
    stacked: bool = False
    part: tuple[Step, int, int] | None = None
    depth: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", 1 + max((each.depth for each in self.inputs), default=-1))


def _regrouped(step: Step, sizes: Sizes) -> Step:
    """The same numbers in the same order; neighbouring regroupings become one, or none."""
    while step.sizes != sizes and isinstance(step.layer, Reshape) and step.part is None:
        step = step.inputs[0]
    return step if step.sizes == sizes else Step(sizes, (step,), Reshape(sizes[0], sizes[1:]))


def _permuted(step: Step, order: tuple[int, ...]) -> Step:
    sizes = tuple(step.sizes[i] for i in order)
    moved = [i for i in order if step.sizes[i] > 1]
    if moved == sorted(moved):
        return _regrouped(step, sizes)
    if isinstance(step.layer, Permute):
        return _permuted(step.inputs[0], tuple(step.layer.order[i] for i in order))
    return Step(sizes, (step,), Permute(order))


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the traced module.

    Attributes:
        step: what computes it.
        shape: its torch shape.
        sample: the torch dimension of the samples.
        axes: for features and grid the torch dimension; dimensions of size 1 may be left out.
    """

    step: Step
    shape: Sizes
    sample: int
    axes: tuple[int, ...]

    @property
    def samples(self) -> int:
        return self.shape[self.sample]

    def dimension(self, index: int) -> int:
        """A torch dimension counted from either end.

        Raises:
            ValueError: it is the dimension of the samples.
        """
        dimension = index % len(self.shape)
        if dimension == self.sample:
            raise ValueError(f"acts along dimension {index}, that of the samples: a description acts within samples")
        return dimension

    def arranged(self, *axes: int) -> Value:
        """The same tensor with these torch dimensions as features and grid; those of size 1 may be left out."""
        if axes == self.axes:
            return self
        now, wanted = ([i for i in order if self.shape[i] > 1] for order in (self.axes, axes))
        if sorted(now) != sorted(wanted):
            raise ValueError(f"dimensions {axes} do not cover those of a tensor of shape {self.shape}")
        if now == wanted:
            return replace(self, step=_regrouped(self.step, self._sizes(axes)), axes=axes)
        if set(axes) == set(self.axes):
            return replace(self, step=_permuted(self.step, tuple(self.axes.index(i) for i in axes)), axes=axes)
        between = (*now, *(i for i in axes if self.shape[i] == 1))
        regrouped = replace(self, step=_regrouped(self.step, self._sizes(between)), axes=between)
        return regrouped.arranged(*axes)

    def _sizes(self, axes: Sequence[int]) -> Sizes:
        return tuple(self.shape[i] for i in axes) or (1,)

    def with_features(self, dimension: int) -> Value:
        """The same tensor with that torch dimension as its features, the grid in the order it has."""
        return self.arranged(dimension, *(i for i in self.axes if i != dimension))

    def natural(self) -> Value:
        """Features and grid in the order of the torch dimensions."""
        return self.arranged(*(i for i in range(len(self.shape)) if i != self.sample))

    def grouped(self, sizes: Sizes) -> Value:
        """The step regrouped to these sizes; the value's axes no longer fit, so only a layer and `regrown` may follow."""
        return replace(self, step=_regrouped(self.step, sizes))

    def then(self, layer: Layer, shape: Sequence[int] | None = None) -> Value:
        """The value after a layer, a tensor of the given torch shape.

        Raises:
            ValueError: the layer gives another shape than torch did.
        """
        known = Shape(self.step.sizes[0], self.samples, self.step.sizes[1:])
        out = layer.output_shape(known)
        sizes = tuple(map(int, (out.features, *out.grid)))
        value = replace(self, step=Step(sizes, (self.step,), layer), shape=tuple(shape or self.shape))
        if shape is not None and sizes != value._sizes(value.axes):
            raise ValueError(f"{layer} gives features x grid {sizes}, torch gives a tensor of shape {tuple(shape)}")
        return value

    def regrown(self, shape: Sequence[int], axes: tuple[int, ...]) -> Value:
        """The step regrouped as a tensor of that torch shape with these axes."""
        value = replace(self, shape=tuple(shape), axes=axes)
        return replace(value, step=_regrouped(self.step, value._sizes(axes)))

    def transposed(self, order: Sequence[int]) -> Value:
        """Torch dimensions in another order: nothing is computed."""
        position = {old: new for new, old in enumerate(order)}
        axes = tuple(position[i] for i in self.axes)
        return replace(self, shape=tuple(self.shape[i] for i in order), sample=position[self.sample], axes=axes)

    def reshaped(self, shape: Sequence[int]) -> Value:
        """The numbers in torch's order under another shape, the samples staying samples.

        Raises:
            ValueError: the new shape mixes samples with other dimensions.
        """
        shape = tuple(shape)
        if shape == self.shape:
            return self
        before = math.prod(self.shape[: self.sample])
        fits = [i for i, n in enumerate(shape) if n == self.samples and math.prod(shape[:i]) == before]
        if not fits:
            raise ValueError(
                f"the reshape of {self.shape} to {shape} mixes the samples (dimension {self.sample}) with other dimensions"
            )
        sample = self.sample if self.sample in fits else fits[0]
        sides = zip(_sides(self.shape, self.sample), _sides(shape, sample), strict=True)
        groups = [group for old, new in sides for group in _factors(self.shape, old, shape, new)]
        order = [i for i in self.axes if self.shape[i] > 1]
        whole = [order[order.index(old[0]) :][: len(old)] == old for old, _ in groups]
        if not all(whole):
            return self.natural().reshaped(shape)
        begins = {old[0]: new for old, new in groups}
        axes = tuple(i for old in order if old in begins for i in begins[old])
        return replace(self, sample=sample).regrown(shape, axes)

    def selected(
        self,
        shape: Sequence[int],
        ends: dict[int, tuple[int, int]],
        strides: dict[int, int] | None = None,
        mode: str = "zeros",
    ) -> Value:
        """Torch dimensions padded (positive ends), cropped (negative ones), or every `stride`-th entry of them kept.

        A dimension that holds the features is treated as one of a grid with a single feature.
        """
        value = self.arranged(*self.axes, *(i for i in ends if i not in self.axes))
        out = replace(value, shape=tuple(shape))
        sizes = out._sizes(value.axes)
        lone = value.axes[0] in ends
        axes = value.axes if lone else value.axes[1:]
        windows = Windows.of(
            (1,) * len(axes),
            tuple((strides or {}).get(i, 1) for i in axes),
            tuple(ends.get(i, (0, 0)) for i in axes),
            mode=mode,
        )
        before = value.grouped((1, *value.step.sizes)) if lone else value
        after = before.then(Selection(windows))
        if after.step.sizes != ((1, *sizes) if lone else sizes):
            raise ValueError(f"selects {after.step.sizes}, torch gives a tensor of shape {tuple(shape)}")
        return replace(out, step=_regrouped(after.step, sizes))

    def sliced(self, dimension: int, start: int, stop: int, stride: int = 1) -> Value:
        """Every `stride`-th entry from `start` up to `stop` along a torch dimension."""
        length = self.shape[dimension]
        shape = tuple(len(range(start, stop, stride)) if i == dimension else n for i, n in enumerate(self.shape))
        if shape == self.shape:
            return self
        leads = self.axes[:1] == (dimension,) and stride == 1
        if leads and start == 0:
            out = self.then(Cropping(stop), shape)
        else:
            out = self.selected(shape, {dimension: (-start, stop - length)}, {dimension: stride})
        return replace(out, step=replace(out.step, part=(self.step, start, stop))) if leads else out


def _sides(shape: Sizes, sample: int) -> tuple[list[int], list[int]]:
    """The dimensions of more than one entry before and after the samples."""
    large = [i for i, n in enumerate(shape) if n > 1 and i != sample]
    return [i for i in large if i < sample], [i for i in large if i > sample]


def _factors(shape: Sizes, old: list[int], other: Sizes, new: list[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of dimensions of one shape that have as many entries as runs of the other: the finest such pairs."""
    groups, left, right = [], list(old), list(new)
    while left:
        a, b = [left.pop(0)], [right.pop(0)]
        while (size := math.prod(shape[i] for i in a)) != (wanted := math.prod(other[i] for i in b)):
            if size < wanted:
                a.append(left.pop(0))
            else:
                b.append(right.pop(0))
        groups.append((a, b))
    return groups


def summed(values: Sequence[Value]) -> Value:
    """The sum of tensors of one shape."""
    shapes = {(value.shape, value.sample) for value in values}
    if len(shapes) != 1:
        listed = " and ".join(str(value.shape) for value in values)
        raise ValueError(f"adds tensors of shapes {listed}: give both the same shape, values are not broadcast")
    lead = min(values, key=lambda value: value.step.depth)  # the trunk keeps its layout, branches follow
    steps = tuple(value.arranged(*lead.axes).step for value in values)
    return replace(lead, step=Step(lead.step.sizes, steps))


def concatenated(values: Sequence[Value], dimension: int) -> Value:
    """The tensors below one another along a torch dimension."""
    lead = min(values, key=lambda value: value.step.depth).with_features(dimension)
    steps = [value.arranged(*lead.axes).step for value in values]
    shape = list(lead.shape)
    shape[dimension] = sum(value.shape[dimension] for value in values)
    return replace(lead, step=stack(steps), shape=tuple(shape))


def stack(steps: Sequence[Step]) -> Step:
    """Features below one another; the parts of one step, all of them in order, are that step again."""
    parts = [step.part for step in steps]
    if all(part is not None for part in parts):
        whole, end = parts[0][0], 0  # type: ignore[index]
        for part in parts:
            end = part[2] if part[0] is whole and part[1] == end else -1  # type: ignore[index]
        if end == whole.sizes[0]:
            return whole
    if len(steps) == 1:
        return steps[0]
    return Step((sum(step.sizes[0] for step in steps), *steps[0].sizes[1:]), tuple(steps), stacked=True)


def describe(target: Step, source: Step) -> Chain:
    """The description of `target` as a function of `source`, as chains, sums and stacks.

    A join's branches all start at the last step that every path to it passes. What they share beyond is written in each of them,
    with the same paths, so it has the same parameters.

    Raises:
        ValueError: so much is shared that the description would be much longer than the graph.
    """
    order = _ordered(target)
    if source not in order:
        raise ValueError("the output does not depend on the input")
    depth, above = _dominators(order, source)
    budget = [LARGEST * len(order)]

    def meeting(steps: Sequence[Step]) -> Step:
        first = steps[0]
        for step in steps[1:]:
            while first is not step:
                if depth[first] < depth[step]:
                    first, step = step, first
                first = above[first]
        return first

    def members(step: Step, start: Step) -> Chain:
        found: list[Network] = []
        while step is not start:
            budget[0] -= 1
            if budget[0] < 0:
                raise ValueError(
                    f"branches of the graph share so much that its description is more than {LARGEST} times as long: "
                    "it is far from series-parallel; register the block as a whole with @numerics.trace.translates"
                )
            if step.layer is not None:
                found.append(step.layer)
                step = step.inputs[0]
            else:
                common = meeting(step.inputs)
                branches = [members(each, common) for each in step.inputs]
                found.append(stacked(*map(_single, branches)) if step.stacked else _sum(branches))
                step = common
        return Chain(tuple(reversed(found)))

    return members(target, source)


def _ordered(target: Step) -> list[Step]:
    """All steps that `target` depends on, inputs first."""
    order: dict[Step, None] = {}
    waiting = [(target, False)]
    while waiting:
        step, done = waiting.pop()
        if done:
            order[step] = None
        elif step not in order:
            waiting.append((step, True))
            waiting.extend((each, False) for each in step.inputs)
    return list(order)


def _dominators(order: list[Step], source: Step) -> tuple[dict[Step, int], dict[Step, Step]]:
    """Depth and parent of each step in the tree of last steps that every path from the source passes."""
    depth, above = {source: 0}, {source: source}
    for step in order:
        if step is source:
            continue
        common = step.inputs[0]
        for other in step.inputs[1:]:
            while common is not other:
                if depth[common] < depth[other]:
                    common, other = other, common
                common = above[common]
        above[step], depth[step] = common, depth[common] + 1
    return depth, above


def _single(network: Chain) -> Network:
    return network.members[0] if len(network.members) == 1 else network


def _terms(branch: Chain) -> list[Chain]:
    """The terms of a branch that is itself a sum."""
    (only,) = branch.members if len(branch.members) == 1 else (None,)
    if isinstance(only, Branches) and not only.stacked:
        return [each if isinstance(each, Chain) else chain(each) for each in only.branches]
    if isinstance(only, Residual):
        skip = chain() if only.skip == 1 else chain(Scaling(only.skip))
        inner = only.branch if isinstance(only.branch, Chain) else chain(only.branch)
        return [skip, *_terms(inner)]
    return [branch]


def _factor(branch: Chain) -> sympy.Expr | None:
    """The factor of a branch that only scales."""
    if not all(isinstance(member, Scaling) for member in branch.members):
        return None
    return sympy.Mul(*(member.factor for member in branch.members if isinstance(member, Scaling)))


def _sum(branches: Sequence[Chain]) -> Network:
    """A residual where one term is the identity or a multiple of it, else the terms, the one with the least parameters first."""
    terms = [term for branch in branches for term in _terms(branch)]
    factors = [_factor(term) for term in terms]
    skip = sympy.Add(*(factor for factor in factors if factor is not None))
    rest = [term for term, factor in zip(terms, factors, strict=True) if factor is None]
    if not rest:
        return Scaling(skip)
    if skip == 0:
        first = min(rest, key=lambda term: (_parameterised(term), len(list(walk(term)))))
        return added(*map(_single, [first, *(term for term in rest if term is not first)]))
    return residual(*(rest[0].members if len(rest) == 1 else (added(*map(_single, rest)),)), skip=skip)


def _parameterised(network: Network) -> int:
    return sum(bool(getattr(part, "path", "")) for part in walk(network))
