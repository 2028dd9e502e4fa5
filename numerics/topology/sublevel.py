"""Betti numbers of sublevel sets of functions of one to three variables, by cubical persistent homology on a grid (GUDHI, an optional extra).

The values are taken on the grid's vertices and a cube enters with its largest vertex. That is a measurement, not a proof: features smaller than the grid
are missed or made up, which is why `resolution_study` repeats it on finer grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
import sympy
from sympy import Expr, Symbol

try:
    import gudhi
except ImportError:  # an optional extra
    gudhi = None

MOST_VERTICES = 20_000_000
"""Grids with more vertices are refused."""


@dataclass(frozen=True)
class Persistence:
    """Sublevel persistence of a function on a grid.

    Attributes:
        intervals: for each dimension `0 .. n - 1` an array `(features, 2)` of levels of birth and death; a death may be infinite.
        lowest: the smallest value on the grid.
        border: the smallest value on the grid's border: below it the sublevel sets stay off the border.
    """

    intervals: tuple[np.ndarray, ...]
    lowest: float
    border: float

    def betti(self, level: float) -> tuple[int, ...]:
        """Betti numbers of the sublevel set `{f <= level}`: features born at or before the level that die after it."""
        return tuple(int(((i[:, 0] <= level) & (level < i[:, 1])).sum()) for i in self.intervals)


def values_on_grid(
    expression: Expr, variables: Sequence[Symbol], box: Sequence[tuple[float, float]], resolution: int
) -> np.ndarray:
    """Values of shape `(resolution,) * n` on equally spaced vertices, the box's border included.

    Raises:
        ValueError: fewer than 3 vertices a side, a grid that is too large, or values that are not finite.
    """
    if resolution < 3:
        raise ValueError(f"resolution = {resolution}: a grid needs at least 3 vertices a side")
    if resolution ** len(variables) > MOST_VERTICES:
        raise ValueError(
            f"a grid of {resolution} vertices a side in {len(variables)} dimensions is above {MOST_VERTICES} in all"
        )
    axes = [np.linspace(low, high, resolution) for low, high in box]
    code = sympy.lambdify(list(variables), expression, modules=[{"erf": scipy.special.erf}, "numpy"], cse=True)
    with np.errstate(over="ignore"):
        values = np.broadcast_to(code(*np.meshgrid(*axes, indexing="ij")), (resolution,) * len(variables))
    if not np.isfinite(values).all():
        raise ValueError("the function is not finite on the whole grid: choose a smaller box")
    return np.array(values, dtype=np.float64)


def persistence(values: np.ndarray) -> Persistence:
    """Sublevel persistence of values on the vertices of a grid of one to three dimensions.

    Raises:
        ValueError: no GUDHI, or an array of another dimension.
    """
    if gudhi is None:
        raise ValueError('persistent homology needs GUDHI: pip install "depthbound[topology]"')
    if not 1 <= values.ndim <= 3:
        raise ValueError(f"values of {values.ndim} dimensions: give 1 to 3")
    complex_: Any = gudhi.CubicalComplex(vertices=values)
    complex_.persistence(min_persistence=0.0)
    intervals = [complex_.persistence_intervals_in_dimension(k).reshape(-1, 2) for k in range(values.ndim)]
    edges = [np.take(values, side, axis).min() for axis in range(values.ndim) for side in (0, -1)]
    return Persistence(tuple(np.asarray(i) for i in intervals), float(values.min()), float(min(edges)))


def sublevel_persistence(
    expression: Expr, variables: Sequence[Symbol], box: Sequence[tuple[float, float]], resolution: int
) -> Persistence:
    """`values_on_grid`, then `persistence`."""
    return persistence(values_on_grid(expression, variables, box, resolution))


@dataclass(frozen=True)
class ResolutionStudy:
    """Betti numbers of one sublevel set on grids of increasing resolution."""

    level: float
    rows: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def stable(self) -> bool:
        """Whether the two finest grids agree."""
        return len(self.rows) > 1 and self.rows[-1][1] == self.rows[-2][1]

    @property
    def betti(self) -> tuple[int, ...]:
        """The Betti numbers on the finest grid."""
        return self.rows[-1][1]


def resolution_study(
    expression: Expr,
    variables: Sequence[Symbol],
    box: Sequence[tuple[float, float]],
    levels: Sequence[float],
    resolutions: Sequence[int],
) -> tuple[ResolutionStudy, ...]:
    """One study a level, on all given resolutions, which must increase.

    Raises:
        ValueError: resolutions that do not increase.
    """
    if list(resolutions) != sorted(set(resolutions)) or not resolutions:
        raise ValueError(f"resolutions {tuple(resolutions)} do not increase")
    found = [(r, sublevel_persistence(expression, variables, box, r)) for r in resolutions]
    return tuple(ResolutionStudy(level, tuple((r, p.betti(level)) for r, p in found)) for level in levels)
