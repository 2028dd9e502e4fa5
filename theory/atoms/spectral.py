"""Spectral normalisation of a weight: `V -> V / sigma_max(V)`. It bounds the weight, not how the weight depends on its parameter."""

from __future__ import annotations

from dataclasses import dataclass

from theory.atoms.base import Atom, Domain
from theory.bound import Bound
from theory.records import FeatureBounds, LayerBounds


@dataclass(frozen=True)
class Spectral(Atom):
    """`V -> V / sigma_max(V)`.

    First order in the input it is sharp: the weight has operator norm 1. By the parameter nothing is uniformly bounded: the derivative
    is of order `1 / sigma_max`, the second one of order `1 / gap`, the distance of the two largest singular values.
    """

    @property
    def formula(self) -> str:
        return "V -> V / sigma_max(V)"

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        remedy = "no uniform constant exists; the Frobenius form (weight_norm=frobenius, with eps) has one"
        return LayerBounds.without_parameters(
            Bound.upper(
                "oo", source=f"spectral normalisation: of order 1 / sigma_max(V) near V = 0; {remedy}", sharp=True
            ),
            Bound.upper(
                "oo",
                source=f"spectral normalisation: of order 1 / gap of the two largest singular values; {remedy}",
                sharp=True,
            ),
            Bound.lower(0, source="the direction of V itself is in the kernel", sharp=True),
            sample_wise=False,
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        one = Bound.upper(1, quantity="operator norm", source="sigma_max(V / sigma_max(V)) = 1", sharp=True)
        return FeatureBounds.from_norms(features.shape, {"operator": one})
