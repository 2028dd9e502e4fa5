"""What a layer is: data that expands, given the shape of its input, into atoms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from theory.atoms.base import Atom, Domain
from theory.compose import collapse, compose
from theory.records import FeatureBounds, LayerBounds, Shape


class Layer(ABC):
    """One layer of a description: a frozen dataclass whose `atoms` say what it computes.

    `claims` names the quantities that the layer claims to be attained on a domain, beyond what a single atom claims by itself; a
    generic test searches for the attaining instance of every claim.
    """

    def claims(self, features: FeatureBounds, domain: Domain) -> frozenset[str]:
        """Quantities that the layer claims to be attained on this domain."""
        return frozenset()

    @abstractmethod
    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        """The atoms applied in turn to an input of the given shape."""

    def output_shape(self, shape: Shape) -> Shape:
        for atom in self.atoms(shape):
            shape = atom.output_shape(shape)
        return shape

    def derive(self, features: FeatureBounds, domain: Domain) -> tuple[LayerBounds, FeatureBounds]:
        """The layer's seven bounds and what is known of its output."""
        tree = compose()
        known = features
        for atom in self.atoms(features.shape):
            tree = compose(tree, atom.bounds(known, domain))
            known = atom.forward(known, domain)
        bounds = tree.members[0] if len(tree.members) == 1 else collapse(tree, features.shape.samples)
        claimed = {name: replace(getattr(bounds, name), sharp=True) for name in self.claims(features, domain)}
        return bounds.with_bounds(claimed), known
