"""What every atom offers: a shape rule and, from what is known of its arguments, bounds and knowledge of its output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from sympy import Expr, S

from theory.records import FeatureBounds, LayerBounds, Shape


@dataclass(frozen=True)
class Domain:
    """Where suprema over parameters are taken: each parameter array has Euclidean (Frobenius) norm at most `radius`."""

    radius: Expr = S.Infinity

    def parameter(self, shape: Shape) -> FeatureBounds:
        """What the domain says of one parameter array."""
        if self.radius is S.Infinity:
            return FeatureBounds.unbounded(shape)
        return FeatureBounds.ball(shape, self.radius, "parameter ball")

    def __str__(self) -> str:
        return "everywhere" if self.radius is S.Infinity else f"parameters in the ball of radius {self.radius}"


EVERYWHERE = Domain()


class Atom(ABC):
    """A map with a derivation of its own; every layer is a composition of atoms."""

    @property
    @abstractmethod
    def formula(self) -> str:
        """The map, in one line."""

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    @abstractmethod
    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        """The seven bounds over inputs as known by `features` and parameters in `domain`."""

    @abstractmethod
    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        """What is known of the output."""
