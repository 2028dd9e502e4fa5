"""Normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from numerics.certification.flow import Value
from numerics.operations.weights import gain_and_shift
from numerics.tracing.translate import Fixed, Site, exact, translates
from theory.layers.normalisation import BatchNorm, FrozenBatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

aten = torch.ops.aten


@translates(
    aten.batch_norm,
    note="`BatchNorm` over samples and positions in training mode, `FrozenBatchNorm` in evaluation mode",
)
def _(
    site: Site, x: Value, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, _: Any, eps: float, *__: Any
) -> Value:
    value, scaled = x.with_features(x.dimension(1)), gain_and_shift(site, weight, bias)
    if training:
        return value.then(BatchNorm(exact(eps), **scaled), site.shape)
    return value.then(_frozen(mean, variance, eps, scaled), site.shape)


def _frozen(mean: Any, variance: Any, eps: float, scaled: dict[str, Any]) -> Any:
    if not isinstance(mean, Fixed) or not isinstance(variance, Fixed):
        raise ValueError("its running statistics are not buffers")
    numbers = [tuple(map(float, each.tensor.double())) for each in (mean, variance)]
    return FrozenBatchNorm(mean=numbers[0], variance=numbers[1], eps=exact(eps), **scaled)


@translates(aten.instance_norm, note="`InstanceNorm`, or `FrozenBatchNorm` where it uses running statistics")
def _(
    site: Site, x: Value, weight: Any, bias: Any, mean: Any, variance: Any, own: bool, _: Any, eps: float, *__: Any
) -> Value:
    value, scaled = x.with_features(x.dimension(1)), gain_and_shift(site, weight, bias)
    layer = InstanceNorm(eps=exact(eps), **scaled) if own else _frozen(mean, variance, eps, scaled)
    return value.then(layer, site.shape)


@translates(aten.group_norm, note="`GroupNorm`")
def _(site: Site, x: Value, groups: int, weight: Any, bias: Any, eps: float, *_: Any) -> Value:
    layer = GroupNorm(groups=groups, eps=exact(eps), **gain_and_shift(site, weight, bias))
    return x.with_features(x.dimension(1)).then(layer, site.shape)


def _over_last(site: Site, x: Value, count: int, layer: Any) -> Value:
    """A layer on the last dimensions as its features."""
    last = tuple(x.dimension(i) for i in range(-count, 0))
    rest = tuple(i for i in x.axes if i not in last)
    value = x.arranged(*last, *rest)
    grouped = value.grouped((math.prod(x.shape[i] for i in last), *(x.shape[i] for i in rest)))
    return grouped.then(layer).regrown(site.shape, value.axes)


@translates(aten.layer_norm, note="`LayerNorm` over the last dimensions")
def _(site: Site, x: Value, shape: Sequence[int], weight: Any, bias: Any, eps: float, *_: Any) -> Value:
    return _over_last(site, x, len(shape), LayerNorm(exact(eps), **gain_and_shift(site, weight, bias)))


@translates(aten.rms_norm, note="`RMSNorm` over the last dimensions; without `eps` that of double precision")
def _(site: Site, x: Value, shape: Sequence[int], weight: Any, eps: float | None) -> Value:
    eps = torch.finfo(torch.float64).eps if eps is None else eps
    return _over_last(site, x, len(shape), RMSNorm(exact(eps), **gain_and_shift(site, weight, None)))
