"""Weights, biases and gains of layers: what a module computes them from, bound to the description's parameters."""

from __future__ import annotations

import operator
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.nn.utils import parametrizations

from numerics.tracing.translate import Computed, Parameter, Site, layer_path

TINY = sympy.Rational("1e-24")
"""The `eps` of torch's weight normalisation, which has none: `v / sqrt(eps + |v|^2)` differs from `v / |v|` by the factor
`1 - eps / (2 |v|^2)`, less than 1e-12 off for `|v| > 1e-6`; shorter rows are refused."""


def weight_matrix(site: Site, given: Any, rows: bool = True) -> tuple[str, dict[str, Any]]:
    """Path of a layer's weight and its normalisation; the weight's parameters are bound.

    With `rows` the matrix is `weight.flatten(1)`, else (a transposed convolution) the transpose of that.
    """
    if isinstance(given, Parameter):
        path = layer_path(given.name)
        matrix = given.value.flatten(1)
        site.parameter(f"{path}.weight", given, matrix if rows else matrix.t())
        return path, {}
    if isinstance(given, Computed) and rows:
        if given.operation == str(operator.getitem) and isinstance(given.arguments[0], Computed):
            given = given.arguments[0]
        if given.operation.startswith("aten._weight_norm"):
            return _weight_normalised(site, *given.arguments)
        if (name := _spectral_origin(site, given)) is not None:
            return _spectrally_normalised(site, name)
    return weight_matrix(site, site.own(given, "weight"), rows)


def _weight_normalised(site: Site, direction: Any, length: Any, dim: int = 0) -> tuple[str, dict[str, Any]]:
    v, g = site.own(direction, "weight's direction"), site.own(length, "weight's length")
    if dim != 0:
        raise ValueError(f"weight_norm along dimension {dim}: only rows can be normalised, dim=0")
    path, matrix = layer_path(v.name), v.value.flatten(1)
    shortest = float(matrix.norm(dim=1).min())
    if shortest <= 1e-6:
        raise ValueError(f"weight_norm of a row of norm {shortest:.1e}: it needs more than 1e-6")
    site.parameter(f"{path}.weight", v, matrix)
    site.parameter(f"{path}.gain", g, g.value.flatten())
    return path, {"weight_norm": "row", "gain": True, "eps": TINY}


def _spectral_origin(site: Site, given: Computed) -> str | None:
    """The name of the raw weight that torch's spectral norm, and nothing else, turns into `given`; None for anything else."""
    names = {source.name for source in given.sources() if isinstance(source, Parameter)}
    if len(names) != 1 or not (name := names.pop()).endswith("parametrizations.weight.original"):
        return None
    module = site.module.get_submodule(name.removesuffix("parametrizations.weight.original").rstrip("."))
    kinds = [type(each) for each in module.parametrizations.weight]  # type: ignore[union-attr]
    return name if kinds == [parametrizations._SpectralNorm] else None


def _spectrally_normalised(site: Site, name: str) -> tuple[str, dict[str, Any]]:
    owner = site.module.get_submodule(name.removesuffix("original") + "0")
    tensor = site.module.get_parameter(name)
    if getattr(owner, "dim", 0) != 0:
        raise ValueError("spectral_norm of a transposed convolution: its matrix is taken along the other dimension")
    matrix, path = tensor.detach().double().flatten(1), layer_path(name)
    if tensor.ndim > 1:
        left, right = owner.get_buffer("_u").double(), owner.get_buffer("_v").double()
        estimate, norm = float(left @ matrix @ right), float(torch.linalg.matrix_norm(matrix, 2))
        if abs(estimate - norm) > 1e-6 * norm:
            raise ValueError(
                f"spectral_norm divides by {estimate:.6g} where the norm is {norm:.6g}: its power iteration has not converged; "
                "call the module some more times in training mode"
            )
    site.parameter(f"{path}.weight", tensor, matrix)
    return path, {"weight_norm": "spectral"}


def bind_bias(site: Site, path: str, given: Any) -> bool:
    """Whether there is a bias; it is bound."""
    if given is None:
        return False
    bias = site.own(given, "bias")
    site.parameter(f"{path}.bias", bias, bias.value.flatten())
    return True


def gain_and_shift(site: Site, weight: Any, bias: Any) -> dict[str, Any]:
    """Gain and shift of a normalisation."""
    if weight is None and bias is None:
        return {}
    if weight is None:
        raise ValueError("a shift without a gain: let the normalisation have both")
    gain = site.own(weight, "gain")
    path = layer_path(gain.name)
    site.parameter(f"{path}.gain", gain, gain.value.flatten())
    if bias is not None:
        shift = site.own(bias, "shift")
        site.parameter(f"{path}.shift", shift, shift.value.flatten())
    return {"gain": True, "shift": bias is not None, "path": path}


def tensor_shape(weight: Any) -> tuple[int, ...]:
    """The shape of a weight, which its normalisation keeps."""
    if isinstance(weight, Computed):
        return tuple(max((s.tensor for s in weight.sources() if isinstance(s, Parameter)), key=Tensor.numel).shape)
    return tuple(weight.tensor.shape)
