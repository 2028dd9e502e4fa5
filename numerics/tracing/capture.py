"""A live module as the graph of torch operations that it runs on one example, recorded by `torch.export`.

Export is used in its non-strict mode: the module's own Python code runs once, on tensors that have a shape and no data, and every
operation is recorded below the level of modules, with the path of the module that ran it. Symbolic tracing by `torch.fx` was the
alternative. It cannot run torch's own transformer layer, whose code looks at the number of dimensions of its input; it leaves shapes
and parametrised weights to be found out; and it takes silently whichever branch an ordinary Python flag selects, as export does, but
without the refusal where the branch depends on data.

A module whose class has a translation of its own (attention, a user's layer) is kept whole: while the graph is recorded its `forward`
is replaced by one opaque operation, so its code need not be exportable.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import Node


@torch.library.custom_op("depthbound::whole_module", mutates_args=())
def whole_module(inputs: list[Tensor], index: int, shape: list[int]) -> Tensor:
    """Stands in the graph for a module that is kept whole; it is never computed."""
    raise NotImplementedError("the place of a module that is translated whole")


@whole_module.register_fake
def _(inputs: list[Tensor], index: int, shape: list[int]) -> Tensor:
    return inputs[0].new_empty(shape)


WHOLE_MODULE = torch.ops.depthbound.whole_module


@dataclass(frozen=True)
class Taken:
    """In the arguments of a recorded call: the `index`-th different tensor that the call was given."""

    index: int


@dataclass(frozen=True)
class Call:
    """One call of a module that is kept whole."""

    module: nn.Module
    path: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Capture:
    """What one run of a module computes.

    Attributes:
        nodes: the operations that the output depends on, in the order of the run.
        input, output: the nodes of the example and of the result.
        parameters: graph name -> name of the parameter; parameters that are one tensor have one name.
        buffers: graph name -> name and value of everything else that is not computed.
        calls: the calls of modules kept whole, by the index in their operation.
        reference: the module's own output on the example, in double precision.
    """

    module: nn.Module
    nodes: tuple[Node, ...]
    input: Node
    output: Node
    parameters: dict[str, str]
    buffers: dict[str, tuple[str, Tensor]]
    calls: tuple[Call, ...]
    reference: Tensor
    roots: dict[Node, Node] = field(repr=False)

    def later_readers_of_views(self, node: Node) -> list[Node]:
        """Earlier names of the memory that `node` writes into, other than its argument, that are read after the write."""
        written = node.args[0]
        assert isinstance(written, Node)
        root = self.roots[written]
        position = {each: index for index, each in enumerate(self.nodes)}
        here = position[node]
        views = [n for n, r in self.roots.items() if r is root and n is not written and position.get(n, here) < here]
        return [view for view in views if any(position.get(user, -1) > here for user in view.users)]


def path_of(node: Node) -> str:
    """The path of the module that ran an operation, `(the module itself)` for the outermost."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    path = path.removeprefix("L['self']").removeprefix(".").split("@")[0]
    return path or "(the module itself)"


def writes(node: Node) -> bool:
    """Whether an operation changes its first argument in place."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema and schema.is_mutable and node.args and isinstance(node.args[0], Node))


def _alias_roots(nodes: list[Node]) -> dict[Node, Node]:
    """For every node the first node with whose memory it may share, by the alias annotations of the operations."""
    roots: dict[Node, Node] = {}
    for node in nodes:
        roots[node] = node
        if node.target is operator.getitem:
            roots[node] = roots[node.args[0]]  # type: ignore[index]
        schema = getattr(node.target, "_schema", None)
        if schema is not None and any(result.alias_info is not None for result in schema.returns):
            aliased = [a for a, given in zip(schema.arguments, node.args, strict=False) if a.alias_info is not None]
            first = node.args[0] if aliased and node.args else None
            if isinstance(first, Node):
                roots[node] = roots[first]
    return roots


def _live(nodes: list[Node], output: Node, roots: dict[Node, Node]) -> set[Node]:
    """The nodes that the output depends on, writes into memory that is read later included."""
    live, read = {output}, {roots[output]}
    for node in reversed(nodes):
        if node in live or (writes(node) and roots[node.args[0]] in read):  # type: ignore[index]
            live.add(node)
            live.update(node.all_input_nodes)
            read.update(roots[each] for each in node.all_input_nodes)
    return live


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without torch's fused inference path of transformer layers, which would hide their operations."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Export logs the graph so far before it raises; the error that we raise says what matters."""
    loggers = [logging.getLogger(name) for name in ("torch.fx.experimental.symbolic_shapes", "torch.export._trace")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _reference(module: nn.Module, example: Tensor, whole: dict[str, nn.Module]) -> tuple[Tensor, dict[str, list[Any]]]:
    """The output in double precision, from copies so that no running statistic moves, and what whole modules returned."""
    returned: dict[str, list[Any]] = {path: [] for path in whole}

    def keeper(path: str) -> Callable[..., None]:
        return lambda module, given, result: returned[path].append(result)

    hooks = [each.register_forward_hook(keeper(path)) for path, each in whole.items()]
    # every tensor by each module that owns it: functional_call does not restore a module that has two paths
    copies: dict[int, Tensor] = {}
    state = {}
    for path, owner in module.named_modules():
        for name, tensor in (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)):
            copy = tensor.detach().clone()
            copies.setdefault(id(tensor), copy.double() if copy.is_floating_point() else copy)
            state[f"{path}.{name}" if path else name] = copies[id(tensor)]
    try:
        with torch.no_grad():
            output = functional_call(module, state, (example.double(),), tie_weights=False)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{type(module).__name__} does not run on the example in double precision: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, Tensor):
        raise TypeError(f"{type(module).__name__} returns {type(output).__name__}: a network returns one tensor")
    return output, returned


