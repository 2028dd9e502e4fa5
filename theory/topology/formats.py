"""Pfaffian formats of a network's features in its parameters: a fold over the description.

For `N` samples the chain has one copy of an activation's chain for every neuron and sample. The fold carries two numbers about the
features `x` as polynomials in the parameters and the chain: their total `degree`, and the total degree `slope` of their partial derivatives,
also as such polynomials; they give the chain's `alpha` exactly:

    affine       (d, D) -> (d + 1, max(d, D + 1))        parameters: outputs (inputs + bias)
    activation   (d, D) -> (deg Q, deg Q' + D),          alpha: deg P_i + D, for each equation P_i of its chain

with degrees in which `z` counts `d` and a function of the chain 1. Beside them the fold carries the format by the generic rules, which
never look inside a polynomial. A repeated block with a symbol for its depth is solved in closed form and proven by induction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sympy
from sympy import Expr, S, Symbol

from theory.bound import Assumption, Step
from theory.induction import at_least, closed_form, largest
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import Cropping, FeaturePad, Scaling
from theory.network import Branches, Chain, Network, Repeat, Residual
from theory.records import Shape
from theory.spec import describe
from theory.topology.pfaffian import Format, Pfaffian, activation


@dataclass(frozen=True)
class State:
    """What the fold knows of a feature matrix.

    Attributes:
        shape: features and samples.
        degree: total degree in the parameters and the chain; 0 for fixed data.
        slope: total degree of the partial derivatives by parameters; `-oo` for fixed data.
        alpha, length: degree and length of the chain so far.
        parameters: number of parameters so far.
        rules: the format by the generic rules.
        steps, assumptions, domain: inductions used, what they assume of a symbolic depth, and where the chain exists.
    """

    shape: Shape
    degree: Expr
    slope: Expr
    alpha: Expr
    length: Expr
    parameters: Expr
    rules: Format
    steps: tuple[Step, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    domain: tuple[str, ...] = ()

    @classmethod
    def data(cls, features: Expr, samples: Expr) -> State:
        """Fixed data of the given size."""
        zero = S.Zero
        return cls(Shape(features, samples), zero, S.NegativeInfinity, zero, zero, zero, Format(0, 0, 0))

    @property
    def fixed(self) -> bool:
        """Whether nothing here depends on a parameter."""
        return self.slope is S.NegativeInfinity

    @property
    def values(self) -> tuple[Expr, ...]:
        """The numbers that change along the depth, in the order of `NAMES`."""
        rules = (self.rules.alpha, self.rules.beta, self.rules.length)
        return (self.degree, self.slope, self.alpha, self.length, self.parameters, *rules)

    def with_values(self, values: tuple[Expr, ...]) -> State:
        degree, slope, alpha, length, parameters, *rules = values
        return replace(
            self, degree=degree, slope=slope, alpha=alpha, length=length, parameters=parameters, rules=Format(*rules)
        )


NAMES = ("degree", "slope", "alpha", "length", "parameters", "rules_alpha", "rules_beta", "rules_length")


def weighted(polynomial: Expr, inputs: tuple[Symbol, ...], others: tuple[Symbol, ...], degree: Expr) -> Expr:
    """Total degree where each of `inputs` counts `degree` and each of `others` 1; `-oo` for the zero polynomial."""
    if polynomial == 0:
        return S.NegativeInfinity
    monomials = sympy.Poly(polynomial, *inputs, *others).monoms()
    cut = len(inputs)
    return largest(*{sum(powers[:cut]) * degree + sum(powers[cut:]) for powers in monomials})


def put_in(outer: Pfaffian, degree: Expr, slope: Expr) -> tuple[Expr, Expr, Expr]:
    """Degree, slope and the new elements' alpha of a function applied to polynomials of the given degree and slope."""
    inputs, others = outer.variables, tuple(e.symbol for e in outer.chain)

    def of(polynomial: Expr) -> Expr:
        return weighted(polynomial, inputs, others, degree)

    alpha = largest(*(of(rule) + slope for e in outer.chain for _, rule in e.gradient))
    return of(outer.polynomial), largest(*(of(outer.partial(v)) + slope for v in inputs)), alpha


def whole(size: Expr) -> Expr:
    """A size with its symbols declared as positive whole numbers, which a spec does not say."""
    return size.xreplace(
        {s: Symbol(s.name, integer=True, positive=True) for s in size.free_symbols if not s.is_integer}
    )


def _affine(layer: Affine, state: State) -> State:
    if layer.weight_norm is not None:
        raise ValueError(
            f"topology: normalised weights in {describe(layer)} have no format here: use a plain affine layer"
        )
    if layer.path:
        raise ValueError(
            f"topology: {describe(layer)} may share its parameters by name: give a description without paths"
        )
    outputs, inputs = whole(layer.features), state.shape.features
    r = state.rules
    return replace(
        state,
        shape=Shape(outputs, state.shape.samples),
        degree=state.degree + 1,
        slope=largest(state.degree, state.slope + 1),
        parameters=sympy.expand(state.parameters + outputs * (inputs + int(layer.bias))),
        rules=Format(r.alpha, r.beta + 1, r.length),
    )


