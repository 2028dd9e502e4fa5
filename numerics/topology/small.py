"""Networks of one to three parameters whose loss can be looked at as a whole, each with its format, its expression and a box."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sympy import Integer, Rational

from theory.expression import LossExpression, loss_expression
from theory.network import Network
from theory.spec import parse
from theory.topology import Reading, topology

ANALYTIC = ("tanh", "sigmoid", "softplus", "arctan", "erf", "silu", "gelu")
SHAPES = ("affine(1), {0}", "affine(1), {0}, affine(1)", "affine(1), residual({0}, affine(1))")
"""One parameter; two in a chain; two with a skip."""
THREE = ("affine(1, bias=true), {0}, affine(1)", "affine(1), {0}, affine(1), {0}, affine(1)")
INPUTS = ((Integer(1),), (Integer(-2),), (Rational(1, 2),))
L2 = Rational(1, 20)
TARGETS = {
    "squared_error": (Rational(1, 2), Rational(-3, 4), Rational(3, 4)),
    "binary_cross_entropy": (Integer(0), Integer(1), Integer(1)),
}


@dataclass(frozen=True)
class SmallLoss:
    """Mean loss over three samples plus `l2 |theta|^2`, on the box `[-reach, reach]^n`."""

    spec: str
    loss: str
    l2: Rational
    reach: float

    @property
    def name(self) -> str:
        return f"{self.spec} | {self.loss} | l2 = {self.l2}"

    @cached_property
    def network(self) -> Network:
        return parse(self.spec)

    @cached_property
    def reading(self) -> Reading:
        """The format of the loss."""
        return topology(self.network, Integer(1), Integer(len(INPUTS)), self.loss, l2=True)

    @cached_property
    def expression(self) -> LossExpression:
        """The loss itself."""
        return loss_expression(self.network, INPUTS, TARGETS[self.loss], self.loss, self.l2)

    @property
    def box(self) -> tuple[tuple[float, float], ...]:
        return ((-self.reach, self.reach),) * len(self.expression.parameters)


def small_losses(l2: Rational = L2, reach: float = 6.0) -> tuple[SmallLoss, ...]:
    """42 losses of one or two parameters: seven activations, three shapes, two losses."""
    return tuple(
        SmallLoss(shape.format(name), loss, l2, reach) for name in ANALYTIC for shape in SHAPES for loss in TARGETS
    )


def three_parameter_losses(l2: Rational = L2, reach: float = 4.0) -> tuple[SmallLoss, ...]:
    """Four losses of three parameters: two shapes with tanh, two losses."""
    return tuple(SmallLoss(shape.format("tanh"), loss, l2, reach) for shape in THREE for loss in TARGETS)
