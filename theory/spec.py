"""A network written on one line: `affine(12), repeat(L, residual(tanh, affine(12, weight_norm=frobenius), scale(c/L))), crop(10)`.

The grammar is that of Python calls and SymPy expressions, read by Python's own parser and nothing executed:

    affine(m, bias=true, weight_norm=row|entry|frobenius, gain=true, eps=...)     crop(m)     scale(c)     pad(before, after)
    tanh, sigmoid, ... (any activation)     softmax
    batch_norm(eps=..., gain=true, shift=true)     layer_norm(...)     rms_norm(...)
    residual(part, part, ..., skip=1)     repeat(times, part, ...)     chain(part, ...)
    conv(m, kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), mode=circular, groups=1, bias=true, weight_norm=...)
    conv_transpose(m, grid=(8, 8), kernel=(2, 2), stride=(2, 2), padding=..., bias=true)     max_pool(kernel=..., stride=...)
    avg_pool(kernel=..., stride=..., padding=...)     global_avg_pool     select(stride=(2, 2), padding=...)
    reshape(m, grid=(4, 4))     permute(1, 0)     attend(heads, causal=true)     log_softmax
    group_norm(groups=2, ...)     instance_norm(...)     set_norm(...)     frozen_batch_norm(mean=(...), variance=(...))
    added(branch, branch, ...)     stacked(branch, branch, ...)     with `chain()` for the identity

Parts at the top are applied in turn. Numbers may be fractions; any other name in a number is a symbol, positive by declaration.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sympy
from sympy import Expr

from theory import symbols
from theory.atoms.entrywise import ACTIVATIONS
from theory.atoms.windows import Windows
from theory.layers.activation import Activation, LogSoftmax, SoftmaxLayer
from theory.layers.affine import Affine
from theory.layers.attention import Attend
from theory.layers.base import Layer
from theory.layers.fixed import Cropping, FeaturePad, Scaling
from theory.layers.normalisation import (
    BatchNorm,
    FrozenBatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Normalisation,
    RMSNorm,
    SetNorm,
)
from theory.layers.spatial import (
    AveragePool,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Permute,
    Reshape,
    Selection,
    TransposedConvolution,
)
from theory.network import Branches, Chain, Network, Repeat, Residual, chain, repeat, residual

NORMALISATIONS: dict[str, type[Normalisation]] = {
    "batch_norm": BatchNorm,
    "layer_norm": LayerNorm,
    "rms_norm": RMSNorm,
    "group_norm": GroupNorm,
    "instance_norm": InstanceNorm,
    "set_norm": SetNorm,
}
POOLS: dict[str, tuple[Callable[[Windows], Layer], str]] = {
    "avg_pool": (AveragePool, "zeros"),
    "max_pool": (MaxPool, "lowest"),
    "select": (Selection, "zeros"),
}
"""Layers that are windows and nothing else, with the mode that is not written."""
WITHOUT_ARGUMENTS: dict[str, Layer] = {
    "softmax": SoftmaxLayer(),
    "log_softmax": LogSoftmax(),
    "global_avg_pool": GlobalAveragePool(),
}
SPATIAL = ("conv", "conv_transpose", "reshape", "permute", "attend", "frozen_batch_norm", *POOLS, *WITHOUT_ARGUMENTS)
COMBINATORS = ("chain", "residual", "repeat", "added", "stacked")
CALLS = ("affine", "crop", "scale", "pad", *SPATIAL, *NORMALISATIONS, *COMBINATORS)


def _fail(node: ast.AST, text: str) -> ValueError:
    return ValueError(f"network spec: {text} (at `{ast.unparse(node)}`)")


def _number(node: ast.AST) -> Expr:
    """A finite expression of numbers and symbols."""
    allowed = (ast.Constant, ast.Name, ast.BinOp, ast.UnaryOp, ast.operator, ast.UAdd, ast.USub, ast.Load, ast.Call)
    for part in ast.walk(node):
        literal = not isinstance(part, ast.Constant) or type(part.value) in (int, float)
        if not isinstance(part, allowed) or not literal:
            raise _fail(node, "a number or an expression in symbols is needed here")
        if isinstance(part, ast.Call):
            is_root = isinstance(part.func, ast.Name) and part.func.id == "sqrt"
            if not is_root or len(part.args) != 1 or part.keywords:
                raise _fail(node, "the only function a number may use is sqrt, of one number")
    roots = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and part not in roots}
    if names & NOT_NUMBERS:
        raise _fail(node, f"{', '.join(sorted(names & NOT_NUMBERS))} is no finite number")
    table: dict[str, Any] = {name: symbols.KNOWN.get(name, sympy.Symbol(name, positive=True)) for name in names}
    try:
        value = sympy.nsimplify(sympy.sympify(ast.unparse(node), locals={"sqrt": sympy.sqrt, **table}), rational=True)
    except Exception as error:  # SymPy's parser raises many kinds
        raise _fail(node, f"not a number: {type(error).__name__}") from None
    if value.has(sympy.oo, sympy.zoo, sympy.nan):
        raise _fail(node, "a finite number is needed here")
    return value


NOT_NUMBERS = frozenset({"oo", "nan", "zoo", "inf", "sqrt"})
"""Names that SymPy would read as something else than a positive symbol."""


def _flag(node: ast.AST) -> bool:
    text = ast.unparse(node).lower()
    if text not in ("true", "false"):
        raise _fail(node, "true or false is needed here")
    return text == "true"


def _word(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)


def _whole(node: ast.AST) -> int:
    value = _number(node)
    if not value.is_Integer:
        raise _fail(node, "a whole number is needed here")
    return int(value)


def _items(node: ast.AST) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple | ast.List) else [node]  # type: ignore[list-item]


def _wholes(node: ast.AST) -> tuple[int, ...]:
    return tuple(map(_whole, _items(node)))


def _sizes(node: ast.AST) -> tuple[Expr, ...]:
    return tuple(map(_number, _items(node)))


def _floats(node: ast.AST) -> tuple[float, ...]:
    return tuple(float(ast.literal_eval(item)) for item in _items(node))


def _padding(node: ast.AST) -> tuple[Any, ...]:
    """One number an axis, or a pair (before, after)."""
    return tuple(_wholes(item) if isinstance(item, ast.Tuple) else _whole(item) for item in _items(node))


def _options(call: ast.Call, readers: dict[str, Any]) -> dict[str, Any]:
    out = {}
    for keyword in call.keywords:
        if keyword.arg not in readers:
            raise _fail(call, f"unknown option {keyword.arg!r}; known: {', '.join(readers) or 'none'}")
        out[keyword.arg] = readers[keyword.arg](keyword.value)
    return out


WINDOW_OPTIONS = {"kernel": _wholes, "stride": _wholes, "padding": _padding, "dilation": _wholes, "mode": _word}
WEIGHT_OPTIONS = {"weight_norm": _word, "gain": _flag, "eps": _number, "path": _word}


def _positional(call: ast.Call, count: int, what: str) -> list[ast.expr]:
    if len(call.args) != count:
        raise _fail(call, f"{what} is needed, got {len(call.args)} positional arguments")
    return call.args


def _call(name: str, call: ast.Call) -> Network:
    if name == "affine":
        readers = {"bias": _flag, **WEIGHT_OPTIONS}
        return Affine(_number(_positional(call, 1, "affine(number of output features)")[0]), **_options(call, readers))
    if name in NORMALISATIONS:
        _positional(call, 0, f"{name}(eps=..., gain=..., shift=...)")
        groups = {"groups": _whole} if name == "group_norm" else {}
        return NORMALISATIONS[name](
            **_options(call, {"eps": _number, "gain": _flag, "shift": _flag, "path": _word, **groups})
        )
    if name in SPATIAL:
        return _spatial(name, call)
    if name in ("crop", "scale"):
        value = _number(_positional(call, 1, f"{name}(one number)")[0])
        _options(call, {})
        return Cropping(value) if name == "crop" else Scaling(value)
    if name == "pad":
        before, after = map(_whole, _positional(call, 2, "pad(features before, features after)"))
        _options(call, {})
        return FeaturePad(before, after)
    if name == "residual":
        if not call.args:
            raise _fail(call, "residual needs at least one part")
        return residual(*map(_part, call.args), **_options(call, {"skip": _number}))
    _options(call, {})
    if name in ("added", "stacked"):
        if not call.args:
            raise _fail(call, f"{name} needs at least one branch; chain() is the identity")
        return Branches(tuple(map(_part, call.args)), stacked=name == "stacked")
    if name == "repeat":
        if len(call.args) < 2:
            raise _fail(call, "repeat needs a number of times and at least one part")
        return repeat(_number(call.args[0]), *map(_part, call.args[1:]))
    return chain(*map(_part, call.args))


def _spatial(name: str, call: ast.Call) -> Layer:
    """Layers on a grid, and those with tuples for arguments."""
    if name in POOLS:
        _positional(call, 0, f"{name}(kernel=..., stride=..., padding=...)")
        kind, mode = POOLS[name]
        return kind(_windows(call, _options(call, WINDOW_OPTIONS), mode))
    if name in WITHOUT_ARGUMENTS:
        _positional(call, 0, name)
        _options(call, {})
        return WITHOUT_ARGUMENTS[name]
    if name == "permute":
        _options(call, {})
        return Permute(tuple(map(_whole, call.args)))
    if name == "frozen_batch_norm":
        readers = {"mean": _floats, "variance": _floats, "eps": _number, "gain": _flag, "shift": _flag, "path": _word}
        options = _options(call, readers)
        if not {"mean", "variance"} <= set(options):
            raise _fail(call, "frozen_batch_norm needs mean=(...) and variance=(...)")
        return FrozenBatchNorm(**options)
    what = {"attend": "the number of heads", "reshape": "the number of features"}.get(
        name, "the number of output features"
    )
    (first,) = _positional(call, 1, what)
    if name == "attend":
        return Attend(_whole(first), **_options(call, {"causal": _flag}))
    if name == "reshape":
        return Reshape(_number(first), **_options(call, {"grid": _sizes}))
    own = (
        {"grid": _sizes, "bias": _flag, "path": _word}
        if name == "conv_transpose"
        else {"groups": _whole, "bias": _flag, **WEIGHT_OPTIONS}
    )
    options = _options(call, {**WINDOW_OPTIONS, **own})
    windows = _windows(call, options, "zeros")
    if name == "conv_transpose" and "grid" not in options:
        raise _fail(call, "conv_transpose needs the grid of its output, grid=(...)")
    if name == "conv_transpose":
        return TransposedConvolution(_number(first), windows, **options)
    return Convolution(_number(first), windows, **options)


def _windows(call: ast.Call, options: dict[str, Any], mode: str) -> Windows:
    """Take the options of windows out of the others; one axis that is given says how many there are."""
    given = {key: options.pop(key) for key in WINDOW_OPTIONS if key in options}
    axes = {len(value) for key, value in given.items() if key != "mode"}
    if len(axes) != 1:
        raise _fail(call, "windows need kernel=(...) (or stride, padding) with one number for each axis of the grid")
    kernel = given.pop("kernel", (1,) * axes.pop())
    return Windows.of(kernel, **{"mode": mode, **given})


def _part(node: ast.AST) -> Network:
    call = node if isinstance(node, ast.Call) else None
    target = call.func if call else node
    name = target.id if isinstance(target, ast.Name) else None
    if name in ACTIVATIONS or name in WITHOUT_ARGUMENTS:
        if call and (call.args or call.keywords):
            raise _fail(node, f"{name} takes no arguments")
        return WITHOUT_ARGUMENTS[name] if name in WITHOUT_ARGUMENTS else Activation(str(name))
    if name in CALLS:
        try:
            return _call(str(name), call or ast.Call(ast.Name(str(name)), [], []))
        except (ValueError, TypeError) as error:
            if str(error).startswith("network spec"):
                raise
            raise _fail(node, str(error)) from None
    known = ", ".join((*CALLS, *ACTIVATIONS))
    raise _fail(node, f"unknown layer {name or ast.unparse(node)!r}; known: {known}")


def parse(text: str) -> Network:
    """The network that a spec describes.

    Raises:
        ValueError: one line naming the offending part and what is known there.
    """
    shown = text.strip() if len(text) < 200 else text.strip()[:200] + " ..."
    if not text.strip():
        raise ValueError("network spec: empty; write for example `affine(12), tanh, affine(10)`")
    try:
        tree = ast.parse(f"({text.strip()}\n,)", mode="eval").body
        if not isinstance(tree, ast.Tuple):
            raise ValueError(f"network spec: cannot read {shown!r}: the brackets do not match")
        parts = [_part(element) for element in tree.elts]
    except SyntaxError as error:
        raise ValueError(f"network spec: cannot read {shown!r}: {error.msg}; separate layers by commas") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"network spec: cannot read {shown!r}: nested too deeply") from None
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def read(source: str) -> Network:
    """The network in a file, if `source` names one (lines may be broken, `#` starts a comment), else in the text itself."""
    path = Path(source)
    is_file = len(source) < 250 and "(" not in source and path.is_file()
    return parse(path.read_text(encoding="utf-8") if is_file else source)


def describe(network: Network) -> str:
    """The spec of a network: `parse(describe(network)) == network`."""
    if isinstance(network, Chain):
        members = ", ".join(f"chain({_members(m)})" if isinstance(m, Chain) else describe(m) for m in network.members)
        return members if len(network.members) > 1 else f"chain({members})"
    if isinstance(network, Residual):
        return f"residual({describe(network.branch)}{'' if network.skip == 1 else f', skip={network.skip}'})"
    if isinstance(network, Repeat):
        return f"repeat({network.times}, {describe(network.block)})"
    if isinstance(network, Branches):
        parts = (f"chain({_members(b)})" if isinstance(b, Chain) else describe(b) for b in network.branches)
        return f"{'stacked' if network.stacked else 'added'}({', '.join(parts)})"
    return _describe_layer(network)


def _members(network: Chain) -> str:
    """The members of a chain, without brackets around them."""
    text = describe(network)
    return text if len(network.members) > 1 else text.removeprefix("chain(").removesuffix(")")


def _describe_layer(layer: Layer) -> str:
    if isinstance(layer, Activation):
        return layer.name
    for name, constant in WITHOUT_ARGUMENTS.items():
        if layer == constant:
            return name
    if isinstance(layer, Cropping):
        return f"crop({layer.features})"
    if isinstance(layer, Scaling):
        return f"scale({layer.factor})"
    if isinstance(layer, FeaturePad):
        return f"pad({layer.before}, {layer.after})"
    if isinstance(layer, Permute):
        return f"permute({', '.join(map(str, layer.order))})"
    for name, (kind, mode) in POOLS.items():
        if type(layer) is kind:
            return f"{name}({', '.join(_window_options(layer.windows, mode))})"  # type: ignore[attr-defined]
    if isinstance(layer, Attend):
        return f"attend({layer.heads}{', causal=true' if layer.causal else ''})"
    if isinstance(layer, Reshape):
        return f"reshape({layer.features}{f', grid={_tuple(layer.grid)}' if layer.grid else ''})"
    if isinstance(layer, Affine | Convolution | TransposedConvolution):
        name = {Affine: "affine", Convolution: "conv"}.get(type(layer), "conv_transpose")
        options = [str(layer.features)]
        if isinstance(layer, TransposedConvolution):
            options.append(f"grid={_tuple(layer.grid)}")
        if not isinstance(layer, Affine):
            options += _window_options(layer.windows, "zeros")
        options += _given(layer, ("groups", "bias", "weight_norm", "gain"))
        if getattr(layer, "weight_norm", None) and layer.eps != symbols.eps:  # type: ignore[union-attr]
            options.append(f"eps={layer.eps}")  # type: ignore[union-attr]
        return f"{name}({', '.join(options + _given(layer, ('path',)))})"
    if isinstance(layer, FrozenBatchNorm):
        options = [f"mean={_tuple(layer.mean)}", f"variance={_tuple(layer.variance)}"]
    elif isinstance(layer, Normalisation):
        options = _given(layer, ("groups",))
    else:
        raise TypeError(f"no spec is known for the layer {type(layer).__name__}: add it to theory/spec.py")
    options += [] if layer.eps == symbols.eps else [f"eps={layer.eps}"]
    options += _given(layer, ("gain", "shift", "path"))
    name = next((name for name, kind in NORMALISATIONS.items() if type(layer) is kind), "frozen_batch_norm")
    return f"{name}({', '.join(options)})"


def _tuple(values: tuple[Any, ...]) -> str:
    return f"({', '.join(map(str, values))}{',' if len(values) == 1 else ''})"


def _given(layer: Layer, names: tuple[str, ...]) -> list[str]:
    """`name=value` for those of the options that are not at their defaults."""
    out = []
    for name in names:
        value = getattr(layer, name, None)
        if value is True:
            out.append(f"{name}=true")
        elif isinstance(value, str) and value:
            out.append(f"{name}={value!r}" if name == "path" else f"{name}={value}")
        elif isinstance(value, int) and value not in (False, 1):
            out.append(f"{name}={value}")
    return out


def _window_options(windows: Windows, mode: str) -> list[str]:
    axes = len(windows.kernel)
    options = [f"kernel={_tuple(windows.kernel)}"] if windows.taps > 1 or windows.stride == (1,) * axes else []
    for name, plain in (("stride", 1), ("dilation", 1)):
        value = getattr(windows, name)
        if value != (plain,) * axes:
            options.append(f"{name}={_tuple(value)}")
    if any(map(any, windows.padding)):
        pairs = [str(a) if a == b else f"({a}, {b})" for a, b in windows.padding]
        options.append(f"padding=({', '.join(pairs)}{',' if axes == 1 else ''})")
    return options + ([] if windows.mode == mode else [f"mode={windows.mode}"])
