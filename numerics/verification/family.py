"""The family of networks that `depthbound verify` derives, certifies, samples and attacks, and its bounds on given data."""

from __future__ import annotations

from dataclasses import dataclass

import flint
import sympy

from numerics.datasets import Data, data_values
from theory import symbols
from theory.atoms.base import EVERYWHERE, Domain
from theory.bound import Sense
from theory.compose import compose
from theory.convergence import Certificate, certify
from theory.derive import derive
from theory.evaluate import lower_float, upper_float
from theory.landscape import landscape
from theory.records import FeatureBounds, Shape
from theory.spec import parse
from theory.spectrum import evaluated, regularity_numbers

WIDTH = 12
DEPTHS = (1, 2, 4, 8)
RADIUS = 1
"""Plain weights have no bounds everywhere: theirs are taken over weights of Frobenius norm at most this."""

BLOCKS = {
    "plain": f"tanh, affine({WIDTH})",
    "weight-normalised": f"tanh, affine({WIDTH}, weight_norm=frobenius, eps=1)",
    "batch-normalised": f"batch_norm(eps=1), tanh, affine({WIDTH}, weight_norm=frobenius, eps=1)",
}
"""The branches. The batch-normalised one normalises its weights too: batch norm bounds its own Jacobian, not that of the weights after it."""


@dataclass(frozen=True)
class Configuration:
    """One member of the family: `affine, blocks, crop to the classes`; residual branches are scaled by `1 / (2 depth)`."""

    shape: str
    block: str
    depth: int
    classes: int = 10

    @property
    def architecture(self) -> str:
        return f"{self.shape}, {self.block}"

    @property
    def trunk(self) -> str:
        """The spec of the blocks alone."""
        inner = BLOCKS[self.block]
        if self.shape == "residual":
            inner = f"residual({inner}, scale({sympy.Rational(1, 2 * self.depth)}))"
        return f"repeat({self.depth}, {inner})"

    @property
    def spec(self) -> str:
        return f"affine({WIDTH}), {self.trunk}, crop({self.classes})"

    @property
    def radius(self) -> float | None:
        """Radius of the ball of parameters that the bounds speak of; None: all parameters."""
        return float(RADIUS) if self.block == "plain" else None

    @property
    def domain(self) -> Domain:
        return EVERYWHERE if self.radius is None else Domain(sympy.Integer(RADIUS))


def configurations(depths: tuple[int, ...] = DEPTHS, classes: int = 10) -> tuple[Configuration, ...]:
    """Chain and residual, each with every branch, at every depth; shallow ones first."""
    shapes = ("chain", "residual")
    return tuple(Configuration(s, b, depth, classes) for depth in depths for s in shapes for b in BLOCKS)


@dataclass(frozen=True)
class BoundValue:
    """A bound as a float on its safe side."""

    quantity: str
    sense: Sense
    value: float


@dataclass(frozen=True)
class Bounds:
    """Everything derived for one configuration on given data.

    Attributes:
        values: by quantity: `sup |DF|`, `sup |D^2 F|`, `smoothness constant` (and its plain rule), `lambda_min(DF DF^T)`,
            `|grad ell|^2 / |grad gamma|^2`, and for the blocks alone `|J|` and `sigma_min(J)`.
        certificate: Theorem 1's, with every hypothesis.
    """

    values: dict[str, BoundValue]
    certificate: Certificate


FIRST, SECOND, SMOOTHNESS, PLAIN = "sup |DF|", "sup |D^2 F|", "smoothness constant", "smoothness constant (plain rule)"
KERNEL, RATIO = "lambda_min(DF DF^T)", "|grad ell|^2 / |grad gamma|^2"
TRUNK_NORM, TRUNK_SIGMA = "|J| of the blocks", "sigma_min(J) of the blocks"


def derive_bounds(configuration: Configuration, data: Data) -> Bounds:
    """Derive, compose and evaluate the bounds of a configuration, and certify gradient descent on it.

    Raises:
        ValueError: naming the hypothesis or assumption that fails.
    """
    values = data_values(data)
    here = landscape(parse(configuration.spec), data.features, symbols.N, domain=configuration.domain)
    certificate = certify(here, values)
    constants = certificate.constants
    hidden = FeatureBounds.unbounded(Shape(sympy.Integer(WIDTH), symbols.N))
    blocks = derive(parse(configuration.trunk), hidden, configuration.domain)
    trunk = regularity_numbers(evaluated(compose(blocks.tree), values, fed=True))
    upper = {
        FIRST: constants.first,
        SECOND: constants.second,
        SMOOTHNESS: constants.smoothness,
        PLAIN: constants.smoothness_plain,
        TRUNK_NORM: trunk.jacobian,
    }
    lower = {KERNEL: constants.lambda_min, RATIO: constants.lambda_min, TRUNK_SIGMA: trunk.sigma_min}
    table = {name: BoundValue(name, Sense.UPPER, _upper(ball)) for name, ball in upper.items()}
    table |= {name: BoundValue(name, Sense.LOWER, max(0.0, lower_float(ball))) for name, ball in lower.items()}
    return Bounds(table, certificate)


def _upper(ball: flint.arb) -> float:
    return upper_float(ball) if ball.is_finite() else float("inf")
