"""Relative change `|h_L - h_0| / |h_0|` of res-3 networks against depth and branch scale, and the heat map over the Hurst index."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from numerics.device import DTYPE, generator
from numerics.scaling.processes import fractional_covariance
from numerics.scaling.weights import ENTRIES, Layer, fractional_layers, sphere

LARGE = 1e100
"""Norm beyond which an exploding network is rescaled (its blocks are positively homogeneous)."""


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
