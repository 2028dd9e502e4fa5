"""A small network's loss as one SymPy expression in its parameters: another fold over the description, for exact data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import sympy
from sympy import Expr, S, Symbol

from theory.atoms.entrywise import ACTIVATIONS, z
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import Cropping, FeaturePad, Scaling
from theory.network import Branches, Chain, Network, Repeat, Residual
from theory.spec import describe

Columns = list[list[Expr]]
"""One list of features for every sample."""


@dataclass(frozen=True)
class LossExpression:
    """A loss as an expression in its parameters, in the order in which the layers hold them (weights by rows, then the bias)."""

    value: Expr
    parameters: tuple[Symbol, ...]


def _affine(layer: Affine, x: Columns, fresh: Iterator[Symbol]) -> Columns:
    if layer.weight_norm is not None or layer.path:
        raise ValueError(f"expression: {describe(layer)} has normalised or shared weights: use a plain affine layer")
    rows = [[next(fresh) for _ in x[0]] for _ in range(int(layer.features))]
    biases = [next(fresh) if layer.bias else S.Zero for _ in rows]
    return [
        [sum((w * v for w, v in zip(row, sample, strict=True)), b) for row, b in zip(rows, biases, strict=True)]
        for sample in x
    ]


def _activation(layer: Activation, x: Columns, fresh: Iterator[Symbol]) -> Columns:
    return [[ACTIVATIONS[layer.name].subs(z, v) for v in sample] for sample in x]


def _scaling(layer: Scaling, x: Columns, fresh: Iterator[Symbol]) -> Columns:
    return [[layer.factor * v for v in sample] for sample in x]


def _cropping(layer: Cropping, x: Columns, fresh: Iterator[Symbol]) -> Columns:
    return [sample[: int(layer.features)] for sample in x]


def _pad(layer: FeaturePad, x: Columns, fresh: Iterator[Symbol]) -> Columns:
    return [[S.Zero] * layer.before + sample + [S.Zero] * layer.after for sample in x]


def _chain(network: Chain, x: Columns, fresh: Iterator[Symbol]) -> Columns:
    for member in network.members:
        x = _outputs(member, x, fresh)
    return x


def _repeat(network: Repeat, x: Columns, fresh: Iterator[Symbol]) -> Columns:
    return _chain(network.unrolled(), x, fresh)


def _added(ends: list[Columns]) -> Columns:
    if len({len(end[0]) for end in ends}) > 1:
        raise ValueError(f"expression: branches of {' and '.join(str(len(e[0])) for e in ends)} features do not add")
    return [[sympy.Add(*terms) for terms in zip(*samples, strict=True)] for samples in zip(*ends, strict=True)]


def _residual(network: Residual, x: Columns, fresh: Iterator[Symbol]) -> Columns:
    return _added([[[network.skip * v for v in sample] for sample in x], _outputs(network.branch, x, fresh)])


def _branches(network: Branches, x: Columns, fresh: Iterator[Symbol]) -> Columns:
    ends = [_outputs(branch, x, fresh) for branch in network.branches]
    if network.stacked:
        return [[v for part in samples for v in part] for samples in zip(*ends, strict=True)]
    return _added(ends)


FOLDS: dict[type, Callable[[Any, Columns, Iterator[Symbol]], Columns]] = {
    Affine: _affine,
    Activation: _activation,
    Scaling: _scaling,
    Cropping: _cropping,
    FeaturePad: _pad,
    Chain: _chain,
    Residual: _residual,
    Branches: _branches,
    Repeat: _repeat,
}


def _outputs(network: Network, x: Columns, fresh: Iterator[Symbol]) -> Columns:
    if type(network) not in FOLDS:
        known = ", ".join(kind.__name__ for kind in FOLDS)
        raise ValueError(f"expression: the layer {describe(network)} is not known here: known are {known}")
    return FOLDS[type(network)](network, x, fresh)


def loss_expression(
    network: Network, inputs: Sequence[Sequence[Any]], targets: Sequence[Any], loss: str, l2: Any = 0
) -> LossExpression:
    """Mean loss over the samples plus `l2 |theta|^2`.

    Args:
        network: with numbers for its sizes.
        inputs: one sequence of exact numbers for every sample.
        targets: one number a sample; 0 or 1 for `binary_cross_entropy`, the number of the class for `cross_entropy`.
        loss: `squared_error` (the sum of `(F_i - y)^2` over the outputs), `binary_cross_entropy` or `cross_entropy`.
        l2: coefficient of the squared norm.

    Raises:
        ValueError: an unknown loss or layer, or sizes that do not fit.
    """
    if not inputs or len(inputs) != len(targets):
        raise ValueError(f"expression: {len(inputs)} samples and {len(targets)} targets: give as many, at least one")
    names = (Symbol(f"theta_{i}", real=True) for i in count(1))
    outputs = _outputs(network, [[sympy.sympify(v) for v in sample] for sample in inputs], names)
    used = int(next(names).name.split("_")[1]) - 1
    parameters = tuple(Symbol(f"theta_{i + 1}", real=True) for i in range(used))
    terms = [_sample(loss, out, sympy.sympify(y)) for out, y in zip(outputs, targets, strict=True)]
    decay = sympy.sympify(l2) * sympy.Add(*(p**2 for p in parameters))
    return LossExpression(sympy.Add(*terms) / len(terms) + decay, parameters)


def _sample(loss: str, outputs: list[Expr], target: Expr) -> Expr:
    if loss == "squared_error":
        return sympy.Add(*((v - target) ** 2 for v in outputs))
    if loss == "binary_cross_entropy":
        if len(outputs) != 1 or target not in (0, 1):
            raise ValueError(
                f"expression: binary_cross_entropy of {len(outputs)} outputs and target {target}: needs one, and 0 or 1"
            )
        return sympy.log(1 + sympy.exp(outputs[0])) - target * outputs[0]
    if loss != "cross_entropy":
        raise ValueError(f"expression: unknown loss {loss!r}: use squared_error, binary_cross_entropy or cross_entropy")
    if not (target.is_Integer and 0 <= target < len(outputs)):
        raise ValueError(f"expression: class {target} of {len(outputs)}: classes are numbered from 0")
    chosen = outputs[int(target)]
    return sympy.log(sympy.Add(*(sympy.exp(v - chosen) for v in outputs)))
