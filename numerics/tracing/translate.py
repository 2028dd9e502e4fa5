"""The registry of translations from torch operations to layers, and what a translation has at hand."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch.fx import Node

from numerics.certification.flow import Step, Value
from numerics.tracing.capture import WHOLE_MODULE, Call, Capture, path_of, writes

Translation = Callable[..., Any]

OPERATIONS: dict[Any, tuple[Translation, str]] = {}
"""Torch operation -> its translation `(site, *arguments of the operation's schema) -> Value`, and one line on it."""

MODULES: dict[type[nn.Module], tuple[Translation, str]] = {}
"""Class of a module that is kept whole -> its translation `(site, module, value) -> Value`, and one line on it."""


def translates(*keys: Any, note: str = "") -> Callable[[Translation], Translation]:
    """Register a function as the translation of torch operations, or of whole modules of a class and its subclasses.

    For an operation (`torch.ops.aten.relu`, or a custom operation `torch.ops.library.name`) it is called with the `Site` and then
    all arguments of the operation's schema, defaults filled in: tensors computed from the input come as `Value`, parameters as
    `Parameter`, buffers and constants as `Fixed`, what is computed from those as `Computed`.

    For a subclass of `nn.Module` it is called with the `Site`, the module and the `Value` of its input; the module's own code is not
    looked at. A new theory layer and an atom registered with `numerics.realise.operation` complete a user's own layer:

        @translates(MyModule, note="my layer")
        def _(site, module, x):
            site.parameter(f"{site.path}.weight", module.weight)
            return x.with_features(1).then(MyLayer(path=site.path), site.shape)
    """

    def register(function: Translation) -> Translation:
        line = note or (function.__doc__ or "").strip().split("\n")[0]
        for key in keys:
            if isinstance(key, type) and issubclass(key, nn.Module):
                MODULES[key] = function, line
            else:
                OPERATIONS[key] = function, line
        return function

    return register


def supported() -> list[tuple[str, str]]:
    """What can be traced: names of torch operations or modules that one translation serves, and what it makes of them."""
    rows: dict[tuple[Translation, str], list[str]] = {}
    for key, entry in (*OPERATIONS.items(), *MODULES.items()):
        rows.setdefault(entry, []).append(_name(key))
    return [(", ".join(names), note) for (_, note), names in rows.items()]


def is_whole(module: nn.Module) -> bool:
    """Whether a module's class has a translation of its own."""
    return any(issubclass(type(module), known) for known in MODULES)


def _name(key: Any) -> str:
    if isinstance(key, type):
        inside = key.__module__.startswith("torch.nn")
        return f"torch.nn.{key.__name__}" if inside else f"{key.__module__}.{key.__qualname__}"
    return str(key)


@dataclass(frozen=True, eq=False)
class Parameter:
    """A parameter of the traced module, or its transpose."""

    name: str
    tensor: Tensor
    is_transposed: bool = False

    @property
    def value(self) -> Tensor:
        value = self.tensor.detach().double()
        return value.t() if self.is_transposed else value


@dataclass(frozen=True, eq=False)
class Fixed:
    """A buffer or a constant."""

    name: str
    tensor: Tensor


@dataclass(frozen=True, eq=False)
class Computed:
    """Something computed from parameters, buffers and constants only."""

    operation: str
    arguments: tuple[Any, ...]

    def sources(self) -> list[Parameter | Fixed]:
        out: list[Parameter | Fixed] = []
        for argument in _flat(self.arguments):
            found = argument.sources() if isinstance(argument, Computed) else [argument]
            out += [each for each in found if isinstance(each, Parameter | Fixed)]
        return out


def exact(number: float) -> sympy.Expr:
    """The number that a float's shortest decimal says: 1e-05 is 1/100000."""
    return sympy.Rational(repr(float(number)))


PARAMETER_PATH = re.compile(r"^(?:(.*)\.)?(?:weight|weight_v|parametrizations\.weight\.original[01]?)$")


def layer_path(name: str) -> str:
    """The path of a layer by the name of its weight; `self` for the weight of the traced module itself."""
    match = PARAMETER_PATH.match(name)
    return (match[1] or "self") if match else name


