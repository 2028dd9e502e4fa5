"""Layers of the theory that may not be there yet."""

from __future__ import annotations

from typing import Any

from theory.layers import activation, normalisation


def _pending(module: Any, name: str) -> Any:
    def missing(*_: Any, **__: Any) -> Any:
        raise ValueError(f"the layer {name} is not known to this version of theory")

    return getattr(module, name, missing)


LogSoftmax = _pending(activation, "LogSoftmax")
GroupNorm, InstanceNorm, FrozenBatchNorm = (
    _pending(normalisation, name) for name in ("GroupNorm", "InstanceNorm", "FrozenBatchNorm")
)
