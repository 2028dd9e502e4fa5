"""Along which axes of `features x positions x samples` a normalisation collects its vectors."""

from __future__ import annotations

import sympy
from sympy import Expr

from theory.records import Shape

OVER: dict[str, tuple[str, ...]] = {
    "samples": ("positions", "samples"),
    "features": ("features",),
    "entries": (),
    "matrix": ("features", "positions", "samples"),
    "sample": ("features", "positions"),
    "instance": ("positions",),
    "group": ("features", "positions"),
}
"""What one vector runs over: a row (batch norm), a column (layer norm of a token), nothing, everything, all of one sample, one feature
of one sample, a group of features of one sample."""


def check_axis(axis: str, groups: int, allowed: tuple[str, ...]) -> None:
    """Refuse an axis that is unknown, and groups along any other axis than `group`."""
    if axis not in allowed:
        raise ValueError(f"axis {axis!r} is unknown: use one of {', '.join(allowed)}")
    if groups < 1 or (groups != 1 and axis != "group"):
        raise ValueError(f"{groups} groups along the axis {axis!r}: only the axis 'group' has groups, at least one")


def vector_length(shape: Shape, axis: str, groups: int = 1) -> Expr:
    """Number of entries of one vector.

    Raises:
        ValueError: features that do not divide into the groups.
    """
    if (shape.features / groups).is_integer is False:
        raise ValueError(f"{shape.features} features in {groups} groups: the groups must be equal")
    lengths = {"features": shape.features / groups, "positions": shape.positions, "samples": shape.samples}
    return sympy.Mul(*(lengths[name] for name in OVER[axis]))