@dataclass
class Bindings:
    """The parameters of the description by name: their values and the names they have in the module, which `names` gives by identity."""

    names: dict[int, str]
    values: dict[str, Tensor] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """Where a translation stands: one operation of one module.

    Attributes:
        path: the module's path.
        shape: the torch shape of the result; of several results a tuple of shapes.
        call: of a whole module, the arguments of its call.
    """

    path: str
    shape: tuple[Any, ...]
    module: nn.Module
    bindings: Bindings
    call: Call | None = None

    def parameter(self, name: str, given: Parameter | Tensor, value: Tensor | None = None) -> None:
        """Give the description's parameter `name` the value of a parameter of the module, or `value`, which is that laid out otherwise.

        Raises:
            ValueError: one of the two is in use with another partner: such sharing cannot be described.
        """
        bindings, turned = self.bindings, isinstance(given, Parameter) and given.is_transposed
        tensor = given.tensor if isinstance(given, Parameter) else given
        origin = bindings.names.get(id(tensor))
        if origin is None:
            raise ValueError(f"the value of {name} is not a parameter of {type(self.module).__name__}")
        origin += " transposed" * turned
        used = next((n for n, o in bindings.origins.items() if o == origin and n != name), None)
        if used is not None:
            raise ValueError(
                f"the parameter {origin} is used as {used} and as {name}: a shared parameter has the same place in all its layers"
            )
        if bindings.origins.get(name, origin) != origin:
            raise ValueError(
                f"{name} would be both {bindings.origins[name]} and {origin}: layers that share a weight share all their parameters, and not transposed"
            )
        bindings.origins[name] = origin
        bindings.values[name] = (tensor if value is None else value).detach().double()

    def own(self, given: Any, what: str) -> Parameter:
        """An argument that must be a parameter.

        Raises:
            ValueError: saying what it is instead.
        """
        if isinstance(given, Parameter):
            return given
        if isinstance(given, Value):
            raise ValueError(f"its {what} depends on the input: only parameters of the module can be a {what}")
        if isinstance(given, Fixed):
            raise ValueError(f"its {what} is the buffer or constant {given.name}: make it a parameter")
        names = (
            ", ".join(dict.fromkeys(source.name for source in given.sources()))
            if isinstance(given, Computed)
            else repr(given)
        )
        by = given.operation if isinstance(given, Computed) else type(given).__name__
        raise ValueError(
            f"its {what} is computed ({by} of {names}): only weight_norm and spectral_norm are known as maps on weights, not on those of transposed convolutions"
        )

    def number(self, given: Any, what: str) -> float:
        """An argument that must be a number."""
        if isinstance(given, Fixed) and given.tensor.numel() == 1:
            return float(given.tensor)
        if isinstance(given, int | float):
            return float(given)
        raise ValueError(f"its {what} is not a number")


def _flat(values: Iterable[Any]) -> list[Any]:
    return [item for value in values for item in (_flat(value) if isinstance(value, tuple | list) else [value])]


