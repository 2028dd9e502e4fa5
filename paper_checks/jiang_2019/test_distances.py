"""Jiang, Krishnan, Mobahi, Bengio (arXiv 1810.00113, ICLR 2019): what the first-order distance is, and what rescaling does to it.

At layer `l`, between the label `i` and the runner-up `j`: `d = (f_i - f_j) / |grad_{x^l} (f_i - f_j)|_2`, normalised by `sqrt(tr Cov(x^l))`. The definition and its use were read
in the authors' code and blog; the text was not at hand. The invariance is derived for this project, and so is the enclosure of the true distance by composed bounds of
the network's first and second derivative in its input, which ties the margin to curvature: with `kappa = beta m / g^2` the true distance is
`d` times a number between `2 / (1 + sqrt(1 + 2 kappa))` and `2 / (1 + sqrt(1 - 2 kappa))`.

Searched distances are those of points found across the boundary (`numerics.generalisation.boundary.search`): upper bounds of the true ones.
"""

import pytest
import sympy
import torch

from numerics.device import DTYPE, generator
from numerics.generalisation.boundary import certified, search
from numerics.generalisation.figures import distributions
from numerics.generalisation.margins import margins
from numerics.generalisation.population import FIXED_DATA, Population, train
from numerics.realise import realise
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.margins import (
    beta,
    first_order,
    input_derivatives,
    lower_by_curvature,
    lower_by_lipschitz,
    point_to_hyperplane,
    upper_by_curvature,
)
from theory.network import chain, repeat
from theory.records import Shape
from theory.rescaling import positive_homogeneity, proof, rescaled

SAMPLES = 16
"""Training images whose distances are searched."""
QUANTILES = torch.tensor([0.05, 0.5, 0.95], dtype=DTYPE)


@pytest.fixture(scope="module")
def trained() -> dict[str, Population]:
    return {name: train(4, 200, 0, FIXED_DATA, activation=name) for name in ("relu", "tanh")}


def few(population: Population) -> tuple[Shape, torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        Shape(population.X.shape[0], SAMPLES),
        population.theta,
        population.X[:, :SAMPLES],
        population.labels[:, :SAMPLES],
    )


@pytest.fixture(scope="module")
def distances(trained):
    """Margins, certified and searched distances of both populations; misclassified images are dropped by `correct`."""
    found = {}
    for name, population in trained.items():
        case = few(population)
        found[name] = (
            margins(population.network, *case, positions=(0,)),
            certified(population.network, *case),
            search(population.network, *case, steps=16, starts=4),
        )
    return found


def test_the_first_order_distance_is_exact_for_affine_classifiers(evidence) -> None:
    steps = point_to_hyperplane()
    assert all(step.verify() for step in steps)
    evidence("exact", "derived", "distance to the hyperplane m + a . d = 0", first_order())
    networks, source = 16, generator(0)
    network, shape = chain(Affine(10, bias=True)), Shape(64, SAMPLES)
    realisation = realise(network, shape)
    theta = torch.randn(networks, realisation.size, generator=source, dtype=DTYPE)
    X = torch.rand(64, SAMPLES, generator=source, dtype=DTYPE)
    labels = realisation(theta, X).argmax(-2)
    runner_up = margins(network, shape, theta, X, labels, positions=(0,)).distances[:, 0]
    nearest = margins(network, shape, theta, X, labels, positions=(0,), rival="nearest").distances[:, 0]
    found = search(network, shape, theta, X, labels, rivals=9, steps=6, starts=2)
    # rounding, and 2^-30 that the bisection leaves
    worst = float((found / nearest - 1).abs().max())
    evidence(
        "exact",
        "measured",
        "searched over first-order distance to the nearest class, less 1",
        0.0,
        worst,
        sense="equal",
    )
    least, share = float((found / runner_up).min()), float((found < runner_up * (1 - 1e-6)).double().mean())
    evidence(
        "exact",
        "searched",
        "distance to the decision boundary over the first-order one to the runner-up",
        1.0,
        float((found / runner_up).max()),
        finding="loose",
        note=f"the runner-up is not the nearest class for {share:.0%} of samples: the margin then exceeds the distance to the decision boundary, down to {least:.2f} of it",
    )
    assert share > 0.05


