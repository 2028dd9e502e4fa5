"""What every atom offers: a shape rule and, from what is known of its arguments, bounds and knowledge of its output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from sympy import Expr, S

from theory.bound import Bound
from theory.records import FeatureBounds, LayerBounds, Shape


@dataclass(frozen=True)
class Domain:
    """Where suprema over parameters are taken: each parameter array has Euclidean (Frobenius) norm at most `radius`.

    With `third` atoms derive their third derivatives as well, which takes its time.
    """

    radius: Expr = S.Infinity
    third: bool = False

    def parameter(self, shape: Shape, path: str = "") -> FeatureBounds:
        """What the domain says of one parameter array; `path` is its name, empty for a parameter without one."""
        if self.radius is S.Infinity:
            return FeatureBounds.unbounded(shape)
        return FeatureBounds.ball(shape, self.radius, "parameter ball")

    def map_norm(self, path: str) -> Bound | None:
        """An upper bound of the operator norm of the linear map with that weight, where the domain knows one (convolutions)."""
        return None

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
