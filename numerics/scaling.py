"""Deep residual networks with random weights, measured in batches: growth of activations and gradients, convergence to the ODE and the SDE, critical scale.

A batch is one tensor operation over all its networks; weights are drawn layer by layer from seeded generators and never kept, so that depth costs
no memory. Norms are Euclidean, ratios are per network. The branch scale is `alpha = L^-beta`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from numerics.device import DTYPE, generator
from numerics.processes import BANDWIDTH, Smooth, fractional_covariance, fractional_noise, smooth
from numerics.realise import ACTIVATION_FUNCTIONS
from numerics.skips.paired import LEVEL, resampled_means
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import Scaling
from theory.network import Chain, Network, Repeat, Residual
from theory.spec import describe

LAWS = ("uniform", "gaussian", "rademacher")
"""Laws of the entries: symmetric, variance 1/fan-in; the protocol's is uniform."""
ENTRIES = 2**24
"""Weight entries drawn at once; more networks are done in parts."""
LARGE = 1e100
"""Norm beyond which an exploding network is rescaled (its blocks are positively homogeneous)."""


def weights(
    law: str, shape: tuple[int, ...], fan_in: int, source: torch.Generator, *, dtype: torch.dtype = DTYPE
) -> Tensor:
    """Independent symmetric entries of variance `1 / fan_in`.

    Raises:
        ValueError: an unknown law.
    """
    where = {"dtype": dtype, "device": source.device, "generator": source}
    if law == "gaussian":
        return torch.randn(shape, **where) * fan_in**-0.5  # type: ignore[call-overload]
    if law == "uniform":
        return (2 * torch.rand(shape, **where) - 1) * (3 / fan_in) ** 0.5  # type: ignore[call-overload]
    if law == "rademacher":
        signs = torch.randint(2, shape, device=source.device, generator=source)
        return (2 * signs - 1).to(dtype) * fan_in**-0.5
    raise ValueError(f"law {law!r} of the weights is unknown: use one of {', '.join(LAWS)}")


@dataclass(frozen=True)
class Ratios:
    """Squared ratios of every network, each `(networks,)`: what `theory.propagation` knows the means of.

    Attributes:
        second: `|h_L|^2 / |h_0|^2`.
        change: `|h_L - h_0|^2 / |h_0|^2`; None where input and output differ in width.
        gradient: `|p_0|^2 / |p_L|^2` with `p_0 = DF(h_0)^T p_L`; None where no gradients were asked for.
        gradient_change: `|p_0 - p_L|^2 / |p_L|^2`; None where either is.
    """

    second: Tensor
    change: Tensor | None
    gradient: Tensor | None
    gradient_change: Tensor | None


class Forward:
    """A description applied to a batch `(networks, features)`, with fresh weights for every network and layer."""

    def __init__(self, law: str, seeds: torch.Generator, device: torch.device) -> None:
        self.law, self.seeds, self.device = law, seeds, device

    def __call__(self, network: Network, h: Tensor) -> Tensor:
        """Each part that draws is recomputed in the backward pass from its own seed, so that its weights are not kept."""
        if isinstance(network, Chain):
            for member in network.members:
                h = self(member, h)
            return h
        if isinstance(network, Repeat):
            for _ in range(len(network.unrolled().members)):
                h = self(network.block, h)
            return h
        seed = int(torch.randint(2**62, (), generator=self.seeds))
        if h.requires_grad:
            return checkpoint(self._part, network, h, seed, use_reentrant=False, preserve_rng_state=False)
        return self._part(network, h, seed)

    def _part(self, network: Network, h: Tensor, seed: int) -> Tensor:
        return self._within(network, h, generator(seed, self.device))

    def _within(self, network: Network, h: Tensor, source: torch.Generator) -> Tensor:
        if isinstance(network, Affine) and not (network.bias or network.weight_norm or network.path):
            n, fan_in = h.shape
            matrix = weights(self.law, (n, _size(network.features), fan_in), fan_in, source)
            return torch.bmm(matrix, h[..., None])[..., 0]
        if isinstance(network, Activation):
            return ACTIVATION_FUNCTIONS[network.name](h)
        if isinstance(network, Scaling):
            return h * float(network.factor)
        if isinstance(network, Chain):
            for member in network.members:
                h = self._within(member, h, source)
            return h
        if isinstance(network, Residual):
            return float(network.skip) * h + self._within(network.branch, h, source)
        if isinstance(network, Repeat):
            for _ in range(len(network.unrolled().members)):
                h = self._within(network.block, h, source)
            return h
        raise ValueError(
            f"ensemble: {describe(network)} is not known; known: plain affine, activations, scale, chain, residual, repeat"
        )


