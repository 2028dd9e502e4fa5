"""Across papers: one pair of descriptions, a chain and a residual network of the same blocks, read five times (`theory.readings`). No number is taken from a paper.

The branch is `affine(d), silu, scale(sqrt 2), affine(d)`; the chain repeats it `L` times, the residual network adds it, scaled by `1/L` or `1/sqrt L`, to its input.

A. Singular values (MacDonald et al.): `sigma_min(I + J) >= 1 - |J|`, hence a positive lower bound of the input Jacobian's at every depth; a chain's is 0 [derived].
B. Topology (Bucarelli et al.): the skip leaves the Pfaffian format as it is [derived].
C. Moments (Marion et al.): `L^-1/2` is the scale of a non-trivial limit, `L^-1` that of the identity [derived].
F. Kernels (Du et al.): least eigenvalues decay polynomially with skips, exponentially without [recalled; their chain is normalised and their activation softplus: checked
   is the pair here, whose chain falls by a half in each block once its signals are small].
J. Clean path (Zhang et al.): with zero branches the residual network is the identity at any depth [read, derived].
"""

import math
from functools import cache

import numpy as np
import pytest
import sympy
import torch
from matplotlib.figure import Figure

from numerics.device import generator
from numerics.readings.figure import readings
from numerics.readings.table import Row, Setting, inputs, realised, table, weights
from numerics.search import search_layer
from theory.readings import KAPPA, PAIR, L, rho, small_signal_gain, values

CHAIN, SLOW, FAST = PAIR
"""The chain, the residual network at `1/L`, at `1/sqrt L`."""
SETTING = Setting()


@cache
def rows() -> dict[tuple[str, str, int], Row]:
    return {(row.reading, row.network, row.depth): row for row in table(SETTING)}


def test_singular_values(evidence) -> None:
    for name, limit in ((CHAIN, 0), (SLOW, sympy.exp(-KAPPA)), (FAST, 0)):
        assert PAIR[name].limits()["sigma_min"] == limit
        PAIR[name].regularity.sigma_min.verify()
        evidence("regularity", "derived", f"{name}: limit of the lower bound of sigma_min in the depth", str(limit))
    figure: Figure | None = readings(rows().values())
    for name in PAIR:
        for depth in SETTING.depths:
            row = rows()["regularity", name, depth]
            what = f"{name}, {depth} blocks: least sigma_min of {SETTING.networks} networks with weights of norm 1/2"
            evidence("regularity", "measured", what, row.lower, row.measured, sense="lower", figure=figure)
            figure = None  # drawn once
            assert row.high <= row.upper
    for name in PAIR:
        found = search_layer(
            realised(PAIR[name], 4, 3, 1),
            "input_jacobian_sigma_min",
            parameter_radius=SETTING.rho,
            input_radius=3.0,
            restarts=8,
            steps=150,
        )
        least = float(found.value.min())
        bound = values(PAIR[name].regularity.sigma_min, 4, sympy.Rational(SETTING.rho))
        evidence("regularity", "searched", f"{name}, 4 blocks: least sigma_min by descent", bound, least, sense="lower")
        if name == CHAIN:
            # the bound 0 is all there is
            evidence("regularity", "searched", f"{name}, 4 blocks: it comes down to the bound", 1e-12, least)


def test_format(evidence) -> None:
    chain = PAIR[CHAIN].topology
    chain.verify()
    for name in (SLOW, FAST):
        skipped = PAIR[name].topology
        skipped.verify()
        assert skipped.format == chain.format
        assert skipped.gradient == chain.gradient
        assert skipped.parameters == chain.parameters
        assert skipped.critical_points().factors == chain.critical_points().factors
        evidence("format", "derived", f"{name}: the format, at every depth that of the chain", str(chain.format))
    for depth in SETTING.depths:
        bound = rows()["topology", CHAIN, depth].upper
        same = rows()["topology", FAST, depth].upper
        what = f"{depth} blocks: log2 of the bound on critical points, with skips as without"
        evidence("format", "derived", what, bound, same, sense="equal")


def test_depth_scaling(evidence) -> None:
    ends = {CHAIN: (0, 1), SLOW: (1, 1), FAST: (sympy.exp(sympy.S.Half), sympy.E)}
    for name, (low, high) in ends.items():
        limits = PAIR[name].limits()
        assert (limits["second moment, lower"], limits["second moment, upper"]) == (low, high)
        PAIR[name].moments.verify()
        evidence("depth scaling", "derived", f"{name}: limits of the bounds of E|F(x)|^2/|x|^2", f"[{low}, {high}]")
        for depth in SETTING.depths:
            row = rows()["moments", name, depth]
            evidence(
                "depth scaling",
                "measured",
                f"{name}, {depth} blocks: lower end of the mean's interval",
                row.upper,
                row.low,
            )
            evidence(
                "depth scaling", "measured", f"{name}, {depth} blocks: upper end", row.lower, row.high, sense="lower"
            )


