"""Hypotheses of a network without bad local valleys, as a reading of its description (Nguyen, Mukkamala, Hein, arXiv 1809.10749).

A unit is an activation of a weighted sum of inputs and earlier units, plus a bias. The conditions on `N` samples:

    1  a unit of the first layer reads any subset of the inputs, with free weights
    2  a unit further up reads any subset of the inputs and earlier units, with free weights
    3  units of one layer may share weights, and then have equal fan-in
    4  at least N hidden units are connected to the outputs, with independent weights
    5  every activation is strictly increasing and real-analytic, decided from its formula
    growth  it is no polynomial. The paper's own condition on its growth was not at hand; this is what linear independence needs (`theory.valleys.activations`)
    bias    every hidden unit has a bias: without one an odd activation gives opposite samples dependent rows, whatever the weights

The fold carries which features are inputs, sums, or outputs of units. What follows from the conditions is in `theory.valleys.lifting`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import sympy
from sympy import Expr, S

from theory.layers.activation import Activation, LogSoftmax, SoftmaxLayer
from theory.layers.affine import Affine
from theory.layers.attention import Attend
from theory.layers.fixed import Cropping, FeaturePad, Scaling
from theory.layers.normalisation import FrozenBatchNorm, Normalisation
from theory.layers.spatial import (
    AveragePool,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Permute,
    Reshape,
    Selection,
    TransposedConvolution,
)
from theory.network import Branches, Chain, Network, Repeat, Residual
from theory.records import Shape
from theory.spec import describe
from theory.valleys.activations import activation_conditions

NAMES = ("1", "2", "3", "4", "5", "growth", "bias")
INPUT, SUM, UNIT, OTHER = "input", "sum", "unit", "other"


@dataclass(frozen=True)
class Condition:
    """One condition on one layer: `name` is one of `NAMES`, `layer` says where, `reason` why it holds or fails."""

    name: str
    layer: str
    holds: bool
    reason: str

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILS'}: condition {self.name}: {self.layer}: {self.reason}"


@dataclass(frozen=True)
class Segment:
    """Features of one origin, in their order: `kind` input, sum, unit or other; `reads` the hidden units below a sum as (layer, number)."""

    features: Expr
    kind: str
    layer: str = ""
    reads: tuple[tuple[str, Expr], ...] = ()
    bias: bool = True
    free: bool = True


@dataclass(frozen=True)
class State:
    """What the fold knows: shape and origin of the features, how many layers it has read, and the conditions found."""

    shape: Shape
    segments: tuple[Segment, ...]
    layers: int = 0
    found: tuple[Condition, ...] = ()

    def at(self, layer: Network) -> tuple[str, State]:
        """The next layer's name, and the state that has counted it."""
        return f"layer {self.layers + 1}, {describe(layer)}", replace(self, layers=self.layers + 1)

    def add(self, *found: Condition) -> State:
        return replace(self, found=(*self.found, *found))


def _merged(groups: Iterable[tuple[tuple[str, Expr], ...]]) -> tuple[tuple[str, Expr], ...]:
    """Units that any of the groups reads; of one layer read twice the larger number, as both may read the same."""
    units: dict[str, Expr] = {}
    for layer, count in (pair for group in groups for pair in group):
        units[layer] = sympy.Max(units.get(layer, S.Zero), count)
    return tuple(units.items())


def _sum(layer: Affine | Convolution, state: State, shared: bool, problem: str) -> State:
    """A layer of weighted sums; `problem` says why units that share weights have unequal fan-in."""
    here, state = state.at(layer)
    kinds = {segment.kind for segment in state.segments}
    name = "1" if kinds == {INPUT} else "2"
    found = [
        Condition(
            name,
            here,
            layer.weight_norm is None,
            "free weights"
            if layer.weight_norm is None
            else f"weights normalised by {layer.weight_norm} are not free: use plain ones",
        )
    ]
    if layer.path:
        found.append(
            Condition(
                "3",
                here,
                False,
                f"its parameters {layer.path!r} may be those of another layer: only units of one layer may share",
            )
        )
    if shared:
        found.append(
            Condition("3", here, not problem, problem or "units at all positions share weights, with equal fan-in")
        )
    if SUM in kinds:
        found.append(
            Condition("5", here, False, "it reads sums that passed no activation, which are units with a linear one")
        )
    reads = _merged(
        ((s.layer, s.features * state.shape.positions),) if s.kind == UNIT else s.reads for s in state.segments
    )
    free = not (shared or layer.path or layer.weight_norm)
    shape = layer.output_shape(state.shape)
    segment = Segment(layer.features, SUM, here, reads, bias=layer.bias, free=free)
    return replace(state.add(*found), shape=shape, segments=(segment,))


