"""Loss topology as a reading of a network description: Pfaffian formats of the loss in the parameters, folded over the layers.

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
from functools import cache
from typing import Any

import sympy
from sympy import Expr, S, Symbol

from theory import symbols
from theory.atoms.entrywise import z
from theory.betti import Count, critical_points, sublevel_betti, zell
from theory.bound import Assumption, Step, gap
from theory.induction import at_least, closed_form, largest
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import Cropping, FeaturePad, Scaling
from theory.network import Branches, Chain, Network, Repeat, Residual, chain, repeat, residual
from theory.pfaffian import Element, Format, Pfaffian, activation
from theory.records import Shape
from theory.spec import describe

h = Symbol("h", integer=True, positive=True)
"""Width of every hidden layer."""
H = Symbol("H", integer=True, positive=True)
"""Number of hidden layers."""
d_0 = Symbol("d_0", integer=True, positive=True)
"""Number of input features."""
LOSSES = ("squared_error", "binary_cross_entropy", "cross_entropy")


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
    _same_size(describe(network), state, end)
    return _join(state, [state, end], state.shape.features)


def _branches(network: Branches, state: State) -> State:
    ends = [fold(branch, state) for branch in network.branches]
    if network.stacked:
        return _join(state, ends, sympy.Add(*(e.shape.features for e in ends)))
    for end in ends[1:]:
        _same_size(describe(network), ends[0], end)
    return _join(state, ends, ends[0].shape.features)


def _same_size(name: str, one: State, other: State) -> None:
    if one.shape != other.shape:
        raise ValueError(f"topology: {name} adds {one.shape} to {other.shape}: give its branches one width")


def _repeat(network: Repeat, state: State) -> State:
    times = whole(network.times)
    after = fold(network.block, state)
    if times != 1:
        _same_size(f"repeat of {describe(network.block)}", state, after)
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


@cache
def loss_of_one_sample(loss: str, classes: int = 2) -> Pfaffian:
    """The loss of one sample as a Pfaffian function of the outputs; a target is a symbol in its coefficients.

    `squared_error`: `(z - y)^2`, the sum over outputs has the same degrees. `binary_cross_entropy`: `softplus(z) - y z`. `cross_entropy`:
    `log(1 + sum exp v_k)` in the differences `v_k` of the other logits to the label's; its chain is `exp v_k`, `1 / S`, `log S`.
    """
    y = Symbol("y", real=True)
    if loss == "squared_error":
        return Pfaffian.of((z - y) ** 2, (z,))
    if loss == "binary_cross_entropy":
        return activation("softplus") - y * Pfaffian.of(z, (z,))
    if loss != "cross_entropy":
        raise ValueError(f"topology: unknown loss {loss!r}: use one of {', '.join(LOSSES)}")
    variables = sympy.symbols(f"v_1:{classes}", real=True)
    logits = [Pfaffian.of(v, variables) for v in variables]
    total = sum((activation("exp").compose(v) for v in logits), Pfaffian.of(S.One, variables))
    inverse = total.reciprocal()
    name = sympy.Dummy("log_S", real=True)
    rule = {v: sympy.expand(inverse.polynomial * total.partial(v)) for v in variables}
    logarithm = Element(name, sympy.log(total.function), tuple(rule.items()))
    return Pfaffian(variables, (*inverse.chain, logarithm), name, Format(0, 1, 0))


def _loss(loss: str, state: State) -> tuple[Format, Expr, Format]:
    """Tight format, degree of the gradient, and generic format of the mean loss."""
    outputs, samples = state.shape.features, state.shape.samples
    if loss == "cross_entropy" and outputs == 1:
        raise ValueError("topology: cross_entropy needs at least 2 outputs: use binary_cross_entropy for one")
    if loss == "binary_cross_entropy" and outputs != 1:
        raise ValueError(f"topology: binary_cross_entropy needs 1 output, not {outputs}: use cross_entropy")
    # degrees do not depend on the number of classes, lengths are counted below
    outer = loss_of_one_sample(loss, 3)
    degree, slope, alpha = put_in(outer, state.degree, state.slope)
    r = state.rules
    if loss == "squared_error":
        own = generic = S.Zero
        rules = Format(r.alpha, 2 * r.beta, 0)
    elif loss == "binary_cross_entropy":
        own = generic = S(2)
        rules = Format(r.alpha, r.beta, 0) + Format(r.alpha, r.beta, 0).into(activation("softplus").format)
    else:
        own, generic = outputs + 1, outputs + 2
        total = Format(r.alpha, r.beta, 0).into(activation("exp").format)
        # 1/S and log S join the chain: dS is of degree alpha + beta - 1, d log S = (1/S) dS
        inverse = total.reciprocal()
        rules = Format(largest(inverse.alpha, 1 + total.gradient), largest(1, r.beta), 0)
    length = sympy.expand(state.length + samples * own)
    rules = Format(rules.alpha, rules.beta, sympy.expand(r.length + samples * generic))
    return Format(largest(state.alpha, alpha), degree, length), slope, rules


@dataclass(frozen=True)
class Reading:
    """The format of a loss in the parameters.

    Attributes:
        network, loss, l2: what was read.
        format: by the tight calculus.
        gradient: total degree of the loss's partial derivatives, at most `alpha + beta - 1`.
        rules: by the generic rules.
        parameters: number of parameters `n`.
        steps: the inductions on depth; `verify` recomputes them.
        assumptions: what they ask of a symbolic depth.
        domain: where the chain exists, empty for all parameters.
    """

    network: Network
    loss: str
    l2: bool
    format: Format
    gradient: Expr
    rules: Format
    parameters: Expr
    steps: tuple[Step, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    domain: tuple[str, ...] = ()

    def verify(self) -> None:
        """Recompute every identity and sign of the inductions on depth.

        Raises:
            AssertionError: naming the step that does not hold.
        """
        for step in self.steps:
            if not step.verify():
                raise AssertionError(f"{step.claim}: {step.checks}")

    def tight_within_rules(self) -> bool:
        """Whether every entry of the tight format, and the gradient's degree, is at most the generic one, for all depths that `assumptions` admit."""
        moved: dict[Expr, Expr] = {}
        for a in self.assumptions:
            symbols_ = sorted(a.difference.free_symbols, key=str)
            if len(symbols_) == 1 and a.difference.diff(symbols_[0]) == 1:
                (s,) = symbols_
                least = s - a.difference
                moved[s] = s + largest(least, moved.get(s, s) - s + 1) - 1
        pairs = [(getattr(self.rules, n), getattr(self.format, n)) for n in ("alpha", "beta", "length")]
        pairs.append((self.rules.gradient, self.gradient))
        return all(at_least(*(side.subs(moved, simultaneous=True) for side in pair)) for pair in pairs)

    def _everywhere(self) -> None:
        if self.domain:
            raise ValueError(
                f"topology: the bounds hold for chains on all of R^n, not where {'; '.join(self.domain)} only"
            )

    def critical_points(self, *, generic: bool = False) -> Count:
        """Bound on the nondegenerate critical points of the loss; with `generic` from the generic rules and degree `alpha + beta - 1`."""
        self._everywhere()
        f, g = (self.rules, self.rules.gradient) if generic else (self.format, self.gradient)
        return critical_points(self.parameters, f.length, f.alpha, g)

    def sublevel_betti(self, *, generic: bool = False) -> Count:
        """Bound on the sum of Betti numbers of a sublevel set, for a Morse loss with compact sublevel sets (take `l2`)."""
        self._everywhere()
        f, g = (self.rules, self.rules.gradient) if generic else (self.format, self.gradient)
        return sublevel_betti(self.parameters, f.length, f.alpha, g)

    def zell(self) -> Count:
        """Shape of the Zell / Gabrielov-Vorobjov bound for `{loss <= c}`."""
        self._everywhere()
        return zell(self.parameters, self.format.length, self.format.alpha, self.format.beta)


