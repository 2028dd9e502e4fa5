"""Bound against truth for small losses: certified critical points, Betti numbers between critical values, and the gap in decades."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from numerics.topology.critical import CriticalPoints, critical_points
from numerics.topology.small import SmallLoss
from numerics.topology.sublevel import ResolutionStudy, resolution_study


@dataclass(frozen=True)
class Measured:
    """One small loss.

    Attributes:
        bound: logarithm to base 10 of the bound on critical points, which is the bound on Betti numbers too.
        generic: the same by the generic rules.
        critical: certified critical points on the box.
        studies: Betti numbers between consecutive critical values and above the last; empty without GUDHI or where not asked for.
    """

    loss: SmallLoss
    bound: float
    generic: float
    critical: CriticalPoints
    studies: tuple[ResolutionStudy, ...]

    @property
    def gap(self) -> float:
        """Decades between the bound and the certified number of critical points."""
        return self.bound - math.log10(max(len(self.critical.points), 1))

    @property
    def largest_betti_sum(self) -> int:
        """The largest sum of Betti numbers over the levels looked at."""
        return max((sum(study.betti) for study in self.studies), default=0)


def levels_between(critical: CriticalPoints, spread: float = 1e-3) -> tuple[float, ...]:
    """One level between every two critical values further apart than `spread` of their range (or of 1), and one above the last."""
    values = sorted(float(point.value.mid()) for point in critical.points)
    if not values:
        return ()
    least = spread * max(values[-1] - values[0], 1.0)
    between = [(a + b) / 2 for a, b in pairwise(values) if b - a > least]
    return (*between, values[-1] + 0.1)


def measure(loss: SmallLoss, resolutions: tuple[int, ...] = ()) -> Measured:
    """Certify all critical points of one small loss; with resolutions also its Betti numbers (needs GUDHI)."""
    expression = loss.expression
    found = critical_points(expression.value, expression.parameters, loss.box)
    studies: tuple[ResolutionStudy, ...] = ()
    if resolutions:
        levels = levels_between(found)
        studies = resolution_study(expression.value, expression.parameters, loss.box, levels, resolutions)
    reading = loss.reading
    bound, generic = reading.critical_points().decades, reading.critical_points(generic=True).decades
    return Measured(loss, bound, generic, found, studies)
