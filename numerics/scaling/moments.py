"""Second moments of activations and gradients of networks with random weights, measured in batches, and the law of their logarithm.

A batch is one tensor operation over all its networks; weights are drawn layer by layer from seeded generators and never kept, so that depth costs
no memory. Norms are Euclidean, ratios are per network. The branch scale is `alpha = L^-beta`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from numerics.device import DTYPE, generator
from numerics.realise import ACTIVATION_FUNCTIONS
from numerics.scaling.weights import ENTRIES, sphere, weights
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import Scaling
from theory.network import Chain, Network, Repeat, Residual
from theory.spec import describe


@dataclass(frozen=True)
class Ratios:
    """Squared ratios of every network, each `(networks,)`: what `theory.signal.propagation` knows the means of.

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
