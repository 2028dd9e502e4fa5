"""One pair of descriptions, a chain and a residual network, read five times: what a skip does to curvature, topology, moments, kernels and the clean path.

The branch is `affine(d), silu, scale(sqrt 2), affine(d)`: SiLU is analytic (topology reads it), vanishes at 0 (moments read it) and has bounded slopes (regularity reads
it); `sqrt 2` keeps the second moment of large signals. The chain repeats the branch `L` times, the residual network adds it, scaled by `alpha`, to its input. Readings:

    regularity   singular values of the input Jacobian from below, weights of norm at most rho           (`theory.compose`)
    topology     Pfaffian format of the loss in the parameters                                           (`theory.topology.loss`)
    moments      E|F(x)|^2 / |x|^2, weights of variance 1/d                                              (`theory.signal.propagation`)
    kernels      least eigenvalue of the tangent kernel of the last block's first weights, wide layers   (`theory.kernels.recursion`)
    clean path   singular values of the input Jacobian at weights 0                                      (`theory.compose`)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import sympy
from sympy import Expr, S, Symbol

from theory import symbols
from theory.atoms.base import Domain
from theory.atoms.entrywise import ACTIVATIONS, z
from theory.bound import Bound, Sense
from theory.compose import Regularity
from theory.kernels.recursion import kernels, least_eigenvalue
from theory.landscape import landscape
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import Scaling
from theory.limits import depth_limit
from theory.network import Chain, Network, Repeat, Residual, chain, repeat, residual, substitute
from theory.records import Shape
from theory.signal.propagation import Moments, alpha, propagate
from theory.topology.loss import Reading, topology

L, d, rho = symbols.L, symbols.d, symbols.rho
BRANCH = chain(Affine(d), Activation("silu"), Scaling(sympy.sqrt(2)), Affine(d))
CHAIN = repeat(L, BRANCH)
KAPPA = Symbol("kappa", positive=True)
"""The bound of the unscaled branch's Jacobian, a multiple of `rho^2`."""
RESIDUAL = repeat(L, residual(BRANCH, Scaling(alpha)))


LAYER = -3
"""The last block's first affine layer, counted from the end: the block's second one and the readout come after it."""


@dataclass(frozen=True)
class Readings:
    """The five readings of one description of symbolic depth `L`; each is taken when asked for."""

    network: Network

    def _singular_values(self, radius: Expr) -> Regularity:
        return landscape(self.network, d, domain=Domain(radius)).regularity

    @cached_property
    def regularity(self) -> Regularity:
        """`sigma_min` and norm of the input Jacobian, weights of norm at most `rho`."""
        return self._singular_values(rho)

    @cached_property
    def clean_path(self) -> Regularity:
        """The same at weights 0."""
        return self._singular_values(S.Zero)

    @cached_property
    def topology(self) -> Reading:
        """Format of the squared error with an L2 term."""
        return topology(self.network, d, l2=True)

    @cached_property
    def moments(self) -> Moments:
        return propagate(self.network)

    def wide(self, depth: int, width: int) -> Network:
        """The network at a depth and a width, its weights of variance 1, with a readout of one feature, as kernels are read."""
        size = sympy.Integer(width)
        whole = chain(substitute(self.network, {L: sympy.Integer(depth), d: size}), Affine(S.One))
        return unit_variance(whole, size)

    def kernel(self, depth: int, inputs: np.ndarray) -> np.ndarray:
        """`lambda_min` of the tangent kernel in the weights of the last block's first affine layer, in the limit of wide layers, `(*batch,)`.

        Args:
            inputs: `(*batch, d, N)`, columns are samples; the layers have the width `d`.
        """
        width = inputs.shape[-2]
        gram = np.swapaxes(inputs, -1, -2) @ inputs
        return least_eigenvalue(kernels(self.wide(depth, width), gram, sympy.Integer(width)).tangents[LAYER])

    def limits(self) -> dict[str, Expr | None]:
        """Limits in the depth of the closed forms, with `KAPPA` for the bound of the branch's Jacobian; None where one is not found."""
        least = self.regularity.sigma_min.substitute({branch_jacobian(): KAPPA})
        return {
            "sigma_min": depth_limit(least, L),
            "second moment, lower": depth_limit(self.moments.second_lower, L),
            "second moment, upper": depth_limit(self.moments.second_upper, L),
            "clean path, lower": depth_limit(self.clean_path.sigma_min, L),
            "clean path, upper": depth_limit(self.clean_path.jacobian, L),
        }


@cache
def branch_jacobian() -> Expr:
    """The bound of the norm of the unscaled branch's Jacobian, weights of norm at most `rho`."""
    return landscape(BRANCH, d, domain=Domain(rho)).regularity.jacobian.expression


def scaled(scale: Expr) -> Readings:
    """The residual network at a branch scale in `L`."""
    return Readings(substitute(RESIDUAL, {alpha: scale}))


PAIR = {"chain": Readings(CHAIN), "residual, 1/L": scaled(1 / L), "residual, 1/sqrt L": scaled(1 / sympy.sqrt(L))}
"""The chain, and the residual network at the two branch scales of the depth limits."""


def unit_variance(network: Network, features: Expr) -> Network:
    """The description whose affine layers have weights of variance 1, for one whose weights have variance `1 / inputs`.

    Raises:
        ValueError: a combinator that is no chain, residual block or repetition.
    """
    if isinstance(network, Affine):
        return chain(network, Scaling(1 / sympy.sqrt(features)))
    if isinstance(network, Chain):
        members, shape = [], Shape(features, S.One)
        for member in network.members:
            members.append(unit_variance(member, shape.features))
            shape = member.output_shape(shape)
        return Chain(tuple(members))
    if isinstance(network, Residual):
        return replace(network, branch=unit_variance(network.branch, features))
    if isinstance(network, Repeat):
        return replace(network, block=unit_variance(network.block, features))
    if isinstance(network, Activation | Scaling):
        return network
    raise ValueError(
        f"weights of variance 1: {type(network).__name__} is not known here; use chains, residual blocks and repetitions"
    )


def small_signal_gain() -> Expr:
    """The factor by which a branch multiplies second moments of small signals in wide layers.

    `E[phi(u) phi(v)] = phi'(0)^2 E[u v]` to first order in the variances, where `phi(0) = 0`; scales count by their squares.
    """
    gain = S.One
    for member in BRANCH.members:
        if isinstance(member, Activation):
            gain *= sympy.diff(ACTIVATIONS[member.name], z).subs(z, 0) ** 2
        elif isinstance(member, Scaling):
            gain *= member.factor**2
    return gain


def values(bound: Bound, depth: int, radius: Expr = S.Zero) -> float:
    """A bound at a depth and a radius `rho`; where it is no double it is rounded outwards."""
    number = bound.expression.subs({L: sympy.Integer(depth), rho: radius}, simultaneous=True)
    found = float(sympy.N(number, 30))
    if sympy.Rational(found) == number:
        return found
    return float(np.nextafter(found, -np.inf if bound.sense is Sense.LOWER else np.inf))
