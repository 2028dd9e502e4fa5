"""Every layer with every quantity, on three domains: what normalisation and skips repair is read off this table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sympy import S

from theory import symbols
from theory.atoms.base import EVERYWHERE, Domain
from theory.atoms.entrywise import ACTIVATIONS
from theory.compose import collapse
from theory.derive import derive
from theory.layers.activation import Activation, SoftmaxLayer
from theory.layers.affine import WEIGHT_AXES, Affine
from theory.layers.fixed import Cropping, Scaling
from theory.network import Network, residual
from theory.records import FeatureBounds, LayerBounds, Shape
from theory.spec import NORMALISATIONS, describe

SHAPE = Shape(symbols.d, symbols.N)

DOMAINS: dict[str, tuple[FeatureBounds, Domain]] = {
    "everywhere": (FeatureBounds.unbounded(SHAPE), EVERYWHERE),
    "bounded input": (FeatureBounds.ball(SHAPE, symbols.r), EVERYWHERE),
    "ball": (FeatureBounds.ball(SHAPE, symbols.r), Domain(symbols.rho)),
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
        for kind in NORMALISATIONS.values()
        for gain, shift in ((False, False), (True, False), (True, True))
    ]
    branch = (Activation("tanh"), Affine(d, weight_norm="frobenius"), Scaling(c))
    blocks = (
        residual(Activation("tanh"), Affine(d), Scaling(c)),
        residual(*branch),
        residual(*branch, skip=S.One / 2),
        residual(NORMALISATIONS["batch_norm"](), *branch),
    )
    return (*affine, *activations, SoftmaxLayer(), *normalisations, Scaling(c), Cropping(m), *blocks)


def entry(network: Network, domain: str) -> Entry:
    """Derive one layer on one of the named domains."""
    features, parameters = DOMAINS[domain]
    derived = derive(network, features, parameters)
    return Entry(network, domain, collapse(derived.tree, symbols.N))


def catalogue(domains: tuple[str, ...] = tuple(DOMAINS)) -> Iterator[Entry]:
    """Every layer on every domain."""
    for network in layers():
        for domain in domains:
            yield entry(network, domain)
