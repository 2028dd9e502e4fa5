"""How steps are chosen and what one provably removes: all that a run needs of a certificate, in doubles on their safe sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flint

from theory.costs import CrossEntropy, exact_least_split
from theory.curvature import CrossEntropyCurvature, Curvature
from theory.evaluate import lower_float

ODDS_GROWTH = tuple(k / 8 for k in (0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16))
"""Logarithms of the growth of a sample's odds that a step measured a posteriori may allow for; the best one counts."""
PIECES = 400
"""Pieces of [1, N] on which the rate with measured residuals is bounded."""

FIXED, PROPORTIONAL, POSTERIORI = "fixed", "proportional", "posteriori"
RULES = (FIXED, PROPORTIONAL, POSTERIORI)
"""How a step is chosen: Theorem 1; Theorem 2; from what is measured along the run (`numerics.convergence.descent`)."""


@dataclass(frozen=True)
class Recursion:
    """`ell_{t+1} <= ell_t - (eta_t / 2) domination m(ell_t)` in doubles on their safe sides: all that a run needs of a certificate.

    Attributes:
        cost: "cross-entropy" or "squared error".
        samples: `N`.
        curvature: `beta`.
        domination: lower float of `lambda K / ((K-1) N^2)` (of `m_N`), under squared error of `2 lambda / N` (of `gamma`).
        lambda_min: lower float of `lambda` itself.
        fixed: Theorem 1's step, a float below `1 / sup beta`; 0 where `beta` is unbounded, and the fixed step depends on the start.
    """

    cost: str
    samples: int
    curvature: Curvature
    domination: float
    lambda_min: float
    fixed: float

    def step_size(self, loss: Any, rule: str, start: Any) -> Any:
        """`eta` at a loss (ball or tensor) of a run that started at the loss `start`; rounded down.

        Fixed: `1 / sup beta`, under squared error `1 / beta(start)`. Proportional: `1 / beta(loss)`.
        """
        if rule not in (FIXED, PROPORTIONAL):
            raise ValueError(f"rule {rule!r} has no step of the loss alone: known are {FIXED} and {PROPORTIONAL}")
        if rule == PROPORTIONAL:
            return (1 - 2.0**-50) / self.curvature(loss)
        if self.fixed:
            return 0 * start + self.fixed
        return (1 - 2.0**-50) / self.curvature(start)

    def dominated(self, loss: flint.arb) -> flint.arb:
        """`domination m(loss)`, at most `|grad ell|^2`."""
        m = exact_least_split(self.samples, loss) if self.cost == CrossEntropy.name else loss
        return flint.arb(self.domination) * m

    def after(self, loss: flint.arb, rule: str, start: flint.arb) -> flint.arb:
        """The upper end of `loss - (eta/2) domination m(loss)`."""
        return (loss - self.step_size(loss, rule, start) / 2 * self.dominated(loss)).upper()

    @property
    def linear_rate(self) -> float:
        """Lower float of the part of the loss that a proportional step removes, as the loss goes to 0."""
        if isinstance(self.curvature, CrossEntropyCurvature):
            part = flint.arb(self.domination) * self.samples / (2 * flint.arb(self.curvature.at_zero))
        else:
            part = flint.arb(self.domination) / (2 * self.curvature(flint.arb(0)))
        return lower_float(part)

    @property
    def measured_rate(self) -> float:
        """Lower float of the part of the loss that a step chosen from the samples' residuals removes, as the loss goes to 0.

        The least over `x = q_max / mean q` in [1, N] of the best of `D N S / (2 C)`, and for each growth `k` the smaller of
        `k sqrt(D N S) / (2 sqrt2 |DF_i|)` and `D N S / (2 C' e^k x)`; `S = 1 + (x-1)^2 / (N-1)`, `C, C'` the limits of `beta / ell` by the mean and by
        the largest residual (`residual_steps`). Under squared error it is `linear_rate`.
        """
        if not isinstance(self.curvature, CrossEntropyCurvature) or self.samples == 1 or self.domination == 0:
            return self.linear_rate
        d = flint.arb(self.domination) * self.samples
        mean, largest = flint.arb(self.curvature.at_zero), flint.arb(self.curvature.largest.at_zero)
        reach = 2 * flint.arb(2).sqrt() * flint.arb(self.curvature.first)
        grown = [(flint.arb(k), largest * flint.arb(k).exp()) for k in ODDS_GROWTH]
        ratio = (flint.arb(self.samples).log() / PIECES).exp()
        least, x = flint.arb.pos_inf(), flint.arb(1)
        for _ in range(PIECES):
            end = (x * ratio).upper()
            available = d * (1 + (x - 1) ** 2 / (self.samples - 1)).lower()
            best = available / (2 * mean)
            for k, steepest in grown:
                best = best.max((k * available.sqrt() / reach).min(available / (2 * steepest * end)))
            least, x = least.min(best.lower()), end
        return lower_float(least)
