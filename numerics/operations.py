"""The torch operations that can be traced, each as layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from numerics.flow import Value, concatenated, stack, summed
from numerics.translate import Computed, Fixed, Parameter, Site, exact, layer_path, translates
from theory.atoms.windows import Windows
from theory.layers import activation, normalisation
from theory.layers.activation import Activation, SoftmaxLayer
from theory.layers.affine import Affine
from theory.layers.fixed import Scaling
from theory.layers.normalisation import BatchNorm, LayerNorm, RMSNorm
from theory.layers.spatial import (
    AveragePool,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Selection,
    TransposedConvolution,
)

try:
    from theory.layers import attention  # type: ignore[attr-defined]
except ImportError:
    attention = None


def _pending(module: Any, name: str) -> Any:
    """A layer of the theory that may not be there yet."""

    def missing(*_: Any, **__: Any) -> Any:
        raise ValueError(f"the layer {name} is not known to this version of theory")

    return getattr(module, name, missing)


LogSoftmax = _pending(activation, "LogSoftmax")
GroupNorm, InstanceNorm, FrozenBatchNorm = (
    _pending(normalisation, name) for name in ("GroupNorm", "InstanceNorm", "FrozenBatchNorm")
)
Attend = _pending(attention, "Attend")

aten = torch.ops.aten

TINY = sympy.Rational("1e-24")
"""The `eps` of torch's weight normalisation, which has none: `v / sqrt(eps + |v|^2)` differs from `v / |v|` by the factor
`1 - eps / (2 |v|^2)`, less than 1e-12 off for `|v| > 1e-6`; shorter rows are refused."""


# Weights


def _weight(site: Site, given: Any, rows: bool = True) -> tuple[str, dict[str, Any]]:
    """Path of a layer's weight and its normalisation; the weight's parameters are bound.

    With `rows` the matrix is `weight.flatten(1)`, else (a transposed convolution) the transpose of that.
    """
    if isinstance(given, Parameter):
        path = layer_path(given.name)
        matrix = given.value.flatten(1)
        site.parameter(f"{path}.weight", _origin(given), matrix if rows else matrix.t())
        return path, {}
    normalised = given.operation if isinstance(given, Computed) else ""
    if normalised == "<built-in function getitem>" and isinstance(given.arguments[0], Computed):
        given, normalised = given.arguments[0], given.arguments[0].operation
    if normalised.startswith("aten._weight_norm") and rows:
        return _weight_normalised(site, *given.arguments)
    if isinstance(given, Computed) and rows and (spectral := _spectral_layer(site, given)) is not None:
        return _spectrally_normalised(site, spectral)
    raise ValueError("") if site.own(given, "weight") is None else ValueError("its weight is normalised along columns")


def _origin(given: Parameter) -> str:
    return f"{given.name} transposed" if given.is_transposed else given.name


def _weight_normalised(site: Site, direction: Any, length: Any, dim: int = 0) -> tuple[str, dict[str, Any]]:
    v, g = site.own(direction, "weight's direction"), site.own(length, "weight's length")
    if dim != 0:
        raise ValueError(f"weight_norm along dimension {dim}: only rows can be normalised, dim=0")
    path, matrix = layer_path(v.name), v.value.flatten(1)
    shortest = float(matrix.norm(dim=1).min())
    if shortest <= 1e-6:
        raise ValueError(f"weight_norm of a row of norm {shortest:.1e}: it needs more than 1e-6")
    site.parameter(f"{path}.weight", v.name, matrix)
    site.parameter(f"{path}.gain", g.name, g.value.flatten())
    return path, {"weight_norm": "row", "gain": True, "eps": TINY}


def _spectral_layer(site: Site, given: Computed) -> str | None:
    """The path of the module whose only parametrisation of the weight is torch's spectral norm, if that computes `given`."""
    names = {source.name for source in given.sources() if isinstance(source, Parameter)}
    if len(names) != 1 or not (name := names.pop()).endswith("parametrizations.weight.original"):
        return None
    module = site.module.get_submodule(name.removesuffix("parametrizations.weight.original").rstrip("."))
    kinds = [type(each) for each in module.parametrizations.weight]  # type: ignore[union-attr]
    return name if kinds == [parametrizations._SpectralNorm] else None


def _spectrally_normalised(site: Site, name: str) -> tuple[str, dict[str, Any]]:
    owner = site.module.get_submodule(name.removesuffix("original") + "0")
    tensor = site.module.get_parameter(name)
    if getattr(owner, "dim", 0) != 0:
        raise ValueError("spectral_norm of a transposed convolution: its matrix is taken along the other dimension")
    matrix, path = tensor.detach().double().flatten(1), layer_path(name)
    if tensor.ndim > 1:
        left, right = owner.get_buffer("_u").double(), owner.get_buffer("_v").double()
        estimate, norm = float(left @ matrix @ right), float(torch.linalg.matrix_norm(matrix, 2))
        if abs(estimate - norm) > 1e-6 * norm:
            raise ValueError(
                f"spectral_norm divides by {estimate:.6g} where the norm is {norm:.6g}: its power iteration has not converged; "
                "call the module some more times in training mode"
            )
    site.parameter(f"{path}.weight", name, matrix)
    return path, {"weight_norm": "spectral"}


