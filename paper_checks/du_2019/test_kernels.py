r"""Du, Lee, Li, Wang, Zhai, *Gradient descent finds global minima of deep neural networks* (arXiv 1811.03804): the kernels.

Fully connected: `x^(h) = sqrt(c_sigma/m) sigma(W^(h) x^(h-1))`; residual: `x^(h) = x^(h-1) + (c_res/(H sqrt m)) sigma(W^(h) x^(h-1))` for `h >= 2`; standard Gaussian
weights and readout, `|x_i| = 1`. The text was not at hand: all statements are reconstructed (recalled), the constants of the width conditions are not asserted.

- `recursion`: `K^(h) = c_sigma E[sigma(u) sigma(v)]` and `K^(H) = c_sigma K^(H-1) E[sigma' sigma']` with `(u, v) ~ N(0, K^(h-1))`. Which index belongs to which factor is not sure
  in the source; checked is that this pairing, and no shifted one, is what finite networks tend to.
- `positive`: `lambda_min(K^(H)) > 0`. A derived bound makes it quantitative: `lambda_min(K) >= sum_{k >= N-1} h_k^2 / sum_i prod_{j != i} 1/(1 - rho_ij^2)`.
- `depth`: the dependence of `lambda_min(K^(H))` on depth. The width conditions also hold constants of perturbation bounds, which are not checked.
"""

import numpy as np
import pytest
import sympy
import torch
from matplotlib.figure import Figure
from sympy import S

from numerics.device import generator
from numerics.scaling.estimates import slope
from numerics.scaling.weights import sphere
from numerics.tangent_kernels import finite_kernels, squared_deviations
from theory.atoms.entrywise import ACTIVATIONS, z
from theory.kernels.correlation import (
    correlation_map,
    correlations,
    depth_law,
    entrywise_power_bound,
    hermite_coefficients,
    least_eigenvalue_bound,
    power_bound_steps,
    power_law,
    rho,
    slope_steps,
)
from theory.kernels.dual import a, b, c, derivative, dual, dual_values, mean, mean_values, second_moment_values
from theory.kernels.recursion import fully_connected, kernels, least_eigenvalue, normaliser, residual_network
from theory.network import Repeat, chain

CONSTANT = S.One
FAMILIES = {
    "fully connected": lambda name, depth, width: fully_connected(name, depth, S(width)),
    "residual": lambda name, depth, width: residual_network(name, depth, CONSTANT, S(width)),
}


def unit_inputs(samples: int, features: int, seed: int = 0) -> torch.Tensor:
    """`(features, samples)`."""
    return sphere(samples, features, generator(seed)).T


def gram(X: torch.Tensor) -> np.ndarray:
    return (X.T @ X).numpy()


# recursion


