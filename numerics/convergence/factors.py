"""Where the certified rate loses against the observed one: the exact factors between the two at a point of a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from numerics.convergence.descent import chosen_step, least_split
from numerics.loss import OF_SAMPLES, Objective
from numerics.measure import hessian_lambda_max, tangent_kernel_lambda_min
from theory.costs import CrossEntropy
from theory.recursion import PROPORTIONAL, Recursion

MEASURED = 8
"""Networks whose tangent kernels and Hessians are measured; the others are left out."""


@dataclass(frozen=True)
class Factor:
    """One factor of observed over certified decrease of the loss in a step.

    Attributes:
        name: what is compared.
        low, middle, high: least, median and largest value over the networks measured.
    """

    name: str
    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, name: str, values: Tensor) -> Factor:
        return cls(name, float(values.min()), float(values.median()), float(values.max()))


def factors(objective: Objective, recursion: Recursion, theta: Tensor, rule: str, start: Tensor) -> list[Factor]:
    """The factors of `(ell_t - ell_{t+1}) / certified decrease` at the points `theta (S, P)`; the first four multiply to it, the fifth is what a longer step could gain.

    `(ell_t - ell_{t+1}) / ((eta_p / 2) lambda m(ell_t)) = [the step / the proportional step eta_p] * [decrease / ((eta/2) |g|^2)] *
    [|g|^2 / (lambda_min(theta) |grad gamma|^2)] * [lambda_min(theta) / lambda] * [|grad gamma|^2 / m(ell_t)]`.

    Args:
        start: `(S,)` the losses that the runs started at.
    """
    theta, start = theta[:MEASURED], start[:MEASURED]
    leaf = theta.detach().requires_grad_(True)
    outputs = objective.realisation(leaf, objective.x)
    losses = OF_SAMPLES[objective.cost](outputs, objective.targets)
    gradient, outer = torch.autograd.grad(losses.mean(-1).sum(), (leaf, outputs))
    losses = losses.detach()
    loss, squared, dominated = losses.mean(-1), gradient.square().sum(-1), outer.square().sum((-2, -1))
    eta = chosen_step(recursion, rule, losses, gradient, start)
    after = objective(theta - eta[:, None] * gradient).detach()
    known = recursion.step_size(loss, PROPORTIONAL, start)
    kernel = tangent_kernel_lambda_min(objective.realisation, theta, objective.x).value
    m = least_split(recursion.samples, loss) if recursion.cost == CrossEntropy.name else loss
    worst = recursion.domination * m / recursion.lambda_min
    top = hessian_lambda_max(objective, theta).value
    return [
        Factor.of("decrease of the loss / certified decrease", (loss - after) / (known / 2 * recursion.domination * m)),
        Factor.of("step taken / loss-proportional step", eta / known),
        Factor.of(
            "decrease / (eta/2) |grad ell|^2: curvature along the step below its bound",
            (loss - after) / (eta / 2 * squared),
        ),
        Factor.of(
            "|grad ell|^2 / (lambda_min(DF DF^T) |grad gamma|^2): the gradient is not at the kernel's weakest direction",
            squared / (kernel * dominated),
        ),
        Factor.of("lambda_min(DF DF^T) at the point / certified lambda", kernel / recursion.lambda_min),
        Factor.of("|grad gamma|^2 / its least value at this loss", dominated / worst),
        Factor.of(
            "1 / (eta lambda_max of the Hessian): how much longer the step could be at this point",
            1 / (eta * top.clamp(min=1e-300)),
        ),
    ]
