"""Affine maps by a matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from numerics.certification.flow import Value
from numerics.operations.weights import bind_bias, weight_matrix
from numerics.tracing.translate import Site, translates
from theory.layers.affine import Affine

aten = torch.ops.aten


def _affine(site: Site, x: Any, weight: Any, bias: Any) -> Value:
    if not isinstance(x, Value):
        raise ValueError("the input stands on the right of a matrix: a weight multiplies features from the left")
    last = x.dimension(-1)
    path, normalised = weight_matrix(site, weight)
    has_bias = bind_bias(site, path, bias)
    layer = Affine(site.shape[-1], bias=has_bias, path=path, **normalised)
    return x.with_features(last).then(layer, site.shape)


@translates(aten.linear, note="`Affine` at every position, plain, row-normalised or spectrally normalised")
def _(site: Site, x: Any, weight: Any, bias: Any = None) -> Value:
    return _affine(site, x, weight, bias)


@translates(
    aten.matmul, aten.mm, note="`Affine` by a parameter from the right; products of two computed tensors are refused"
)
def _(site: Site, x: Any, weight: Any) -> Value:
    if isinstance(x, Value) and isinstance(weight, Value):
        raise ValueError(
            "a product of two computed tensors: of attention, use scaled_dot_product_attention or nn.MultiheadAttention"
        )
    matrix = site.own(weight, "right factor") if isinstance(x, Value) else None
    if matrix is not None and matrix.tensor.ndim != 2:
        raise ValueError(f"its right factor has {matrix.tensor.ndim} dimensions: give a matrix")
    return _affine(site, x, None if matrix is None else replace(matrix, is_transposed=not matrix.is_transposed), None)


@translates(aten.addmm, note="`Affine` with bias")
def _(site: Site, bias: Any, x: Any, weight: Any, beta: Any = 1, alpha: Any = 1, *_: Any) -> Value:
    if (beta, alpha) != (1, 1):
        raise ValueError("addmm with factors: leave beta and alpha at 1")
    matrix = site.own(weight, "right factor")
    return _affine(site, x, replace(matrix, is_transposed=not matrix.is_transposed), bias)
