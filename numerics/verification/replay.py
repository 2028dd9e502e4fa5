"""Replay a row of `results.json` from its stored witness: the same number again, from the description and the arrays alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from numerics.datasets import digits
from numerics.loss import LossMap
from numerics.measure import cross_entropy, hessian_lambda_max, param_jacobian_norm, tangent_kernel_lambda_min
from numerics.realise import Realisation, realise
from numerics.search import OBJECTIVES
from numerics.verification import family
from numerics.verification.study import SEARCHED, gradient_ratio
from theory.records import Shape
from theory.spec import parse


def replay(folder: str | Path, row: Mapping[str, Any]) -> float:
    """The measured value of a searched row, or of a sampled row that violated its bound, computed again from its witness.

    Args:
        folder: the output folder of `depthbound verify`, with `witnesses.safetensors`.
        row: a row of `results.json`.

    Raises:
        ValueError: the row has no stored witness.
    """
    key = row["witness"].get("tensors")
    if key is None:
        raise ValueError(
            f"row {row['check']}, {row['quantity']} has no stored witness: searched rows and violations have one"
        )
    arrays = safetensors.torch.load_file(Path(folder) / "witnesses.safetensors")
    theta = arrays[f"{key}/theta"].unsqueeze(0)
    data = digits(int(row["samples"]), int(row["seed"]))
    realisation = realise(parse(row["network"]), Shape(data.features, data.samples))  # type: ignore[arg-type]
    if row["check"] == "sampled":
        return _measured(row["quantity"], realisation, theta, data.X, data.labels)
    subject: Any = LossMap(realisation, data.labels) if row["quantity"] == family.SMOOTHNESS else realisation
    objective, _ = OBJECTIVES[SEARCHED[row["quantity"]]]
    count = sum(name.startswith(f"{key}/direction ") for name in arrays)
    directions = [arrays[f"{key}/direction {i}"].unsqueeze(0) for i in range(count)]
    return float(objective(subject, theta, data.X.unsqueeze(0), *directions).detach())


def _measured(quantity: str, realisation: Realisation, theta: Tensor, x: Tensor, labels: Tensor) -> float:
    if quantity == family.SMOOTHNESS:
        found = hessian_lambda_max(lambda point: cross_entropy(realisation(point, x), labels), theta)
        return float(found.value)
    if quantity == family.RATIO:
        return float(gradient_ratio(realisation, theta, x, labels))
    if quantity == family.FIRST:
        return float(param_jacobian_norm(realisation, theta, x).value)
    if quantity == family.KERNEL:
        return float(tangent_kernel_lambda_min(realisation, theta, x).value)
    raise ValueError(f"no replay is known for sampled rows of {quantity!r}")
