"""Martens et al. (arXiv 2110.01765): deep kernel shaping of activations, so that a deep chain's correlation map stays near the identity.

- conditions: `phi_hat(x) = gamma (phi(alpha x + beta) + delta)` with `Q(1) = 1`, `Q'(1) = 1`, `C(0) = 0`, `C'(1) = psi = zeta^(1/D)`, `zeta = 3/2`.
- slope: `C'(1) = E[phi_hat'(g)^2] / E[phi_hat(g)^2]`.
- c-map: of depth `D`, for shaped, plain tanh and ReLU chains.

That the conditions can be solved for a given activation is not asserted as the paper's: `theory.kernels.shaping` derives where they cannot (affine activations, ReLU at any
depth) and where deep solutions start (`2 phi' phi''' + phi''^2 = 0`), and certifies each solution. The bound on `|C(c) - c|` is ours.
"""

import math

import numpy as np
import pytest
import sympy
import torch

from numerics.device import DTYPE, generator
from numerics.plots import COLOURS, panels
from numerics.scaling.estimates import Mean
from numerics.search import maximise
from theory.atoms.entrywise import z
from theory.kernels.dual import dual_values, mean_values
from theory.kernels.shaping import (
    RESIDUAL,
    ZETA,
    condition_steps,
    deep_limit_steps,
    deep_limits,
    linearity_steps,
    relu_steps,
    shape,
)

SLOPE = float(ZETA)


def test_the_four_conditions_are_solved_and_certified(evidence) -> None:
    assert all(step.verify() for step in (*condition_steps(), *deep_limit_steps(), *relu_steps()))
    for activation in ("tanh", "erf", "softplus"):
        found = shape(activation, 100)
        what = f"{activation}, depth 100: largest error of the four conditions (enclosed)"
        evidence("conditions", "derived", what, RESIDUAL, found.residual)
        assert found.certified is not None  # exactly one solution in that box
    assert deep_limits("tanh")[1] == pytest.approx((math.atanh(0.5), 1.0), rel=1e-12)
    deep = shape("tanh", 1000)
    # corrections are of order 1/D
    for what, limit, value in (
        ("beta: atanh(1/2)", math.atanh(0.5), deep.beta),
        ("alpha sqrt(D): sqrt(2 log zeta)", math.sqrt(2 * math.log(SLOPE)), deep.alpha * 1000**0.5),
    ):
        evidence("conditions", "derived", f"tanh, depth 1000, {what}", limit, value, sense="equal", tolerance=2e-3)
    note = "solvable at large depth only from zeros of 2 phi' phi''' + phi''^2, for tanh at beta = atanh(1/2); alpha ~ sqrt(2 log zeta / D) |phi'/phi''|"
    evidence("conditions", "derived", "deep limit", "2 phi' phi''' + phi''^2 = 0", finding="sharpened", note=note)
    for activation, reason in (("identity", "affine"), ("relu", "forces beta = 0"), ("elu", "not analytic")):
        with pytest.raises(ValueError, match=reason):
            shape(activation, 50)
    note = "for ReLU Q'(1) = 1 holds at beta = 0 only, where C'(1) = pi/(pi - 1) at any depth; for affine activations C'(1) = 1"
    evidence("conditions", "derived", "ReLU, identity", "no solution at any depth", finding="false", note=note)