def published(family: str, name: str, depth: int) -> tuple[sympy.Expr, sympy.Expr]:
    """`K^(H-1)_12` and `K^(H)_12` for two unit inputs of correlation `rho`, as the paper has them, in closed form."""
    pair, slopes, expected = dual(name), dual(derivative(name)), mean(name)
    scale, share = normaliser(name), CONSTANT / depth
    off, on = scale * pair.subs({a: 1, b: 1, c: rho}), S.One
    first = sympy.sqrt(scale) * expected.subs(a, 1)
    for _ in range(depth - 2):
        law = {a: on, b: on, c: off}
        if family == "fully connected":
            off = scale * pair.subs(law, simultaneous=True)
            continue
        cross = 2 * share * first * expected.subs(a, on)
        square = pair.subs({a: on, b: on, c: on}, simultaneous=True)
        first = first + share * expected.subs(a, on)
        off, on = off + cross + share**2 * pair.subs(law, simultaneous=True), on + cross + share**2 * square
    factor = scale if family == "fully connected" else share**2
    return off, factor * off * slopes.subs({a: on, b: on, c: off}, simultaneous=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reading_yields_the_published_recursion(evidence, family: str) -> None:
    pair = np.array([[S.One, rho], [rho, S.One]], object)
    for name in ("relu", "erf"):
        depth = 3
        found = kernels(FAMILIES[family](name, depth, 2), pair).tangents[depth - 1][0, 1]
        gap = found - published(family, name, depth)[1]
        for at in (S(1) / 3, -S(3) / 4):
            assert abs(gap.evalf(30, subs={rho: at})) < 1e-25
    evidence("recursion", "derived", f"{family}, relu and erf, two inputs, depth 3: K^(H) from the fold over the description", "equal, in closed form")  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_finite_networks_tend_to_it_and_to_no_shifted_pairing(evidence, family: str) -> None:
    depth, layer, widths, networks = 3, 2, [64, 128, 256, 512], 40
    X = unit_inputs(4, 5)
    limit = torch.from_numpy(kernels(FAMILIES[family]("softplus", depth, 8), gram(X)).tangents[layer])
    squares = squared_deviations(
        lambda m: FAMILIES[family]("softplus", depth, m), widths, X, limit, layer, networks, generator(1)
    )
    rate = slope(torch.tensor(widths), squares)
    # the interval of 40 networks: a slope of -1/2 lies in it, or at most 0.1 outside, its own half width
    outside = max(0.0, rate.low + 0.5, -0.5 - rate.high)
    evidence("recursion", "measured", f"{family}, softplus: exponent {rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}] of |K_m - K| in the width; distance of the interval from -1/2",
        0.1, outside)  # fmt: skip
    # at depth 2, where correlations have not yet come near 1 and a shift by a layer is large
    network, layer = FAMILIES[family]("softplus", 2, 512), 1
    limit = torch.from_numpy(kernels(network, gram(X)).tangents[layer])
    # without the last hidden layer: a repetition less, or none
    once = [Repeat(m.block, m.times - 1) if isinstance(m, Repeat) and m.times > 1 else m for m in network.members]
    shorter = chain(*(m for m in once if not (isinstance(m, Repeat) and m in network.members)))
    grams = [kernels(n, gram(X)).tangents[-1] for n in (shorter, network)]  # K^(H-1) and K^(H)
    slopes = [dual_values(derivative("softplus"), np.diag(K)[:, None], np.diag(K), K).value for K in grams]
    factor = float(normaliser("softplus")) if family == "fully connected" else float(CONSTANT / 2) ** 2
    np.testing.assert_allclose(limit.numpy(), factor * grams[0] * slopes[0], rtol=1e-8)
    sample = finite_kernels(network, X, 160, generator(2)).tangents[layer].mean(0)
    distances = [[float((sample - torch.from_numpy(factor * K * s)).norm()) for s in slopes] for K in grams]
    shifted = min(distances[0][1], distances[1][0], distances[1][1])
    evidence("recursion", "measured", f"{family}: distance of the mean of 160 networks of width 512 from K^(H), in parts of that from the nearest of three shifted pairings",
        0.5, distances[0][0] / shifted)  # fmt: skip


def test_no_inputs_are_found_whose_kernel_is_far_from_the_limit(evidence) -> None:
    """Search over 400 sets of three inputs (random, nearly parallel, nearly opposite), the worst then with fresh networks."""
    source, width = generator(3), 256
    sets = torch.nn.functional.normalize(torch.randn(400, 4, 3, generator=source, dtype=torch.float64), dim=1)
    sets[100:200, :, 1] = torch.nn.functional.normalize(sets[100:200, :, 0] + 0.05 * sets[100:200, :, 1], dim=1)
    sets[200:300, :, 1] = torch.nn.functional.normalize(-sets[200:300, :, 0] + 0.05 * sets[200:300, :, 1], dim=1)
    grams = (sets.mT @ sets).numpy()
    network = FAMILIES["fully connected"]("tanh", 2, width)
    limit = torch.from_numpy(kernels(network, grams).tangents[1])
    deviations = (finite_kernels(network, sets, 400, source).tangents[1] - limit).norm(dim=(1, 2)) / limit.norm(
        dim=(1, 2)
    )
    worst = int(deviations.argmax())
    again = finite_kernels(network, sets[worst], 64, generator(4)).tangents[1]
    distance = float((again.mean(0) - limit[worst]).norm() / limit[worst].norm())
    # the mean of 64 networks at width 256 errs by some (64 * 256)^-1/2 = 0.008, and by a bias of order 1/256; ten times that
    evidence("recursion", "searched", "tanh, depth 2, width 256: relative distance of the mean kernel from the limit on the worst of 400 sets of inputs", 0.08, distance)  # fmt: skip


# positive


def test_least_eigenvalues_are_positive_and_certified(evidence) -> None:
    # orthogonality of Hermite polynomials, E[He_j(u) He_k(v)] = delta_jk k! rho^k, which makes C(rho) a power series
    for j in range(4):
        for k in range(4):
            product = dual(sympy.hermite_prob(j, z), sympy.hermite_prob(k, z)).subs({a: 1, b: 1, c: rho})
            assert sympy.expand(product - (sympy.factorial(k) * rho**k if j == k else 0)) == 0
    assert all(step.verify() for step in power_bound_steps())
    evidence("positive", "derived", "K^(1) = sum_k h_k^2 (X X^T)^(o k), and lambda_min of every power k >= N - 1 is bounded below",
        "sum_{k >= N-1} h_k^2 / sum_i prod_{j != i} 1/(1 - rho_ij^2)", finding="sharpened",
        note="a quantitative lower bound; analyticity is not needed, one coefficient h_k != 0 with k >= N - 1 is enough (ReLU has them)")  # fmt: skip
    X = torch.nn.functional.normalize(torch.randn(100, 4, 4, generator=generator(5), dtype=torch.float64), dim=2)
    grams = (X @ X.mT).numpy()
    for name in ("softplus", "tanh", "relu"):
        for family, make in FAMILIES.items():
            found = kernels(make(name, 3, 4), grams)
            least = float(least_eigenvalue(found.tangents[2]).min())
            evidence("positive", "measured", f"{family}, {name}, depth 3: lambda_min(K^(H)) over 100 sets of four inputs, above 1e-9 of quadrature", 1e-9, least, sense="lower")  # fmt: skip
        ratio = float((least_eigenvalue_bound(name, grams) / least_eigenvalue(correlations(name, grams))).max())
        evidence("positive", "measured", f"{name}: derived bound over lambda_min(K^(1)), largest of 100", 1.0, ratio)


def test_what_the_hypotheses_are_for(evidence) -> None:
    """A polynomial of degree 2 has rank at most 6 on inputs of two features; parallel inputs, `x` and `-x`, need not be excluded for softplus."""
    angles = 2 * np.pi * (np.arange(7) / 7 + 0.05)
    X = np.stack([np.cos(angles), np.sin(angles)], 1)
    polynomial = float(least_eigenvalue(correlations(z**2 + z, X @ X.T)))
    evidence("positive", "measured", "z^2 + z on 7 inputs of two features, none parallel: lambda_min(K^(1))", 0.0, polynomial, sense="equal", tolerance=1e-12)  # fmt: skip
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    odd, general = (float(least_eigenvalue(correlations(name, opposite))) for name in ("tanh", "softplus"))
    # quadrature errs by 1e-9
    evidence("positive", "measured", "tanh on x and -x: lambda_min(K^(1))", 0.0, odd, sense="equal", tolerance=1e-7)
    evidence("positive", "measured", "softplus on x and -x: lambda_min(K^(1))", 0.1, general, sense="lower", finding="sharpened",
        note="opposite inputs are harmless unless the activation is odd or even up to a polynomial: distinct inputs are enough for softplus")  # fmt: skip


def test_no_inputs_are_found_below_the_bound(evidence) -> None:
    """Hill climbing on the bound over the eigenvalue, 400 sets at once; two nearly parallel inputs attain the bound on powers."""
    random = np.random.default_rng(6)
    points = random.standard_normal((400, 3, 3))

    def ratio(p: np.ndarray) -> np.ndarray:
        unit = p / np.linalg.norm(p, axis=-1, keepdims=True)
        G = unit @ np.swapaxes(unit, -1, -2)
        least = least_eigenvalue(G**2)
        # eigenvalues below 1e-9 are left to rounding
        return np.where(least > 1e-9, entrywise_power_bound(G) / np.maximum(least, 1e-9), 0.0)

    best = ratio(points)
    for step in range(400):
        moved = points + 0.3 * 0.985**step * random.standard_normal(points.shape)
        value = ratio(moved)
        better = value > best
        points[better], best[better] = moved[better], value[better]
    evidence("positive", "searched", "largest bound over lambda_min of the entry-wise square of a Gram matrix of three inputs", 1.0, float(best.max()))  # fmt: skip
    r = 1 - 1e-6
    pair = np.array([[1, r], [r, 1]])
    evidence("positive", "searched", "two inputs of correlation 1 - 1e-6: bound over lambda_min", 1.0, float(entrywise_power_bound(pair) / (1 - r)), sense="equal", tolerance=1e-5)  # fmt: skip


# depth


def least_by_depth(family: str, name: str, depths: list[int], G: np.ndarray) -> np.ndarray:
    return np.array([least_eigenvalue(kernels(FAMILIES[family](name, H, 4), G).tangents[H - 1]) for H in depths])


def test_the_slope_of_the_correlation_map_decides_chains(evidence) -> None:
    assert all(step.verify() for step in slope_steps())
    laws = {name: depth_law(name) for name in ACTIVATIONS if name != "identity"}
    assert {n for n, law in laws.items() if law.regime == "exponential"} == {"sigmoid", "softplus"}
    assert {n for n, law in laws.items() if law.regime == "power"} == {"relu", "leaky_relu"}
    evidence("depth", "derived", "chains: lambda_min(K^(H)) ~ chi^H for chi = E sigma'^2 / E sigma^2 < 1; power at 1; tends to a positive constant above. chi - 1",
        "sum_{k >= 2} (k-1) h_k^2 - h_0^2", finding="sharpened",
        note=f"Exponential decay only for chi < 1 (softplus {laws['softplus'].slope:.3f}, sigmoid {laws['sigmoid'].slope:.3f} of {len(laws)} activations); with E sigma = 0 (tanh, erf, sin, arctan) chi > 1, and lambda_min "
        "grows with depth: the exponential dependence of the fully connected case is not one of lambda_min(K^(H)) there")  # fmt: skip
    # the same number from the Hermite coefficients: the tail beyond 60 is 2e-2 for the slowest, arctan
    for name in ("softplus", "tanh", "gelu"):
        weights = hermite_coefficients(name, 60) ** 2
        assert weights @ (np.arange(60) - 1) == pytest.approx(laws[name].slope - 1, abs=2e-2)
    G = gram(unit_inputs(4, 5))
    softplus = least_by_depth("fully connected", "softplus", [8, 9], G)
    # the next order is chi^9 = 3e-5 of it, eigenvalues of 7e-6 are known to 1e-9 of themselves
    evidence("depth", "measured", "softplus chain: lambda_min(K^(9)) / lambda_min(K^(8)) against chi", laws["softplus"].slope, float(softplus[1] / softplus[0]), sense="equal", tolerance=2e-3)  # fmt: skip
    tanh = least_by_depth("fully connected", "tanh", [1, 4, 16], G)
    evidence("depth", "measured", "tanh chain: lambda_min(K^(16)) over lambda_min(K^(1)), which does not decay", 1.0, float(tanh[2] / tanh[0]), sense="lower")  # fmt: skip
    kappa, power, amplitude = power_law("relu")
    step = sympy.lambdify(rho, correlation_map("relu"))
    here, least = G, {}
    for h in range(1, 4001):
        # rounding must not carry the diagonal beyond 1
        here = step(np.minimum(here, 1.0))
        if h in (2000, 4000):
            least[h] = float(least_eigenvalue(here))
    increment = (least[4000] ** float(1 - power) - least[2000] ** float(1 - power)) / 2000
    # t^(1-p) grows by kappa (p - 1) a layer; the next order of the recursion adds some log(2)/2000 of it
    evidence("depth", "measured", f"ReLU chain: growth a layer of lambda_min^(1-p), p = {power}, so that lambda_min ~ {amplitude}/H^2", float(kappa * (power - 1)), increment, sense="equal", tolerance=1e-3)  # fmt: skip


def residual_bound(name: str, depth: int, G: np.ndarray) -> np.ndarray:
    """`(c/H)^2 lambda_min(K^(1)) E[sigma'(sqrt(k) g)^2]`, `k` the common diagonal of `K^(H-1)`; for unit inputs, `(..., N, N) -> (...)`.

    Each block adds `(c/H)(b mu^T + mu b^T) + (c/H)^2 S` to `K`. With all diagonals equal, `b` and `mu` are multiples of the vector of ones with one sign, as
    `mu = E sigma(sqrt(k) g)` keeps its sign and `b` adds up such terms; `S` is a Gram matrix. Hence `K^(h) >= K^(1)`, and Schur's product theorem gives the rest.
    """
    first = kernels(FAMILIES["residual"](name, 1, 4), G).tangents[1]
    # the diagonal grows with depth; the least of E sigma'^2 over its range is what the bound may use
    largest = float(kernels(FAMILIES["residual"](name, depth, 4), np.ones((1, 1))).second[0, 0])
    variances = np.linspace(1.0, largest, 33)
    slopes = second_moment_values(derivative(name), variances).value.min()
    means = mean_values(name, variances).value
    # quadrature leaves 1e-12 of a mean that is 0
    assert np.all(means >= -1e-12) or np.all(means <= 1e-12)
    return (float(CONSTANT) / depth) ** 2 * least_eigenvalue(first) * slopes


def test_residual_networks_decay_polynomially_at_most(evidence) -> None:
    G, depths = gram(unit_inputs(4, 5)), [2, 4, 8, 16, 32]
    evidence("depth", "derived", "residual: lambda_min(K^(H)) for inputs of one norm, as every block adds a positive semidefinite matrix to K^(1)",
        "(c_res/H)^2 lambda_min(K^(1)) E[sigma'(sqrt(k) g)^2]", finding="sharpened", note="the polynomial dependence has the exponent 2, for every activation whose mean E sigma(sqrt(k) g) keeps its sign")  # fmt: skip
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for name in ("softplus", "relu", "tanh"):
        least = least_by_depth("residual", name, depths, G)
        bounds = np.array([residual_bound(name, H, G) for H in depths])
        evidence("depth", "measured", f"residual, {name}: least of lambda_min(K^(H)) over its derived bound, H = 2 to 32", 1.0, float((least / bounds).min()), sense="lower")  # fmt: skip
        exponent = np.log(least[-1] / least[-2]) / np.log(2)
        # corrections of order 1/H = 1/32, of the quantity and not of the bound
        evidence("depth", "measured", f"residual, {name}: exponent of lambda_min(K^(H)) in H, from 16 to 32", -2.0, exponent, sense="equal", tolerance=0.03)  # fmt: skip
        axes[0].loglog(depths, np.maximum(least_by_depth("fully connected", name, depths, G), 1e-14), "o-", label=name)
        axes[1].loglog(depths, least, "o-", label=name)
    for axis, title in zip(axes, ("chain", "residual"), strict=True):
        axis.set_xticks(depths, [str(H) for H in depths])
        axis.minorticks_off()
        axis.set(title=title, xlabel="H", ylabel=r"$\lambda_{min}(K^{(H)})$")
        axis.legend()
    sample = finite_kernels(FAMILIES["residual"]("softplus", 8, 256), unit_inputs(3, 5), 24, generator(7)).tangents[7]
    chain = finite_kernels(FAMILIES["fully connected"]("softplus", 8, 256), unit_inputs(3, 5), 24, generator(7))
    logs = [torch.linalg.eigvalsh(k)[:, 0].clamp(min=1e-12).log10() for k in (chain.tangents[7], sample)]
    gap = logs[1] - logs[0]
    evidence("depth", "measured", "softplus, 24 networks of width 256 and depth 8: decades by which the residual network's lambda_min is above the chain's, "
        "95 per cent lower end", 0.0, float(gap.mean() - 2 * gap.std() / 24**0.5), sense="lower", figure=figure)  # fmt: skip


def test_no_activation_or_input_is_found_that_breaks_the_laws(evidence) -> None:
    """Over all smooth activations that are known and 60 sets of three inputs: the residual bound, and growth of mean-free chains."""
    X = torch.nn.functional.normalize(torch.randn(60, 3, 4, generator=generator(8), dtype=torch.float64), dim=2)
    grams = (X @ X.mT).numpy()
    worst, depth = np.inf, 4
    for name in ("softplus", "sigmoid", "tanh", "erf", "sin", "relu", "silu"):
        least = least_eigenvalue(kernels(FAMILIES["residual"](name, depth, 4), grams).tangents[depth - 1])
        worst = min(worst, float((least / residual_bound(name, depth, grams)).min()))
    evidence("depth", "searched", "least lambda_min(K^(4)) over its bound, seven activations and 60 sets of inputs, residual", 1.0, worst, sense="lower")  # fmt: skip
    shrinking = max(
        float((least_eigenvalue(correlations(name, grams)) / least_eigenvalue(correlations(name, correlations(name, grams)))).max())
        for name in ("tanh", "erf", "sin")
    )  # fmt: skip
    evidence(
        "depth", "searched", "chains with E sigma = 0: largest lambda_min(K^(1)) / lambda_min(K^(2))", 1.0, shrinking
    )
