"""How much the study of scaling with depth measures: a look, what a CPU manages in minutes, and the published sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        moments: networks of each of the 12 settings; `moment_depths` their depths, `moment_width` their width.
        change: networks at each depth of the relative change, of `change_width`, at `depths`.
        histogram: width, depth and networks of the law of the logarithm.
        sde, ode: width and networks, with their depths.
        training: width, depth, networks for each scale, and steps of the training.
        hurst, betas: points of the heat map's grid; `heat_depths` the two depths, `heat_width`, `heat_networks`.
    """

    moments: int
    moment_depths: tuple[int, ...]
    moment_width: int
    change: int
    change_width: int
    depths: tuple[int, ...]
    histogram: tuple[int, int, int]
    sde: tuple[int, int]
    sde_depths: tuple[int, ...]
    ode: tuple[int, int]
    ode_depths: tuple[int, ...]
    training: tuple[int, int, int, int]
    hurst: int
    betas: int
    heat_depths: tuple[int, int]
    heat_width: int
    heat_networks: int


PUBLISHED_DEPTHS = (10, 120, 230, 340, 450, 560, 670, 780, 890, 1000)
QUICK = Sizes(
    moments=1000,
    moment_depths=(8, 16),
    moment_width=8,
    change=24,
    change_width=10,
    depths=(16, 64, 256),
    histogram=(20, 64, 2000),
    sde=(6, 300),
    sde_depths=(16, 32, 64, 128),
    ode=(8, 40),
    ode_depths=(64, 128, 256),
    training=(8, 64, 4, 60),
    hurst=7,
    betas=27,
    heat_depths=(32, 256),
    heat_width=10,
    heat_networks=200,
)
REDUCED = Sizes(
    moments=4000,
    moment_depths=(16, 64),
    moment_width=10,
    change=50,
    change_width=16,
    depths=PUBLISHED_DEPTHS,
    histogram=(100, 1000, 2000),
    sde=(8, 1000),
    sde_depths=(16, 32, 64, 128, 256),
    ode=(16, 100),
    ode_depths=(64, 128, 256, 512),
    training=(12, 100, 6, 150),
    hurst=19,
    betas=53,
    heat_depths=(64, 512),
    heat_width=16,
    heat_networks=160,
)
FULL = Sizes(
    moments=10_000,
    moment_depths=(100, 1000),
    moment_width=20,
    change=50,
    change_width=40,
    depths=PUBLISHED_DEPTHS,
    histogram=(100, 1000, 10_000),
    sde=(20, 2000),
    sde_depths=(16, 32, 64, 128, 256, 512),
    ode=(40, 200),
    ode_depths=(64, 128, 256, 512),
    training=(40, 1000, 10, 1000),
    hurst=51,
    betas=70,
    heat_depths=(125, 1000),
    heat_width=40,
    heat_networks=64,
)
"""The published sizes and more, for CUDA; `REDUCED` for the CPU, `QUICK` for a look."""


def sizes(device: torch.device, quick: bool) -> Sizes:
    """The sizes that a device manages in minutes."""
    return QUICK if quick else FULL if device.type == "cuda" else REDUCED
