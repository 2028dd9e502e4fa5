"""Rescaling weights as a reading of a network description: what positive factors on the weights do to features, gradients and margins.

Each weight is multiplied by a positive factor, `W_l -> c_l W_l`, and each bias by the factor of its layer's output, so that the layer's output is multiplied by a number. The
fold carries that number along the depth,

    affine, convolution    k -> c_l k                                  bilinear in weight and input
    activation             k -> k, where phi(k z) = k phi(z)           checked on the activation's own expression
    pooling, scaling       k -> k                                      linear, or a maximum
    residual, added        the summands' factors have to agree         else the sum is not a multiple of what it was
    repeat                 k -> r^L k, where one block gives r k       by induction; `L` may be a symbol

and the margins follow: with `q` the factor of the outputs and `k` that of the features at a layer, the gradient there is multiplied by `q / k`, the first-order distance
`(f_i - f_j) / |grad (f_i - f_j)|` and the root of the total variation by `k`, so the normalised distance by one, whatever the factors. `(c W_l, W_{l+1} / c)` is the case `q = 1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, singledispatch

import sympy
from sympy import Expr, Function, S, Symbol

from theory.atoms.entrywise import ACTIVATIONS, z
from theory.bound import Step, gap
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import Cropping, FeaturePad, Scaling
from theory.layers.spatial import AveragePool, Convolution, GlobalAveragePool, MaxPool, Permute, Reshape, Selection
from theory.network import Branches, Chain, Network, Repeat, Residual
from theory.spec import describe

Factors = Mapping[str, Expr]
"""Factor of the weight of each layer by the layer's path; layers that are not named keep theirs."""


@dataclass(frozen=True)
class Homogeneity:
    """Whether `phi(s z) = s phi(z)` for all `s > 0` and real `z`, and where not, an `(s, z)` at which it fails."""

    activation: str
    holds: bool
    witness: tuple[Expr, Expr] | None = None


