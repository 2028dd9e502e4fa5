"""`|hess ell| <= beta(ell)` at every loss: ascent over parameters and directions finds no counterexample, and refutes a `beta` shrunk past what it finds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from numerics.device import DTYPE, generator
from numerics.loss import Objective
from numerics.realise import realise
from numerics.search import maximise
from theory import symbols
from theory.convergence import certify
from theory.costs import CrossEntropy, SquaredError
from theory.curvature import CrossEntropyCurvature, Curvature, SquaredErrorCurvature
from theory.landscape import landscape
from theory.records import Shape
from theory.spec import parse

SPEC = "affine(3), residual(tanh, affine(3, weight_norm=frobenius, eps=1), scale(1/2)), crop(2)"
DATA = torch.diag(torch.tensor([2.0, 1.5, 1.0], dtype=DTYPE))
LABELS = torch.tensor([0, 1, 0])
VALUES = {symbols.N: 3, symbols.x_0: 2, symbols.x_F: 7.25**0.5, symbols.x_s: 2, symbols.sigma: 1}
RESTARTS, STEPS = 64, 300


def objective(cost: str) -> Objective:
    targets = LABELS if cost == CrossEntropy.name else torch.nn.functional.one_hot(LABELS, 2).T.to(DTYPE)
    return Objective(realise(parse(SPEC), Shape(3, 3)), DATA, targets, cost)  # type: ignore[arg-type]


def curvature_of(cost: str) -> Curvature:
    given = SquaredError() if cost == SquaredError.name else None
    certificate = certify(landscape(parse(SPEC), 3, 3, given), VALUES)  # type: ignore[arg-type]
    return certificate.required().curvature


def worst(cost: str, beta: Curvature) -> tuple[float, float]:
    """The largest `w^T hess ell w / beta(ell)` over unit `w` that ascent finds, and the loss there."""
    there = objective(cost)
    source = generator(0)
    size = there.realisation.size
    # parameters of all sizes, so that losses from 1e-4 to 1e2 are begun at
    scales = torch.logspace(-2, 1.5, RESTARTS, dtype=DTYPE)[:, None]
    theta = torch.randn(RESTARTS, size, generator=source, dtype=DTYPE) * scales
    direction = torch.randn(RESTARTS, size, generator=source, dtype=DTYPE)

    def ratio(theta: Tensor, direction: Tensor) -> Tensor:
        losses = there(theta)
        unit = direction / direction.norm(dim=1, keepdim=True)
        (gradient,) = torch.autograd.grad(losses.sum(), theta, create_graph=True)
        (product,) = torch.autograd.grad((gradient * unit).sum(), theta, create_graph=True)
        return (product * unit).sum(1) / beta(losses)

    best = maximise(ratio, [theta, direction], None, STEPS, 0.05, source)
    index = int(best.value.argmax())
    return float(best.value[index]), float(there(best.arguments[0][index]))


def shrunk(beta: Curvature, factor: float) -> Curvature:
    """`factor beta`."""
    if isinstance(beta, SquaredErrorCurvature):
        return replace(beta, outer=beta.outer * factor, slope=beta.slope * factor)
    assert isinstance(beta, CrossEntropyCurvature)
    less = [replace(w, outer=w.outer * factor, slope=w.slope * factor) for w in (beta.mean, beta.largest)]
    return replace(beta, mean=less[0], largest=less[1])


@pytest.mark.parametrize("cost", [CrossEntropy.name, SquaredError.name])
def test_no_hessian_exceeds_the_curvature_at_its_loss(cost: str) -> None:
    beta = curvature_of(cost)
    found, loss = worst(cost, beta)
    assert found <= 1 + 1e-9, f"loss {loss}"
    assert found > 0.1  # the search does find curvature of the bound's own size
    refuted, _ = worst(cost, shrunk(beta, 0.98 * found))
    assert refuted > 1
