"""A bound beside a measured value: decided with an enclosure of the bound and a stated rounding allowance of the measurement."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from theory.bound import Sense

ALLOWANCE = 1e-9
"""Relative rounding allowance of a measured value. Measurements are double-precision and backward stable, so their relative error is
of order `(number of operations) 2^-52`, below 1e-11 for every size used here; 1e-9 leaves two decades and still catches a bound that
is too small by one part in a million."""


@dataclass(frozen=True)
class Comparison:
    """One row of `results.json`.

    Attributes:
        check: what was done: `sampled`, `searched`, `descent`, or a paper check's claim.
        paper: the paper whose claim it is (`A`, ...), empty for our own.
        network: the spec of the network; `architecture` is its short name in the family.
        depth: number of repeated blocks.
        quantity, sense: what is bounded, and whether from above or below.
        bound: the bound rounded to its safe side (`inf` where unbounded).
        measured: the extreme measured value: largest for an upper bound, smallest for a lower one.
        tightness: measured / bound, for a lower bound the inverse; in [0, 1] where the bound holds.
        holds: whether no measured value lies beyond the bound by more than the allowance.
        samples: number `N` of data samples.
        networks: number of networks measured, or of restarts searched.
        seed, device: what is needed to replay.
        converged: False where an iterative measurement had not converged (an unfinished one under-estimates a maximum).
        allowance: the absolute rounding allowance used in the verdict.
        witness: where the extreme value was found (kind of draw and index, or the name of the stored arrays).
    """

    check: str
    paper: str
    network: str
    architecture: str
    depth: int
    quantity: str
    sense: str
    bound: float
    measured: float
    tightness: float
    holds: bool
    samples: int
    networks: int
    seed: int
    device: str
    converged: bool = True
    allowance: float = 0.0
    witness: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        return asdict(self)


def verdict(bound: float, sense: Sense | str, measured: float, scale: float | None = None) -> tuple[float, bool, float]:
    """`(tightness, holds, allowance)` of one measured value against a bound rounded to its safe side (`inf`: unbounded).

    `scale` is the magnitude that the measurement's rounding error is relative to (default: the measured value itself; for a
    least eigenvalue it is the largest one). A measured value that is not a number never holds.
    """
    size = abs(measured if scale is None else scale)
    allowance = ALLOWANCE * size if math.isfinite(size) else 0.0
    if math.isnan(measured):
        return float("nan"), False, allowance
    if sense == Sense.UPPER:
        tightness = 0.0 if math.isinf(bound) else _ratio(measured, bound)
        return tightness, measured <= bound + allowance, allowance
    return _ratio(bound, max(measured, 0.0)), measured >= bound - allowance, allowance


def _ratio(numerator: float, denominator: float) -> float:
    """`numerator / denominator` with 0 / 0 = 1: a bound of zero on a quantity that is zero is attained."""
    if denominator == 0:
        return 1.0 if numerator == 0 else math.inf
    return numerator / denominator


def extreme(values: Tensor, sense: Sense | str) -> tuple[float, int]:
    """The value that speaks most against a bound, and its index; a value that is not a number comes first."""
    flat = values.detach().flatten()
    lost = flat.isnan().nonzero()
    if len(lost):
        return float("nan"), int(lost[0])
    index = int(flat.argmax() if sense == Sense.UPPER else flat.argmin())
    return float(flat[index]), index