def _bias(site: Site, path: str, given: Any) -> bool:
    if given is None:
        return False
    bias = site.own(given, "bias")
    site.parameter(f"{path}.bias", bias.name, bias.value.flatten())
    return True


def _scaled(site: Site, weight: Any, bias: Any) -> dict[str, Any]:
    """Gain and shift of a normalisation."""
    if weight is None and bias is None:
        return {}
    if weight is None:
        raise ValueError("a shift without a gain: let the normalisation have both")
    gain = site.own(weight, "gain")
    path = layer_path(gain.name)
    site.parameter(f"{path}.gain", gain.name, gain.value.flatten())
    if bias is not None:
        shift = site.own(bias, "shift")
        site.parameter(f"{path}.shift", shift.name, shift.value.flatten())
    return {"gain": True, "shift": bias is not None, "path": path}


# Affine maps


def _affine(site: Site, x: Any, weight: Any, bias: Any) -> Value:
    if not isinstance(x, Value):
        raise ValueError("the input stands on the right of a matrix: a weight multiplies features from the left")
    last = x.dimension(-1)
    path, normalised = _weight(site, weight)
    has_bias = _bias(site, path, bias)
    layer = Affine(site.shape[-1], bias=has_bias, path=path, **normalised)
    return x.with_features(last).then(layer, site.shape)


@translates(aten.linear, note="`Affine` at every position, plain, row-normalised or spectrally normalised")
def _(site: Site, x: Any, weight: Any, bias: Any = None) -> Value:
    return _affine(site, x, weight, bias)


@translates(
    aten.matmul, aten.mm, note="`Affine` by a parameter from the right; products of two computed tensors are refused"
)
def _(site: Site, x: Any, weight: Any) -> Value:
    if isinstance(x, Value) and isinstance(weight, Value):
        raise ValueError(
            "a product of two computed tensors: of attention, use scaled_dot_product_attention or nn.MultiheadAttention"
        )
    matrix = site.own(weight, "right factor") if isinstance(x, Value) else None
    if matrix is not None and matrix.tensor.ndim != 2:
        raise ValueError(f"its right factor has {matrix.tensor.ndim} dimensions: give a matrix")
    return _affine(site, x, None if matrix is None else replace(matrix, is_transposed=not matrix.is_transposed), None)


@translates(aten.addmm, note="`Affine` with bias")
def _(site: Site, bias: Any, x: Any, weight: Any, beta: Any = 1, alpha: Any = 1, *_: Any) -> Value:
    if (beta, alpha) != (1, 1):
        raise ValueError("addmm with factors: leave beta and alpha at 1")
    matrix = site.own(weight, "right factor")
    return _affine(site, x, replace(matrix, is_transposed=not matrix.is_transposed), bias)


# Convolutions and pooling


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
    path, normalised = _weight(site, weight)
    shape = _tensor_shape(weight)
    image, windows = _windows(_image(x, len(shape) - 2), shape[2:], stride, padding, dilation)
    layer = Convolution(shape[0], windows, bias=_bias(site, path, bias), groups=groups, path=path, **normalised)
    return image.then(layer, site.shape)


def _tensor_shape(weight: Any) -> tuple[int, ...]:
    """The shape of a weight, which its normalisation keeps."""
    if isinstance(weight, Computed):
        return tuple(max((s.tensor for s in weight.sources() if isinstance(s, Parameter)), key=Tensor.numel).shape)
    return tuple(weight.tensor.shape)


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
    path, _ = _weight(site, kernel, rows=False)
    pairs = tuple((p, p) for p in _each(padding, axes))
    windows = Windows.of(kernel.tensor.shape[2:], _each(stride, axes), pairs, _each(dilation, axes))
    layer = TransposedConvolution(site.shape[1], windows, site.shape[2:], bias=_bias(site, path, bias), path=path)
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
        return _mean(site, x, tuple(range(2, len(x.shape))), keepdim=True)
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


def _mean(site: Site, x: Value, over: Sequence[int], keepdim: bool) -> Value:
    dimensions = {x.dimension(i) for i in over}
    kept = tuple(i for i in x.axes if i not in dimensions)
    gone = tuple(i for i in x.axes if i in dimensions)
    ordered = x.arranged(*kept, *gone)
    sizes = tuple(x.shape[i] for i in kept)
    pooled = ordered.grouped((math.prod(sizes), *(x.shape[i] for i in gone))) if gone else ordered
    pooled = pooled.then(GlobalAveragePool()) if gone else pooled

    def moved(i: int) -> int:
        return i if keepdim else i - sum(each < i for each in dimensions)

    return replace(pooled, sample=moved(x.sample)).regrown(site.shape, tuple(map(moved, kept)))