def _affine(layer: Affine, state: State) -> State:
    return _sum(layer, state, state.shape.positions != 1, "")


def _convolution(layer: Convolution, state: State) -> State:
    return _sum(layer, state, True, _border(layer))


def _border(layer: Convolution | Selection) -> str:
    windows = layer.windows
    if all(before <= 0 and after <= 0 for before, after in windows.padding) or windows.mode == "circular":
        return ""
    if windows.mode == "zeros":
        return "zero padding: units at the border have a smaller fan-in than those they share weights with"
    return f"padding by mode {windows.mode}: units at the border read one input twice"


def _activation(layer: Activation, state: State) -> State:
    here, state = state.at(layer)
    found = [Condition(name, here, holds, reason) for name, holds, reason in activation_conditions(layer.name)]
    segments = []
    for segment in state.segments:
        if segment.kind != SUM:
            found.append(Condition("2", here, False, "it acts on no weighted sum: put an affine layer before it"))
        else:
            reason = "its units have biases" if segment.bias else f"{segment.layer} has no bias: set bias=true"
            found.append(Condition("bias", here, segment.bias, reason))
        segments.append(Segment(segment.features, UNIT, here))
    return replace(state.add(*found), segments=tuple(segments))


def _scaling(layer: Scaling, state: State) -> State:
    return state.at(layer)[1]  # a positive factor keeps an activation increasing and analytic, and joins free weights


def _cropping(layer: Cropping, state: State) -> State:
    left, kept = layer.features, []
    for segment in state.segments:
        taken = sympy.Min(left, segment.features)
        if taken != 0:
            kept.append(replace(segment, features=taken))
        left = left - taken
    return replace(state.at(layer)[1], shape=layer.output_shape(state.shape), segments=tuple(kept))


def _selection(layer: Selection, state: State) -> State:
    here, after = state.at(layer)
    problem = _border(layer)
    found = (Condition("3", here, False, problem),) if problem else ()
    return replace(after.add(*found), shape=layer.output_shape(state.shape))


def _layout(layer: Reshape | Permute, state: State) -> State:
    """Another order of the same numbers: possible where all are of one origin, or where a grid is flattened."""
    _, after = state.at(layer)
    shape = layer.output_shape(state.shape)
    if len(state.segments) == 1:
        segments: tuple[Segment, ...] = (replace(state.segments[0], features=shape.features),)
    elif isinstance(layer, Reshape) and shape.positions == 1:
        segments = tuple(replace(s, features=s.features * state.shape.positions) for s in state.segments)
    else:
        raise ValueError(
            f"valleys: {describe(layer)} mixes features of several origins: flatten them, or lay them out before they are stacked"
        )
    return replace(after, shape=shape, segments=segments)


OUTSIDE: dict[type, tuple[str, str]] = {
    Residual: ("2", "it adds the outputs of units: pass them on by stacked(chain(), ...) instead"),
    FeaturePad: ("2", "features of zeros are no units"),
    AveragePool: ("2", "means have fixed weights"),
    GlobalAveragePool: ("2", "means have fixed weights"),
    MaxPool: ("5", "a maximum is not analytic"),
    Attend: ("2", "products of features are no weighted sums"),
    TransposedConvolution: ("3", "units of a transposed convolution share weights with unequal fan-in"),
    SoftmaxLayer: ("2", "a softmax is no activation of one sum"),
    LogSoftmax: ("4", "outputs are sums: leave the log-softmax to the loss"),
    FrozenBatchNorm: ("2", "fixed statistics are no free weights"),
}
"""Layers outside the class: the condition that fails, and why."""


def _outside(network: Network, state: State) -> State:
    here, after = state.at(network)
    kinds = [kind for kind in OUTSIDE if isinstance(network, kind)]
    name, reason = OUTSIDE[kinds[0]] if kinds else ("2", "a normalisation has no free weights")
    if isinstance(network, Residual):
        inner = fold(network.branch, state)
        after = replace(after, layers=inner.layers, found=inner.found)
    shape = network.output_shape(state.shape)
    segments = (Segment(shape.features, OTHER, here, _merged(s.reads for s in state.segments)),)
    return replace(after.add(Condition(name, here, False, reason)), shape=shape, segments=segments)