def _activation(layer: Activation, state: State) -> State:
    try:
        outer = activation(layer.name)
    except ValueError as error:
        raise ValueError(f"topology: layer {describe(layer)}: {error}") from None
    if state.fixed:
        return state
    degree, slope, alpha = put_in(outer, state.degree, state.slope)
    copies = state.shape.size * len(outer.chain)
    rules = state.rules.into(outer.format)
    low, high = outer.interval
    where = () if high is S.Infinity else (f"every input of {layer.name} in ({low}, {high})",)
    return replace(
        state,
        degree=degree,
        slope=slope,
        alpha=largest(state.alpha, alpha),
        length=sympy.expand(state.length + copies),
        rules=Format(rules.alpha, rules.beta, sympy.expand(state.rules.length + copies)),
        domain=tuple(dict.fromkeys((*state.domain, *where))),
    )


def _resized(layer: Cropping | FeaturePad, state: State) -> State:
    shape = layer.output_shape(state.shape)
    return replace(state, shape=Shape(whole(shape.features), shape.samples))


def _chain(network: Chain, state: State) -> State:
    for member in network.members:
        state = fold(member, state)
    return state


def _join(state: State, ends: list[State], features: Expr) -> State:
    """Branches on one input, added or concatenated: largest degrees, united chains, all parameters."""

    def more(name: str) -> Expr:
        start = getattr(state, name)
        return sympy.expand(start + sum(getattr(end, name) - start for end in ends))

    length = state.rules.length + sum(end.rules.length - state.rules.length for end in ends)
    return State(
        Shape(features, state.shape.samples),
        largest(*(e.degree for e in ends)),
        largest(*(e.slope for e in ends)),
        largest(*(e.alpha for e in ends)),
        more("length"),
        more("parameters"),
        Format(largest(*(e.rules.alpha for e in ends)), largest(*(e.rules.beta for e in ends)), sympy.expand(length)),
        tuple(dict.fromkeys(s for e in ends for s in e.steps)),
        tuple(dict.fromkeys(a for e in ends for a in e.assumptions)),
        tuple(dict.fromkeys(w for e in ends for w in e.domain)),
    )


def _residual(network: Residual, state: State) -> State:
    end = fold(network.branch, state)
    same_size(describe(network), state, end)
    return _join(state, [state, end], state.shape.features)


def _branches(network: Branches, state: State) -> State:
    ends = [fold(branch, state) for branch in network.branches]
    if network.stacked:
        return _join(state, ends, sympy.Add(*(e.shape.features for e in ends)))
    for end in ends[1:]:
        same_size(describe(network), ends[0], end)
    return _join(state, ends, ends[0].shape.features)


def same_size(name: str, one: State, other: State) -> None:
    """Refuse to add two states of different shape, naming what adds them."""
    if one.shape != other.shape:
        raise ValueError(f"topology: {name} adds {one.shape} to {other.shape}: give its branches one width")


def _repeat(network: Repeat, state: State) -> State:
    times = whole(network.times)
    after = fold(network.block, state)
    if times != 1:
        same_size(f"repeat of {describe(network.block)}", state, after)
    if times.is_Integer:
        for _ in range(int(times)):
            state = fold(network.block, state)
        return state

    def step(values: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return fold(network.block, state.with_values(values)).values

    form = closed_form(step, state.values, NAMES)
    assumptions = after.assumptions
    if not at_least(times, S(form.first)):
        assumptions = (*assumptions, Assumption(times, ">=", S(form.first), "the closed form starts there"))
    steps = (*after.steps, *form.steps)
    return replace(state.with_values(form.at(times)), steps=steps, assumptions=assumptions, domain=after.domain)


def _scaling(layer: Scaling, state: State) -> State:
    return state


FOLDS: dict[type, Callable[[Any, State], State]] = {
    Affine: _affine,
    Activation: _activation,
    Scaling: _scaling,
    Cropping: _resized,
    FeaturePad: _resized,
    Chain: _chain,
    Residual: _residual,
    Branches: _branches,
    Repeat: _repeat,
}
"""What the reading knows of each kind of layer."""


def fold(network: Network, state: State) -> State:
    """The state after a network.

    Raises:
        ValueError: a layer that the reading does not know, or an activation that is not analytic, by name.
    """
    if type(network) not in FOLDS:
        known = ", ".join(kind.__name__ for kind in FOLDS)
        raise ValueError(f"topology: the reading does not know the layer {describe(network)}: it knows {known}")
    return FOLDS[type(network)](network, state)