def test_nonlinear_networks_the_first_order_distance_against_searched_and_certified_ones(
    evidence, distances, trained
) -> None:
    lower, upper = lower_by_curvature(), upper_by_curvature()
    for bound in (lower_by_lipschitz(), lower, upper):
        bound.verify()
    assert sympy.limit(lower.expression, beta, 0) == sympy.limit(upper.expression, beta, 0) == first_order()
    evidence("approximation", "derived", "limit of both ends of the enclosure as beta -> 0", first_order())
    evidence("enclosure", "derived", "distance from below", lower.expression, sense="lower")
    evidence("enclosure", "derived", "distance from above, where g^2 >= 2 beta m", upper.expression)
    shown: dict[str, dict[str, torch.Tensor]] = {}
    for name, (margin, enclosed, found) in distances.items():
        right = margin.correct & found.isfinite() & (found > 0)
        ratio = (margin.distances[:, 0] / found)[right]
        low, middle, high = (float(q) for q in ratio.quantile(QUANTILES))
        spread = f"of {len(ratio)} images 5, 50 and 95 per cent: {low:.2f}, {middle:.2f}, {high:.2f}"
        # searched distances are upper bounds, so these ratios are too small rather than too large
        evidence(
            "approximation",
            "measured",
            f"{name}: first-order distance over searched one, median",
            1.0,
            middle,
            sense="lower",
            finding="loose",
            note=f"on trained networks the first-order distance overestimates; {spread}",
        )
        evidence(
            "approximation",
            "searched",
            f"{name}: first-order distance over the nearest point found, largest",
            1.0,
            float(ratio.max()),
            sense="lower",
            finding="loose",
            note=f"it bounds the true distance from neither side: from {float(ratio.min()):.2f} to {float(ratio.max()):.2f} times the distance of a point found across the boundary; {spread}",
        )
        tight = (enclosed.lower / found)[right]
        evidence(
            "enclosure",
            "searched",
            f"{name}: certified distance over the nearest point found, largest",
            1.0,
            float(tight.max()),
            note=f"median tightness {float(tight.median()):.3f}",
        )
        shown[f"{name}, over searched"] = {
            "first order": ratio,
            "certified by m/K": (enclosed.lipschitz / found)[right],
            "certified by curvature": (enclosed.curvature / found)[right],
        }
        assert bool((tight > 0).all())
    margin, enclosed, found = distances["tanh"]
    gain = (enclosed.curvature / enclosed.lipschitz)[margin.correct].median()
    evidence(
        "enclosure",
        "measured",
        "points that change class among 500 random ones on the certified sphere of every image, both activations",
        0.0,
        sum(changed(population, distances[name][1].lower) for name, population in trained.items()),
        figure=distributions(shown, "distance / searched distance"),
        note=f"tanh: certified by curvature over certified by a Lipschitz constant, median {float(gain):.2f}",
    )
    for _, enclosed, found in distances.values():
        certain = enclosed.upper.isfinite() & (found > 0)
        assert bool((found[certain] <= enclosed.upper[certain] * (1 + 1e-6)).all())


def changed(population: Population, radius: torch.Tensor) -> int:
    """How many of 500 random points at the given distances from every image, `(B, N)`, are not classified as labelled."""
    shape, theta, X, labels = few(population)
    realisation, source, number = realise(population.network, shape), generator(3), 0
    for _ in range(500):
        step = torch.randn(*radius.shape[:1], *X.shape, generator=source, dtype=DTYPE)
        step = step / step.norm(dim=1, keepdim=True) * radius.unsqueeze(1)
        number += int(((realisation(theta, X + step).argmax(1) != labels) & (radius > 0)).sum())
    return number


def test_certified_distances_are_refuted_once_the_bound_is_shrunk_past_its_tightness(distances) -> None:
    _, enclosed, found = distances["tanh"]
    right = found > 0
    tightness = float((enclosed.lower / found)[right].max())
    assert bool((1.01 * enclosed.lower[right] / tightness > found[right]).any())


