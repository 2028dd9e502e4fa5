"""Entry-wise functions, the softmax, and dropout."""

from __future__ import annotations

from typing import Any

import torch

from numerics.certification.flow import Value
from numerics.tracing.translate import Site, translates
from theory.layers.activation import Activation, LogSoftmax, SoftmaxLayer

aten = torch.ops.aten


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
    (aten.leaky_relu, "leaky_relu", {"negative_slope": 0.01}),
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


@translates(
    aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout,
    note="nothing in evaluation mode or with p = 0; refused in training mode",
)  # fmt: skip
def _(site: Site, x: Value, p: float, training: bool) -> Value:
    if training and p > 0:
        raise ValueError(f"dropout with p = {p} in training mode is random: call eval() or set p to 0")
    return x
