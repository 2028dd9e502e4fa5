"""A network description as a torch function of one flat parameter vector, by dispatch on the type of its atoms.

Everything is made of primitive operations, so that derivatives of any order and mode are right, and works on batches of
networks and on whatever device its arguments live. A new atom gets its counterpart by `@operation.register`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any

import sympy
import torch
from sympy import Expr, Symbol
from torch import Tensor

from theory.atoms.bilinear import Gain, MatMul
from theory.atoms.entrywise import Entrywise
from theory.atoms.fixed_linear import Centre, Crop, Scale
from theory.atoms.radial import Radial
from theory.atoms.softmax import Softmax
from theory.network import Network, Skip, expand, substitute, walk
from theory.records import Shape

Operation = Callable[[Sequence[Tensor], Tensor], Tensor]
"""`(all parameter arrays, X of shape (*batch, d, N)) -> (*batch, K, N)`; it picks its own parameters by their index."""


def _elu(z: Tensor) -> Tensor:
    negative = torch.expm1(torch.where(z > 0, torch.zeros_like(z), z))  # the unused branch must not overflow
    return torch.where(z > 0, z, negative)


def _softplus(z: Tensor) -> Tensor:
    positive = z > 0  # F.softplus switches to z beyond 20, and |z| has the wrong slope at 0
    return torch.where(positive, z, torch.zeros_like(z)) + torch.log1p(torch.exp(torch.where(positive, -z, z)))


ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": _softplus,
    "arctan": torch.atan,
    "erf": torch.erf,
    "sin": torch.sin,
    "gelu": lambda z: z * (1 + torch.erf(z * math.sqrt(0.5))) / 2,
    "silu": lambda z: z * torch.sigmoid(z),
    "elu": _elu,
    "relu": lambda z: torch.where(z > 0, z, torch.zeros_like(z)),
}
"""The torch function of each name in `theory.atoms.entrywise.ACTIVATIONS`; a test compares both."""


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter array: where it belongs (`3.branch.0.weight`) and its shape without batch dimensions."""

    path: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass
class Allocator:
    """Hands out indices of parameter arrays while a description is read, in the order in which the atoms are met."""

    specs: list[ParameterSpec] = field(default_factory=list)
    groups: list[slice] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(spec.size for spec in self.specs)

    def add(self, path: str, *shape: int) -> int:
        self.specs.append(ParameterSpec(path, shape))
        return len(self.specs) - 1


def number(value: Any, what: str) -> float:
    """A SymPy number as a float.

    Raises:
        ValueError: naming the symbols left without a value.
    """
    expression = sympy.sympify(value)
    if expression.free_symbols:
        names = ", ".join(sorted(map(str, expression.free_symbols)))
        raise ValueError(f"{what} = {expression} has no value for {names}: pass it in values={{...}}")
    return float(expression)


def _size(value: Expr, what: str) -> int:
    size = number(value, what)
    if size != int(size) or size < 1:
        raise ValueError(f"{what} = {value}: a realisation needs a positive whole number")
    return int(size)


@singledispatch
def operation(atom: object, shape: Shape, allocator: Allocator, path: str) -> Operation:
    """The torch counterpart of one atom on an input of the given shape; parameters are registered under `path`.

    Raises:
        TypeError: naming an atom type without a counterpart.
    """
    raise TypeError(f"atom {type(atom).__name__} ({path}) has no torch counterpart: add one with @operation.register")


@operation.register
def _(atom: Scale, shape: Shape, allocator: Allocator, path: str) -> Operation:
    factor = number(atom.factor, f"{path}: scale factor")
    return lambda parameters, x: x if factor == 1 else factor * x


@operation.register
def _(atom: Centre, shape: Shape, allocator: Allocator, path: str) -> Operation:
    dim = -1 if atom.axis == "samples" else -2
    return lambda parameters, x: x - x.mean(dim, keepdim=True)


@operation.register
def _(atom: Crop, shape: Shape, allocator: Allocator, path: str) -> Operation:
    features = _size(atom.features, f"{path}: features kept")
    return lambda parameters, x: x[..., :features, :]