@translates(aten.mean, note="`GlobalAveragePool` over the dimensions averaged")
def _(site: Site, x: Value, dim: Any = None, keepdim: bool = False, *_: Any) -> Value:
    over = (
        range(len(x.shape)) if dim is None or isinstance(dim, torch.dtype) else [dim] if isinstance(dim, int) else dim
    )
    return _mean(site, x, list(over), keepdim)


# Normalisations


@translates(
    aten.batch_norm,
    note="`BatchNorm` over samples and positions in training mode, `FrozenBatchNorm` in evaluation mode",
)
def _(
    site: Site, x: Value, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, _: Any, eps: float, *__: Any
) -> Value:
    value, scaled = x.with_features(x.dimension(1)), _scaled(site, weight, bias)
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
    value, scaled = x.with_features(x.dimension(1)), _scaled(site, weight, bias)
    layer = InstanceNorm(eps=exact(eps), **scaled) if own else _frozen(mean, variance, eps, scaled)
    return value.then(layer, site.shape)


@translates(aten.group_norm, note="`GroupNorm`")
def _(site: Site, x: Value, groups: int, weight: Any, bias: Any, eps: float, *_: Any) -> Value:
    layer = GroupNorm(groups=groups, eps=exact(eps), **_scaled(site, weight, bias))
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
    return _over_last(site, x, len(shape), LayerNorm(exact(eps), **_scaled(site, weight, bias)))


@translates(aten.rms_norm, note="`RMSNorm` over the last dimensions; without `eps` that of double precision")
def _(site: Site, x: Value, shape: Sequence[int], weight: Any, eps: float | None) -> Value:
    eps = torch.finfo(torch.float64).eps if eps is None else eps
    return _over_last(site, x, len(shape), RMSNorm(exact(eps), **_scaled(site, weight, None)))


# Entry-wise functions, softmax, attention


def _activation(name: str, **only: float) -> Any:
    """A translation that refuses other values of the options than these."""

    def translation(site: Site, x: Value, *options: Any) -> Value:
        for (option, wanted), given in zip(only.items(), options, strict=False):
            if given != wanted:
                raise ValueError(f"{name} with {option} = {given}: only {option} = {wanted} is known")
        return x.then(Activation(name), x.shape)

    return translation


for _key, _name, _only in (
    (aten.tanh, "tanh", {}),
    (aten.sigmoid, "sigmoid", {}),
    (aten.softplus, "softplus", {"beta": 1, "threshold": 20}),
    (aten.atan, "arctan", {}),
    (aten.erf, "erf", {}),
    (aten.sin, "sin", {}),
    (aten.silu, "silu", {}),
    (aten.elu, "elu", {"alpha": 1, "scale": 1, "input_scale": 1}),
    (aten.relu, "relu", {}),
):
    translates(_key, note=f"`Activation({_name!r})`")(_activation(_name, **_only))


@translates(aten.gelu, note="`Activation('gelu')`, the exact one")
def _(site: Site, x: Value, approximate: str = "none") -> Value:
    if approximate != "none":
        raise ValueError(f"gelu with approximate={approximate!r} is another function: use approximate='none'")
    return x.then(Activation("gelu"), x.shape)


@translates(aten.softmax, aten._softmax, note="`SoftmaxLayer`")
def _(site: Site, x: Value, dim: int, *_: Any) -> Value:
    return x.with_features(x.dimension(dim)).then(SoftmaxLayer(), site.shape)


@translates(aten.log_softmax, aten._log_softmax, note="`LogSoftmax`")
def _(site: Site, x: Value, dim: int, *_: Any) -> Value:
    return x.with_features(x.dimension(dim)).then(LogSoftmax(), site.shape)


@translates(aten.scaled_dot_product_attention, note="`Attend` on queries, keys and values of equal size, causal or not")
def _(
    site: Site,
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    dropout: float,
    causal: bool,
    scale: Any = None,
    grouped: bool = False,
) -> Value:
    values = [each for each in (q, k, v) if isinstance(each, Value)]
    if len(values) < 3 or len({each.shape for each in values}) > 1 or grouped:
        raise ValueError("queries, keys and values must be computed from the input and have equal shapes")
    shape, lead = q.shape, [i for i in range(len(q.shape) - 2) if i != q.sample]
    if mask is not None:
        raise ValueError("an attention mask: only is_causal=True is known")
    if dropout > 0:
        raise ValueError(f"dropout with p = {dropout} is random: set it to 0 or call eval()")
    if scale is not None and not math.isclose(scale, shape[-1] ** -0.5, rel_tol=1e-15):
        raise ValueError(f"scale = {scale}: only the standard one, 1/sqrt(features of a head), is known")
    heads = math.prod(shape[i] for i in lead)
    tokens, features = q.dimension(-2), q.dimension(-1)
    axes = (*lead, features, tokens)
    flat = [each.arranged(*axes).grouped((heads * shape[-1], shape[-2])) for each in values]
    stacked = replace(flat[0], step=stack([each.step for each in flat]))
    return stacked.then(Attend(heads, causal)).regrown(shape, axes)


