"""Second moments in depth under random weights: a reading of a description, by a fold that knows residual blocks.

The weights of every affine layer are independent, symmetric, with mean zero and variance `1 / (input features)`. For every fixed input `x`
the fold carries, as bounds that keep their parents and their checked steps,

    second:    E|F(x)|^2 / |x|^2                        between `second_lower` and `second_upper`
    jacobian:  E|DF(x) q|^2 / |q|^2, any direction q    between `jacobian_lower` and `jacobian_upper`
    mean:      the number with E F(x) = mean x and E DF(x) = mean I, or None where there is none.

Where lower and upper agree the law is exact: `repeat(L, residual(affine(d), relu, affine(d), scale(alpha)))` (res-3 of Marion et al., arXiv
2206.06929) gives `(1 + alpha^2/2)^L`, at every width and depth and without any independence between forward and backward pass. Norms are Euclidean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import sympy
from sympy import Expr, S, Symbol

from theory import symbols
from theory.bound import Bound, Sense, Step, gap
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import Scaling
from theory.network import Chain, Network, Repeat, Residual, repeat, residual
from theory.records import Shape
from theory.signal.shares import is_odd, shares
from theory.spec import describe

alpha = Symbol("alpha", positive=True)
"""The branch scale."""

KNOWN = "affine (plain), activations with phi(0) = 0, scale, chain, residual, repeat"


@dataclass(frozen=True)
class Moments:
    """What is known of a network `F` under random weights, for every fixed input.

    Attributes:
        features: of input and output.
        second_lower, second_upper: on `E|F(x)|^2 / |x|^2`.
        jacobian_lower, jacobian_upper: on `E|DF(x) q|^2 / |q|^2`.
        mean: `E F(x) = mean x` and `E DF(x) = mean I`; None where neither is known.
        symmetric: each entry of `(F(x), DF(x) q)` and its negative have one law.
        isotropic: the Jacobian bounds hold for the matrix `E DF DF^T` as well, hence for gradients.
    """

    features: tuple[Expr, Expr]
    second_lower: Bound
    second_upper: Bound
    jacobian_lower: Bound
    jacobian_upper: Bound
    mean: Expr | None
    symmetric: bool = False
    isotropic: bool = False

    @property
    def exact(self) -> bool:
        """Whether lower and upper bounds agree."""
        return (
            self.second_lower.expression == self.second_upper.expression
            and self.jacobian_lower.expression == self.jacobian_upper.expression
        )

    def growth(self) -> Expr:
        """`E|F(x)|^2 / |x|^2`, where it is exact.

        Raises:
            ValueError: naming the two bounds, where they differ.
        """
        low, high = self.second_lower.expression, self.second_upper.expression
        if low != high:
            raise ValueError(f"E|F(x)|^2/|x|^2 is only known between {low} and {high}: use the two bounds")
        return high

    def change(self, sense: Sense = Sense.UPPER) -> Bound:
        """A bound on `E|F(x) - x|^2 / |x|^2`: the second moment, less `2 mean - 1`.

        Raises:
            ValueError: where the mean is not a multiple of the input, or the widths differ.
        """
        return self._less_mean(self.second_upper if sense is Sense.UPPER else self.second_lower, "change")

    def gradient(self, sense: Sense = Sense.UPPER) -> Bound:
        """A bound on `E|p_0|^2 / |p_L|^2`, where `p_0 = DF(x)^T p_L` for any fixed `p_L`.

        Raises:
            ValueError: where the network does not end in an affine layer or in residual blocks that do.
        """
        if not self.isotropic:
            raise ValueError(
                "gradients: E DF DF^T is a multiple of I after an affine layer only; end the network in one"
            )
        bound = self.jacobian_upper if sense is Sense.UPPER else self.jacobian_lower
        first, last = self.features
        scaled = bound if first == last else bound * (first / last)
        return scaled.named("gradient_growth")

    def gradient_change(self, sense: Sense = Sense.UPPER) -> Bound:
        """A bound on `E|p_0 - p_L|^2 / |p_L|^2`.

        Raises:
            ValueError: as `gradient` and `change`.
        """
        return self._less_mean(self.gradient(sense), "gradient_change")

    def _less_mean(self, bound: Bound, quantity: str) -> Bound:
        if self.mean is None or self.features[0] != self.features[1]:
            raise ValueError(f"{quantity}: E F(x) is no known multiple of x; use blocks that end in an affine layer")
        step = Step("|a - b|^2 = |a|^2 - 2 <a, b> + |b|^2, and the mean of a is `mean` times b")
        return Bound(
            bound.expression - 2 * self.mean + 1,
            bound.sense,
            quantity=quantity,
            source="second moment less the mean",
            parents=(bound,),
            steps=(step,),
        )

    def verify(self) -> None:
        """Recompute every identity below the four bounds.

        Raises:
            AssertionError: naming the first step that fails.
        """
        for bound in (self.second_lower, self.second_upper, self.jacobian_lower, self.jacobian_upper):
            bound.verify()


def _both(
    state: Moments, second: tuple[Expr, Expr], jacobian: tuple[Expr, Expr], source: str, steps: tuple[Step, ...]
) -> dict[str, Any]:
    """The four bounds, each multiplied by its factor."""
    factors = {
        "second_lower": second[0],
        "second_upper": second[1],
        "jacobian_lower": jacobian[0],
        "jacobian_upper": jacobian[1],
    }
    found = {}
    for name, factor in factors.items():
        old = getattr(state, name)
        kind = _kind(name)
        step = Bound(factor, old.sense, quantity=f"{kind} moment of the part", source=source, steps=steps)
        found[name] = (old * step).named(f"{kind}_moment")
    return found


def _kind(name: str) -> str:
    return name.partition("_")[0]


def _start(features: Expr) -> Moments:
    def one(sense: Sense, quantity: str) -> Bound:
        return Bound(S.One, sense, quantity=quantity, source="the input itself")

    return Moments(
        (features, features),
        one(Sense.LOWER, "second_moment"),
        one(Sense.UPPER, "second_moment"),
        one(Sense.LOWER, "jacobian_moment"),
        one(Sense.UPPER, "jacobian_moment"),
        mean=S.One,
        isotropic=True,
    )


def _affine(layer: Affine, state: Moments) -> Moments:
    """`E|A x|^2 = sum_ij E A_ij^2 x_j^2`: the mixed terms have mean zero."""
    for broken, what in (
        (layer.bias, "a bias"),
        (layer.weight_norm is not None, f"weights normalised by {layer.weight_norm}"),
        (bool(layer.path), "shared parameters"),
    ):
        if broken:
            raise ValueError(f"moments: {describe(layer)} has {what}: iid weights only; use affine({layer.features})")
    first, here, out = *state.features, layer.features
    a, b, u, v = sympy.symbols("a b u v", real=True)
    variance = 1 / here
    # two entries of one row stand for all: E (a u + b v)^2 over the symmetric law of a and b
    square = sympy.Poly(sympy.expand((a * u + b * v) ** 2), a, b)
    mean_square = sum(c * _moment(i) * _moment(j) * variance ** ((i + j) / S(2)) for (i, j), c in square.terms())
    steps = (
        Step(
            "entries are independent with mean zero, so mixed terms vanish",
            (gap(mean_square, variance * (u**2 + v**2)),),
        ),
        Step("sum over the rows", (gap(out * variance, out / here),)),
    )
    ratio = out / here
    bounds = _both(state, (ratio, ratio), (ratio, ratio), f"iid weights of variance 1/{here}", steps)
    return replace(state, features=(first, out), mean=S.Zero, symmetric=True, isotropic=True, **bounds)


def _moment(power: int) -> Expr:
    """`E X^power` for `X` symmetric with variance 1, up to power 3."""
    return {0: S.One, 1: S.Zero, 2: S.One, 3: S.Zero}[power]


def _activation(layer: Activation, state: Moments) -> Moments:
    if layer.name == "identity":
        return state
    found = shares(layer.name, state.symmetric)
    odd = state.symmetric and is_odd(layer.name)
    law = "entries with a symmetric law" if state.symmetric else "any entries"
    bounds = _both(state, found.second, found.slope, f"{layer.name} on {law}", found.steps)
    return replace(state, mean=S.Zero if odd else None, symmetric=odd, isotropic=False, **bounds)


def _scaling(layer: Scaling, state: Moments) -> Moments:
    square = layer.factor**2
    bounds = _both(state, (square, square), (square, square), f"scale {layer.factor}", ())
    return replace(state, mean=None if state.mean is None else state.mean * layer.factor, **bounds)


def _residual(block: Residual, features: Expr) -> Moments:
    """`E|s x + f(x)|^2 = s^2 |x|^2 + 2 s mean |x|^2 + E|f(x)|^2`, and the same along every direction."""
    block.output_shape(Shape(features, S.One))
    branch = fold(block.branch, features)
    if branch.mean is None or not branch.isotropic:
        raise ValueError(
            f"moments: the branch of {describe(block)} has no known mean, so the cross term of the skip stays: end it in affine({features})"
        )
    s, mean = block.skip, branch.mean
    m, b = sympy.symbols("m b", positive=True)
    steps = (
        Step("E|s x + f|^2 = s^2 |x|^2 + 2 s <x, E f> + E|f|^2 with E f = mean x; the same along every direction"),
        Step(
            "gradients: given all earlier blocks E[J M J^T] = (s^2 + 2 s mean) M + b tr(M)/d I, as the last weights are independent of the rest; "
            "a multiple of I stays one",
            (gap((s**2 + 2 * s * mean) * m + b * (m * features) / features, (s**2 + 2 * s * mean + b) * m),),
        ),
    )
    found: dict[str, Any] = {}
    for name in ("second_lower", "second_upper", "jacobian_lower", "jacobian_upper"):
        old = getattr(branch, name)
        found[name] = Bound(
            sympy.expand(s**2 + 2 * s * mean) + old.expression,
            old.sense,
            quantity=f"{_kind(name)}_moment",
            source=f"skip {s} and a branch",
            parents=(old,),
            steps=steps,
        )
    return Moments((features, features), **found, mean=s + mean, isotropic=True)


def fold(network: Network, features: Expr, state: Moments | None = None) -> Moments:
    """The moments of a network after those of what stands before it (`state`).

    Raises:
        ValueError: naming a layer or a combinator that the reading does not know.
    """
    state = _start(features) if state is None else state
    if isinstance(network, Affine):
        return _affine(network, state)
    if isinstance(network, Activation):
        return _activation(network, state)
    if isinstance(network, Scaling):
        return _scaling(network, state)
    if isinstance(network, Chain):
        for member in network.members:
            state = fold(member, state.features[1], state)
        return state
    if isinstance(network, Residual):
        return _after(state, _residual(network, state.features[1]))
    if isinstance(network, Repeat):
        network.output_shape(Shape(state.features[1], S.One))
        return _after(state, _power(fold(network.block, state.features[1]), network.times))
    raise ValueError(f"moments: {describe(network)} is not known to this reading; known: {KNOWN}")


def _power(block: Moments, times: Expr) -> Moments:
    """`times` independent copies: given its input, each multiplies the moment (the tower property)."""
    step, mean = recursion_step(block.second_upper.expression, times), block.mean

    def raised(bound: Bound) -> Bound:
        return replace(bound**times, quantity=bound.quantity, source=f"{times} independent blocks", steps=(step,))

    return replace(
        block,
        second_lower=raised(block.second_lower),
        second_upper=raised(block.second_upper),
        jacobian_lower=raised(block.jacobian_lower),
        jacobian_upper=raised(block.jacobian_upper),
        mean=None if mean is None else mean**times,
    )


def _after(state: Moments, part: Moments) -> Moments:
    """A part whose moments hold for every fixed input, after what stands before it and is independent of it."""

    def times(name: str) -> Bound:
        return (getattr(state, name) * getattr(part, name)).named(f"{_kind(name)}_moment")

    return Moments(
        (state.features[0], part.features[1]),
        times("second_lower"),
        times("second_upper"),
        times("jacobian_lower"),
        times("jacobian_upper"),
        mean=None if state.mean is None or part.mean is None else state.mean * part.mean,
        symmetric=part.symmetric,
        isotropic=part.isotropic and state.isotropic,
    )


def propagate(network: Network, features: Expr = symbols.d) -> Moments:
    """Second moments of activations and of gradients of a description under iid weights.

    Raises:
        ValueError: naming a layer that the reading does not know, a branch without a mean, or shapes that do not match.
    """
    return fold(network, sympy.sympify(features))


def recursion_step(factor: Expr, times: Expr) -> Step:
    """The closed form of `m_{k+1} = factor m_k`, `m_0 = 1`, by SymPy's solver of recurrences, and that it solves it."""
    m, k, f = sympy.Function("m"), Symbol("k", integer=True, nonnegative=True), Symbol("f", positive=True)
    closed = sympy.rsolve(m(k + 1) - f * m(k), m(k), {m(0): 1})
    at = closed.subs(f, factor)
    return Step(
        "m_{k+1} = factor m_k has the closed form factor^k",
        (gap(closed.subs(k, 0), 1), gap(closed.subs(k, k + 1), f * closed), gap(at.subs(k, times), factor**times)),
    )


def res1(activation: str, scale: Expr = alpha, depth: Expr = symbols.L, features: Expr = symbols.d) -> Network:
    """`h_{k+1} = h_k + scale V phi(h_k)`."""
    return repeat(depth, residual(Activation(activation), Affine(features), Scaling(scale)))


def res3(scale: Expr = alpha, depth: Expr = symbols.L, features: Expr = symbols.d) -> Network:
    """`h_{k+1} = h_k + scale V relu(W h_k)`."""
    return repeat(depth, residual(Affine(features), Activation("relu"), Affine(features), Scaling(scale)))