def test_no_other_solution_is_found_and_the_solution_is_one(evidence) -> None:
    """Searched from a grid of starts; measured on random normal numbers."""
    found = shape("tanh", 50)
    others = 0
    for a in (0.05, 0.3, 1.0):
        for b in (-1.0, 0.2, 1.5):
            try:
                other = shape("tanh", 50, start=(a, b))
            except ValueError:
                continue
            # tanh is odd: -beta is the mirror image
            others += abs(other.alpha - found.alpha) + abs(abs(other.beta) - found.beta) > 1e-9
    evidence(
        "conditions",
        "searched",
        "tanh, depth 50: solutions besides the mirror image, 9 starts",
        0,
        others,
        sense="equal",
    )
    source = generator(0)
    x = torch.randn(40, 50_000, dtype=DTYPE, generator=source)
    f = found.gamma * (torch.tanh(found.alpha * x + found.beta) + found.delta)
    slope = found.gamma * found.alpha * (1 - torch.tanh(found.alpha * x + found.beta).square())
    for what, values, law in (
        ("C(0): E phi_hat", f, 0.0),
        ("Q(1)", f.square(), 1.0),
        ("Q'(1)", x * f * slope, 1.0),
        ("C'(1)", slope.square(), found.psi),
    ):
        distance = Mean.of(values.mean(1)).deviations(law)
        evidence("conditions", "measured", f"tanh, depth 50, {what}: deviation in standard errors", 4.0, distance)


def test_the_slope_of_the_correlation_map(evidence) -> None:
    assert condition_steps()[0].verify()
    evidence("slope", "derived", "Price's identity, on monomials", "C'(1) = E[phi_hat'^2]")
    # measured: difference quotient of the dual of plain tanh against the ratio of moments
    h = 1e-4
    values = dual_values("tanh", np.ones(2), np.ones(2), np.array([1.0, 1.0 - h])).value
    squares = [float(mean_values(e, np.ones(1)).value[0]) for e in ((1 - sympy.tanh(z) ** 2) ** 2, sympy.tanh(z) ** 2)]
    quotient = (values[0] - values[1]) / h / values[0]
    # the quotient's own error is h C''(1)/2, with C'' of order one
    evidence("slope", "measured", "tanh", squares[0] / squares[1], quotient, sense="equal", tolerance=1e-3)

    def rises(weights: torch.Tensor) -> torch.Tensor:
        """`C'(1) = sum n p_n` of an activation without mean, by its Hermite coefficients."""
        shares = weights.square() / weights.square().sum(1, keepdim=True)
        return (shares * torch.arange(1, 9, dtype=DTYPE)).sum(1)

    start = torch.randn(16, 8, dtype=DTYPE, generator=generator(1))
    least = maximise(rises, [start], None, 300, 0.05, generator(2), lowest=True).best
    what = "C'(1) where C(0) = 0, least found over eight Hermite coefficients"
    evidence("slope", "searched", what, 1.0, least, sense="lower")
    assert least < 1.01  # only affine activations attain 1


def plain_map(activation: str, depth: int, c: np.ndarray) -> tuple[np.ndarray, float]:
    """Correlations and variance after `depth` layers of unit weight variance (ReLU: 2), starting at variance 1."""
    q = 1.0
    for _ in range(depth):
        law = np.full(c.shape, q)
        norm = float(dual_values(activation, q, q, q).value)
        c = dual_values(activation, law, law, q * c).value / norm
        q = 2 * norm if activation == "relu" else norm
        c = np.clip(c, -1, 1)
    return c, q