@cache
def positive_homogeneity(activation: str) -> Homogeneity:
    """Check the identity on both half-lines and at 0, from the activation's expression in `theory.atoms.entrywise`.

    Raises:
        ValueError: an unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}: use one of {', '.join(ACTIVATIONS)}")
    phi, s, t = ACTIVATIONS[activation], Symbol("s", positive=True), Symbol("t", positive=True)

    def defect(scale: Expr, at: Expr) -> Expr:
        return phi.subs(z, scale * at) - scale * phi.subs(z, at)

    if all(sympy.simplify(defect(s, at)) == 0 for at in (t, -t, S.Zero)):
        return Homogeneity(activation, True)
    for scale, at in ((S(2), S.One), (S(2), -S.One), (S(2), S.Zero)):
        # enough digits that a value away from zero is away from zero
        if abs(sympy.N(defect(scale, at), 30)) > sympy.Float("1e-20"):
            return Homogeneity(activation, False, (scale, at))
    raise ValueError(f"{activation}: phi(s z) - s phi(z) = {defect(s, t)} could not be decided")


@singledispatch
def factor_after(part: Network, factor: Expr, factors: Factors) -> Expr:
    """The number by which the output of a part is multiplied when its input is multiplied by `factor > 0`.

    Raises:
        ValueError: naming a layer that the reading does not know, or that does not pass a factor on.
    """
    raise ValueError(f"rescaling: the reading does not know {describe(part)}")


@factor_after.register(Affine)
@factor_after.register(Convolution)
def _weighted(part: Affine | Convolution, factor: Expr, factors: Factors) -> Expr:
    if part.weight_norm is not None:
        raise ValueError(
            f"rescaling: the weight of {describe(part)} is normalised, so a factor on it changes nothing: rescale plain layers"
        )
    return factors.get(part.path, S.One) * factor


@factor_after.register
def _activation(part: Activation, factor: Expr, factors: Factors) -> Expr:
    if factor == 1:
        return factor
    checked = positive_homogeneity(part.name)
    if not checked.holds:
        scale, at = checked.witness or (S.NaN, S.NaN)
        raise ValueError(
            f"rescaling: {part.name} is not positively homogeneous (phi({scale} * {at}) is not {scale} phi({at})): "
            f"it does not pass the factor {factor} on"
        )
    return factor


@factor_after.register(Scaling)
@factor_after.register(Cropping)
@factor_after.register(FeaturePad)
@factor_after.register(AveragePool)
@factor_after.register(GlobalAveragePool)
@factor_after.register(MaxPool)
@factor_after.register(Selection)
@factor_after.register(Reshape)
@factor_after.register(Permute)
def _homogeneous(part: Network, factor: Expr, factors: Factors) -> Expr:
    return factor


@factor_after.register
def _chain(part: Chain, factor: Expr, factors: Factors) -> Expr:
    for member in part.members:
        factor = factor_after(member, factor, factors)
    return factor


def _summed(part: Network, ends: list[Expr]) -> Expr:
    for other in ends[1:]:
        if sympy.simplify(other - ends[0]) != 0:
            raise ValueError(f"rescaling: {describe(part)} adds features multiplied by {ends[0]} and by {other}")
    return ends[0]


@factor_after.register
def _residual(part: Residual, factor: Expr, factors: Factors) -> Expr:
    return _summed(part, [factor, factor_after(part.branch, factor, factors)])


@factor_after.register
def _branches(part: Branches, factor: Expr, factors: Factors) -> Expr:
    return _summed(part, [factor_after(branch, factor, factors) for branch in part.branches])


@factor_after.register
def _repeat(part: Repeat, factor: Expr, factors: Factors) -> Expr:
    once = sympy.simplify(factor_after(part.block, factor, factors) / factor)
    if once == 1:  # a fixed point: by induction it is one after any number of repetitions
        return factor
    k = Symbol("k", positive=True)
    ratio = sympy.simplify(factor_after(part.block, k, factors) / k)
    return ratio**part.times * factor


def _positive(name: str) -> Symbol:
    return Symbol(name, positive=True)


@cache
def proof() -> tuple[Step, ...]:
    """Why the factors of the margins are what `rescaled` says, each link to be recomputed by `Step.verify`."""
    c, k, q, y, u = (_positive(name) for name in "ckqyu")
    w, x, b = sympy.symbols("w:2", real=True), sympy.symbols("x:2", real=True), Symbol("b", real=True)
    before = sum(wi * xi for wi, xi in zip(w, x, strict=True)) + b
    after = sum(c * wi * k * xi for wi, xi in zip(w, x, strict=True)) + c * k * b
    tail = Function("T")
    samples = sympy.symbols("a:3", real=True)

    def covariance(values: tuple[Expr, ...]) -> Expr:
        mean = sum(values) / len(values)
        return sum((v - mean) ** 2 for v in values) / (len(values) - 1)

    m, g = _positive("m"), _positive("g")
    return (
        Step("affine: (c W)(k x) + c k b = c k (W x + b)", (gap(after, c * k * before),)),
        Step(
            "chain rule: the network after a layer becomes q T(y / k), its derivative at y = k x is q / k times the one before",
            (gap(sympy.diff(q * tail(y / k), y), q / k * tail(u).diff(u).subs(u, y / k)),),
        ),
        Step(
            "tr Cov(k x) = k^2 tr Cov(x): each feature's variance",
            (gap(covariance(tuple(k * a for a in samples)), k**2 * covariance(samples)),),
        ),
        Step("first-order distance: q m / ((q / k) |g|) = k m / |g|", (gap(q * m / (q / k * g), k * m / g),)),
    )


@dataclass(frozen=True)
class LayerFactors:
    """Factors of what is measured at one layer: features, gradient of `f_i - f_j`, first-order distance, and that over the root of the total variation."""

    features: Expr
    gradient: Expr
    distance: Expr
    normalised: Expr


def rescaled(network: Chain, factors: Factors) -> tuple[LayerFactors, ...]:
    """The factors at the input (first entry) and after each member of a chain when the weights are multiplied by `factors` and the biases follow.

    Args:
        network: a chain; the weights that change need a path, so that they can be named.
        factors: positive factor of each named weight.

    Raises:
        ValueError: a name that no layer has, a factor not known to be positive, or a layer that does not pass a factor on, by its name.
    """
    given = {name: sympy.sympify(factor) for name, factor in factors.items()}
    known = {path for part in network.members for path in _paths(part)}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"no layer is called {', '.join(unknown)}: the chain has {', '.join(sorted(known)) or 'none'}")
    if wrong := [name for name, factor in given.items() if not factor.is_positive]:
        raise ValueError(f"factors of {', '.join(wrong)} are not known to be positive: a negative one turns rectifiers")
    features = [S.One]
    for member in network.members:
        features.append(sympy.simplify(factor_after(member, features[-1], given)))
    output = features[-1]
    margin = output  # f_i - f_j is multiplied by what the outputs are multiplied by
    found = []
    for k in features:
        gradient = output / k
        distance = sympy.simplify(margin / gradient)
        found.append(LayerFactors(k, gradient, distance, sympy.simplify(distance / k)))
    return tuple(found)


def _paths(part: Network) -> set[str]:
    """Names of layers outside repetitions: a repeated layer has weights of its own each time, which one factor cannot name."""
    if isinstance(part, Chain):
        return set().union(*(_paths(member) for member in part.members))
    if isinstance(part, Residual):
        return _paths(part.branch)
    if isinstance(part, Branches):
        return set().union(*(_paths(branch) for branch in part.branches))
    path = "" if isinstance(part, Repeat) else getattr(part, "path", "")
    return {path} if path else set()