def scaled(population: Population, factors: torch.Tensor) -> torch.Tensor:
    """Parameters `(R, P)` of the first network with its layers multiplied by `factors (R, layers)`, biases by the product so far."""
    realisation = realise(population.network, population.shape)
    arrays, product, out = realisation.split(population.theta[0]), torch.ones(len(factors), dtype=DTYPE), []
    for layer in range(factors.shape[1]):
        product = product * factors[:, layer]
        out += [factors[:, layer].reshape(-1, 1, 1) * arrays[2 * layer], product.reshape(-1, 1) * arrays[2 * layer + 1]]
    return realisation.pack(out)


def test_rescaling_leaves_the_normalised_margin_and_not_the_other(evidence, trained) -> None:
    c, before, after = (
        sympy.Symbol("c", positive=True),
        *sympy.symbols("a b", integer=True, positive=True),
    )
    network = chain(
        repeat(before, Affine(5, bias=True), Activation("relu")),
        Affine(5, bias=True, path="first"),
        Activation("relu"),
        Affine(5, bias=True, path="second"),
        Activation("relu"),
        repeat(after, Affine(5, bias=True), Activation("relu")),
        Affine(3, bias=True),
    )
    assert all(step.verify() for step in proof())
    found = rescaled(network, {"first": c, "second": 1 / c})
    assert [f.normalised for f in found] == [1] * 8
    assert [f.distance for f in found] == [1, 1, c, c, 1, 1, 1, 1]
    evidence("invariance", "derived", "factor of the unnormalised margin between the two layers, any depth a + b", c)
    k = sympy.Symbol("k", positive=True)
    general = rescaled(network, {"first": c, "second": k})
    assert [f.normalised for f in general] == [1] * 8
    evidence(
        "invariance",
        "derived",
        "factor of the normalised margin when layers are multiplied by any c, k > 0",
        general[-1].normalised,
        finding="sharpened",
        note="any positive factors leave the normalised margins, also where they change the outputs (c k is not 1)",
    )
    homogeneous = positive_homogeneity("tanh")
    assert not homogeneous.holds
    with pytest.raises(ValueError, match="tanh is not positively homogeneous"):
        rescaled(chain(Affine(4, path="u"), Activation("tanh"), Affine(3, path="v")), {"u": c, "v": 1 / c})

    # measured: one pair of layers of a trained network; rounding of gradients and of covariances
    population = trained["relu"]
    case = population.X, population.labels[0]
    pair = torch.tensor([[1, 1, 1, 1], [1, 7.5, 1 / 7.5, 1]], dtype=DTYPE)
    here = margins(population.network, population.shape, scaled(population, pair), *case)
    change = (here.normalised[1] / here.normalised[0] - 1).nan_to_num(0.0).abs().max()
    evidence(
        "invariance",
        "measured",
        "ReLU: largest relative change of a normalised margin",
        0.0,
        float(change),
        sense="equal",
    )
    factor = (here.distances[1, 2] / here.distances[0, 2]).nanmedian()
    evidence(
        "invariance",
        "measured",
        "ReLU: factor of the unnormalised margin at that layer",
        7.5,
        float(factor),
        sense="equal",
    )
    # searched: 200 sets of factors over six decades, for ReLU and for tanh, which has no invariance
    factors = 10 ** (6 * torch.rand(200, 4, generator=generator(1), dtype=DTYPE) - 3)
    factors[0] = 1
    worst = {}
    for name, each in trained.items():
        found_at = margins(each.network, each.shape, scaled(each, factors), each.X, each.labels[0]).normalised
        worst[name] = float((found_at[1:] / found_at[0] - 1).nan_to_num(0.0, 0.0, 0.0).abs().max())
    evidence("invariance", "searched", "ReLU: the same over 200 sets of factors", 0.0, worst["relu"], sense="equal")
    evidence("invariance", "searched", "tanh: the same, not invariant", 0.1, worst["tanh"], sense="lower")


def test_the_composed_bounds_are_closed_forms_in_the_norms_of_the_weights(evidence) -> None:
    network = chain(*(Affine(5, path=f"W{k}") if k % 2 else Activation("tanh") for k in range(1, 6)))
    found = input_derivatives(network, 5)
    evidence("enclosure", "derived", "K of a tanh network with three layers", found.lipschitz.expression)
    evidence("enclosure", "derived", "beta of the same", found.curvature.expression)
