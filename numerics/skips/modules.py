"""A description as a trainable `torch.nn.Module` made of torch's own fused layers, in any precision.

`numerics.realise` is the exact counterpart for derivatives of any order; this one is for training and for large networks. Each
layer type has its module by dispatch; a layer without one is refused by name.

Parameters are named by the path of their layer (`block1.conv1.weight`). The initial values of a layer are drawn by torch's own default
for that layer from a stream that only the seed and the path decide, in single precision: so networks that differ in some layers start from
the same state in all others, in every precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from numerics.realise import Realisation, number
from theory import symbols
from theory.atoms.windows import Windows
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.base import Layer
from theory.layers.fixed import Cropping, FeaturePad, Scaling
from theory.layers.normalisation import BatchNorm
from theory.layers.spatial import AveragePool, Convolution, GlobalAveragePool, MaxPool, Reshape
from theory.network import Branches, Chain, Network, Residual, named
from theory.records import Shape

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


class Scale(nn.Module):
    """`x -> factor x`."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class PadFeatures(nn.Module):
    """Features of zeros before and after those of `x (N, d, *grid)`."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.ends = (before, after)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, 0) * (x.ndim - 2) + self.ends)


class KeepFeatures(nn.Module):
    """The first `features` features of `x (N, d, *grid)`."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.features]


class GridMean(nn.Module):
    """`x (N, d, *grid) -> (N, d)`, the mean over the grid."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2) if x.ndim > 2 else x


class Regroup(nn.Module):
    """Every sample read as `features x grid`."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.sizes)


@singledispatch
def module_of(layer: Layer, shape: Shape) -> nn.Module:
    """The torch module of one layer on inputs of the given shape, initialised as torch does.

    Raises:
        TypeError: a layer without one.
        ValueError: an option of the layer that torch's module does not have.
    """
    raise TypeError(f"layer {type(layer).__name__} has no torch module: add one with @module_of.register")


def _whole(value: Any, what: str) -> int:
    size = number(value, what)
    if size != int(size):
        raise ValueError(f"{what} = {value}: a module needs a whole number")
    return int(size)


def _padding(windows: Windows, mode: str) -> tuple[int, ...]:
    """One number an axis."""
    padded = any(map(any, windows.padding))
    if any(before != after or before < 0 for before, after in windows.padding) or (padded and windows.mode != mode):
        raise ValueError(
            f"padding {windows.padding} in mode {windows.mode}: modules pad equally on both sides, mode {mode}; use numerics.realise"
        )
    return tuple(before for before, _ in windows.padding)


def _of_axes(kinds: Sequence[type[nn.Module]], axes: int, least: int = 1) -> type[nn.Module]:
    if not least <= axes < len(kinds) + least:
        raise ValueError(f"a grid of {axes} axes: torch has modules for {least} to {len(kinds) + least - 1}")
    return kinds[axes - least]


@module_of.register
def _(layer: Affine, shape: Shape) -> nn.Module:
    if layer.weight_norm is not None or shape.grid:
        raise ValueError(
            "an affine layer with a normalised weight or on a grid has no torch module: use numerics.realise"
        )
    return nn.Linear(_whole(shape.features, "features"), _whole(layer.features, "features"), bias=layer.bias)


@module_of.register
def _(layer: Convolution, shape: Shape) -> nn.Module:
    if layer.weight_norm is not None:
        raise ValueError("a convolution with a normalised weight has no torch module: use numerics.realise")
    windows = layer.windows
    return _of_axes(CONVOLUTIONS, len(windows.kernel))(
        _whole(shape.features, "features"),
        _whole(layer.features, "features"),
        windows.kernel,
        stride=windows.stride,
        padding=_padding(windows, "zeros"),
        dilation=windows.dilation,
        groups=layer.groups,
        bias=layer.bias,
    )


@module_of.register
def _(layer: BatchNorm, shape: Shape) -> nn.Module:
    if layer.gain != layer.shift:
        raise ValueError("a batch norm with a gain and no shift has no torch module: give it both or neither")
    kind = _of_axes(NORMS, len(shape.grid), 0)
    return kind(_whole(shape.features, "features"), eps=number(layer.eps, "eps"), affine=layer.gain)