@operation.register
def _(atom: Radial, shape: Shape, allocator: Allocator, path: str) -> Operation:
    eps = number(atom.eps, f"{path}: eps")
    if atom.axis == "entries":
        return lambda parameters, x: x * (eps + x * x).rsqrt()
    dims = {"samples": (-1,), "features": (-2,), "matrix": (-2, -1)}[atom.axis]
    return lambda parameters, x: x * (eps + (x * x).sum(dims, keepdim=True)).rsqrt()


@operation.register
def _(atom: Entrywise, shape: Shape, allocator: Allocator, path: str) -> Operation:
    if atom.activation not in ACTIVATION_FUNCTIONS:
        raise TypeError(
            f"activation {atom.activation!r} ({path}) has no torch counterpart: add it to ACTIVATION_FUNCTIONS"
        )
    phi = ACTIVATION_FUNCTIONS[atom.activation]
    return lambda parameters, x: phi(x)


@operation.register
def _(atom: Softmax, shape: Shape, allocator: Allocator, path: str) -> Operation:
    def softmax(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        weights = torch.exp(x - x.amax(-2, keepdim=True).detach())  # the shift prevents overflow and cancels
        return weights / weights.sum(-2, keepdim=True)

    return softmax


@operation.register
def _(atom: Gain, shape: Shape, allocator: Allocator, path: str) -> Operation:
    features = _size(shape.features, f"{path}: features")
    gain = allocator.add(f"{path}.gain", features)
    if not atom.shift:
        return lambda parameters, x: parameters[gain].unsqueeze(-1) * x
    shift = allocator.add(f"{path}.shift", features)
    return lambda parameters, x: parameters[gain].unsqueeze(-1) * x + parameters[shift].unsqueeze(-1)


@operation.register
def _(atom: MatMul, shape: Shape, allocator: Allocator, path: str) -> Operation:
    weight_shape = atom.weight_shape(shape)
    rows, columns = (
        _size(weight_shape.features, f"{path}: rows of the weight"),
        _size(shape.features, f"{path}: features"),
    )
    weight = allocator.add(f"{path}.weight", rows, columns)
    maps = _sequence(atom.parameter_map, weight_shape, allocator, f"{path}.map.")
    bias = allocator.add(f"{path}.bias", rows) if atom.bias else None

    def affine(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        matrix = parameters[weight]
        for apply in maps:
            matrix = apply(parameters, matrix)
        image = matrix @ x
        return image if bias is None else image + parameters[bias].unsqueeze(-1)

    return affine


def _sequence(
    atoms: Sequence[Any], shape: Shape, allocator: Allocator, prefix: str, grouped: bool = False
) -> tuple[Operation, ...]:
    """The operations of atoms applied in turn; with `grouped` each parameterised atom becomes one group."""
    operations = []
    for index, atom in enumerate(atoms):
        start = allocator.size
        if isinstance(atom, Skip):
            operations.append(_skip(atom, shape, allocator, f"{prefix}{index}"))
            continue
        operations.append(operation(atom, shape, allocator, f"{prefix}{index}"))
        shape = atom.output_shape(shape)
        if grouped and allocator.size > start:
            allocator.groups.append(slice(start, allocator.size))
    return tuple(operations)


def _skip(skip: Skip, shape: Shape, allocator: Allocator, path: str) -> Operation:
    scale = operation(skip.scale, shape, allocator, f"{path}.skip")
    branch = _sequence(skip.branch, shape, allocator, f"{path}.branch.", grouped=True)

    def added(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        image = x
        for apply in branch:
            image = apply(parameters, image)
        return scale(parameters, x) + image

    return added


@dataclass(frozen=True)
class Realisation:
    """A network as `f(theta, X)`, on batches of networks.

    Attributes:
        parameters: the arrays in the order in which the atoms are met (of an affine layer: raw weight, gain, bias).
        groups: for each parameterised atom (one parameter index of `theory.compose`) its slice of `theta`.
        input_shape, output_shape: `(d, N)` and `(K, N)`.
    """

    parameters: tuple[ParameterSpec, ...]
    groups: tuple[slice, ...]
    input_shape: tuple[int, int]
    output_shape: tuple[int, int]
    operations: tuple[Operation, ...] = field(repr=False)

    @property
    def size(self) -> int:
        """Number `P` of scalar parameters."""
        return sum(spec.size for spec in self.parameters)

    def split(self, theta: Tensor) -> list[Tensor]:
        """The parameter arrays of shape `(*batch, *spec.shape)` from `theta` of shape `(*batch, P)`.

        Raises:
            ValueError: the last dimension is not `P`.
        """
        if theta.shape[-1:] != (self.size,):
            shape = tuple(theta.shape)
            raise ValueError(
                f"theta has shape {shape}: its last dimension must be the number of parameters, {self.size}"
            )
        pieces = theta.split([spec.size for spec in self.parameters], -1) if self.parameters else ()
        return [
            piece.reshape(*theta.shape[:-1], *spec.shape) for piece, spec in zip(pieces, self.parameters, strict=True)
        ]

    def pack(self, arrays: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`: `theta` of shape `(*batch, P)`; batch dimensions are broadcast.

        Raises:
            ValueError: naming the array that is missing or has the wrong shape.
        """
        if len(arrays) != len(self.parameters):
            names = ", ".join(spec.path for spec in self.parameters)
            raise ValueError(f"{len(arrays)} arrays given: give one for each of {names or 'no parameters'}")
        flat = []
        for spec, array in zip(self.parameters, arrays, strict=True):
            batch = array.shape[: max(array.ndim - len(spec.shape), 0)]
            if array.shape[len(batch) :] != spec.shape:
                shapes = f"{tuple(array.shape)}: expected (*batch, {', '.join(map(str, spec.shape))})"
                raise ValueError(f"parameter {spec.path} has shape {shapes}")
            flat.append(array.reshape(*batch, spec.size))
        if not flat:
            return torch.zeros(0, dtype=torch.float64)
        batch = torch.broadcast_shapes(*(piece.shape[:-1] for piece in flat))
        return torch.cat([piece.expand(*batch, piece.shape[-1]) for piece in flat], -1)

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        """`f(theta, X)`: `theta` `(*batch, P)`, `X` `(*batch, d, N)` or `(d, N)` -> `(*batch, K, N)`.

        Raises:
            ValueError: a shape or a precision does not match.
        """
        if x.shape[-2:] != self.input_shape:
            wanted = f"its last two dimensions must be (features, samples) = {self.input_shape}"
            raise ValueError(f"X has shape {tuple(x.shape)}: {wanted}")
        if theta.dtype != torch.float64 or x.dtype != torch.float64:
            raise ValueError(f"theta is {theta.dtype} and X is {x.dtype}: convert both to torch.float64")
        parameters = self.split(theta)
        image = x
        for apply in self.operations:
            image = apply(parameters, image)
        shape = (*torch.broadcast_shapes(theta.shape[:-1], x.shape[:-2]), *self.output_shape)
        return image if image.shape == shape else image.expand(shape)


def _with_values(network: Network, shape: Shape, values: Mapping[Any, Any]) -> tuple[Network, Shape]:
    """Description and shape at the given values, which are matched to symbols by name."""
    named = {str(key): sympy.sympify(value) for key, value in values.items()}
    fields = [value for part in walk(network) for value in vars(part).values()] + [shape.features, shape.samples]
    symbols: set[Any] = set().union(*(value.free_symbols for value in fields if isinstance(value, Expr)))
    known = {symbol: named[symbol.name] for symbol in symbols if symbol.name in named}
    return substitute(network, known), replace(
        shape, features=shape.features.subs(known), samples=shape.samples.subs(known)
    )


def realise(network: Network, shape: Shape, values: Mapping[str | Symbol, Any] | None = None) -> Realisation:
    """The torch function of a description on inputs of the given shape, with `values` for its symbols (`eps`, a width).

    Values are matched by the name of the symbol; other names are ignored, so one table serves bounds and network.

    Raises:
        ValueError: naming a symbol without value, a symbolic depth, or mismatching shapes.
        TypeError: naming an atom without a torch counterpart.
    """
    network, shape = _with_values(network, shape, values or {})
    sizes = (_size(shape.features, "features of the input"), _size(shape.samples, "samples"))
    atoms, output = expand(network, shape)
    allocator = Allocator()
    operations = _sequence(atoms, shape, allocator, "", grouped=True)
    output_sizes = (_size(output.features, "features of the output"), _size(output.samples, "samples"))
    return Realisation(tuple(allocator.specs), tuple(allocator.groups), sizes, output_sizes, operations)
