"""A network written on one line: `affine(12), repeat(L, residual(tanh, affine(12, weight_norm=frobenius), scale(c/L))), crop(10)`.

The grammar is that of Python calls and SymPy expressions, read by Python's own parser and nothing executed:

    affine(m, bias=true, weight_norm=row|entry|frobenius, gain=true, eps=...)     crop(m)     scale(c)
    tanh, sigmoid, ... (any activation)     softmax
    batch_norm(eps=..., gain=true, shift=true)     layer_norm(...)     rms_norm(...)
    residual(part, part, ..., skip=1)     repeat(times, part, ...)     chain(part, ...)
    added(branch, branch, ...)     stacked(branch, branch, ...)     with `chain()` for the identity

Parts at the top are applied in turn. Numbers may be fractions; any other name in a number is a symbol, positive by declaration.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import sympy
from sympy import Expr

from theory import symbols
from theory.atoms.entrywise import ACTIVATIONS
from theory.layers.activation import Activation, SoftmaxLayer
from theory.layers.affine import Affine
from theory.layers.base import Layer
from theory.layers.fixed import Cropping, Scaling
from theory.layers.normalisation import BatchNorm, LayerNorm, Normalisation, RMSNorm
from theory.network import Branches, Chain, Network, Repeat, Residual, chain, repeat, residual

NORMALISATIONS: dict[str, type[Normalisation]] = {"batch_norm": BatchNorm, "layer_norm": LayerNorm, "rms_norm": RMSNorm}
COMBINATORS = ("chain", "residual", "repeat", "added", "stacked")
CALLS = ("affine", "crop", "scale", "softmax", *NORMALISATIONS, *COMBINATORS)


def _fail(node: ast.AST, text: str) -> ValueError:
    return ValueError(f"network spec: {text} (at `{ast.unparse(node)}`)")


def _number(node: ast.AST) -> Expr:
    """An expression of numbers and symbols."""
    for part in ast.walk(node):
        allowed = (ast.Constant, ast.Name, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Load, ast.Call)
        if not isinstance(part, allowed):
            raise _fail(node, "a number or an expression in symbols is needed here")
        if isinstance(part, ast.Call) and not (isinstance(part.func, ast.Name) and part.func.id == "sqrt"):
            raise _fail(node, "the only function a number may use is sqrt")
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - {"sqrt"}
    table: dict[str, Any] = {name: symbols.KNOWN.get(name, sympy.Symbol(name, positive=True)) for name in names}
    return sympy.nsimplify(sympy.sympify(ast.unparse(node), locals={**table, "sqrt": sympy.sqrt}), rational=True)


def _flag(node: ast.AST) -> bool:
    text = ast.unparse(node).lower()
    if text not in ("true", "false"):
        raise _fail(node, "true or false is needed here")
    return text == "true"


def _word(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)


def _options(call: ast.Call, readers: dict[str, Any]) -> dict[str, Any]:
    out = {}
    for keyword in call.keywords:
        if keyword.arg not in readers:
            raise _fail(call, f"unknown option {keyword.arg!r}; known: {', '.join(readers) or 'none'}")
        out[keyword.arg] = readers[keyword.arg](keyword.value)
    return out


def _positional(call: ast.Call, count: int, what: str) -> list[ast.expr]:
    if len(call.args) != count:
        raise _fail(call, f"{what} is needed, got {len(call.args)} positional arguments")
    return call.args


def _call(name: str, call: ast.Call) -> Network:
    if name == "affine":
        readers = {"bias": _flag, "weight_norm": _word, "gain": _flag, "eps": _number}
        return Affine(_number(_positional(call, 1, "affine(number of output features)")[0]), **_options(call, readers))
    if name in NORMALISATIONS:
        _positional(call, 0, f"{name}(eps=..., gain=..., shift=...)")
        return NORMALISATIONS[name](**_options(call, {"eps": _number, "gain": _flag, "shift": _flag}))
    if name in ("crop", "scale"):
        value = _number(_positional(call, 1, f"{name}(one number)")[0])
        _options(call, {})
        return Cropping(value) if name == "crop" else Scaling(value)
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


def _part(node: ast.AST) -> Network:
    call = node if isinstance(node, ast.Call) else None
    target = call.func if call else node
    name = target.id if isinstance(target, ast.Name) else None
    if name in ACTIVATIONS or name == "softmax":
        if call and (call.args or call.keywords):
            raise _fail(node, f"{name} takes no arguments")
        return SoftmaxLayer() if name == "softmax" else Activation(str(name))
    if name in CALLS:
        return _call(str(name), call or ast.Call(ast.Name(str(name)), [], []))
    known = ", ".join((*CALLS, *ACTIVATIONS))
    raise _fail(node, f"unknown layer {name or ast.unparse(node)!r}; known: {known}")


def parse(text: str) -> Network:
    """The network that a spec describes.

    Raises:
        ValueError: one line naming the offending part and what is known there.
    """
    try:
        tree = ast.parse(f"({text.strip()}\n,)", mode="eval").body
    except SyntaxError as error:
        raise ValueError(
            f"network spec: cannot read {text.strip()!r}: {error.msg}; separate layers by commas"
        ) from None
    assert isinstance(tree, ast.Tuple)
    if not tree.elts:
        raise ValueError("network spec: empty; write for example `affine(12), tanh, affine(10)`")
    parts = [_part(element) for element in tree.elts]
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def read(source: str) -> Network:
    """The network in a file, if `source` names one (lines may be broken, `#` starts a comment), else in the text itself."""
    path = Path(source)
    is_file = len(source) < 250 and "(" not in source and path.is_file()
    return parse(path.read_text(encoding="utf-8") if is_file else source)


def describe(network: Network) -> str:
    """The spec of a network: `parse(describe(network)) == network`."""
    if isinstance(network, Chain):
        return ", ".join(f"chain({describe(m)})" if isinstance(m, Chain) else describe(m) for m in network.members)
    if isinstance(network, Residual):
        return f"residual({describe(network.branch)}{'' if network.skip == 1 else f', skip={network.skip}'})"
    if isinstance(network, Repeat):
        return f"repeat({network.times}, {describe(network.block)})"
    if isinstance(network, Branches):
        parts = (f"chain({describe(b)})" if isinstance(b, Chain) else describe(b) for b in network.branches)
        return f"{'stacked' if network.stacked else 'added'}({', '.join(parts)})"
    return _describe_layer(network)


def _describe_layer(layer: Layer) -> str:
    if isinstance(layer, Activation):
        return layer.name
    if isinstance(layer, SoftmaxLayer):
        return "softmax"
    if isinstance(layer, Cropping):
        return f"crop({layer.features})"
    if isinstance(layer, Scaling):
        return f"scale({layer.factor})"
    options: list[str] = []
    if isinstance(layer, Affine):
        options = [str(layer.features)]
        options += ["bias=true"] if layer.bias else []
        options += [f"weight_norm={layer.weight_norm}"] if layer.weight_norm else []
        options += ["gain=true"] if layer.gain else []
        options += [f"eps={layer.eps}"] if layer.weight_norm and layer.eps != symbols.eps else []
        return f"affine({', '.join(options)})"
    for name, kind in NORMALISATIONS.items():
        if type(layer) is kind:
            options = [] if layer.eps == symbols.eps else [f"eps={layer.eps}"]
            options += [f"{flag}=true" for flag in ("gain", "shift") if getattr(layer, flag)]
            return f"{name}({', '.join(options)})"
    raise TypeError(f"no spec is known for the layer {type(layer).__name__}: add it to theory/spec.py")
