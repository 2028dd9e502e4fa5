"""Strong errors of deep networks against their limits: the neural SDE of independent weights, the neural ODE of smooth ones."""

from __future__ import annotations

import torch
from torch import Tensor

from numerics.device import DTYPE, generator
from numerics.realise import ACTIVATION_FUNCTIONS
from numerics.scaling.weights import smooth_layers, sphere


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