def _branches(network: Branches, state: State) -> State:
    shape, start = network.output_shape(state.shape), len(state.found)
    ends: list[State] = []
    for branch in network.branches:
        here = replace(state, layers=ends[-1].layers if ends else state.layers)
        ends.append(fold(branch, here))
    found = (*state.found, *(condition for end in ends for condition in end.found[start:]))
    after = State(shape, tuple(s for end in ends for s in end.segments), ends[-1].layers, found)
    if network.stacked:
        return after
    sums = [segment for end in ends for segment in end.segments]
    if any(segment.kind != SUM for segment in sums):
        condition = Condition("2", describe(network), False, OUTSIDE[Residual][1])
        return replace(after.add(condition), segments=(Segment(shape.features, OTHER, describe(network)),))
    one = Segment(
        shape.features,
        SUM,
        describe(network),
        _merged(segment.reads for segment in sums),
        bias=any(segment.bias for segment in sums),
        free=all(segment.free for segment in sums),
    )
    return replace(after, segments=(one,))


def _chain(network: Chain, state: State) -> State:
    for member in network.members:
        state = fold(member, state)
    return state


FOLDS: dict[type, Callable[[Any, State], State]] = {
    Affine: _affine,
    Convolution: _convolution,
    Activation: _activation,
    Scaling: _scaling,
    Cropping: _cropping,
    Selection: _selection,
    Reshape: _layout,
    Permute: _layout,
    Branches: _branches,
    Chain: _chain,
    Repeat: lambda network, state: fold(network.unrolled(), state),
}
"""What the reading knows of each kind of layer inside the class."""


def fold(network: Network, state: State) -> State:
    """The state after a network.

    Raises:
        ValueError: a layer that the reading does not know, by name; a symbolic depth.
    """
    if type(network) in FOLDS:
        return FOLDS[type(network)](network, state)
    if isinstance(network, (*OUTSIDE, Normalisation)):
        return _outside(network, state)
    known = ", ".join(kind.__name__ for kind in (*FOLDS, *OUTSIDE, Normalisation))
    raise ValueError(f"valleys: the reading does not know the layer {type(network).__name__}: it knows {known}")


def conditions(network: Network, shape: Shape) -> tuple[Condition, ...]:
    """Every condition on every layer of a network on inputs of the given shape, `shape.samples` being the number of samples.

    Source: the conditions of arXiv 1809.10749 as listed above. `all(c.holds for c in ...)` is the class to which `theory.valleys.lifting` speaks, for samples that are
    distinct on what the units see (`numerics.valleys.separated`).

    Raises:
        ValueError: a layer that the reading does not know, or a number of units that cannot be compared with the number of samples.
    """
    end = fold(network, State(shape, (Segment(shape.features, INPUT),)))
    return (*end.found, *_readout(end, shape.samples))


def failures(network: Network, shape: Shape) -> tuple[Condition, ...]:
    """The conditions that fail; empty for a network of the class."""
    return tuple(condition for condition in conditions(network, shape) if not condition.holds)


def _readout(end: State, samples: Expr) -> tuple[Condition, ...]:
    where = "output"
    if any(segment.kind != SUM for segment in end.segments):
        return (Condition("4", where, False, "the outputs are no weighted sums: end the network in an affine layer"),)
    if not all(segment.free for segment in end.segments):
        return (
            Condition(
                "4",
                where,
                False,
                "the output weights are shared or normalised: use a plain affine layer without a grid",
            ),
        )
    count = sympy.Min(*(sympy.Add(*(n for _, n in s.reads)) for s in end.segments))
    enough = (count - samples).is_nonnegative
    if enough is None:
        raise ValueError(f"valleys: cannot compare {count} units with {samples} samples: give numbers for both")
    return (Condition("4", where, bool(enough), f"{count} hidden units read by the outputs, {samples} samples"),)


def split_readout(network: Network) -> tuple[Chain, Affine]:
    """The hidden part and the last affine layer of a chain; `Psi` is what the hidden part puts out.

    Raises:
        ValueError: a network that does not end in a plain affine layer.
    """
    members = network.members if isinstance(network, Chain) else (network,)
    last = members[-1] if members else None
    if not isinstance(last, Affine) or last.weight_norm is not None or last.path or len(members) < 2:
        raise ValueError(
            f"valleys: {describe(network)} does not end in a plain affine layer behind a hidden part: write it as a chain that does"
        )
    return Chain(members[:-1]), last