def topology(
    network: Network, features: Expr, samples: Expr = symbols.N, loss: str = "squared_error", *, l2: bool = False
) -> Reading:
    """Read the Pfaffian format of the mean loss over fixed data, as a function of the parameters.

    Args:
        network: its description; widths, depths and sizes may be symbols.
        features: number of input features.
        samples: number `N` of samples (the `m` of the paper).
        loss: one of `LOSSES`.
        l2: whether `lambda |theta|^2` is added.

    Raises:
        ValueError: a layer, activation or loss that is not known or not analytic, by name; a network without parameters.
    """
    if loss not in LOSSES:
        raise ValueError(f"topology: unknown loss {loss!r}: use one of {', '.join(LOSSES)}")
    state = fold(network, State.data(whole(sympy.sympify(features)), whole(sympy.sympify(samples))))
    if state.fixed:
        raise ValueError(f"topology: {describe(network)} has no parameters, so its loss is a number")
    tight, gradient, rules = _loss(loss, state)
    if l2:
        tight = replace(tight, beta=largest(tight.beta, 2))
        gradient = largest(gradient, 1)
        rules = replace(rules, beta=largest(rules.beta, 2))
    kept = (state.steps, state.assumptions, state.domain)
    return Reading(network, loss, l2, tight, gradient, rules, state.parameters, *kept)


