"""Attention."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from numerics.certification.flow import Value, stack
from numerics.tracing.translate import Site, translates
from theory.layers.affine import Affine
from theory.layers.attention import Attend

aten = torch.ops.aten


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
    if not given["query"] == given["key"] == given["value"]:
        raise ValueError("queries, keys and values differ: only self-attention is known")
    causal = bool(given.get("is_causal")) and given.get("attn_mask") is not None
    if given.get("key_padding_mask") is not None or (given.get("attn_mask") is not None and not causal):
        raise ValueError("an attention mask: only a causal one, called with is_causal=True, is known")
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn or len(x.shape) != 3:
        raise ValueError(
            "attention with kdim, vdim, bias_k, add_zero_attn or without samples: only plain self-attention is known"
        )
    tokens = 1 if module.batch_first else 0
    if x.sample != 1 - tokens:
        raise ValueError(f"samples in dimension {x.sample}, but batch_first={module.batch_first}")
    features = module.embed_dim

    def project(value: Value, which: str, weight: Tensor, bias: Tensor | None, size: int) -> Value:
        path = which if site.path == "self" else f"{site.path}.{which}"
        site.parameter(f"{path}.weight", weight)
        if bias is not None:
            site.parameter(f"{path}.bias", bias)
        return value.then(Affine(size, bias=bias is not None, path=path))

    value = x.arranged(2, tokens)
    value = project(value, "in_proj", module.in_proj_weight, module.in_proj_bias, 3 * features).then(
        Attend(module.num_heads, causal)
    )
    return project(value, "out_proj", module.out_proj.weight, module.out_proj.bias, features)
