"""Convolutions, pooling and means over positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from numerics.certification.flow import Value
from numerics.operations.weights import bind_bias, tensor_shape, weight_matrix
from numerics.tracing.translate import Site, translates
from theory.atoms.windows import Windows
from theory.layers.base import Layer
from theory.layers.fixed import Scaling
from theory.layers.spatial import (
    AveragePool,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Selection,
    TransposedConvolution,
)

aten = torch.ops.aten


def _each(given: Any, axes: int) -> tuple[int, ...]:
    values = [given] if isinstance(given, int) else list(given)
    return tuple(values * axes if len(values) == 1 else values)


def _image(x: Value, axes: int) -> Value:
    """Features in torch dimension 1, the grid behind it."""
    if len(x.shape) != axes + 2 or x.sample != 0:
        raise ValueError(
            f"on a tensor of shape {x.shape} with samples in dimension {x.sample}: samples must come first, then features, then {axes} axes"
        )
    return x.arranged(*range(1, axes + 2))


def _windows(
    x: Value, kernel: Any, stride: Any, padding: Any, dilation: Any, mode: str = "zeros"
) -> tuple[Value, Windows]:
    """The windows of a convolution or pooling, a padding of its own that came before included."""
    axes = len(x.shape) - 2
    kernel, dilation = _each(kernel, axes), _each(dilation, axes)
    stride = _each(stride, axes) if stride else kernel
    if padding in ("valid", "same"):
        reach = [d * (k - 1) * (padding == "same") for k, d in zip(kernel, dilation, strict=True)]
        pairs = tuple((r // 2, r - r // 2) for r in reach)
    else:
        pairs = tuple((p, p) for p in _each(padding, axes))
    layer = x.step.layer
    if isinstance(layer, Selection) and len(layer.windows.kernel) == axes and not any(map(any, pairs)):
        before = layer.windows
        if set(before.stride) == {1} and min(map(min, before.padding)) >= 0:
            inner = replace(x, step=x.step.inputs[0])
            return inner, Windows.of(kernel, stride, before.padding, dilation, before.mode)
    return x, Windows.of(kernel, stride, pairs, dilation, mode if any(map(any, pairs)) else "zeros")


@translates(
    aten.conv1d, aten.conv2d, aten.conv3d, note="`Convolution`; a padding of any mode right before it becomes its own"
)
def _(site: Site, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Value:
    if not isinstance(x, Value):
        raise ValueError("its kernel depends on the input, not the image")
    path, normalised = weight_matrix(site, weight)
    shape = tensor_shape(weight)
    image, windows = _windows(_image(x, len(shape) - 2), shape[2:], stride, padding, dilation)
    layer = Convolution(shape[0], windows, bias=bind_bias(site, path, bias), groups=groups, path=path, **normalised)
    return image.then(layer, site.shape)


@translates(
    aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d, note="`TransposedConvolution` in one group"
)
def _(
    site: Site,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Value:
    kernel = site.own(weight, "weight")
    axes = kernel.tensor.ndim - 2
    if groups != 1:
        raise ValueError(f"a transposed convolution in {groups} groups: only one group is known")
    path, _ = weight_matrix(site, kernel, rows=False)
    pairs = tuple((p, p) for p in _each(padding, axes))
    windows = Windows.of(kernel.tensor.shape[2:], _each(stride, axes), pairs, _each(dilation, axes))
    layer = TransposedConvolution(site.shape[1], windows, site.shape[2:], bias=bind_bias(site, path, bias), path=path)
    return _image(x, axes).then(layer, site.shape)


@translates(aten.max_pool1d, aten.max_pool2d, aten.max_pool3d, note="`MaxPool`")
def _(site: Site, x: Value, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Value:
    image, windows = _windows(_image(x, len(x.shape) - 2), kernel, stride, padding, dilation, "lowest")
    return image.then(
        MaxPool(_reaching(image, windows, site.shape[2:], "lowest") if ceil_mode else windows), site.shape
    )


def _reaching(image: Value, windows: Windows, grid: Sequence[int], mode: str) -> Windows:
    """The windows padded behind so that as many fit as torch's `ceil_mode` takes."""
    ends = []
    for axis, (length, outputs) in enumerate(zip(image.step.sizes[1:], grid, strict=True)):
        before, after = windows.padding[axis]
        reach = (outputs - 1) * windows.stride[axis] + windows.dilation[axis] * (windows.kernel[axis] - 1) + 1
        ends.append((before, max(after, reach - length - before)))
    return windows if tuple(ends) == windows.padding else replace(windows, padding=tuple(ends), mode=mode)


