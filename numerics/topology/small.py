"""Networks of one to three parameters whose loss can be looked at as a whole, each with its format, its expression and a box."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sympy import Integer, Rational

from theory.expression import LossExpression, loss_expression
from theory.network import Network
from theory.spec import parse
from theory.topology.loss import Reading, topology

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
    """Mean loss over a few samples plus `l2 |theta|^2`, on the box `[-reach, reach]^n`; without `targets` those of the loss in `TARGETS`."""

    spec: str
    loss: str
    l2: Rational
    reach: float
    inputs: tuple[tuple[Rational, ...], ...] = INPUTS
    targets: tuple[Rational, ...] = ()

    @property
    def name(self) -> str:
        features = len(self.inputs[0])
        data = f" | {len(self.inputs)} samples of {features} features" if features > 1 else ""
        return f"{self.spec} | {self.loss} | l2 = {self.l2}{data}"

    @property
    def covered(self) -> float:
        """A level below which nothing lies outside the box: the losses are not negative, so `f >= l2 |theta|^2 >= l2 reach^2` there."""
        return float(self.l2) * self.reach**2

    @cached_property
    def network(self) -> Network:
        return parse(self.spec)

    @cached_property
    def reading(self) -> Reading:
        """The format of the loss."""
        return topology(self.network, Integer(len(self.inputs[0])), Integer(len(self.inputs)), self.loss, l2=True)

    @cached_property
    def expression(self) -> LossExpression:
        """The loss itself."""
        return loss_expression(self.network, self.inputs, self.targets or TARGETS[self.loss], self.loss, self.l2)

    @property
    def box(self) -> tuple[tuple[float, float], ...]:
        return ((-self.reach, self.reach),) * len(self.expression.parameters)


def small_losses(l2: Rational = L2, reach: float = 6.0) -> tuple[SmallLoss, ...]:
    """42 losses of one or two parameters: seven activations, three shapes, two losses."""
    return tuple(
        SmallLoss(shape.format(name), loss, l2, reach) for name in ANALYTIC for shape in SHAPES for loss in TARGETS
    )


def three_parameter_losses(l2: Rational = L2, reach: float = 4.0) -> tuple[SmallLoss, ...]:
    """Five losses of three parameters: two shapes with tanh, two losses; and `wells(3)`."""
    shapes = (SmallLoss(shape.format("tanh"), loss, l2, reach) for shape in THREE for loss in TARGETS)
    return (*shapes, wells(3))


def wells(features: int, l2: Rational = L2, reach: float = 5.0) -> SmallLoss:
    """One SiLU neuron on the samples `+-e_i` with targets 2: a loss with critical points of every index, so that all Betti numbers occur.

    `silu(z) = z/2 + z^2/4 + ..`, so `(silu(z) - y)^2 + (silu(-z) - y)^2 = 2 y^2 + (1/2 - y) z^2 + ..` has a maximum at 0 for `y > 1/2`, with a minimum on
    either side: `2^n` minima, and one maximum in the middle that sublevel sets close around.
    """
    axes = [tuple(Integer(int(i == j)) for j in range(features)) for i in range(features)]
    inputs = tuple(tuple(sign * v for v in axis) for axis in axes for sign in (1, -1))
    return SmallLoss("affine(1), silu", "squared_error", l2, reach, inputs, (Integer(2),) * len(inputs))


def all_losses() -> tuple[SmallLoss, ...]:
    """`small_losses`, a loss of two parameters with a maximum, and the losses of three parameters."""
    return (*small_losses(), wells(2), *three_parameter_losses())
