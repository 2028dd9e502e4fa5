"""Every layer with every quantity, on three domains: what normalisation and skips repair is read off this table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sympy import S

from theory import symbols
from theory.atoms.base import EVERYWHERE, Domain
from theory.atoms.entrywise import ACTIVATIONS
from theory.atoms.windows import Windows
from theory.compose import collapse
from theory.derive import derive
from theory.layers.activation import Activation, LogSoftmax, SoftmaxLayer
from theory.layers.affine import WEIGHT_AXES, Affine
from theory.layers.attention import Attend
from theory.layers.fixed import Cropping, FeaturePad, Scaling
from theory.layers.normalisation import (
    BatchNorm,
    FrozenBatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    RMSNorm,
    SetNorm,
)
from theory.layers.spatial import (
    AveragePool,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Permute,
    Reshape,
    Selection,
    TransposedConvolution,
)
from theory.network import Chain, Network, added, residual, stacked
from theory.records import FeatureBounds, LayerBounds, Shape
from theory.spec import NORMALISATIONS, describe

SHAPE = Shape(symbols.d, symbols.N)
GRID = (3, 3)
"""Grid of the entries that act on one: small enough to be searched, large enough to have a middle."""

DOMAINS: dict[str, tuple[bool, Domain]] = {
    "everywhere": (False, EVERYWHERE),
    "bounded input": (True, EVERYWHERE),
    "ball": (True, Domain(symbols.rho)),
}
"""No limit; `|X|_F <= r` with any parameters; `|X|_F <= r` and every parameter array of norm at most `rho`."""


@dataclass(frozen=True)
class Entry:
    """One layer on one domain."""

    network: Network
    domain: str
    bounds: LayerBounds

    @property
    def name(self) -> str:
        return describe(self.network)


def layers() -> tuple[Network, ...]:
    """The catalogue: affine plain and weight-normalised, activations, normalisations, fixed maps, residual blocks."""
    m, d, c = symbols.m, symbols.d, symbols.c
    affine = [Affine(m, bias) for bias in (False, True)]
    for norm in WEIGHT_AXES:
        affine += [Affine(m, bias, norm, gain) for gain in (False, True) for bias in (False, True)]
    activations = [Activation(name) for name in ACTIVATIONS]
    normalisations = [
        kind(gain=gain, shift=shift)
        for kind in (BatchNorm, LayerNorm, RMSNorm)
        for gain, shift in ((False, False), (True, False), (True, True))
    ]
    branch = (Activation("tanh"), Affine(d, weight_norm="frobenius"), Scaling(c))
    blocks = (
        residual(Activation("tanh"), Affine(d), Scaling(c)),
        residual(*branch),
        residual(*branch, skip=S.One / 2),
        residual(NORMALISATIONS["batch_norm"](), *branch),
    )
    fixed = (Scaling(c), Cropping(m), FeaturePad(1, 2))
    return (*affine, *activations, SoftmaxLayer(), *normalisations, *fixed, *blocks, *grid_layers())


def grid_layers() -> tuple[Network, ...]:
    """The catalogue's second part, on images of 3 x 3: convolutions, pooling, selections, norms of a sample, attention, branches."""
    m, image = symbols.m, Windows.of((3, 3), None, (1, 1))
    halves = Windows.of((2, 2), (2, 2), (1, 0))
    return (
        Convolution(m, image, bias=True),
        Convolution(m, halves),
        Convolution(m, Windows.of((3, 3), None, (1, 1), mode="circular")),
        Convolution(S(3), image, groups=3),
        Convolution(m, image, weight_norm="frobenius"),
        TransposedConvolution(m, Windows.of((2, 2), (2, 2)), (S(6), S(6))),
        AveragePool(halves),
        AveragePool(Windows.of((3, 3))),
        MaxPool(Windows.of((2, 2), (2, 2), (1, 0), mode="lowest")),
        GlobalAveragePool(),
        Selection(Windows.of((1, 1), (2, 2))),
        Selection(Windows.of((1, 1), None, (1, 1))),
        Permute((1, 0, 2)),
        GroupNorm(groups=3),
        InstanceNorm(),
        SetNorm(),
        SetNorm(gain=True, shift=True),
        LogSoftmax(),
        FrozenBatchNorm((0.5, -1.0, 0.0), (1.0, 0.25, 2.0), gain=True),
        Chain((Reshape(S(3), (3 * symbols.d,)), Attend(1))),
        Affine(m, weight_norm="spectral"),
        added(Convolution(symbols.d, Windows.of((1, 1))), Chain((Activation("tanh"), Convolution(symbols.d, image)))),
        stacked(Activation("tanh"), Affine(m)),
    )


def shape_of(network: Network) -> Shape:
    """The shape on which an entry is derived: with a grid for those of `grid_layers`."""
    return Shape(symbols.d, symbols.N, GRID) if network in grid_layers() else SHAPE


def entry(network: Network, domain: str) -> Entry:
    """Derive one layer on one of the named domains."""
    bounded, parameters = DOMAINS[domain]
    shape = shape_of(network)
    features = FeatureBounds.ball(shape, symbols.r) if bounded else FeatureBounds.unbounded(shape)
    derived = derive(network, features, parameters)
    return Entry(network, domain, collapse(derived.tree, symbols.N))


def catalogue(domains: tuple[str, ...] = tuple(DOMAINS)) -> Iterator[Entry]:
    """Every layer on every domain."""
    for network in layers():
        for domain in domains:
            yield entry(network, domain)
