"""Layers whose first derivatives are taken many at a time: batch norm from primitive operations, convolutions as products.

PyTorch differentiates `F.batch_norm` one cotangent after the other under `vmap`, and not correctly in every mode; on a CPU in double
precision it unfolds every image of a convolution. Inside `Linearised` both are replaced by functions with the same values and first
derivatives; nothing else of a network changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from numerics.singular_values.tiles import Tiles


class Linearised(TorchFunctionMode):
    """A context in which batch norm and 2-d convolutions have Jacobians that are cheap to apply many times, both ways.

    * Batch norm with batch statistics: `y = w xhat + b`, `xhat = (x - mean) / s`, `s = sqrt(var + eps)`; its Jacobian is symmetric,
      `g -> w / s (g - mean(g) - xhat mean(g xhat))`, and is applied in primitive operations. Running statistics are left alone.
    * Batch norm with running statistics: the affine map, in primitive operations.
    * Convolutions whose weight does not depend on `x`: the transposed map, and the convolution as derivative of that. With `dense`, in
      float64 on a CPU without groups and dilation, the transposed map is a product with dense matrices (`numerics.singular_values.tiles`).

    Derivatives in weights and biases of these layers are not provided, nor are those of the Jacobian in `x`: a result of this context
    serves for products with the Jacobian in the input, and for nothing else.

    Args:
        dense: whether convolutions may be dense products, which `is_grads_batched` of `torch.autograd.grad` does not support.
    """

    def __init__(self, dense: bool) -> None:
        super().__init__()
        self.dense = dense

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func is torch.batch_norm:
            x, weight, bias, mean, variance, training, momentum, eps = args[:8]
            return _batch_norm(x, mean, variance, weight, bias, training, momentum, eps)
        if func is F.conv2d:
            return _conv2d(self.dense, *args, **kwargs)
        return func(*args, **kwargs)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    channels = [1, -1, *[1] * (input.dim() - 2)]
    scale, shift = (None if p is None else p.detach().reshape(channels) for p in (weight, bias))
    if training:
        return _Standardise.apply(input, scale, shift, eps)  # type: ignore[no-any-return]
    if running_mean is None or running_var is None:
        raise ValueError(
            "batch norm in evaluation mode has no running statistics: use training mode or track_running_stats"
        )
    factor = (running_var.reshape(channels) + eps).rsqrt() * (1 if scale is None else scale)
    result = (input - running_mean.reshape(channels)) * factor
    return result if shift is None else result + shift


class _Standardise(torch.autograd.Function):
    """`(x - mean) / sqrt(var + eps) * scale + shift`, the statistics over all dimensions but the second."""

    leading = True  # its derivative takes cotangents with a leading dimension

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float) -> Tensor:
        dims = [0, *range(2, x.dim())]
        centred = x - x.mean(dims, keepdim=True)
        inverse = (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
        standard = centred * inverse
        factor = inverse if scale is None else inverse * scale
        ctx.save_for_backward(standard, factor)
        result = standard if scale is None else standard * scale
        return result if shift is None else result + shift

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        standard, factor = ctx.saved_tensors
        channel = 1 - standard.dim()
        dims = [i for i in range(-standard.dim(), 0) if i != channel]
        mean, along = g.mean(dims, keepdim=True), (g * standard).mean(dims, keepdim=True)
        removed = (standard * along).add_(
            mean
        )  # in place where nothing is lost: passes over memory are what this costs
        return (g - removed).mul_(factor), None, None, None


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _conv2d(
    dense: bool, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    names = ("stride", "padding", "dilation", "groups")
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **dict(zip(names, args, strict=False)), **kwargs}
    if input.dim() != 4 or isinstance(options["padding"], str) or weight.grad_fn is not None or not input.requires_grad:
        return F.conv2d(input, weight, bias, **options)
    stride, padding, dilation = (_pair(options[name]) for name in names[:3])
    transposed = _Transposed(weight.detach(), stride, padding, dilation, options["groups"], tuple(input.shape[1:]))
    plain = dilation == (1, 1) and options["groups"] == 1
    if dense and plain and input.dtype == torch.float64 and input.device.type == "cpu":
        tiles = Tiles(transposed.weight, stride, padding, (input.shape[-2], input.shape[-1]))
        transposed = replace(transposed, tiles=tiles if tiles.worthwhile else None)
    return _Convolve.apply(input, bias, transposed)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Transposed:
    """A convolution without bias, and its transpose `g (N, O, H', W') -> (N, I, H, W)`, by `tiles` where they are given."""

    weight: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    shape: tuple[int, ...]
    tiles: Tiles | None = None

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, self.weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def __call__(self, g: Tensor) -> Tensor:
        if self.tiles is not None:
            return self.tiles(g)
        like = g.new_empty(1).expand(g.shape[0], *self.shape)
        found = torch.ops.aten.convolution_backward(
            g,
            like,
            self.weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0, 0],
            self.groups,
            [True, False, False],
        )
        result: Tensor = found[0]
        return result


class _Convolve(torch.autograd.Function):
    """A convolution whose vector-Jacobian product is `_Pull`."""

    leading = True  # as above

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, transposed: _Transposed) -> Tensor:
        ctx.transposed = transposed
        return transposed.forward(x, None if bias is None else bias.detach())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if g.dim() > 4:
            return ctx.transposed(g.flatten(0, 1)).unflatten(0, g.shape[:2]), None, None
        return _Pull.apply(g, ctx.transposed), None, None


class _Pull(torch.autograd.Function):
    """The transposed convolution, with the convolution as its own derivative; under `vmap` the directions join the samples.

    PyTorch's own second derivative of a convolution takes two convolutions for it.
    """

    @staticmethod
    def forward(g: Tensor, transposed: _Transposed) -> Tensor:
        return transposed(g)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.transposed = inputs[1]

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.transposed.forward(v), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, None], g: Tensor, transposed: _Transposed
    ) -> tuple[Tensor, int | None]:
        if in_dims[0] is None:
            return transposed(g), None
        g = g.movedim(in_dims[0], 0)
        return transposed(g.flatten(0, 1)).unflatten(0, g.shape[:2]), 0


def without_state(
    f: Callable[[Tensor], Tensor], state: Mapping[str, Tensor] | None = None
) -> Callable[[Tensor], Tensor]:
    """`f` itself, or a module with its parameters held fixed and with copies of its buffers, which a call then may change.

    Args:
        f: any callable, or a module.
        state: replaces parameters and buffers of the module, by name.

    Raises:
        ValueError: a state for what is no module, or with names that the module lacks.
    """
    if not isinstance(f, nn.Module):
        if state is not None:
            raise ValueError(f"a state is given for {type(f).__name__}: pass a torch.nn.Module")
        return f
    module = f
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    unknown = [name for name in state or {} if name not in own]
    if unknown:
        raise ValueError(f"the module has no {', '.join(unknown)}: pass a state_dict of the same architecture")
    fixed = {name: tensor.detach() for name, tensor in {**own, **(state or {})}.items()}

    def call(x: Tensor) -> Tensor:
        buffers = {name: fixed[name].clone() for name, _ in module.named_buffers()}
        result: Tensor = torch.func.functional_call(module, {**fixed, **buffers}, (x,))
        return result

    return call