@pytest.mark.parametrize("name", list(PAIR))
def test_depth_scaling_searched(name: str, evidence) -> None:
    """Over inputs of every size the mean stays within the bounds, and comes to both: SiLU is linear for small inputs, ReLU for large ones."""
    depth, width, networks = 2, 12, 4000
    network = realised(PAIR[name], depth, width, 1)
    theta = weights(network, networks, 0)
    direction = torch.randn(width, 1, generator=generator(1), dtype=torch.float64)
    means, errors = [], []
    for size in np.geomspace(1e-3, 1e4, 15):
        x = size * direction
        ratio = network(theta, x).square().sum((1, 2)) / x.square().sum()
        means.append(float(ratio.mean()))
        # four standard errors: a chance of 6e-5 each
        errors.append(4 * float(ratio.std()) / math.sqrt(networks))
    low, high = (values(b, depth) for b in (PAIR[name].moments.second_lower, PAIR[name].moments.second_upper))
    up, down = int(np.argmax(means)), int(np.argmin(means))
    what = f"{name}, {depth} blocks, {networks} networks, inputs of norm 1e-3 to 1e4 times"
    evidence("depth scaling", "searched", f"{what}: largest mean less 4 standard errors", high, means[up] - errors[up])
    evidence(
        "depth scaling",
        "searched",
        f"{what}: least mean and 4 standard errors",
        low,
        means[down] + errors[down],
        sense="lower",
    )
    assert means[-1] == pytest.approx(high, abs=errors[-1])
    assert means[0] == pytest.approx(low, abs=errors[0])


def test_kernels(evidence) -> None:
    gain = small_signal_gain()
    assert gain == sympy.S.Half
    x = inputs(SETTING.samples).numpy()
    near, far = 15, 16
    ratio = float(PAIR[CHAIN].kernel(far, x) / PAIR[CHAIN].kernel(near, x))
    # E[silu(u) silu(v)] / E[u v] = 1/4 + O(variance), and after 15 blocks the variance is of order 1e-5
    evidence(
        "kernels",
        "derived",
        f"chain: factor of lambda_min from block {near} to {far} of the recursion, against the gain of small signals",
        float(gain),
        ratio,
        sense="equal",
        tolerance=1e-4,
        note=f"The chain decays like {gain} to the number of blocks, the residual networks like powers of the depth.",
    )
    for name, power in ((SLOW, -2), (FAST, -1)):
        deep, deeper = (float(PAIR[name].kernel(depth, x)) for depth in (16, 32))
        slope = math.log2(deeper / deep)
        # corrections to the power law are of order 1/L
        evidence(
            "kernels",
            "derived",
            f"{name}: slope of lambda_min between 16 and 32 blocks, log-log",
            power,
            slope,
            sense="equal",
            tolerance=2 / 16,
        )
    depth = max(SETTING.depths)
    chain = rows()["kernels", CHAIN, depth]
    for name in (SLOW, FAST):
        row = rows()["kernels", name, depth]
        evidence(
            "kernels",
            "measured",
            f"{name}, {depth} blocks, width 64, lower end of mean lambda_min against the chain's upper end",
            chain.high,
            row.low,
            sense="lower",
            note=f"Limit of wide layers: {chain.lower:.2g} for the chain, {row.lower:.2g} with skips."
            + (
                " In a few blocks the chain is above: the branch scale costs a factor 1/L^2 at once."
                if name == SLOW
                else ""
            ),
        )
    # 16 random data sets: is there one on which the chain decays no faster than a residual network?
    data = np.random.default_rng(0).standard_normal((16, 8, 3))
    data *= math.sqrt(8) / np.linalg.norm(data, axis=1, keepdims=True)
    falls = {name: PAIR[name].kernel(16, data) / PAIR[name].kernel(8, data) for name in PAIR}
    for name in (SLOW, FAST):
        evidence(
            "kernels",
            "searched",
            f"16 data sets: most that is left of lambda_min from 8 to 16 blocks by the chain, against the least by {name}",
            float(falls[name].min()),
            float(falls[CHAIN].max()),
        )
        assert (falls[CHAIN] < falls[name]).all()


def test_clean_path(evidence) -> None:
    for name, value in ((CHAIN, 0), (SLOW, 1), (FAST, 1)):
        limits, clean = PAIR[name].limits(), PAIR[name].clean_path
        assert limits["clean path, lower"] == limits["clean path, upper"] == value
        assert (
            clean.sigma_min.expression.subs({L: 7, rho: 0}) == clean.jacobian.expression.subs({L: 7, rho: 0}) == value
        )
        evidence(
            "clean path",
            "derived",
            f"{name}: all singular values of the input Jacobian at weights 0, any depth",
            str(value),
        )
        for depth in (1, 16, 64):
            network = realised(PAIR[name], depth, 8, 5)
            x = torch.randn(8, 5, generator=generator(depth), dtype=torch.float64)
            change = float((network(torch.zeros(network.size, dtype=torch.float64), x) - value * x).abs().max())
            target = "x" if value else "0"
            evidence(
                "clean path",
                "measured",
                f"{name}, {depth} blocks: largest |F(x) - {target}|",
                0.0,
                change,
                tolerance=0.0,
            )
