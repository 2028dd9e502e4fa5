"""Zhang, Tozzo, Higgins, Ranganath (arXiv 2206.11925): set norm and clean-path residual connections.

- equivariant: set norm normalises over set and features with one mean and one deviation, then scales and shifts each feature; it is permutation equivariant.
- keeps: layer norm of each element removes the element's mean and scale, set norm does not.
- clean-path: where nothing stands on the skip, a block with a zero branch is the identity, whatever the depth; a normalisation on the path destroys that.

The statements are in words in our notes on the text; in formulas they are ours: what is kept is every ratio of differences of entries, what is lost is counted
by the rank of the Jacobian, and the clean path is read off the composed bounds with the depth as a symbol.
"""

import itertools
import math

import sympy
import torch
from sympy import Rational, S

from numerics.device import DTYPE, generator
from numerics.measure import input_jacobian_norm, input_jacobian_sigma_min, input_jacobian_singular_values
from numerics.plots import COLOURS, MARKERS, panels
from numerics.realise import Realisation, realise
from numerics.search import maximise
from theory import symbols
from theory.atoms.base import Domain
from theory.compose import collapse
from theory.derive import derive
from theory.layers.normalisation import LayerNorm, SetNorm
from theory.records import FeatureBounds, LayerBounds, Shape
from theory.sets import kept_directions, merged_sets, normalised, set_norm_steps
from theory.spec import parse

D, MEMBERS = 3, 4
SHAPE = Shape(sympy.Integer(D), S.One, (sympy.Integer(MEMBERS),))
EPS = 0.1
CLEAN = "repeat({depth}, residual(set_norm(eps={eps}), affine(3), tanh, affine(3)))"
"""Normalisation inside the branch."""
ON_PATH = "repeat({depth}, residual(affine(3), tanh, affine(3)), set_norm(eps={eps}))"
"""Normalisation after the sum, so on the path from input to output."""


def built(spec: str) -> Realisation:
    return realise(parse(spec), SHAPE)


def sets(count: int, source: torch.Generator) -> torch.Tensor:
    """`(count, D MEMBERS, 1)`, features first."""
    return torch.randn(count, D * MEMBERS, 1, dtype=DTYPE, generator=source)


def permuted(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, D, MEMBERS)[:, :, order].reshape(-1, D * MEMBERS, 1)


