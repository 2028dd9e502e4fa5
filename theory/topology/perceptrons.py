"""Perceptrons of symbolic width and depth under the topology reading: how the bound grows, and deep against shallow at equal parameter count."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import sympy
from sympy import Expr, Symbol

from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.network import Chain, chain, repeat, residual
from theory.topology.loss import topology

h = Symbol("h", integer=True, positive=True)
"""Width of every hidden layer."""
H = Symbol("H", integer=True, positive=True)
"""Number of hidden layers."""
d_0 = Symbol("d_0", integer=True, positive=True)
"""Number of input features."""


def perceptron(
    name: str, hidden: Expr | int = H, width: Expr | int = h, outputs: Expr | int = 1, *, skip: bool = False
) -> Chain:
    """`hidden` layers `affine, activation` of one width with biases and an affine readout; with `skip` identity skips around all but the first."""
    hidden = sympy.sympify(hidden)
    layer = (Affine(sympy.sympify(width), bias=True), Activation(name))
    block = residual(*layer) if skip else chain(*layer)
    deeper = () if hidden == 1 else (repeat(hidden - 1, block),)
    return chain(*layer, *deeper, Affine(sympy.sympify(outputs), bias=True))


@dataclass(frozen=True)
class Shaped:
    """One perceptron on some samples, with the binary logarithm of its bound on critical points (squared error or another loss, plus L2).

    `chain_part` is the share `l (l - 1) / 2` of it, of the factor that depends on the length of the chain alone.
    """

    hidden: int
    width: int
    samples: int
    parameters: int
    length: int
    log2: float

    @property
    def chain_part(self) -> float:
        return self.length * (self.length - 1) / 2


def shaped(name: str, hidden: int, width: int, features: int, samples: int, loss: str = "squared_error") -> Shaped:
    """The bound for one perceptron.

    Raises:
        ValueError: an unknown or non-analytic activation, by name, or an unknown loss.
    """
    sizes = sympy.Integer(features), sympy.Integer(samples)
    reading = topology(perceptron(name, hidden, width), *sizes, loss, l2=True)
    numbers = int(reading.parameters), int(reading.format.length)
    return Shaped(hidden, width, samples, *numbers, reading.critical_points().log2)


def growth(
    name: str, varied: str, values: Sequence[int], features: int, *, hidden: int = 2, width: int = 4, samples: int = 4
) -> list[Shaped]:
    """The bound where one of `hidden`, `width` and `samples` takes the values given and the others stay.

    Raises:
        ValueError: another name for what varies.
    """
    base = {"hidden": hidden, "width": width, "samples": samples}
    if varied not in base:
        raise ValueError(f"growth in {varied!r}: use one of {', '.join(base)}")
    every = [{**base, varied: value} for value in values]
    return [shaped(name, at["hidden"], at["width"], features, at["samples"]) for at in every]


def deep_against_shallow(
    name: str, budget: int, depths: Sequence[int], features: int, samples: int, loss: str = "squared_error"
) -> list[Shaped]:
    """The bound on critical points for the widest network of each depth within a budget of parameters.

    Raises:
        ValueError: a depth at which even width 1 exceeds the budget.
    """
    rows = []
    for hidden in depths:
        reading = topology(perceptron(name, hidden, h), sympy.Integer(features), sympy.Integer(samples), loss, l2=True)
        count = sympy.lambdify(h, reading.parameters)
        if count(1) > budget:
            raise ValueError(
                f"a network of {hidden} hidden layers has {count(1)} parameters at width 1, above the budget {budget}"
            )
        # the number of parameters increases with the width
        width = bisect_right(range(1, budget + 1), budget, key=count)
        rows.append(shaped(name, hidden, width, features, samples, loss))
    return rows
