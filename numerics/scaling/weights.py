"""Weights along the depth: independent, fractional Gaussian noise, or smooth functions of `k/L`; inputs on the sphere."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from numerics.device import DTYPE
from numerics.scaling.processes import BANDWIDTH, Smooth, fractional_noise, smooth

LAWS = ("uniform", "gaussian", "rademacher")
"""Laws of the entries: symmetric, variance 1/fan-in; the protocol's is uniform."""
ENTRIES = 2**24
"""Weight entries drawn at once; more networks are done in parts."""


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


def sphere(count: int, width: int, source: torch.Generator) -> Tensor:
    """`(count, width)` points, uniform on the unit sphere."""
    x = torch.randn(count, width, dtype=DTYPE, device=source.device, generator=source)
    return x / x.norm(dim=-1, keepdim=True)


Layer = Callable[[int], tuple[Tensor, Tensor]]
"""Step -> the weights `V, W` of all networks there, each `(networks, d, d)`."""


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