def test_set_norm_is_equivariant(evidence) -> None:
    assert set_norm_steps()[0].verify()
    evidence(
        "equivariant", "derived", "on the generators of all permutations, affine part per feature", "SN(X P) = SN(X) P"
    )
    layer, source = built(f"set_norm(eps={EPS}, gain=true, shift=true)"), generator(0)
    theta, x = torch.randn(256, layer.size, dtype=DTYPE, generator=source), sets(256, source)
    worst = max(
        float((layer(theta, permuted(x, order)) - permuted(layer(theta, x), order)).abs().max())
        for order in map(torch.tensor, itertools.permutations(range(MEMBERS)))
    )
    # a mean and a root of twelve numbers in another order
    evidence("equivariant", "measured", "all 24 permutations, 256 sets: largest difference", 1e-12, worst)

    def broken(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        order = torch.tensor([1, 2, 3, 0])
        moved = layer(theta, permuted(x, order)) - permuted(layer(theta, x), order)
        return moved.square().sum((1, 2)).sqrt() / layer(theta, x).square().sum((1, 2)).sqrt() + 1e-30

    found = maximise(broken, [theta[:32], x[:32]], None, 60, 0.05, source)
    evidence("equivariant", "searched", "relative difference under a cyclic shift, largest found", 1e-10, found.best)


def test_what_layer_norm_of_each_element_loses(evidence) -> None:
    assert all(step.verify() for step in set_norm_steps())
    evidence("keeps", "derived", "set norm, any eps", "all ratios of differences of entries")
    evidence("keeps", "derived", "layer norm of each element, any eps, loses", "the mean of every element")
    first, second = merged_sets()
    eps = Rational(1, 10)
    assert normalised(LayerNorm(eps), first) == normalised(LayerNorm(eps), second)
    assert normalised(SetNorm(eps), first) != normalised(SetNorm(eps), second)
    size, members = len(first), first.cols
    for at, lost_each, lost_whole in ((eps, members, 1), (S.Zero, 2 * members, 2)):
        each, whole = (kept_directions(kind(eps), first, at) for kind in (LayerNorm, SetNorm))
        what = f"directions lost of {size} at eps = {at}, {members} elements"
        evidence("keeps", "derived", f"layer norm of each element: {what}", lost_each, size - each, sense="equal")
        evidence("keeps", "derived", f"set norm: {what}", lost_whole, size - whole, sense="equal")
    # measured: singular values of the realised layers on random sets
    source = generator(1)
    x, none = sets(256, source), torch.zeros(256, 0, dtype=DTYPE)
    for kind, lost in (("layer_norm", MEMBERS), ("set_norm", 1)):
        values = input_jacobian_singular_values(built(f"{kind}(eps={EPS})"), none, x)
        zero = (values < 1e-12 * values.amax(1, keepdim=True)).sum(1)
        assert int(zero.min()) == int(zero.max())
        evidence(
            "keeps", "measured", f"{kind}: singular values that vanish, 256 sets", lost, int(zero[0]), sense="equal"
        )
    # searched: two sets whose centred directions are an angle theta apart; how near do their images come?
    whole, each = built(f"set_norm(eps={EPS})"), built(f"layer_norm(eps={EPS})")

    def centred(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(1, keepdim=True)).flatten(1)

    def nearness(image: Realisation, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """`|image(x) - image(y)|` over `|SN(x)| sin theta`, the least distance of SN(x) from the ray of y."""
        a, b = centred(x), centred(y)
        cosine = (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)
        sine = (1 - cosine.clamp(min=0).square()).clamp(min=1e-300).sqrt()
        empty = x.new_zeros(len(x), 0)
        apart = (image(empty, x) - image(empty, y)).flatten(1).square().sum(1).clamp(min=1e-300).sqrt()
        return apart / whole(empty, x).flatten(1).norm(dim=1) / sine

    def start() -> list[torch.Tensor]:
        return [sets(32, source), sets(32, source)]

    kept = maximise(lambda x, y: nearness(whole, x, y), start(), None, 300, 0.03, source, lowest=True)
    evidence(
        "keeps", "searched", "set norm: |SN x - SN y| / (|SN x| sin angle), least found", 1.0, kept.best, sense="lower"
    )
    assert kept.best < 1.05  # nearly attained: the bound is not empty
    lost = maximise(lambda x, y: nearness(each, x, y), start(), None, 600, 0.03, source, lowest=True)
    evidence("keeps", "searched", "layer norm of each element: the same, least found", 0.05, lost.best)


def bounds(spec: str) -> LayerBounds:
    """Composed bounds over all sets, weights in the ball of radius `rho`, the depth a symbol."""
    whole = derive(parse(spec.format(depth="L", eps="eps")), FeatureBounds.unbounded(SHAPE), Domain(symbols.rho))
    return collapse(whole.tree, S.One)


def test_a_clean_path_is_the_identity_at_any_depth(evidence) -> None:
    clean, on_path = bounds(CLEAN), bounds(ON_PATH)
    rho, eps, L = symbols.rho, symbols.eps, symbols.L
    for bound in (clean.input_jacobian_norm, clean.input_jacobian_sigma_min):
        bound.verify()
        assert bound.expression.subs(rho, 0) == 1
    assert sympy.limit(clean.input_input.expression, rho, 0) == 0
    evidence(
        "clean-path", "derived", "|D_X f| at any depth L, weights of norm rho", clean.input_jacobian_norm.expression
    )
    evidence("clean-path", "derived", "sigma_min", clean.input_jacobian_sigma_min.expression)
    assert sympy.simplify(on_path.input_jacobian_norm.expression.subs(rho, 0) - eps ** (-L / 2)) == 0
    assert on_path.input_jacobian_sigma_min.expression == 0
    note = "with a normalisation on the path a zero branch leaves |D_X f| <= eps^(-L/2), which is attained, and sigma_min = 0"
    text = "normalisation on the path: |D_X f|"
    evidence("clean-path", "derived", text, on_path.input_jacobian_norm.expression, finding="sharpened", note=note)
    # measured: zero branch, bit by bit, up to depth 64
    source = generator(2)
    x = sets(64, source)
    for depth in (1, 8, 64):
        for name, spec in (("clean path", CLEAN), ("norm on the path", ON_PATH)):
            network = built(spec.format(depth=depth, eps=EPS))
            theta = torch.randn(64, network.size, dtype=DTYPE, generator=source)
            arrays = [w if i % 2 == 0 else torch.zeros_like(w) for i, w in enumerate(network.split(theta))]
            change = (network(network.pack(arrays), x) - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
            if name == "clean path":
                what = f"zero branch, depth {depth}: largest change"
                evidence("clean-path", "measured", what, 0.0, float(change.max()), tolerance=0.0)
            else:
                what = f"{name}, zero branch, depth {depth}: least relative change"
                evidence("clean-path", "measured", what, 0.01, float(change.min()), sense="lower")
    # the bound of the network with the norm on its path is attained at a set of equal numbers
    for depth in (1, 4, 16):
        network = built(ON_PATH.format(depth=depth, eps=EPS))
        constant = torch.full((1, D * MEMBERS, 1), 2.0, dtype=DTYPE)
        norm = float(input_jacobian_norm(network, torch.zeros(1, network.size, dtype=DTYPE), constant).value)
        what = f"norm on the path, zero branch, depth {depth}: |D_X f| / eps^(-L/2)"
        evidence("clean-path", "measured", what, 1.0, norm * EPS ** (depth / 2), sense="equal", tolerance=1e-9)


def test_bounds_over_depth_hold_and_are_searched(evidence) -> None:
    radius, depths, count = 0.25, (1, 2, 4, 8, 16, 32), 64
    figure, axes = panels(2)
    source = generator(3)
    for name, spec, colour in (("clean path", CLEAN, 0), ("norm on the path", ON_PATH, 1)):
        record = bounds(spec)
        upper, lower, most, least = [], [], [], []
        for depth in depths:
            at = {symbols.rho: radius, symbols.eps: EPS, symbols.L: depth}
            upper.append(float(record.input_jacobian_norm.expression.subs(at)))
            lower.append(float(record.input_jacobian_sigma_min.expression.subs(at)))
            network = built(spec.format(depth=depth, eps=EPS))
            theta = within_ball(network, torch.randn(count, network.size, dtype=DTYPE, generator=source), radius)
            x = sets(count, source) * torch.logspace(-2, 1, count, dtype=DTYPE)[:, None, None]
            norms = input_jacobian_norm(network, theta, x)
            values = input_jacobian_sigma_min(network, theta, x)
            most.append(float(norms.value.max()))
            least.append(float(values.value.min()))
            assert most[-1] <= upper[-1] * (1 + 1e-9)
            assert least[-1] >= lower[-1] - 1e-12
        what = f"{name}, depth {depths[-1]}, weights of norm {radius:g}"
        evidence("clean-path", "measured", f"{what}: |D_X f|, largest of {count}", upper[-1], most[-1])
        evidence("clean-path", "measured", f"{what}: sigma_min, least of {count}", lower[-1], least[-1], sense="lower")
        for axis, bound, seen, title in (
            (axes[0], upper, most, r"$\|D_X f\|$"),
            (axes[1], [max(v, 1e-18) for v in lower], [max(v, 1e-18) for v in least], r"$\sigma_{\min}(D_X f)$"),
        ):
            axis.plot(depths, bound, "--", color=COLOURS[colour], label=f"{name}: bound")
            axis.plot(depths, seen, MARKERS[colour], color=COLOURS[colour], label=f"{name}: measured")
            axis.set(title=title, xlabel="depth $L$", xscale="log", yscale="log")
    axes[1].legend(loc="center right")
    text = "composed bounds over depth: 0 is drawn at 1e-18"
    evidence("clean-path", "derived", text, "figure", figure=figure)
    # searched: ascent on the Jacobian over weights in the ball and sets
    depth = 2
    network, record = built(CLEAN.format(depth=depth, eps=EPS)), bounds(CLEAN)
    at = {symbols.rho: radius, symbols.eps: EPS, symbols.L: depth}
    top, bottom = (float(b.expression.subs(at)) for b in (record.input_jacobian_norm, record.input_jacobian_sigma_min))

    def jacobian(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        one = torch.func.jacrev(lambda t, s: network(t, s).flatten(), 1)
        return torch.func.vmap(one)(theta, x).flatten(2)

    def project(arguments: list[torch.Tensor]) -> list[torch.Tensor]:
        return [within_ball(network, arguments[0], radius), arguments[1]]

    begin = [torch.randn(24, network.size, dtype=DTYPE, generator=source), 0.1 * sets(24, source)]
    for quantity, bound, lowest in (("|D_X f|", top, False), ("sigma_min", bottom, True)):

        def objective(theta: torch.Tensor, x: torch.Tensor, place: int = -1 if lowest else 0) -> torch.Tensor:
            return torch.linalg.svdvals(jacobian(theta, x))[:, place]

        found = maximise(objective, begin, project, 200, 0.05, source, lowest=lowest).best
        sense = "lower" if lowest else "upper"
        evidence("clean-path", "searched", f"clean path, depth 2: {quantity}, worst found", bound, found, sense=sense)
        assert math.isclose(found, bound, rel_tol=0.2)


def within_ball(network: Realisation, theta: torch.Tensor, radius: float) -> torch.Tensor:
    """Every weight of norm at most `radius`, those beyond put on the sphere."""
    arrays = network.split(theta)
    return network.pack([w * (radius / w.norm(dim=(1, 2), keepdim=True)).clamp(max=1) for w in arrays])
