"""Changes of layout, selections, and operations that do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from numerics.certification.flow import Value
from numerics.tracing.translate import Site, translates
from theory.layers.fixed import FeaturePad

aten = torch.ops.aten


@translates(
    aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.unflatten, aten.squeeze, aten.unsqueeze, aten.view_as,
    note="`Reshape`, or nothing; samples stay samples",
)  # fmt: skip
def _(site: Site, x: Value, *_: Any) -> Value:
    return x.reshaped(site.shape)


@translates(aten.permute, note="nothing, or `Permute` where a later layer needs other features")
def _(site: Site, x: Value, order: Sequence[int]) -> Value:
    return x.transposed([i % len(x.shape) for i in order])


@translates(aten.transpose, aten.swapaxes, aten.swapdims, aten.t, aten.mT, aten.numpy_T, note="as `permute`")
def _(site: Site, x: Value, first: int = -2, second: int = -1) -> Value:
    order = list(range(len(x.shape)))
    first, second = first % len(order), second % len(order)
    order[first], order[second] = second, first
    if len(order) > 2 and tuple(x.shape[i] for i in order) != tuple(site.shape):
        raise ValueError("reverses more than two dimensions: use permute")
    return x.transposed(order)


@translates(aten.movedim, aten.moveaxis, note="as `permute`")
def _(site: Site, x: Value, start: Any, end: Any) -> Value:
    count = len(x.shape)
    starts, ends = ([i % count for i in ([each] if isinstance(each, int) else each)] for each in (start, end))
    rest = iter(i for i in range(count) if i not in starts)
    return x.transposed([starts[ends.index(i)] if i in ends else next(rest) for i in range(count)])


@translates(aten.pixel_shuffle, note="`Reshape` and `Permute`")
def _(site: Site, x: Value, factor: int) -> Value:
    *lead, features, height, width = x.shape
    split = x.reshaped((*lead, features // factor**2, factor, factor, height, width))
    at = len(lead)
    return split.transposed([*range(at + 1), at + 3, at + 1, at + 4, at + 2]).reshaped(site.shape)


@translates(aten.pixel_unshuffle, note="`Reshape` and `Permute`")
def _(site: Site, x: Value, factor: int) -> Value:
    *lead, features, height, width = x.shape
    split = x.reshaped((*lead, features, height // factor, factor, width // factor, factor))
    at = len(lead)
    return split.transposed([*range(at + 1), at + 2, at + 4, at + 1, at + 3]).reshaped(site.shape)


@translates(
    aten.pad, aten.constant_pad_nd,
    note="`FeaturePad` of zeros along the features, else `Selection` that pads or crops, in the modes of `Windows`",
)  # fmt: skip
def _(site: Site, x: Value, ends: Sequence[int], mode: Any = "constant", value: Any = None) -> Value:
    mode, value = (mode, value) if isinstance(mode, str) else ("constant", mode)
    known = {"constant": "zeros", "circular": "circular", "reflect": "reflect", "replicate": "replicate"}
    if mode not in known or (value or 0) != 0:
        raise ValueError(
            f"padding with mode {mode!r} and value {value}: known are zeros, circular, reflect and replicate"
        )
    pairs = {len(x.shape) - 1 - i: (ends[2 * i], ends[2 * i + 1]) for i in range(len(ends) // 2)}
    pairs = {x.dimension(i): pair for i, pair in pairs.items() if pair != (0, 0)}
    if mode == "constant" and set(pairs) == set(x.axes[:1]) and min(min(pair) for pair in pairs.values()) >= 0:
        return x.then(FeaturePad(*pairs[x.axes[0]]), site.shape)
    return x.selected(site.shape, pairs, mode=known[mode]) if pairs else x


@translates(aten.slice, note="`Cropping` or `Selection`")
def _(site: Site, x: Value, dim: int = 0, start: Any = None, end: Any = None, stride: int = 1) -> Value:
    if tuple(site.shape) == x.shape:
        return x
    dimension = x.dimension(dim)
    begin, stop, _ = slice(start, end).indices(x.shape[dimension])
    return x.sliced(dimension, begin, stop, stride)


@translates(aten.narrow, note="`Cropping` or `Selection`")
def _(site: Site, x: Value, dim: int, start: int, length: int) -> Value:
    return x.sliced(x.dimension(dim), start, start + length)


@translates(aten.select, note="`Cropping` or `Selection` of one entry along a dimension")
def _(site: Site, x: Value, dim: int, index: int) -> Value:
    dimension = x.dimension(dim)
    index = index % x.shape[dimension]
    return x.sliced(dimension, index, index + 1).reshaped(site.shape)


@translates(
    aten.chunk, aten.split, aten.split_with_sizes, aten.tensor_split, note="`Cropping` or `Selection` for each part"
)
def _(site: Site, x: Value, _: Any, dim: int = 0) -> list[Value]:
    dimension, parts, start = x.dimension(dim), [], 0
    for shape in site.shape:
        parts.append(x.sliced(dimension, start, start + shape[dimension]))
        start += shape[dimension]
    return parts


@translates(aten.unbind, note="`Cropping` or `Selection` for each entry along a dimension")
def _(site: Site, x: Value, dim: int = 0) -> list[Value]:
    dimension = x.dimension(dim)
    return [x.sliced(dimension, i, i + 1).reshaped(shape) for i, shape in enumerate(site.shape)]


@translates(aten.contiguous, aten.alias, aten.lift_fresh_copy, note="nothing")
def _(site: Site, x: Value, *_: Any) -> Value:
    return x


@translates(aten.clone, note="nothing")
def _(site: Site, x: Value, *_: Any) -> Value:
    return replace(x)  # another value: a later write in place must not reach the original


@translates(aten.expand, aten.to, aten._to_copy, note="nothing, where it changes neither shape nor precision")
def _(site: Site, x: Value, *options: Any) -> Value:
    kinds = [each for each in options if isinstance(each, torch.dtype)]
    if tuple(site.shape) != x.shape or any(kind not in (torch.float32, torch.float64) for kind in kinds):
        raise ValueError("repeats values or rounds them to another precision")
    return x
