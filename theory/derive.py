"""From a description to bounds: each layer derived from its atoms, feature knowledge carried along the depth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import sympy
from sympy import Expr, S

from theory.atoms.base import EVERYWHERE, Domain
from theory.atoms.fixed_linear import Scale
from theory.bound import Bound
from theory.compose import Parallel, Series, Tree, collapse, compose
from theory.layers.base import Layer
from theory.network import Branches, Network, Repeat, Residual, walk
from theory.records import NORMS, FeatureBounds, Shape
from theory.repeated import geometric, repeated


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
        tree = Parallel((skip.bounds(features, domain), branch.tree))
        return Derived(tree, _sum(skip.forward(features, domain), branch.output))
    if isinstance(network, Branches):
        network.output_shape(features.shape)
        derived = [derive(branch, features, domain) for branch in network.branches]
        output = derived[0].output
        for other in derived[1:]:
            output = _stack(output, other.output) if network.stacked else _sum(output, other.output)
        return Derived(Parallel(tuple(d.tree for d in derived), network.stacked), output)
    if isinstance(network, Repeat):
        if network.times.is_Integer:
            return derive(network.unrolled(), features, domain)
        return _derive_symbolic(network, features, domain)
    series: Series = compose()
    for member in network.members:
        here = derive(member, features, domain)
        series, features = compose(series, here.tree), here.output
    return Derived(series, features)


def _sum(first: FeatureBounds, second: FeatureBounds) -> FeatureBounds:
    norms = {name: getattr(first, name) + getattr(second, name) for name in NORMS}
    return FeatureBounds.of(first.shape, norms, centred=first.centred and second.centred)


def _stack(first: FeatureBounds, second: FeatureBounds) -> FeatureBounds:
    """Features below one another: Euclidean norms add in squares, those of a row or an entry are the larger ones."""
    norms = {}
    for name in NORMS:
        one, other = getattr(first, name), getattr(second, name)
        if name in ("feature", "entry"):
            known = (one, other)
            same = one.expression == other.expression
            norms[name] = (
                one if same else one.named(name, expression=sympy.Max(one.expression, other.expression), parents=known)
            )
        else:
            norms[name] = (one**2 + other**2) ** S.Half
    shape = replace(first.shape, features=first.shape.features + second.shape.features)
    return FeatureBounds.of(shape, norms, centred=first.centred and second.centred)


def _derive_symbolic(network: Repeat, features: FeatureBounds, domain: Domain) -> Derived:
    """A block repeated a symbolic number of times: its bounds over every input it can meet, then the closed form in `L`."""
    network.output_shape(features.shape)
    names = {name for part in walk(network) for name in (getattr(part, "path", ""),) if name}
    if names:
        raise ValueError(
            f"parameters {', '.join(sorted(names))} are shared by {network.times} repetitions: give the depth as a number"
        )
    uniform, output = _features_along(network, features, domain)
    block = collapse(derive(network.block, uniform, domain).tree, features.shape.samples)
    return Derived(repeated(block, network.times, features.shape.samples), output)


def _features_along(network: Repeat, features: FeatureBounds, domain: Domain) -> tuple[FeatureBounds, FeatureBounds]:
    """What is known of every input along the repetition, and of its output.

    One pass turns a norm `y` into at most `g y + h` with `g, h` free of `y`; after `l` passes it is at most
    `g^l y_0 + h (g^l - 1) / (g - 1)`. That grows with `l` when `g >= 1`, and lies between `y_0` and `h / (1 - g)` when `g < 1`.
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
        start, once = getattr(features, name), getattr(image, name)
        found = _affine_majorant(once.expression, probes, name)
        if found is None:
            continue
        growth, shift = found
        facts = {
            "quantity": f"{name} norm",
            "source": f"at most {times} passes y -> {growth} y + {shift}",
            "parents": (start,),
            "assumptions": tuple(dict.fromkeys(start.assumptions + once.assumptions)),
        }
        if growth == 0:
            outside[name] = Bound.upper(shift, **facts)
        elif start.expression is not S.Infinity:
            last = growth**times * start.expression + shift * geometric(growth, times)
            outside[name] = Bound.upper(last, **facts)
        if start.expression is S.Infinity:
            continue
        if (growth - 1).is_nonnegative:
            inside[name] = outside[name]
        elif (1 - growth).is_positive:
            inside[name] = Bound.upper(sympy.Max(start.expression, shift / (1 - growth)), **facts)
        elif (1 - growth).is_nonnegative:
            inside[name] = Bound.upper(start.expression + shift * times, **facts)
    return _known(shape, inside, centred), _known(shape, outside, centred)


def _known(shape: Shape, norms: dict[str, Bound], centred: bool) -> FeatureBounds:
    """What some of the norms tell of all."""
    if norms:
        return FeatureBounds.from_norms(shape, norms, centred=centred)
    unbounded = Bound.upper(S.Infinity, source="not bounded along the repetition")
    return FeatureBounds.of(shape, dict.fromkeys(NORMS, unbounded), centred=centred)


SMALLER = {
    "frobenius": ("operator", "sample", "feature", "position", "entry"),
    "operator": ("feature", "position", "entry"),
    "sample": ("position", "entry"),
    "feature": ("entry",),
    "position": ("entry",),
    "entry": (),
}
"""Which norms of a matrix are never larger than the one named."""


def _affine_majorant(image: Expr, probes: dict[str, sympy.Symbol], name: str) -> tuple[Expr, Expr] | None:
    """`(g, h)` free of all norms with `image <= g y + h`, `y` the norm of that name; None where no such form is found.

    Reads sums, products with non-negative factors, maxima, and minima (by their best member); a smaller norm counts as `y`.
    """
    unknown = set(probes.values())
    at_most_y = {probes[name], *(probes[smaller] for smaller in SMALLER[name])}

    def read(e: Expr) -> tuple[Expr, Expr] | None:
        if not e.free_symbols & unknown:
            return None if e is S.Infinity else (S.Zero, e)
        if e in at_most_y:
            return S.One, S.Zero
        parts = [read(a) for a in e.args]
        found = [p for p in parts if p is not None]
        if isinstance(e, sympy.Min):
            return min(found, key=_preference, default=None)
        if not parts or len(found) < len(parts):
            return None
        if isinstance(e, sympy.Add):
            return sympy.Add(*(g for g, _ in found)), sympy.Add(*(h for _, h in found))
        if isinstance(e, sympy.Max):
            return sympy.Max(*(g for g, _ in found)), sympy.Add(*(h for _, h in found))
        if isinstance(e, sympy.Mul):
            inner = [p for a, p in zip(e.args, found, strict=True) if a.free_symbols & unknown]
            outer = sympy.Mul(*(a for a in e.args if not a.free_symbols & unknown))
            if len(inner) == 1 and outer.is_nonnegative:
                return outer * inner[0][0], outer * inner[0][1]
        return None

    return read(image)


def _preference(majorant: tuple[Expr, Expr]) -> tuple[int, float]:
    """Majorants that do not grow come first, then those that grow linearly at most; of equal kind the smaller at sizes like 3."""
    growth, shift = majorant
    kind = 0 if growth == 0 else 1 if (1 - growth).is_nonnegative else 2
    size = growth + shift
    return kind, float(size.subs(dict.fromkeys(size.free_symbols, 3)))