@translates(nn.MultiheadAttention, note="`Affine`, `Attend`, `Affine`: self-attention without masks, or causal")
def _(site: Site, module: nn.MultiheadAttention, x: Value) -> Value:
    assert site.call is not None
    order = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")
    given = dict(zip(order, site.call.arguments, strict=False)) | site.call.options
    if module.dropout > 0 and module.training:
        raise ValueError(f"dropout with p = {module.dropout} is random: set it to 0 or call eval()")
    if given.get("key_padding_mask") is not None or given.get("attn_mask") is not None:
        raise ValueError("an attention mask: write causal attention with scaled_dot_product_attention(is_causal=True)")
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn or len(x.shape) != 3:
        raise ValueError(
            "attention with kdim, vdim, bias_k, add_zero_attn or without samples: only plain self-attention is known"
        )
    tokens = 1 if module.batch_first else 0
    if x.sample != 1 - tokens:
        raise ValueError(f"samples in dimension {x.sample}, but batch_first={module.batch_first}")
    prefix = "" if site.path == "self" else f"{site.path}."
    features = module.embed_dim
    names = dict(module.named_parameters(remove_duplicate=False))

    def project(value: Value, which: str, weight: str, bias: str, size: int) -> Value:
        path = f"{prefix}{which}"
        has_bias = names.get(bias) is not None
        site.parameter(f"{path}.weight", f"{prefix}{weight}", names[weight])
        if has_bias:
            site.parameter(f"{path}.bias", f"{prefix}{bias}", names[bias])
        return value.then(Affine(size, bias=has_bias, path=path))

    value = x.arranged(2, tokens)
    value = project(value, "in_proj", "in_proj_weight", "in_proj_bias", 3 * features).then(Attend(module.num_heads))
    return project(value, "out_proj", "out_proj.weight", "out_proj.bias", features)


# Sums, products with numbers, concatenation


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
    _bias(site, layer.path, other)  # type: ignore[union-attr]
    return replace(value, step=replace(value.step, layer=replace(layer, bias=True)))  # type: ignore[type-var]


def _along(value: Value, parameter: Parameter) -> int | None:
    """The torch dimension along which a parameter varies, None where it is not a vector along one."""
    shape = tuple(parameter.tensor.shape)
    offset = len(value.shape) - len(shape)
    large = [i for i, n in enumerate(shape) if n > 1]
    return (
        large[0] + offset
        if offset >= 0 and len(large) == 1 and shape[large[0]] == value.shape[large[0] + offset]
        else None
    )


def _times(site: Site, x: Value, given: Any) -> Value:
    number = site.number(given, "factor")
    if number <= 0:
        raise ValueError(
            f"multiplies by {number}: only positive factors are known; put the sign into the layer before it"
        )
    return x.then(Scaling(exact(number)), x.shape) if number != 1 else x


@translates(aten.sub, note="of two branches, refused unless the second is scaled by a negative alpha")
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
    site.parameter(f"{path}.weight", other.name, other.value.reshape(features, 1))
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


# Layout


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


@translates(aten.pad, aten.constant_pad_nd, note="`Selection` that pads or crops, in the modes of `Windows`")
def _(site: Site, x: Value, ends: Sequence[int], mode: Any = "constant", value: Any = None) -> Value:
    mode, value = (mode, value) if isinstance(mode, str) else ("constant", mode)
    known = {"constant": "zeros", "circular": "circular", "reflect": "reflect", "replicate": "replicate"}
    if mode not in known or (value or 0) != 0:
        raise ValueError(
            f"padding with mode {mode!r} and value {value}: known are zeros, circular, reflect and replicate"
        )
    pairs = {len(x.shape) - 1 - i: (ends[2 * i], ends[2 * i + 1]) for i in range(len(ends) // 2)}
    pairs = {x.dimension(i): pair for i, pair in pairs.items() if pair != (0, 0)}
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


# Nothing at all


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


@translates(
    aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout,
    note="nothing in evaluation mode or with p = 0; refused in training mode",
)  # fmt: skip
def _(site: Site, x: Value, p: float, training: bool) -> Value:
    if training and p > 0:
        raise ValueError(f"dropout with p = {p} in training mode is random: call eval() or set p to 0")
    return x
