"""Along which axes of `features x positions x samples` a normalisation collects its vectors."""

from __future__ import annotations

OVER: dict[str, tuple[str, ...]] = {
    "samples": ("positions", "samples"),
    "features": ("features",),
    "entries": (),
    "matrix": ("features", "positions", "samples"),
}
"""What one vector runs over: a row (batch norm), a column (layer norm of a token), nothing, everything."""

VECTOR_NORM = {"samples": "feature", "features": "position", "entries": "entry", "matrix": "frobenius"}
"""Which norm of `FeatureBounds` bounds one such vector."""
