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

from theory.atoms.attention import ScaledDotProduct
from theory.atoms.axes import OVER
from theory.atoms.bilinear import Gain, MatMul
from theory.atoms.entrywise import Entrywise
from theory.atoms.fixed_affine import Standardise
from theory.atoms.fixed_linear import Centre, Crop, Pad, Scale
from theory.atoms.layout import Permutation, Regrouping
from theory.atoms.radial import Radial
from theory.atoms.softmax import LogSoftmax, Softmax
from theory.atoms.spectral import Spectral
from theory.atoms.windows import TapMax, TapMean, Windows
from theory.network import Join, Network, expand, output_shape, substitute, walk
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
    "leaky_relu": lambda z: torch.where(z > 0, z, z / 100),
}
"""The torch function of each name in `theory.atoms.entrywise.ACTIVATIONS`; a test compares both."""


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter array: where it belongs (`3.branch.0.weight`), its shape without batch dimensions, and its name if it has one."""

    path: str
    shape: tuple[int, ...]
    name: str = ""

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

    def add(self, path: str, *shape: int, name: str = "") -> int:
        """The index of a new array, or of the one that has this name already.

        Raises:
            ValueError: an array of that name with another shape.
        """
        known = next((i for i, spec in enumerate(self.specs) if name and spec.name == name), None)
        if known is not None:
            if self.specs[known].shape != shape:
                raise ValueError(f"shared parameter {name} has shapes {self.specs[known].shape} and {shape}")
            return known
        self.specs.append(ParameterSpec(path, shape, name))
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


def _sizes(shape: Shape, path: str) -> tuple[int, tuple[int, ...], int]:
    """Features, grid and samples as numbers."""
    return (
        _size(shape.features, f"{path}: features"),
        tuple(_size(length, f"{path}: grid") for length in shape.grid),
        _size(shape.samples, f"{path}: samples"),
    )


def _columns(x: Tensor, features: int) -> Tensor:
    """The matrix with one column for each position of each sample, `(*batch, features, positions N)`."""
    return x.reshape(*x.shape[:-2], features, -1)


def _flat(matrix: Tensor, samples: int) -> Tensor:
    """Back to `(*batch, features positions, N)`."""
    return matrix.reshape(*matrix.shape[:-2], -1, samples)


def axis_view(atom: Centre | Radial, shape: Shape, path: str) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...]]:
    """How to view `(*batch, features positions, N)` as `(*batch, groups, features, positions, N)`, and which dimensions its axis has."""
    features, grid, _ = _sizes(shape, path)
    dims = tuple(-3 + AXIS_ORDER.index(name) for name in OVER[atom.axis])
    sizes = (atom.groups, features // atom.groups, math.prod(grid))
    return (lambda x: x.reshape(*x.shape[:-2], *sizes, x.shape[-1])), dims


AXIS_ORDER = ("features", "positions", "samples")


@operation.register
def _(atom: Centre, shape: Shape, allocator: Allocator, path: str) -> Operation:
    view, dims = axis_view(atom, shape, path)

    def centre(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        viewed = view(x)
        return (viewed - viewed.mean(dims, keepdim=True)).reshape(x.shape)

    return centre


@operation.register
def _(atom: Crop, shape: Shape, allocator: Allocator, path: str) -> Operation:
    kept = _size(atom.features, f"{path}: features kept") * math.prod(_sizes(shape, path)[1])
    return lambda parameters, x: x[..., :kept, :]


@operation.register
def _(atom: Pad, shape: Shape, allocator: Allocator, path: str) -> Operation:
    before, after = (rows * math.prod(_sizes(shape, path)[1]) for rows in (atom.before, atom.after))
    return lambda parameters, x: torch.nn.functional.pad(x, (0, 0, before, after))


@operation.register
def _(atom: Radial, shape: Shape, allocator: Allocator, path: str) -> Operation:
    eps = number(atom.eps, f"{path}: eps")
    if atom.axis == "entries":
        return lambda parameters, x: x * (eps + x * x).rsqrt()
    view, dims = axis_view(atom, shape, path)

    def radial(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        viewed = view(x)
        return (viewed * (eps + (viewed * viewed).sum(dims, keepdim=True)).rsqrt()).reshape(x.shape)

    return radial


@operation.register
def _(atom: Windows, shape: Shape, allocator: Allocator, path: str) -> Operation:
    features, grid, _ = _sizes(shape, path)
    picks = _picks(atom, grid)
    filled = -math.inf if atom.mode == "lowest" else 0.0
    return lambda parameters, x: _gather(x, features, picks, filled)


def _picks(windows: Windows, grid: tuple[int, ...]) -> Tensor:
    """For every tap and output position the flat position picked, `prod(grid)` for a filled one: `(taps, positions)`."""
    total = math.prod(grid)
    flat, outside = torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.bool)
    for axis, length in enumerate(grid):
        source = windows.source(axis, length)
        picks = torch.tensor([[0 if p is None else p for p in row] for row in source])
        empty = torch.tensor([[p is None for p in row] for row in source])
        flat = flat[:, None, :, None] * length + picks[None, :, None, :]
        outside = outside[:, None, :, None] | empty[None, :, None, :]
        flat, outside = (t.reshape(t.shape[0] * t.shape[1], -1) for t in (flat, outside))
    return torch.where(outside, total, flat)


def _gather(x: Tensor, features: int, picks: Tensor, filled: float) -> Tensor:
    """`(*batch, features positions, N)` -> `(*batch, features taps outputs, N)`."""
    viewed = x.reshape(*x.shape[:-2], features, -1, x.shape[-1])
    if bool((picks == viewed.shape[-2]).any()):
        viewed = torch.cat([viewed, viewed.new_full((*viewed.shape[:-2], 1, viewed.shape[-1]), filled)], -2)
    picked = viewed.index_select(-2, picks.flatten().to(x.device))
    return picked.reshape(*x.shape[:-2], -1, x.shape[-1])


def _scatter(x: Tensor, features: int, picks: Tensor, positions: int) -> Tensor:
    """The transpose of `_gather` with zeros filled in: `(*batch, features taps outputs, N)` -> `(*batch, features positions, N)`."""
    viewed = x.reshape(*x.shape[:-2], features, picks.numel(), x.shape[-1])
    zero = viewed.new_zeros(*viewed.shape[:-2], positions + 1, viewed.shape[-1])
    summed = zero.index_add(-2, picks.flatten().to(x.device), viewed)
    return summed[..., :positions, :].reshape(*x.shape[:-2], -1, x.shape[-1])


@operation.register
def _(atom: Regrouping, shape: Shape, allocator: Allocator, path: str) -> Operation:
    return lambda parameters, x: x


@operation.register
def _(atom: Permutation, shape: Shape, allocator: Allocator, path: str) -> Operation:
    features, grid, _ = _sizes(shape, path)

    def permute(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        batch = x.ndim - 2
        viewed = x.reshape(*x.shape[:-2], features, *grid, x.shape[-1])
        order = (*range(batch), *(batch + axis for axis in atom.order), batch + len(atom.order))
        return viewed.permute(order).reshape(x.shape)

    return permute


@operation.register(TapMean)
@operation.register(TapMax)
def _(atom: TapMean | TapMax, shape: Shape, allocator: Allocator, path: str) -> Operation:
    features, grid, _ = _sizes(shape, path)
    taps = _size(atom.taps, f"{path}: taps")
    mean = isinstance(atom, TapMean)

    def reduced(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        viewed = x.reshape(*x.shape[:-2], features // taps, taps, math.prod(grid), x.shape[-1])
        # of equal taps the maximum takes one, as torch's pooling does
        image = viewed.mean(-3) if mean else viewed.max(-3).values
        return image.reshape(*x.shape[:-2], -1, x.shape[-1])

    return reduced


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
    features, _, samples = _sizes(shape, path)

    def softmax(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        logits = _columns(x, features)
        weights = torch.exp(logits - logits.amax(-2, keepdim=True).detach())  # the shift prevents overflow and cancels
        return _flat(weights / weights.sum(-2, keepdim=True), samples)

    return softmax


@operation.register
def _(atom: ScaledDotProduct, shape: Shape, allocator: Allocator, path: str) -> Operation:
    _, grid, samples = _sizes(shape, path)
    tokens, size = math.prod(grid), _size(atom.head_size(shape), f"{path}: features of a head")
    seen = torch.ones(tokens, tokens, dtype=torch.bool).triu() if atom.causal else None  # key x query

    def attend(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        viewed = x.reshape(*x.shape[:-2], 3, atom.heads, size, tokens, samples).movedim(-1, -4)
        queries, keys, values = viewed.unbind(-5)  # (*batch, N, heads, e, T)
        scores = keys.mT @ queries * (1 / math.sqrt(size))
        if seen is not None:
            mask = seen.to(x.device)
            scores = torch.where(mask, scores, scores.new_full((), -math.inf))
            # hidden scores are below every shift, and a constant has no derivative
            scores = torch.where(mask, scores - scores.amax(-2, keepdim=True).detach(), scores.new_zeros(()))
            weights = torch.exp(scores) * mask
        else:
            weights = torch.exp(
                scores - scores.amax(-2, keepdim=True).detach()
            )  # the shift prevents overflow and cancels
        means = values @ (weights / weights.sum(-2, keepdim=True))
        return means.movedim(-4, -1).reshape(*x.shape[:-2], -1, samples)

    return attend


@operation.register
def _(atom: LogSoftmax, shape: Shape, allocator: Allocator, path: str) -> Operation:
    features, _, samples = _sizes(shape, path)
    return lambda parameters, x: _flat(torch.log_softmax(_columns(x, features), -2), samples)


@operation.register
def _(atom: Standardise, shape: Shape, allocator: Allocator, path: str) -> Operation:
    features, _, samples = _sizes(shape, path)
    eps = number(atom.eps, f"{path}: eps")
    mean = torch.tensor(atom.mean, dtype=torch.float64).unsqueeze(-1)
    scale = (torch.tensor(atom.variance, dtype=torch.float64) + eps).rsqrt().unsqueeze(-1)
    return lambda parameters, x: _flat((_columns(x, features) - mean.to(x.device)) * scale.to(x.device), samples)


@operation.register
def _(atom: Spectral, shape: Shape, allocator: Allocator, path: str) -> Operation:
    return lambda parameters, x: x / torch.linalg.matrix_norm(x, 2, keepdim=True)


@operation.register
def _(atom: Gain, shape: Shape, allocator: Allocator, path: str) -> Operation:
    features, _, samples = _sizes(shape, path)
    gain = allocator.add(f"{path}.gain", features, name=f"{atom.path}.gain" if atom.path else "")
    shift = (
        allocator.add(f"{path}.shift", features, name=f"{atom.path}.shift" if atom.path else "") if atom.shift else None
    )

    def scaled(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        image = parameters[gain].unsqueeze(-1) * _columns(x, features)
        return _flat(image if shift is None else image + parameters[shift].unsqueeze(-1), samples)

    return scaled


@operation.register
def _(atom: MatMul, shape: Shape, allocator: Allocator, path: str) -> Operation:
    weight_shape, out = atom.weight_shape(shape), atom.output_shape(shape)
    rows, columns = (
        _size(weight_shape.features, f"{path}: rows of the weight"),
        _size(weight_shape.samples, f"{path}: columns of the weight"),
    )
    weight = allocator.add(f"{path}.weight", rows, columns, name=f"{atom.path}.weight" if atom.path else "")
    maps = _sequence(atom.parameter_map, weight_shape, allocator, f"{path}.map.")
    features, grid, samples = _sizes(shape, path)
    out_features, out_grid, _ = _sizes(out, path)
    bias = (
        allocator.add(f"{path}.bias", out_features, name=f"{atom.path}.bias" if atom.path else "")
        if atom.bias
        else None
    )
    picks = None if atom.windows is None else _picks(atom.windows, out_grid if atom.transposed else grid)

    def affine(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        matrix = parameters[weight]
        for apply in maps:
            matrix = apply(parameters, matrix)
        if picks is not None and not atom.transposed:
            x = _gather(x, features, picks, 0.0)
        taken = _columns(x, columns * atom.groups)
        if atom.groups == 1:
            image = matrix @ taken
        else:
            blocks = matrix.reshape(*matrix.shape[:-2], atom.groups, rows // atom.groups, columns)
            image = blocks @ taken.reshape(*taken.shape[:-2], atom.groups, columns, taken.shape[-1])
            image = image.reshape(*image.shape[:-3], rows, image.shape[-1])
        if picks is not None and atom.transposed:
            image = _columns(_scatter(_flat(image, samples), out_features, picks, math.prod(out_grid)), out_features)
        return _flat(image if bias is None else image + parameters[bias].unsqueeze(-1), samples)

    return affine


def _sequence(
    atoms: Sequence[Any], shape: Shape, allocator: Allocator, prefix: str, grouped: bool = False
) -> tuple[Operation, ...]:
    """The operations of atoms applied in turn; with `grouped` each parameterised atom becomes one group."""
    operations = []
    for index, atom in enumerate(atoms):
        start = allocator.size
        if isinstance(atom, Join):
            operations.append(_join(atom, shape, allocator, f"{prefix}{index}"))
        else:
            operations.append(operation(atom, shape, allocator, f"{prefix}{index}"))
            if grouped and allocator.size > start:
                allocator.groups.append(slice(start, allocator.size))
        shape = output_shape(atom, shape)
    return tuple(operations)


def _join(join: Join, shape: Shape, allocator: Allocator, path: str) -> Operation:
    branches = [
        _sequence(branch, shape, allocator, f"{path}.{index}.", grouped=True)
        for index, branch in enumerate(join.branches)
    ]

    def joined(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        images = []
        for branch in branches:
            image = x
            for apply in branch:
                image = apply(parameters, image)
            images.append(image)
        if not join.stacked:
            return sum(images[1:], start=images[0])
        shapes = torch.broadcast_shapes(*(image.shape[:-2] for image in images))
        return torch.cat([image.expand(*shapes, *image.shape[-2:]) for image in images], -2)

    return joined


@dataclass(frozen=True)
class Realisation:
    """A network as `f(theta, X)`, on batches of networks.

    Attributes:
        parameters: the arrays in the order in which the atoms are met (of an affine layer: raw weight, gain, bias).
        groups: for each parameterised atom (one parameter index of `theory.compose`) its slice of `theta`.
        input_shape, output_shape: `(d, N)` and `(K, N)`; with a grid `d` and `K` count features times positions.
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
    fields = [value for part in walk(network) for value in vars(part).values()]
    fields = [item for value in fields for item in (value if isinstance(value, tuple) else (value,))]
    fields += [shape.features, shape.samples, *shape.grid]
    symbols: set[Any] = set().union(*(value.free_symbols for value in fields if isinstance(value, Expr)))
    known = {symbol: named[symbol.name] for symbol in symbols if symbol.name in named}
    sizes = {"features": shape.features.subs(known), "samples": shape.samples.subs(known)}
    return substitute(network, known), replace(shape, **sizes, grid=tuple(length.subs(known) for length in shape.grid))


def realise(network: Network, shape: Shape, values: Mapping[str | Symbol, Any] | None = None) -> Realisation:
    """The torch function of a description on inputs of the given shape, with `values` for its symbols (`eps`, a width).

    Values are matched by the name of the symbol; other names are ignored, so one table serves bounds and network.

    Raises:
        ValueError: naming a symbol without value, a symbolic depth, or mismatching shapes.
        TypeError: naming an atom without a torch counterpart.
    """
    network, shape = _with_values(network, shape, values or {})
    sizes = (_size(shape.sample_size, "features of the input"), _size(shape.samples, "samples"))
    atoms, output = expand(network, shape)
    allocator = Allocator()
    operations = _sequence(atoms, shape, allocator, "", grouped=True)
    output_sizes = (_size(output.sample_size, "features of the output"), _size(output.samples, "samples"))
    return Realisation(tuple(allocator.specs), tuple(allocator.groups), sizes, output_sizes, operations)