@module_of.register
def _(layer: Activation, shape: Shape) -> nn.Module:
    if layer.name not in ACTIVATIONS:
        raise ValueError(f"activation {layer.name!r} has no torch module: use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[layer.name]()


@module_of.register
def _(layer: AveragePool, shape: Shape) -> nn.Module:
    windows = layer.windows
    if set(windows.dilation) != {1}:
        raise ValueError(f"average pooling with dilation {windows.dilation} has no torch module: use numerics.realise")
    kind = _of_axes(AVERAGES, len(windows.kernel))
    return kind(windows.kernel, stride=windows.stride, padding=_padding(windows, "zeros"))


@module_of.register
def _(layer: MaxPool, shape: Shape) -> nn.Module:
    windows = layer.windows
    kind = _of_axes(MAXIMA, len(windows.kernel))
    return kind(windows.kernel, stride=windows.stride, padding=_padding(windows, "lowest"), dilation=windows.dilation)


@module_of.register
def _(layer: GlobalAveragePool, shape: Shape) -> nn.Module:
    return GridMean()


@module_of.register
def _(layer: Reshape, shape: Shape) -> nn.Module:
    return Regroup(tuple(_whole(size, "features") for size in (layer.features, *layer.grid)))


@module_of.register
def _(layer: Scaling, shape: Shape) -> nn.Module:
    return Scale(number(layer.factor, "scale factor"))


@module_of.register
def _(layer: FeaturePad, shape: Shape) -> nn.Module:
    return PadFeatures(layer.before, layer.after)


@module_of.register
def _(layer: Cropping, shape: Shape) -> nn.Module:
    return KeepFeatures(_whole(layer.features, "features"))


@dataclass(frozen=True)
class Joined:
    """In a plan: branches on one input, their outputs added, or stacked along the features."""

    branches: tuple[tuple[str | Joined, ...], ...]
    stacked: bool


Plan = tuple[str | Joined, ...]
"""Names of submodules applied in turn."""


class Described(nn.Module):
    """A description as a module; `plans` holds one plan for each member of the description, which are its parts.

    Copies, pickles, exports and `state_dict` work as for any module: the plan names submodules, it does not hold them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.plans: tuple[Plan, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """`(N, d, *grid)` -> the network's output, samples first."""
        return self.part(x)

    def part(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """The parts number `first` up to and without `last` on their input `x`."""
        for plan in self.plans[first:last]:
            x = self._along(plan, x)
        return x

    def _along(self, plan: Plan, x: Tensor) -> Tensor:
        for step in plan:
            if isinstance(step, str):
                x = self.get_submodule(step)(x)
                continue
            images = [self._along(branch, x) for branch in step.branches]
            if step.stacked:
                x = torch.cat(images, 1)
            else:
                x = images[0]
                for image in images[1:]:
                    x = x + image
        return x


class _Builder:
    """Reads a description into a module: modules by their paths, and the plan."""

    def __init__(self, target: Described, seed: int) -> None:
        self.target, self.seed = target, seed
        self.known: dict[str, tuple[Layer, Shape]] = {}
        self.count = 0

    def read(self, network: Network, shape: Shape) -> Plan:
        if isinstance(network, Chain):
            plan: list[str | Joined] = []
            for member in network.members:
                plan += self.read(member, shape)
                shape = member.output_shape(shape)
            return tuple(plan)
        if isinstance(network, Residual):
            network.output_shape(shape)
            skip = () if network.skip == 1 else self.read(Scaling(network.skip), shape)
            return (Joined((skip, self.read(network.branch, shape)), False),)
        if isinstance(network, Branches):
            network.output_shape(shape)
            return (Joined(tuple(self.read(branch, shape) for branch in network.branches), network.stacked),)
        if not isinstance(network, Layer):
            raise TypeError(f"{type(network).__name__} has no plan: name the layers first (theory.network.named)")
        return (self._layer(network, shape),)

    def _layer(self, layer: Layer, shape: Shape) -> str:
        path = getattr(layer, "path", "")
        if not path:
            self.count += 1
            path = f"steps.{self.count - 1}"
        elif path in self.known:
            if self.known[path] != (layer, shape):
                raise ValueError(
                    f"layers share the path {path}, but not their options and input: give them paths of their own"
                )
            return path
        self.known[path] = layer, shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(self.seed, path))
            module = module_of(layer, shape)
        _place(self.target, path, module)
        return path


def stream(seed: int, path: str) -> int:
    """The seed of one layer's initial values: of the seed and the path, and of nothing else."""
    digest = hashlib.blake2b(f"{seed}:{path}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _place(target: nn.Module, path: str, module: nn.Module) -> None:
    *above, name = path.split(".")
    for each in above:
        inner = target._modules.get(each)
        if inner is None:
            inner = nn.Module()
            target.add_module(each, inner)
        target = inner
    if hasattr(target, name):
        raise ValueError(f"the path {path} is taken by a module or an attribute of one: give the layer one of its own")
    target.add_module(name, module)


def as_module(
    network: Network,
    sample: Sequence[int],
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Described:
    """A description as a trainable module, in training mode.

    Args:
        network: a description; the members of a chain are the module's parts.
        sample: features and grid of one sample.
        seed: of the initial values; see the head of this file.

    Raises:
        TypeError: a layer without a module, naming it.
        ValueError: shapes that do not match, or an option that torch's layers do not have.
    """
    described = named(network)
    members = described.members if isinstance(described, Chain) else (described,)
    module = Described()
    builder = _Builder(module, seed)
    shape = Shape(sample[0], symbols.N, tuple(sample[1:]))
    plans = []
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        for member in members:
            plans.append(builder.read(member, shape))
            shape = member.output_shape(shape)
    finally:
        torch.set_default_dtype(default)
    module.plans = tuple(plans)
    return module.to(device=device, dtype=dtype)


def arrays_of(module: Described, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The module's parameters (or values of their shapes, such as gradients) by their names in the description, in double precision.

    `path.weight` of a convolution is the matrix `weight.flatten(1)`; weight and bias of a norm are `path.gain` and `path.shift`.
    """
    values = {name: parameter.detach() for name, parameter in module.named_parameters()} if values is None else values
    out = {}
    for name, value in values.items():
        path, which = name.rsplit(".", 1)
        if isinstance(module.get_submodule(path), NORMS):
            which = {"weight": "gain", "bias": "shift"}[which]
        out[f"{path}.{which}"] = value.double().flatten(1) if which == "weight" else value.double()
    return out


def theta_of(module: Described, realisation: Realisation, values: Mapping[str, Tensor] | None = None) -> Tensor:
    """The same as the flat vector `(P,)` of a realisation of the same description with names (`theory.network.named`).

    Raises:
        ValueError: naming a parameter of the realisation that the module lacks.
    """
    arrays = arrays_of(module, values)
    missing = [spec.name or spec.path for spec in realisation.parameters if spec.name not in arrays]
    if missing:
        raise ValueError(f"the module has no parameter {', '.join(missing)}: realise its own description, named")
    return realisation.pack([arrays[spec.name].reshape(spec.shape) for spec in realisation.parameters])