def perceptron(
    name: str, hidden: Expr | int = H, width: Expr | int = h, outputs: Expr | int = 1, *, skip: bool = False
) -> Chain:
    """`hidden` layers `affine, activation` of one width with biases and an affine readout; with `skip` identity skips around all but the first."""
    hidden = sympy.sympify(hidden)
    layer = (Affine(sympy.sympify(width), bias=True), Activation(name))
    block = residual(*layer) if skip else chain(*layer)
    deeper = () if hidden == 1 else (repeat(hidden - 1, block),)
    return chain(*layer, *deeper, Affine(sympy.sympify(outputs), bias=True))


def l2_invariance(reading: Reading) -> Step:
    """Theorem: `lambda |theta|^2` has the format `(0, 2, 0)`, so the sum has `(alpha, max(beta, 2), l)`: unchanged exactly when `beta >= 2`."""
    beta = reading.format.beta
    return Step(
        "an L2 term leaves (alpha, beta, l) unchanged: max(beta, 2) = beta",
        (gap(largest(beta, 2), beta),),
        (largest(beta, 2) - 2,),
    )


def skip_invariance(branch: Network, state: State) -> Step:
    """Theorem: an identity skip over a branch changes nothing exactly when the branch raises degree and slope at least to those of its input.

    The skip has no parameters and no function of its own, so length, alpha and `n` are the branch's; `max(d, d_branch)` and `max(D, D_branch)` remain.
    """
    end = fold(branch, state)
    _same_size(f"a skip over {describe(branch)}", state, end)
    return Step(
        "an identity skip leaves degree and slope unchanged: max(d, d_branch) = d_branch, max(D, D_branch) = D_branch",
        (gap(largest(state.degree, end.degree), end.degree), gap(largest(state.slope, end.slope), end.slope)),
    )


@dataclass(frozen=True)
class Shaped:
    """One shape of a given budget: its depth, width, parameters, and the logarithm of the bound."""

    hidden: int
    width: int
    parameters: int
    length: int
    log2: float


def deep_against_shallow(
    name: str, budget: int, depths: tuple[int, ...], features: int, samples: int, loss: str = "squared_error"
) -> list[Shaped]:
    """The bound on critical points for the widest network of each depth within a budget of parameters.

    Raises:
        ValueError: a depth at which even width 1 exceeds the budget.
    """
    rows = []
    for hidden in depths:
        reading = topology(perceptron(name, hidden, h), sympy.Integer(features), sympy.Integer(samples), loss, l2=True)

        def parameters(width: int, reading: Reading = reading) -> int:
            return int(reading.parameters.subs(h, width))

        if parameters(1) > budget:
            raise ValueError(
                f"a network of {hidden} hidden layers has {parameters(1)} parameters at width 1, above the budget {budget}"
            )
        width, high = 1, budget + 1
        while high - width > 1:
            middle = (width + high) // 2
            width, high = (middle, high) if parameters(middle) <= budget else (width, middle)
        count = reading.critical_points().at({h: sympy.Integer(width)})
        length = int(reading.format.length.subs(h, width))
        rows.append(Shaped(hidden, width, parameters(width), length, count.log2))
    return rows
