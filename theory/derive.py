"""From a description to bounds: each layer derived from its atoms, feature knowledge carried along the depth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy
from sympy import Expr, S

from theory.atoms.base import EVERYWHERE, Domain
from theory.atoms.fixed_linear import Scale
from theory.bound import Bound
from theory.compose import Parallel, Series, Tree, collapse, compose
from theory.layers.base import Layer
from theory.network import Network, Repeat, Residual
from theory.records import NORMS, FeatureBounds
from theory.repeated import repeated


@dataclass(frozen=True)
class Derived:
    """The tree of layer bounds of a network and what is known of its output."""

    tree: Tree
    output: FeatureBounds


@lru_cache(maxsize=4096)
def derive(network: Network, features: FeatureBounds, domain: Domain = EVERYWHERE) -> Derived:
    """Bounds of a network for inputs as known by `features` and parameters in `domain`.

    Raises:
        ValueError: naming shapes that do not match, or a hypothesis of a layer that the input breaks.
    """
    if isinstance(network, Layer):
        bounds, output = network.derive(features, domain)
        return Derived(bounds, output)
    if isinstance(network, Residual):
        network.output_shape(features.shape)
        skip = Scale(network.skip)
        branch = derive(network.branch, features, domain)
        return Derived(
            Parallel(skip.bounds(features, domain), branch.tree), _sum(skip.forward(features, domain), branch.output)
        )
    if isinstance(network, Repeat):
        if network.times.is_Integer:
            return derive(network.unrolled(), features, domain)
        return _derive_symbolic(network, features, domain)
    tree: Series = compose()
    for member in network.members:
        here = derive(member, features, domain)
        tree, features = compose(tree, here.tree), here.output
    return Derived(tree, features)


def _sum(first: FeatureBounds, second: FeatureBounds) -> FeatureBounds:
    norms = {name: getattr(first, name) + getattr(second, name) for name in NORMS}
    return FeatureBounds.of(first.shape, norms, centred=first.centred and second.centred)


def _derive_symbolic(network: Repeat, features: FeatureBounds, domain: Domain) -> Derived:
    """A block repeated a symbolic number of times: its bounds over every input it can meet, then the closed form in `L`."""
    network.output_shape(features.shape)
    uniform, output = _features_along(network, features, domain)
    block = collapse(derive(network.block, uniform, domain).tree, features.shape.samples)
    return Derived(repeated(block, network.times, features.shape.samples), output)


def _features_along(network: Repeat, features: FeatureBounds, domain: Domain) -> tuple[FeatureBounds, FeatureBounds]:
    """What is known of every input along the repetition, and of its output.

    One pass turns a norm `y` into at most `g y + h` with `g, h` free of `y`; after `l` passes it is at most
    `g^l y_0 + h (g^l - 1) / (g - 1)`, which grows with `l` when `g >= 1`, and at most `max(y_0, h)` when `g = 0`.
    """
    shape, times = features.shape, network.times
    probes = {name: sympy.Symbol(f"y_{name}", positive=True) for name in NORMS}
    norms = {
        name: Bound.upper(probe, quantity=f"{name} norm", source="input of the block") for name, probe in probes.items()
    }
    centred = features.centred and derive(network.block, features, domain).output.centred
    probe = FeatureBounds.of(shape, norms, centred=centred)
    image = derive(network.block, probe, domain).output
    inside: dict[str, Bound] = {}
    outside: dict[str, Bound] = {}
    for name in NORMS:
        start = getattr(features, name)
        growth, shift = _affine_majorant(getattr(image, name).expression, probes, name)
        if growth is None or start.expression is S.Infinity or shift is S.Infinity:
            last: Expr = S.Infinity if growth != 0 or shift is S.Infinity else shift
            inside[name] = Bound.upper(S.Infinity, quantity=f"{name} norm", source="not bounded along the repetition")
        elif growth == 0:
            last = shift
            inside[name] = _first_or_later(start, shift, name)
        else:
            last = growth**times * start.expression + shift * _geometric(growth, times)
            grows = (growth.is_number and growth >= 1) or (growth - 1).is_nonnegative
            all_along = last if grows else start.expression + shift * times
            all_along = (
                all_along if grows or (growth.is_number and growth < 1) or (1 - growth).is_nonnegative else S.Infinity
            )
            inside[name] = Bound.upper(
                all_along,
                quantity=f"{name} norm",
                source=f"at most {times} passes y -> {growth} y + {shift}",
                parents=(start,),
            )
        outside[name] = Bound.upper(
            last, quantity=f"{name} norm", source=f"{times} passes y -> {growth} y + {shift}", parents=(start,)
        )
    return (
        FeatureBounds.of(shape, inside, centred=centred),
        FeatureBounds.of(shape, outside, centred=centred),
    )


def _first_or_later(start: Bound, shift: Expr, name: str) -> Bound:
    return Bound.upper(
        sympy.Max(start.expression, shift),
        quantity=f"{name} norm",
        source="first input or any later one",
        parents=(start,),
    )


def _affine_majorant(image: Expr, probes: dict[str, sympy.Symbol], name: str) -> tuple[Expr | None, Expr]:
    """`(g, h)` with `image <= g y + h`, `y` the norm of that name; `(None, ...)` where the image is not of that form."""
    if image is S.Infinity:
        return None, S.Infinity
    others = {symbol for key, symbol in probes.items() if key != name}
    y = probes[name]
    simple = image.replace(
        # a minimum may be replaced by any of its members: prefer one that does not grow
        lambda e: isinstance(e, sympy.Min) and any(not a.free_symbols & set(probes.values()) for a in e.args),
        lambda e: next(a for a in e.args if not a.free_symbols & set(probes.values())),
    )
    if simple.free_symbols & others or not simple.is_polynomial(y) or sympy.degree(simple, y) > 1:
        return None, S.Infinity
    return simple.coeff(y, 1) if simple.has(y) else S.Zero, simple.subs(y, 0)


def _geometric(ratio: Expr, count: Expr) -> Expr:
    return count if ratio == 1 else (ratio**count - 1) / (ratio - 1)
