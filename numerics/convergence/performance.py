"""Worst-case rates of gradient descent by performance estimation, from a smoothness and a Polyak-Lojasiewicz constant.

A certificate of this project uses of a landscape its smoothness constant `beta` and its constant `mu` in `|grad ell|^2 >= 2 mu (ell - inf ell)`,
and gets by the descent lemma the factor `1 - mu eta (2 - beta eta)` a step. PEPit (Goujaud et al. 2024, arXiv 2201.04040) searches the whole
class of such functions by semidefinite programming, so the two numbers together say how much the descent lemma gives away at least.

PEPit is an optional extra: `pip install "depthbound[pep]"`.
"""

from __future__ import annotations

import math

try:
    from cvxpy.error import SolverError
    from PEPit import PEP
    from PEPit.functions import SmoothQuadraticLojasiewiczFunctionExpensive

    _missing: ImportError | None = None
except ImportError as error:  # reported when a rate is asked for
    _missing = error

ACCURACY = 1e-6
"""How far the primal and the dual value may lie apart, and the dual value outside the range that any such rate has."""


def worst_case_rate(smoothness: float, pl_constant: float, step_size: float, steps: int = 1) -> float:
    """Upper bound of `(ell(theta_steps) - inf ell) / (ell(theta_0) - inf ell)` for gradient descent, over a whole class of functions.

    The class, in every dimension: `grad ell` is Lipschitz with constant `beta` on the whole space (`ell` need not be convex), and
    `|grad ell|^2 >= 2 mu (ell - inf ell)`, with the infimum attained. The iteration is `theta_{t+1} = theta_t - eta grad ell(theta_t)`.

    Under squared error `|F - Y|^2 / (2 N)` a tangent kernel of least eigenvalue `lambda` gives `mu = lambda / N`: the certificates of this
    project say `|grad ell|^2 >= 2 (lambda / N) ell`. Their `beta` holds on a sublevel set or on a ball, and by the route "centre" of
    `numerics.certify` bounds the Hessian from above only, which is all that the descent lemma needs; the class here is smooth on the whole
    space and from both sides. The value is therefore a comparison within the class, and certifies no landscape whose `beta` says less.

    No conditions are known that are both necessary and sufficient for values and gradients to belong to a function of this class. The
    strongest necessary ones that PEPit offers are used (Rubbens, Hendrickx and Taylor 2025, arXiv 2504.14377, Proposition 3.4), so the value
    is valid for the class and may lie above its true worst case. It improves on the analytic rate of Abbaszadehpeivasti, de Klerk and
    Zamani, "Conditions for linear convergence of the gradient method for non-convex optimization" (Optimization Letters 2023, arXiv
    2204.00647), Theorem 3, which at `eta = 1 / beta` is `2 (beta - mu) / (2 beta + mu)`; the descent lemma gives `1 - mu / beta` there.

    The rate depends on `mu / beta` and `eta beta` alone, and the programme is solved at `beta = 1` by Clarabel. The error is absolute, of
    the order of `ACCURACY`, so `1 - rate` is lost in it where `mu eta` is not well above that; steps far below `1 / beta` with `mu / beta`
    below a thousandth are refused for it. The programme grows with the square of `steps` (two seconds for five).

    Args:
        smoothness: `beta > 0`, the largest absolute value of a Hessian eigenvalue.
        pl_constant: `mu` in `(0, beta]`, with the factor 2 as above.
        step_size: `eta` in `(0, 2 / beta)`.
        steps: number of steps, at least 1.

    Returns:
        The factor over all steps together, up to the solver's error.

    Raises:
        ValueError: naming the argument that is out of its range.
        ImportError: PEPit is not installed.
        ArithmeticError: the solver failed, its primal and dual values differ by more than `ACCURACY`, or the value lies above 1 or below
            `max{(1 - eta mu)^2, (1 - eta beta)^2}^steps`, which two quadratic members of the class attain.
    """
    if not 0 < smoothness < math.inf:
        raise ValueError(f"smoothness = {smoothness}: give a finite positive number")
    if not 0 < pl_constant <= smoothness:
        raise ValueError(
            f"pl_constant = {pl_constant}: give a positive number, at most the smoothness constant {smoothness} "
            "(|grad ell|^2 <= 2 beta (ell - inf ell) holds for every smooth function)"
        )
    relative_step = float(step_size * smoothness)
    if not 0 < relative_step < 2:
        raise ValueError(
            f"step_size = {step_size}: give a number strictly between 0 and 2 / smoothness = {2 / smoothness}"
        )
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps = {steps}: give an integer, at least 1")
    if _missing is not None:
        raise ImportError('worst-case rates need PEPit: pip install "depthbound[pep]"') from _missing

    relative_pl = float(pl_constant / smoothness)
    remedy = (
        f"it is ill-conditioned at mu / beta = {relative_pl}, eta beta = {relative_step}, steps = {steps}; "
        "take larger ratios or fewer steps"
    )
    problem = PEP()
    loss = problem.declare_function(SmoothQuadraticLojasiewiczFunctionExpensive, L=1.0, mu=relative_pl)
    infimum = loss(loss.stationary_point())
    theta = problem.set_initial_point()
    problem.set_initial_condition(loss(theta) - infimum <= 1)
    for _ in range(steps):
        theta = theta - relative_step * loss.gradient(theta)
    problem.set_performance_metric(loss(theta) - infimum)
    try:
        dual = problem.solve(solver="CLARABEL", verbose=0)
    except SolverError as error:
        raise ArithmeticError(f"the solver failed: {remedy}") from error
    primal = None if dual is None else float(problem.objective.eval())
    attained = max((1 - relative_step * relative_pl) ** 2, (1 - relative_step) ** 2) ** steps
    if (
        dual is None
        or primal is None
        or not abs(primal - dual) <= ACCURACY
        or not attained - ACCURACY <= dual <= 1 + ACCURACY
    ):
        raise ArithmeticError(
            f"the solver ended with primal value {primal} and dual value {dual}; they must agree to {ACCURACY}, and no rate lies "
            f"outside [{attained}, 1]: {remedy}"
        )
    return max(0.0, float(dual))
