r"""How much each member of a traced network can enlarge a change of its input: bounded by the composition rule at the given weights, and measured.

A member is a layer or a residual block of the outermost chain. Its bound is the fold of its atoms' `input_jacobian_norm` at the given weights and at the features
that the example produces (a normalisation divides by the norm that is really there); the measured number is the operator norm of its Jacobian at the same input,
by Lanczos on primitive operations (`numerics.realise`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from numerics.certification.local import ALLOWANCE, FLOATS, Walk
from numerics.device import generator
from numerics.measure import draw, jacobian_operators, operator_norm
from numerics.realise import realise
from numerics.trace import Traced
from theory.compose import leaves, regularity
from theory.network import Chain, Network, expand
from theory.records import Shape
from theory.spec import describe


@dataclass(frozen=True)
class Gain:
    """One member: its description, bound and measured norm of its input Jacobian, and the atoms whose second derivative has no bound.

    `residual` is that of the measurement; an unfinished one under-estimates.
    """

    member: str
    shape: Shape
    bound: float
    measured: float
    residual: float
    rough: tuple[str, ...]


def gains(traced: Traced, example: Tensor, *, seed: int = 0) -> list[Gain]:
    """Every member of a traced module in turn, at the example `(samples, ...)` that the module takes."""
    network: Network = traced.network
    members = network.members if isinstance(network, Chain) else (network,)
    x, shape, found = traced.input(example), traced.shape, []
    for member in members:
        atoms, after = expand(member, shape)
        state, tree = Walk(traced.parameters, 0.0, third=False, measure=False)(atoms, x, shape)
        rough = tuple(dict.fromkeys(leaf.label for leaf in leaves(tree) if math.isinf(leaf.at.XX)))  # type: ignore[attr-defined]
        bound = float(regularity(tree, FLOATS).jacobian) * (1 + ALLOWANCE)
        realisation = realise(member, shape)
        arrays = [traced.parameters[spec.name].reshape(spec.shape) for spec in realisation.parameters]
        theta = realisation.pack(arrays)[None] if arrays else x.new_zeros(1, 0)
        operators = jacobian_operators(realisation, theta, x[None], "input")
        start = draw((1, x.numel()), x, generator(seed))
        norm = operator_norm(*operators, start, generator=generator(seed + 1), max_iterations=100)
        found.append(Gain(describe(member), shape, bound, float(norm.value), float(norm.residual), rough))
        x, shape = state.centre.detach(), after
    return found


def total(found: list[Gain]) -> float:
    """The product of the bounds: a bound of the whole network's input Jacobian at that input."""
    return math.prod(gain.bound for gain in found)


def measured_total(traced: Traced, example: Tensor, *, seed: int = 0) -> float:
    """The operator norm of the whole network's input Jacobian at the example, by Lanczos."""
    realisation, x = traced.realise(), traced.input(example)
    operators = jacobian_operators(realisation, traced.theta()[None], x[None], "input")
    start = draw((1, x.numel()), x, generator(seed))
    with torch.enable_grad():
        return float(operator_norm(*operators, start, generator=generator(seed + 1), max_iterations=100).value)