@contextmanager
def _kept_whole(whole: dict[str, nn.Module], returned: dict[str, list[Any]], calls: list[Call]) -> Iterator[None]:
    """Replace the `forward` of these modules by one opaque operation each."""

    def replacement(path: str, module: nn.Module) -> Callable[..., Any]:
        results = iter(returned[path])

        def forward(*arguments: Any, **options: Any) -> Any:
            result = next(results)
            tensors: list[Tensor] = []

            def taken(value: Any) -> Any:
                if not isinstance(value, Tensor):
                    return value
                known = next((i for i, tensor in enumerate(tensors) if tensor is value), None)
                if known is None:
                    tensors.append(value)
                return Taken(len(tensors) - 1 if known is None else known)

            call = Call(module, path, tuple(map(taken, arguments)), {k: taken(v) for k, v in options.items()})
            calls.append(call)
            first = result if isinstance(result, Tensor) else result[0]
            image = torch.ops.depthbound.whole_module(tensors, len(calls) - 1, list(first.shape))
            return image if isinstance(result, Tensor) else (image, *(None for _ in result[1:]))

        return forward

    for path, module in whole.items():
        module.__dict__["forward"] = replacement(path, module)
    try:
        yield
    finally:
        for module in whole.values():
            del module.__dict__["forward"]


def capture(module: nn.Module, example: Tensor, is_whole: Callable[[nn.Module], bool]) -> Capture:
    """Record the operations that `module` runs on `example`.

    Raises:
        TypeError: the input or the output is not one tensor of floating-point numbers.
        ValueError: the module's code cannot be recorded, for instance because it branches on the values of tensors.
    """
    if not isinstance(example, Tensor) or not example.is_floating_point():
        kind = example.dtype if isinstance(example, Tensor) else type(example).__name__
        raise TypeError(
            f"the example is {kind}: give one tensor of floating-point numbers (of a model of tokens, trace the part after the embedding)"
        )
    whole = {path: each for path, each in module.named_modules() if is_whole(each)}
    inner = {
        path for path in whole for other in whole if other != path and path.startswith(f"{other}." if other else "")
    }
    whole = {path: each for path, each in whole.items() if path not in inner}
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), example.dtype)
    calls: list[Call] = []
    with _plain_attention():
        reference, returned = _reference(module, example, whole)
        try:
            with _quiet(), _kept_whole(whole, returned, calls):
                program = torch.export.export(module, (example.detach().to(dtype),), strict=False)
        except Exception as error:  # export raises errors of many private types
            told = str(error).strip() or type(error).__name__
            if "data-dependent" in told:
                raise ValueError(
                    f"the code of {type(module).__name__} branches on the values of a tensor: a description is one function for all "
                    "inputs, so replace the branch, or register the module that contains it with @numerics.trace.translates(its class)"
                ) from error
            raise ValueError(f"torch.export cannot record {type(module).__name__}: {told.splitlines()[0]}") from error
    return _capture(module, program, tuple(calls), reference)


def _capture(module: nn.Module, program: Any, calls: tuple[Call, ...], reference: Tensor) -> Capture:
    nodes, signature = list(program.graph.nodes), program.graph_signature
    by_name = {node.name: node for node in nodes}
    first_name: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first_name.setdefault(id(parameter), name)
    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    parameters = {given: first_name[id(tensors[name])] for given, name in signature.inputs_to_parameters.items()}
    buffers = {given: (name, tensors[name]) for given, name in signature.inputs_to_buffers.items()}
    constants = getattr(signature, "inputs_to_lifted_tensor_constants", {})
    buffers |= {given: (name, program.constants[name]) for given, name in constants.items()}
    if len(signature.user_outputs) != 1 or signature.user_outputs[0] not in by_name:
        raise TypeError(f"{type(module).__name__} does not return one computed tensor")
    output = by_name[signature.user_outputs[0]]
    roots = _alias_roots(nodes)
    live = _live(nodes, output, roots)
    kept = tuple(node for node in nodes if node in live and node.op != "output")
    given = by_name[signature.user_inputs[0]]
    return Capture(module, kept, given, output, parameters, buffers, calls, reference, roots)
