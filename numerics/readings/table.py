"""Chain against residual network over depth in five readings: derived values of `theory.readings` beside what sampled networks of the same descriptions show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy
import torch
from torch import Tensor

from numerics.datasets import digits
from numerics.device import DTYPE, generator
from numerics.measure import input_jacobian_singular_values
from numerics.realise import Realisation, realise
from numerics.skips.paired import interval
from numerics.tangent_kernels import finite_kernels
from theory import symbols
from theory.network import substitute
from theory.readings import LAYER, PAIR, L, Readings, d, values
from theory.records import Shape

READINGS = ("regularity", "topology", "moments", "kernels", "clean path")


@dataclass(frozen=True)
class Row:
    """One number of the table.

    Attributes:
        reading, network, depth: one of `READINGS`, a name in `theory.readings.PAIR`, number of blocks.
        lower, upper: derived bounds of the quantity, equal where it is exact.
        measured, low, high: of sampled networks, with its interval or range; None where nothing is measured (a format is no property of samples).
    """

    reading: str
    network: str
    depth: int
    lower: float
    upper: float
    measured: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Setting:
    """What is evaluated and sampled.

    Attributes:
        depths: numbers of blocks.
        networks: how many are drawn for each number.
        width: of the networks whose singular values are taken, and of the format.
        samples: number of inputs of moments, kernels and format: digits of norm `sqrt(64)`; networks that take them have the width of their 64 pixels.
        rho: Frobenius norm of each weight in the reading of regularity.
        seed: of all draws.
    """

    depths: tuple[int, ...] = (1, 2, 4, 8, 16)
    networks: int = 64
    width: int = 16
    samples: int = 4
    rho: float = 0.5
    seed: int = 0


def realised(readings: Readings, depth: int, width: int, samples: int) -> Realisation:
    """A description at a depth and a width."""
    network = substitute(readings.network, {L: sympy.Integer(depth), d: sympy.Integer(width)})
    return realise(network, Shape(sympy.Integer(width), sympy.Integer(samples)))


def weights(network: Realisation, networks: int, seed: int) -> Tensor:
    """Parameters `(networks, P)`: Gaussian weights of variance `1 / inputs`."""
    source = generator(seed)
    arrays = [
        torch.randn(networks, *s.shape, generator=source, dtype=DTYPE) / s.shape[1] ** 0.5 for s in network.parameters
    ]
    return network.pack(arrays)


def inputs(samples: int) -> Tensor:
    """`(64, N)`: digits, each of norm `sqrt(64)`."""
    pixels = digits(samples, 0).X
    return pixels / pixels.norm(dim=0) * len(pixels) ** 0.5


def singular_values(readings: Readings, depth: int, setting: Setting, radius: float) -> Tensor:
    """Singular values `(networks, width)` of the input Jacobian at one Gaussian input each, every weight of Frobenius norm `radius`."""
    network = realised(readings, depth, setting.width, 1)
    drawn = network.split(weights(network, setting.networks, setting.seed))
    theta = network.pack([radius * a / a.flatten(1).norm(dim=1)[:, None, None] for a in drawn])
    x = torch.randn(setting.networks, setting.width, 1, generator=generator(setting.seed + 1), dtype=DTYPE)
    return input_jacobian_singular_values(network, theta, x)


def growth(readings: Readings, depth: int, setting: Setting) -> Tensor:
    """`|F(x)|^2 / |x|^2` for each network, `(networks,)`, mean over the inputs."""
    x = inputs(setting.samples)
    network = realised(readings, depth, len(x), setting.samples)
    theta = weights(network, setting.networks, setting.seed)
    return (network(theta, x).square().sum(1) / x.square().sum(0)).mean(1)


def table(setting: Setting, names: Sequence[str] = tuple(PAIR)) -> list[Row]:
    """All readings of all descriptions at all depths."""
    rows = []
    for name in names:
        for depth in setting.depths:
            rows += _at(name, PAIR[name], depth, setting)
    return rows


def _at(name: str, readings: Readings, depth: int, setting: Setting) -> list[Row]:
    spectra = singular_values(readings, depth, setting, setting.rho)
    regular = readings.regularity
    count = readings.topology.critical_points().at(
        {L: sympy.Integer(depth), d: sympy.Integer(setting.width), symbols.N: sympy.Integer(setting.samples)}
    )
    moments = interval(growth(readings, depth, setting))
    x = inputs(setting.samples)
    kernel = float(readings.kernel(depth, x.numpy()))
    finite = finite_kernels(readings.wide(depth, len(x)), x, setting.networks, generator(setting.seed)).tangents[LAYER]
    least = interval(torch.linalg.eigvalsh(finite)[:, 0])
    clean = singular_values(readings, depth, setting, 0.0)
    return [
        Row(
            "regularity",
            name,
            depth,
            values(regular.sigma_min, depth, sympy.Rational(setting.rho)),
            values(regular.jacobian, depth, sympy.Rational(setting.rho)),
            float(spectra.min()),
            float(spectra.min()),
            float(spectra.max()),
        ),
        Row("topology", name, depth, count.log2, count.log2),
        Row(
            "moments",
            name,
            depth,
            values(readings.moments.second_lower, depth),
            values(readings.moments.second_upper, depth),
            moments.mean,
            moments.low,
            moments.high,
        ),
        Row("kernels", name, depth, kernel, kernel, least.mean, least.low, least.high),
        Row(
            "clean path",
            name,
            depth,
            values(readings.clean_path.sigma_min, depth),
            values(readings.clean_path.jacobian, depth),
            float(clean.mean()),
            float(clean.min()),
            float(clean.max()),
        ),
    ]
