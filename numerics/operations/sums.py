"""Sums, products with numbers and with vectors of features, concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from numerics.certification.flow import Value, concatenated, summed
from numerics.operations.weights import bind_bias
from numerics.tracing.translate import Parameter, Site, exact, layer_path, translates
from theory.atoms.windows import Windows
from theory.layers.affine import Affine
from theory.layers.fixed import Scaling
from theory.layers.spatial import Convolution

aten = torch.ops.aten


@translates(aten.add, note="`residual` or `added` branches; of a parameter, the bias of the affine layer before it")
def _(site: Site, x: Any, y: Any, alpha: Any = 1) -> Value:
    if isinstance(x, Value) and isinstance(y, Value):
        return summed((x, y if alpha == 1 else _times(site, y, alpha)))
    value, other = (x, y) if isinstance(x, Value) else (y, x)
    if not isinstance(other, Parameter) or alpha != 1:
        number = site.number(other, "other term")
        if number == 0:
            return value
        raise ValueError(f"adds the constant {number}: a constant shift is no layer; give the layer before it a bias")
    layer = value.step.layer
    owner = isinstance(layer, Affine | Convolution) and not layer.bias and layer.path
    along = _along(value, other)
    if not owner or value.axes[:1] != (along,):
        raise ValueError(
            f"adds the parameter {other.name}: it can only be the bias of an affine layer or convolution right before it"
        )
    bind_bias(site, layer.path, other)  # type: ignore[union-attr]
    return replace(value, step=replace(value.step, layer=replace(layer, bias=True)))  # type: ignore[type-var]


def _along(value: Value, parameter: Parameter) -> int | None:
    """The torch dimension along which a parameter varies, None where it is not a vector along one."""
    shape = tuple(parameter.tensor.shape)
    offset = len(value.shape) - len(shape)
    large = [0] if shape == (1,) else [i for i, n in enumerate(shape) if n > 1]
    if offset < 0 or len(large) != 1 or shape[large[0]] != value.shape[large[0] + offset]:
        return None
    return large[0] + offset


def _times(site: Site, x: Value, given: Any) -> Value:
    number = site.number(given, "factor")
    if number <= 0:
        raise ValueError(
            f"multiplies by {number}: only positive factors are known; put the sign into the layer before it"
        )
    return x.then(Scaling(exact(number)), x.shape) if number != 1 else x


@translates(aten.sub, note="`added` branches, where `alpha` is negative; other differences are refused")
def _(site: Site, x: Any, y: Any, alpha: Any = 1) -> Value:
    if isinstance(x, Value) and isinstance(y, Value) and alpha < 0:
        return summed((x, _times(site, y, -alpha)))
    raise ValueError("a difference: only sums are known; put the sign into the layer before it")


@translates(
    aten.mul, note="`Scaling` by a positive number; by a parameter along one dimension, a depth-wise `Convolution`"
)
def _(site: Site, x: Any, y: Any) -> Value:
    if isinstance(x, Value) and isinstance(y, Value):
        raise ValueError("a product of two computed tensors")
    value, other = (x, y) if isinstance(x, Value) else (y, x)
    if not isinstance(other, Parameter):
        return _times(site, value, other)
    along = _along(value, other)
    if along is None or along == value.sample:
        raise ValueError(
            f"multiplies by the parameter {other.name} of shape {tuple(other.tensor.shape)}: give a vector of features"
        )
    value = value.with_features(along)
    grid = value.step.sizes[1:] or (1,)
    features, path = value.shape[along], layer_path(other.name)
    site.parameter(f"{path}.weight", other, other.value.reshape(features, 1))
    layer = Convolution(features, Windows.of((1,) * len(grid)), groups=features, path=path)
    return value.grouped((features, *grid)).then(layer).regrown(value.shape, value.axes)


@translates(aten.div, note="`Scaling` by one over a positive number")
def _(site: Site, x: Any, y: Any, *rounding: Any) -> Value:
    if not isinstance(x, Value) or rounding:
        raise ValueError("only the division by a positive number is known")
    number = site.number(y, "divisor")
    if number <= 0:
        raise ValueError(f"divides by {number}: only positive divisors are known")
    return x.then(Scaling(1 / exact(number)), x.shape)


@translates(aten.cat, aten.concat, aten.concatenate, note="`stacked` branches")
def _(site: Site, values: Sequence[Any], dim: int = 0) -> Value:
    if not all(isinstance(each, Value) for each in values):
        raise ValueError("concatenates with a parameter or a constant: all parts must be computed from the input")
    return concatenated(values, values[0].dimension(dim))


@translates(aten.stack, note="`stacked` branches")
def _(site: Site, values: Sequence[Any], dim: int = 0) -> Value:
    new = dim % len(site.shape)
    if not all(isinstance(each, Value) for each in values):
        raise ValueError("stacks a parameter or a constant: all parts must be computed from the input")
    thin = [each.reshaped((*each.shape[:new], 1, *each.shape[new:])) for each in values]
    return concatenated(thin, thin[0].dimension(new))
