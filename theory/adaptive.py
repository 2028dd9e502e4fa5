"""Adam's update as a formula of the gradients it has seen, and what scaling them does to it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import sympy
from sympy import Expr, Symbol

from theory.bound import Step

beta_1, beta_2 = sympy.symbols("beta_1 beta_2", positive=True)
rho = Symbol("rho", positive=True)
"""What gradients are divided by."""


def adam_direction(gradients: Sequence[Expr], eps: Expr, *, inside: bool = False) -> Expr:
    """`m / (sqrt v + eps)` of one parameter after these gradients, oldest first; with `inside` `m / sqrt(v + eps)`.

    `m = (1 - beta_1) sum_s beta_1^{t-s} g_s / (1 - beta_1^t)`, `v` likewise of the squares with `beta_2`; an update is minus the step size times this.

    Raises:
        ValueError: no gradient.
    """
    if not gradients:
        raise ValueError("no gradients: give at least one")
    moments = []
    for decay, power in ((beta_1, 1), (beta_2, 2)):
        moment = sympy.S.Zero
        for g in gradients:
            moment = decay * moment + (1 - decay) * sympy.sympify(g) ** power
        moments.append(moment / (1 - decay ** len(gradients)))
    first, second = moments
    return first / (sympy.sqrt(second + eps) if inside else sympy.sqrt(second) + eps)


@lru_cache(maxsize=1)
def scaling_steps() -> tuple[Step, ...]:
    """Adam on `g / rho` with `eps` against Adam on `g` with `rho eps`; induction over the steps."""
    g, m, r, eps = sympy.symbols("g m r eps", positive=True)
    moment = {decay: decay * m + (1 - decay) * g for decay in (beta_1, beta_2)}
    halves = (
        (moment[beta_1].subs({g: g / rho, m: m / rho}) - moment[beta_1] / rho),
        (moment[beta_2].subs({g: g / rho**2, m: m / rho**2}) - moment[beta_2] / rho**2),
    )
    return (
        Step("if m and v are those of g divided by rho and rho^2, so they are after one more gradient", halves),
        Step(
            "(m/rho) / (sqrt(r^2/rho^2) + eps) = m / (r + rho eps), r^2 = v: the same update, so the same parameters and the same next gradient",
            ((m / rho) / (sympy.sqrt(r**2 / rho**2) + eps) - m / (r + rho * eps),),
        ),
        Step(
            "with eps inside the root the factor is rho^2: (m/rho) / sqrt(r^2/rho^2 + eps) = m / sqrt(r^2 + rho^2 eps)",
            ((m / rho) / sympy.sqrt(r**2 / rho**2 + eps) - m / sympy.sqrt(r**2 + rho**2 * eps),),
        ),
    )