def test_correlation_maps_over_depth(evidence) -> None:
    assert all(step.verify() for step in linearity_steps())
    c = np.linspace(-1, 1, 21)
    figure, axes = panels(3)
    for depth, colour in ((5, COLOURS[0]), (20, COLOURS[1]), (50, COLOURS[2])):
        found = shape("tanh", depth)
        image = c
        for _ in range(depth):
            image = np.clip(dual_values(found.expression, np.ones(21), np.ones(21), image).value, -1, 1)
        (plain, shrunk), (relu, _) = plain_map("tanh", depth, c), plain_map("relu", depth, c)
        maps = (image, plain, relu)
        for axis, title, values in zip(axes, ("shaped tanh", "tanh", "ReLU"), maps, strict=True):
            axis.plot(c, values, color=colour, label=f"$D = {depth}$")
            axis.set(title=title, xlabel="$c$", ylabel="$C_D(c)$", ylim=(-1.05, 1.05))
        gap = np.abs(image - c) / np.maximum((SLOPE - 1) * np.abs(c) * (1 - c), 1e-6)
        evidence(
            "c-map",
            "measured",
            f"depth {depth}: |C_D(c) - c| over (zeta-1)|c|(1-c), largest of 21",
            1.0,
            gap[np.abs(c) > 0.05][:-1].max(),
        )
        h = 1 - image[-2]
        what = f"depth {depth}: (1 - C_D(0.9))/0.1, at most zeta"
        evidence("c-map", "measured", what, SLOPE, h / 0.1)
        zero = float(relu[10])
        evidence(
            "c-map",
            "measured",
            f"ReLU, depth {depth}: C_D(0), orthogonal inputs become alike",
            0.5,
            zero,
            sense="lower",
        )
    # plain tanh with unit weight variance keeps its correlations too, but q' = q - 2 q^2 + O(q^3) takes the signal away: q ~ 1/(2 D), up to log(D)/D
    evidence("c-map", "measured", "plain tanh, depth 50: 2 D q", 1.0, 100 * shrunk, sense="equal", tolerance=0.1)
    axes[0].legend()
    note = "at every depth |C_D(c) - c| <= (zeta - 1)|c|(1 - c), for c >= 0 at most 1/8, attained by activations of Hermite degree two"
    evidence(
        "c-map", "derived", "zeta = 3/2", "|C_D(c) - c| <= |c|(1 - c)/2", finding="sharpened", note=note, figure=figure
    )

    def share(weights: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        """`|C(c) - c| / ((C'(1) - 1) |c| (1 - c))` of eight Hermite coefficients, at a point of (-1, 1)."""
        p = weights.square() / weights.square().sum(1, keepdim=True)
        n = torch.arange(1, 9, dtype=DTYPE)
        at = 0.99 * torch.tanh(point)
        gap = (p * at**n).sum(1) - at[:, 0]
        return gap.abs() / ((p * (n - 1)).sum(1) * at[:, 0].abs() * (1 - at[:, 0]))

    source = generator(3)
    start = [torch.randn(16, 8, dtype=DTYPE, generator=source), torch.randn(16, 1, dtype=DTYPE, generator=source)]
    top = maximise(share, start, None, 400, 0.05, source).best
    evidence("c-map", "searched", "|C(c) - c| over its bound, largest found", 1.0, top)
    assert top > 0.99


def test_networks_of_finite_width_follow_the_map(evidence) -> None:
    depth, networks, start = 12, 1000, 0.3
    found = shape("tanh", depth)
    laws = [np.array([start])]
    for _ in range(depth):
        laws.append(dual_values(found.expression, np.ones(1), np.ones(1), laws[-1]).value)
    means: list[list[Mean]] = []
    for width in (32, 64):
        source = generator(width)
        x = torch.randn(networks, width, 2, dtype=DTYPE, generator=source)
        basis = torch.linalg.qr(x)[0] * math.sqrt(width)
        h = torch.stack([basis[..., 0], start * basis[..., 0] + math.sqrt(1 - start**2) * basis[..., 1]], -1)
        rows = []
        for _ in range(depth):
            weight = torch.randn(networks, width, width, dtype=DTYPE, generator=source) / math.sqrt(width)
            h = found.gamma * (torch.tanh(found.alpha * (weight @ h) + found.beta) + found.delta)
            rows.append(Mean.of((h[..., 0] * h[..., 1]).mean(1)))
        means.append(rows)
    # the bias is of order depth/width: the two widths extrapolate it away to first order
    worst, widest = 0.0, 0.0
    for law, narrow, wide in zip(laws[1:], *means, strict=True):
        error = math.sqrt(4 * wide.error**2 + narrow.error**2)
        worst = max(worst, abs(2 * wide.value - narrow.value - float(law[0])) / error)
        widest = max(widest, error)
    what = "shaped tanh, widths 32 and 64 extrapolated: E<x,y>/n against C_l(0.3), l = 1 to 12, largest deviation in standard errors"
    evidence("c-map", "measured", what, 4.0, worst)
    assert widest < 0.05