def _size(features: object) -> int:
    try:
        return int(features)  # type: ignore[call-overload]
    except TypeError:
        raise ValueError(f"width {features} is symbolic: give a number") from None


def ensemble(
    network: Network,
    width: int,
    networks: int,
    seed: int,
    device: torch.device | str = "cpu",
    *,
    law: str = "uniform",
    gradient: bool = True,
) -> Ratios:
    """Measure many networks of one description at once; `h_0` and `p_L` are uniform on the sphere, drawn for every network.

    Raises:
        ValueError: a layer that is not known, a symbolic width or depth, fewer than 2 networks, an unknown law.
    """
    if networks < 2:
        raise ValueError(f"{networks} networks: at least 2 are needed for a standard error")
    device = torch.device(device)
    seeds = generator(seed)
    at_once = max(1, ENTRIES // width**2)
    parts: list[list[Tensor | None]] = []
    for first in range(0, networks, at_once):
        count = min(at_once, networks - first)
        start = generator(int(torch.randint(2**62, (), generator=seeds)), device)
        forward = Forward(law, seeds, device)
        h0 = sphere(count, width, start).requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            h = forward(network, h0)
        p0 = p = None
        if gradient:
            p = sphere(count, h.shape[1], start)
            (p0,) = torch.autograd.grad(h, h0, p)
        h, h0 = h.detach(), h0.detach()
        same = h.shape == h0.shape
        parts.append(
            [
                h.square().sum(-1),
                (h - h0).square().sum(-1) if same else None,
                None if p0 is None else p0.square().sum(-1),
                None if p0 is None or p is None or not same else (p0 - p).square().sum(-1),
            ]
        )
    columns = [
        None if column[0] is None else torch.cat([x for x in column if x is not None]).cpu()
        for column in zip(*parts, strict=True)
    ]
    second, *others = columns
    assert second is not None
    return Ratios(second, *others)


def sphere(count: int, width: int, source: torch.Generator) -> Tensor:
    """`(count, width)` points, uniform on the unit sphere."""
    x = torch.randn(count, width, dtype=DTYPE, device=source.device, generator=source)
    return x / x.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class Mean:
    """A sample mean and its standard error."""

    value: float
    error: float
    count: int

    @classmethod
    def of(cls, values: Tensor) -> Mean:
        return cls(float(values.mean()), float(values.std()) / math.sqrt(len(values)), len(values))

    def deviations(self, law: float) -> float:
        """`|mean - law|` in standard errors."""
        return abs(self.value - law) / self.error


def log_growth(
    width: int, depth: int, networks: int, seed: int, device: torch.device | str = "cpu", beta: float = 0.5
) -> Tensor:
    """`log(|h_L|^2/|h_0|^2)` of res-3 networks with Gaussian weights, `(networks,)`, exact in law without drawing a matrix.

    Given `h`, `W h` is `|h|/sqrt(d)` times a standard normal vector `g`, and `V s` is `|s|/sqrt(d)` times another one, `v`, whatever `h`
    and `s` are; so the norm alone is a Markov chain: `|h'|^2/|h|^2 = 1 + 2 alpha sqrt(r/d) v_1 + alpha^2 (r/d) |v|^2`, `r = |relu(g)|^2/d`.
    """
    source = generator(seed, torch.device(device))
    alpha = depth**-beta
    total = torch.zeros(networks, dtype=DTYPE, device=source.device)
    for _ in range(depth):
        g, v = torch.randn(2, networks, width, dtype=DTYPE, device=source.device, generator=source)
        share = g.clamp(min=0).square().sum(-1) / width**2
        total += torch.log1p(2 * alpha * share.sqrt() * v[:, 0] + alpha**2 * share * v.square().sum(-1))
    return total.cpu()


Layer = Callable[[int], tuple[Tensor, Tensor]]
"""Step -> the weights `V, W` of all networks there, each `(networks, d, d)`."""


def log_change(layers: Layer, depth: int, scales: Tensor, h0: Tensor) -> Tensor:
    """`log(|h_L - h_0| / |h_0|)` of res-3 networks `h + alpha V relu(W h)`, all branch scales at once: `(networks, scales)`.

    An exploding network is rescaled on the way, which homogeneity allows; so its logarithm stays finite.

    Args:
        layers: the weights by step.
        depth: number of steps.
        scales: `(scales,)`, the values of alpha.
        h0: `(networks, d)`.
    """
    start = (h0 / h0.norm(dim=-1, keepdim=True))[..., None]
    h = start.expand(-1, -1, len(scales)).clone()
    logs = torch.zeros(len(h0), 1, len(scales), dtype=h.dtype, device=h.device)
    for k in range(depth):
        V, W = layers(k)
        h = h + scales * torch.bmm(V, torch.bmm(W, h).clamp(min=0))
        norm = h.norm(dim=1, keepdim=True)
        factor = torch.where(norm > LARGE, norm, torch.ones_like(norm))
        h, logs = h / factor, logs + factor.log()
    return ((h - start * torch.exp(-logs)).norm(dim=1, keepdim=True).log() + logs)[:, 0]


def fractional_layers(hurst: float, depth: int, networks: int, width: int, source: torch.Generator) -> Layer:
    """Weights that are fractional Gaussian noise along the depth, entries of variance `1/width`."""
    V, W = (fractional_noise(hurst, depth, (networks, width, width), source) / math.sqrt(width) for _ in range(2))
    return lambda k: (V[k], W[k])


def smooth_layers(
    depth: int,
    networks: int,
    width: int,
    source: torch.Generator,
    *,
    bandwidth: float = BANDWIDTH,
    lag: float | None = None,
) -> Layer:
    """Weights that are normalised increments of a smooth Gaussian process, entries of variance `1/width`."""
    found: list[Smooth] = [
        smooth(depth, (networks, width, width), source, bandwidth, 1 / depth if lag is None else lag) for _ in range(2)
    ]
    scale = 1 / math.sqrt(width)
    return lambda k: (found[0].at(k) * scale, found[1].at(k) * scale)


def iid_layers(networks: int, width: int, source: torch.Generator, law: str = "uniform") -> Layer:
    """Independent weights, entries of variance `1/width`, drawn when they are asked for."""

    def at(_: int) -> tuple[Tensor, Tensor]:
        shape = (networks, width, width)
        return weights(law, shape, width, source), weights(law, shape, width, source)

    return at


def linear_response(hurst: float, depth: int) -> float:
    """`E|sum_k V_k relu(W_k h)|^2 / |h|^2` for fractional Gaussian weights: the relative change, squared and over `alpha^2`, to first order in `alpha`.

    `sum_{j,k} r(j-k) kappa(r(j-k))` with the noise's covariance `r` and `kappa(rho) = E relu(x) relu(y)` of standard normals of correlation `rho`,
    `(sqrt(1-rho^2) + rho (pi - arccos rho)) / (2 pi)`. It grows as `L^(2 max(H, 1/2))`: `kappa(0) > 0` sums the covariance itself to `L^(2H)`; the rest is of
    order `r^2` off the diagonal and grows as `L` for `H < 3/4`, beyond as `L^(4H-2)`, which is less than `L^(2H)`.
    """
    lags = torch.arange(depth)
    rho = fractional_covariance(hurst, lags)
    kappa = ((1 - rho**2).clamp(min=0).sqrt() + rho * (math.pi - rho.clamp(-1, 1).arccos())) / (2 * math.pi)
    counts = 2 * (depth - lags).to(DTYPE)
    counts[0] = depth
    return float((counts * rho * kappa).sum())


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval `[low, high]` at level 0.95 over networks."""

    value: float
    low: float
    high: float

    def within(self, target: float, distance: float) -> bool:
        """Whether the whole interval lies within a distance of the target."""
        return abs(self.low - target) <= distance and abs(self.high - target) <= distance


def slope(x: Tensor, squares: Tensor, *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """Least-squares slope of `log root-mean-square` against `log x`, the networks resampled with replacement.

    Args:
        x: `(points,)`, positive.
        squares: `(networks, points)`, squared errors.

    Raises:
        ValueError: fewer than two points, or values that are not positive and finite.
    """
    if len(x) < 2:
        raise ValueError(f"{len(x)} points: a slope needs at least 2")
    if not bool((squares.mean(0) > 0).all()) or not bool(squares.isfinite().all()):
        raise ValueError("mean squared errors must be positive and finite: leave out points at rounding level")
    x = x.to(squares)
    centred = x.log() - x.log().mean()
    direction = centred / centred.square().sum()

    def of(mean_squares: Tensor) -> Tensor:
        return (mean_squares.log() / 2) @ direction

    again = of(resampled_means(squares, resamples=resamples, seed=seed))
    tail = (1 - LEVEL) / 2
    low, high = (float(again.quantile(q)) for q in (tail, 1 - tail))
    return Estimate(float(of(squares.mean(0))), low, high)


def rate(depths: Tensor, logs: list[Tensor]) -> Estimate:
    """Least-squares slope of the mean of `logs` against `log depth`, with networks of their own at each depth: a normal interval.

    Args:
        depths: `(points,)`.
        logs: for each depth the networks' logarithms, `(networks,)`.

    Raises:
        ValueError: fewer than two depths.
    """
    if len(depths) < 2:
        raise ValueError(f"{len(depths)} depths: a slope needs at least 2")
    x = depths.to(DTYPE).log()
    direction = (x - x.mean()) / (x - x.mean()).square().sum()
    value = sum(float(c) * float(v.mean()) for c, v in zip(direction, logs, strict=True))
    variance = sum(float(c) ** 2 * float(v.var()) / len(v) for c, v in zip(direction, logs, strict=True))
    return Estimate(value, value - 1.96 * variance**0.5, value + 1.96 * variance**0.5)


def sde_errors(
    depths: tuple[int, ...],
    width: int,
    networks: int,
    seed: int,
    device: torch.device | str = "cpu",
    activation: str = "relu",
) -> Tensor:
    """`|h_L - h_{2L}|^2 / |h_0|^2`, `(networks, depths)`, of res-1 networks `h + L^-1/2 V phi(h)` on one Brownian path each.

    The weights of depth `L` are `sqrt(L)` times increments of the same Brownian motion over `d^(1/2)`, so the network is the Euler-Maruyama scheme of
    `dH = d^(-1/2) dB phi(H)`. Where the errors to the limit decay as `C L^-r`, so do these differences.

    Raises:
        ValueError: depths that do not divide twice the largest.
    """
    finest = 2 * max(depths)
    every = sorted({*depths, *(2 * n for n in depths)})
    for n in every:
        if finest % n:
            raise ValueError(f"depth {n} does not divide {finest}: give powers of two times one number")
    phi = ACTIVATION_FUNCTIONS[activation]
    source = generator(seed, torch.device(device))
    start = sphere(networks, width, source)[..., None]
    states = {n: start.clone() for n in every}
    sums = {n: torch.zeros(networks, width, width, dtype=DTYPE, device=source.device) for n in every}
    for k in range(finest):
        increment = torch.randn(networks, width, width, dtype=DTYPE, device=source.device, generator=source)
        increment *= (finest * width) ** -0.5
        for n in every:
            sums[n] += increment
            if (k + 1) % (finest // n) == 0:
                states[n] = states[n] + torch.bmm(sums[n], phi(states[n]))
                sums[n].zero_()
    return torch.stack([(states[n] - states[2 * n]).square().sum((1, 2)) for n in depths], 1).cpu()


def ode_errors(
    depths: tuple[int, ...], width: int, networks: int, seed: int, device: torch.device | str = "cpu"
) -> Tensor:
    """`|h_L - h_{2L}|^2 / |h_0|^2`, `(networks, depths)`, of res-3 networks at `beta = 1` whose weights are one smooth function of `k/L`.

    Raises:
        ValueError: depths that do not divide twice the largest.
    """
    finest = 2 * max(depths)
    every = sorted({*depths, *(2 * n for n in depths)})
    for n in every:
        if finest % n:
            raise ValueError(f"depth {n} does not divide {finest}: give powers of two times one number")
    source = generator(seed, torch.device(device))
    start = sphere(networks, width, source)[..., None]
    at = smooth_layers(finest, networks, width, source, lag=0.0)
    states = {n: start.clone() for n in every}
    for k in range(finest):
        V, W = at(k)
        for n in every:
            if k % (finest // n) == 0:
                states[n] = states[n] + torch.bmm(V, torch.bmm(W, states[n]).clamp(min=0)) / n
    return torch.stack([(states[n] - states[2 * n]).square().sum((1, 2)) for n in depths], 1).cpu()


def heat_map(
    hurst: tuple[float, ...],
    betas: Tensor,
    depth: int,
    width: int,
    networks: int,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Callable[[], None] = lambda: None,
) -> Tensor:
    """`log(|h_L - h_0|/|h_0|)`, `(hurst, networks, betas)`, for fractional Gaussian weights; all `beta` share their weights.

    Raises:
        ValueError: a Hurst index outside (0, 1).
    """
    where = torch.device(device)
    at_once = max(1, ENTRIES // (depth * width**2))
    scales = (depth ** -betas.to(DTYPE)).to(where)
    rows = []
    for index, H in enumerate(hurst):
        source = generator(seed * 10_000 + index, where)
        parts = []
        for first in range(0, networks, at_once):
            count = min(at_once, networks - first)
            layers = fractional_layers(H, depth, count, width, source)
            parts.append(log_change(layers, depth, scales, sphere(count, width, source)).cpu())
        rows.append(torch.cat(parts))
        progress()
    return torch.stack(rows)


def critical_beta(betas: Tensor, shallow: Tensor, deep: Tensor) -> Estimate:
    """Where the relative difference neither grows nor decays from one depth to another: the root in `beta` of the mean of `deep - shallow`.

    Args:
        betas: `(betas,)`, increasing.
        shallow, deep: `(networks, betas)`, logarithms of the relative difference at the two depths, drawn independently of each other.

    Returns:
        The root by linear interpolation; the interval is the normal one of the mean over the slope there.

    Raises:
        ValueError: where the difference has one sign over all `betas`.
    """
    gap = deep.mean(0) - shallow.mean(0)
    below = (gap[:-1] > 0) & (gap[1:] <= 0)
    if not bool(below.any()):
        raise ValueError(
            f"no critical scale between {float(betas[0]):g} and {float(betas[-1]):g}: widen the range of beta"
        )
    i = int(below.nonzero()[-1])
    rate = float((gap[i + 1] - gap[i]) / (betas[i + 1] - betas[i]))
    root = float(betas[i]) - float(gap[i]) / rate
    error = math.sqrt(float(deep[:, i].var()) / len(deep) + float(shallow[:, i].var()) / len(shallow)) / abs(rate)
    return Estimate(root, root - 1.96 * error, root + 1.96 * error)