@translates(aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, note="`AveragePool`, padding counted as zeros")
def _(
    site: Site, x: Value, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, counted: bool, divisor: Any = None
) -> Value:
    padded = any(_each(padding, len(x.shape) - 2))
    if divisor is not None or (padded and not counted):
        raise ValueError(
            "a mean that does not divide by the window's size: leave divisor_override and count_include_pad"
        )
    image, windows = _windows(_image(x, len(x.shape) - 2), kernel, stride, padding, 1)
    if ceil_mode and _reaching(image, windows, site.shape[2:], windows.mode) != windows:
        raise ValueError("ceil_mode makes a window smaller at the border: leave it out")
    return image.then(AveragePool(windows), site.shape)


@translates(
    aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten.adaptive_avg_pool3d,
    note="`GlobalAveragePool` or `AveragePool`, where the output's size divides the input's",
)  # fmt: skip
def _(site: Site, x: Value, size: Any) -> Value:
    if all(n == 1 for n in site.shape[2:]):
        return _over(site, x, range(2, len(x.shape)), True, lambda sizes: GlobalAveragePool())
    return _image(x, len(x.shape) - 2).then(AveragePool(_dividing(x, site.shape[2:])), site.shape)


@translates(
    aten.adaptive_max_pool1d, aten.adaptive_max_pool2d, aten.adaptive_max_pool3d,
    note="`MaxPool`, where the output's size divides the input's",
)  # fmt: skip
def _(site: Site, x: Value, size: Any) -> list[Any]:
    shape = site.shape[0]
    return [_image(x, len(x.shape) - 2).then(MaxPool(_dividing(x, shape[2:])), shape), None]


def _dividing(x: Value, grid: Sequence[int]) -> Windows:
    if any(length % out for length, out in zip(x.shape[2:], grid, strict=True)):
        raise ValueError(f"adaptive pooling from {x.shape[2:]} to {tuple(grid)}: the sizes must divide")
    sizes = tuple(length // out for length, out in zip(x.shape[2:], grid, strict=True))
    return Windows.of(sizes, sizes)


def _over(site: Site, x: Value, over: Any, keepdim: bool, layer: Callable[[Sequence[int]], Layer]) -> Value:
    """A layer that takes the grid of dimensions in `over`, of the given sizes, to one number for each of the others."""
    listed = range(len(x.shape)) if over is None else [over] if isinstance(over, int) else over
    dimensions = {x.dimension(i) for i in listed or range(len(x.shape))}
    kept = tuple(i for i in x.axes if i not in dimensions)
    gone = tuple(i for i in x.axes if i in dimensions)
    sizes = tuple(x.shape[i] for i in gone)
    value = x.arranged(*kept, *gone)
    if gone:
        value = value.grouped((math.prod(x.shape[i] for i in kept), *sizes)).then(layer(sizes))

    def moved(i: int) -> int:
        return i if keepdim else i - sum(each < i for each in dimensions)

    return replace(value, sample=moved(x.sample)).regrown(site.shape, tuple(map(moved, kept)))


@translates(aten.mean, note="`GlobalAveragePool` over the dimensions averaged")
def _(site: Site, x: Value, dim: Any = None, keepdim: bool = False, *_: Any) -> Value:
    over = None if isinstance(dim, torch.dtype) else dim
    return _over(site, x, over, keepdim, lambda sizes: GlobalAveragePool())


@translates(aten.sum, note="`GlobalAveragePool` over the dimensions summed, and `Scaling` by their number")
def _(site: Site, x: Value, dim: Any = None, keepdim: bool = False, *_: Any) -> Value:
    over = None if isinstance(dim, torch.dtype) else dim
    mean = _over(site, x, over, keepdim, lambda sizes: GlobalAveragePool())
    return mean.then(Scaling(math.prod(x.shape) // math.prod(site.shape)), site.shape)


@translates(aten.amax, note="`MaxPool` over the dimensions in question")
def _(site: Site, x: Value, dim: Any = (), keepdim: bool = False) -> Value:
    return _over(site, x, dim, keepdim, lambda sizes: MaxPool(Windows.of(tuple(sizes))))