def _arguments(node: Node, value_of: Callable[[Any], Any]) -> list[Any]:
    """All arguments of the operation's schema, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return [value_of(a) for a in node.args]
    given = list(node.args)
    for argument in schema.arguments[len(given) :]:
        given.append(node.kwargs.get(argument.name, argument.default_value))
    return [value_of(a) for a in given]


def _shape(node: Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        return tuple(tuple(each.shape) if isinstance(each, Tensor) else () for each in value)
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _key(node: Node) -> Any:
    """The operation without its overload; of an operation in place the ordinary one."""
    packet = getattr(node.target, "overloadpacket", node.target)
    if writes(node) and str(packet).endswith("_") and str(packet).startswith("aten."):
        return getattr(torch.ops.aten, str(packet).removeprefix("aten.").rstrip("_"), packet)
    return packet


def _transposed(key: Any, arguments: list[Any]) -> Parameter | None:
    """A parameter passed on, or its transpose."""
    aten = torch.ops.aten
    first = arguments[0] if arguments else None
    if not isinstance(first, Parameter):
        return None
    if key in (aten.alias, aten.clone, aten.contiguous):
        return first
    swaps = key in (aten.t, aten.numpy_T, aten.transpose, aten.permute) and first.tensor.ndim == 2
    if swaps and key is aten.permute:
        swaps = [int(i) % 2 for i in arguments[1]] == [1, 0]
    return replace(first, is_transposed=not first.is_transposed) if swaps else None


def translate(capture: Capture, given: Value) -> tuple[Value, Bindings]:
    """The value of the output, and the parameters met on the way.

    Raises:
        TypeError: an operation without a translation.
        ValueError: an operation that no layer describes; both name the module's path and the operation.
    """
    known: dict[Node, Any] = {capture.input: given}
    tensors = dict(capture.module.named_parameters())
    bindings = Bindings({id(tensor): name for name, tensor in tensors.items()})

    def value_of(argument: Any) -> Any:
        if isinstance(argument, Node):
            return known[argument]
        return [value_of(each) for each in argument] if isinstance(argument, tuple | list) else argument

    for node in capture.nodes:
        if node in known:
            continue
        if node.op == "placeholder":
            name = capture.parameters.get(node.name)
            known[node] = Fixed(*capture.buffers[node.name]) if name is None else Parameter(name, tensors[name])
            continue
        arguments, key = _arguments(node, value_of), _key(node)
        if node.op == "get_attr" or not any(isinstance(each, Value) for each in _flat(arguments)):
            known[node] = _transposed(key, arguments) or Computed(str(node.target), tuple(arguments))
            if writes(node):
                known[node.args[0]] = known[node]  # type: ignore[index]
        elif node.target is operator.getitem:
            known[node] = arguments[0][arguments[1]] if isinstance(arguments[0], list | tuple) else arguments[0]
        else:
            try:
                result = _one(capture, bindings, node, key, arguments)
                _overwrite(capture, node, known, result)
            except (TypeError, ValueError) as error:
                what = (
                    f"class {type(capture.calls[arguments[1]].module).__name__}"
                    if key is WHOLE_MODULE
                    else f"operation {node.target}"
                )
                raise type(error)(f"module {path_of(node)}, {what}: {error}") from error
            known[node] = result
    if not isinstance(known[capture.output], Value):
        raise ValueError("the output does not depend on the input")
    return known[capture.output], bindings


def _one(capture: Capture, bindings: Bindings, node: Node, key: Any, arguments: list[Any]) -> Any:
    if key is WHOLE_MODULE:
        values, index, _ = arguments
        call = capture.calls[index]
        site = Site(call.path or "self", _shape(node), capture.module, bindings, call)
        computed = [each for each in values if isinstance(each, Value)]
        if len(computed) != 1:
            raise ValueError(
                f"{type(call.module).__name__} is called with {len(computed)} different tensors computed from the input: give it one "
                "(of attention: only self-attention is known)"
            )
        function, _ = next(MODULES[base] for base in type(call.module).__mro__ if base in MODULES)
        return function(site, call.module, computed[0])
    if key not in OPERATIONS:
        rows = "\n".join(f"  {names}: {note}" for names, note in supported())
        raise TypeError(
            f"no layer is known for it. Supported are\n{rows}\nAdd a translation with @numerics.trace.translates(torch.ops.{key}), "
            "or keep the module whole with @numerics.trace.translates(its class)"
        )
    path = path_of(node)
    site = Site("self" if path.startswith("(") else path, _shape(node), capture.module, bindings)
    return OPERATIONS[key][0](site, *arguments)


def _overwrite(capture: Capture, node: Node, known: dict[Node, Any], result: Any) -> None:
    """After a write in place every name of the tensor means the result; other views of its memory must not be read again."""
    if not writes(node):
        return
    old = known[node.args[0]]  # type: ignore[index]
    stale = [each for each in capture.later_readers_of_views(node) if known.get(each) is not old]
    if stale:
        raise ValueError(
            f"writes in place into memory that is also read as {', '.join(each.name for each in stale)}: use the operation that returns a new tensor"
        )
    for each in [each for each, value in known.items() if value is old]:
        known[each] = result


def source(shape: tuple[int, ...], sample: int, axes: tuple[int, ...]) -> Value:
    """The input with the given torch dimensions as features and grid."""
    return Value(Step(tuple(shape[i] for i in axes) or (1,)), shape, sample, axes)
