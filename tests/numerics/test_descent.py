"""Descent under cross-entropy stays below its certified envelope; an envelope that falls too fast is caught with step and start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sympy
import torch
from torch import Tensor

from numerics.convergence.descent import Descent, Trajectory, descend, least_split, measured_step
from numerics.device import DTYPE
from numerics.loss import Objective
from numerics.realise import Realisation, realise
from theory import symbols
from theory.convergence import Certificate, certify
from theory.costs import CrossEntropy, SquaredError, exact_least_split
from theory.curvature import CrossEntropyCurvature, Weights
from theory.evaluate import exact_ball, lower_float, upper_float
from theory.landscape import landscape
from theory.records import Shape
from theory.recursion import Recursion
from theory.spec import parse

GRID = torch.logspace(-12, 3, 61, dtype=DTYPE)
BELOW = 1e-10
"""Relative; the vectorised twin lowers its value by 1e-12, and its root is good to a few roundings."""


@pytest.mark.parametrize("samples", [1, 2, 3, 8, 64])
def test_least_split_is_the_exact_one_within_rounding_and_from_below(samples: int) -> None:
    for value, found in zip(GRID.tolist(), least_split(samples, GRID).tolist(), strict=True):
        exact = exact_least_split(samples, exact_ball(value))
        assert found <= lower_float(exact)
        assert found >= upper_float(exact) * (1 - BELOW)


@pytest.mark.parametrize("samples", [2, 3, 8, 64])
def test_least_split_stays_below_where_the_second_candidate_appears(samples: int) -> None:
    """At `t = 1/N` both roots meet; the value is stationary there, so half of the digits of the root are enough."""
    where = (
        -(samples - 1) * torch.log1p(torch.tensor(-1 / samples, dtype=DTYPE))
        + torch.log(torch.tensor(float(samples), dtype=DTYPE))
    ) / samples
    near = where * (1 + torch.tensor([-1e-3, -1e-9, -1e-15, 0.0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3], dtype=DTYPE))
    for value, found in zip(near.tolist(), least_split(samples, near).tolist(), strict=True):
        exact = exact_least_split(samples, exact_ball(value))
        assert upper_float(exact) * (1 - BELOW) <= found <= lower_float(exact)


def test_least_split_keeps_the_shape_of_its_argument_and_vanishes_at_zero() -> None:
    assert least_split(3, GRID[:12].reshape(3, 4)).shape == (3, 4)
    assert float(least_split(3, torch.zeros(1, dtype=DTYPE))) == 0


SPEC = "affine(3), residual(tanh, affine(3, weight_norm=frobenius, eps=1), scale(1/2)), crop(2)"
DATA = torch.diag(torch.tensor([2.0, 1.5, 1.0], dtype=DTYPE))
LABELS = torch.tensor([0, 1, 0])
NAMES = ("small", "unit", "huge")
STEPS = 200


def certificate() -> Certificate:
    """Of the small network on three samples whose singular values are 2, 3/2 and 1."""
    here = landscape(parse(SPEC), sympy.Integer(3), sympy.Integer(3), cost=CrossEntropy(sympy.Integer(2)))
    values = {symbols.x_0: 2, symbols.x_F: exact_ball(sympy.Rational(29, 4)).sqrt(), symbols.sigma: 1}
    return certify(here, values)


def network() -> Realisation:
    return realise(parse(SPEC), Shape(3, 3))


def starts(realisation: Realisation) -> Tensor:
    """One direction at three scales, so that only the scale differs."""
    source = torch.Generator().manual_seed(0)
    direction = torch.randn(realisation.size, generator=source, dtype=DTYPE)
    return torch.stack([scale * direction for scale in (1e-3, 1.0, 1e3)])


def run(recursion: Recursion | None = None, steps: int = STEPS, rule: str = "fixed") -> Trajectory:
    realisation = network()
    return descend(
        Objective(realisation, DATA, LABELS),
        recursion or certificate().required(),
        starts(realisation),
        steps=steps,
        rule=rule,
        labels=NAMES,
    )


def test_descent_obeys_its_envelope_from_small_unit_and_huge_starts() -> None:
    assert certificate().certified
    found = run()
    assert found.first_violation is None
    assert found.holds
    assert 0 < found.tightness <= 1
    assert found.labels == NAMES
    assert found.losses.shape == found.envelope.shape == (STEPS + 1, 3)
    assert torch.equal(found.losses[0], found.envelope[0])
    assert float(found.losses[0, 2]) > 100  # the huge start is far off
    assert bool((found.losses[1:] < found.losses[:-1]).all())
    assert bool((found.envelope[1:] < found.envelope[:-1]).all())


def test_the_envelope_is_the_certificates_own() -> None:
    """The batched recursion and the one in ball arithmetic agree, step by step."""
    found, own = run(steps=20), certificate()
    for start in range(3):
        exact = torch.tensor(own.envelope(float(found.losses[0, start]), 20), dtype=DTYPE)
        torch.testing.assert_close(found.envelope[:, start], exact, rtol=1e-12, atol=0)


def test_a_decrease_that_is_too_large_is_caught_with_its_step_and_start() -> None:
    """The largest domination at which one step of a start holds is known exactly; above it that start breaks at step 1."""
    true = certificate().required()
    losses = run(steps=1).losses
    limits = (losses[0] - losses[1]) / (true.fixed / 2 * least_split(3, losses[0]))
    weakest = int(limits.argmin())
    found = run(replace(true, domination=1.001 * float(limits[weakest])), steps=5)
    assert found.first_violation == (1, weakest)
    assert not found.holds
    assert float(found.losses[1, weakest]) > float(found.envelope[1, weakest])
    assert run(replace(true, domination=0.999 * float(limits[weakest])), steps=1).first_violation is None


def test_a_step_that_is_too_long_breaks_its_own_proof() -> None:
    """A curvature claimed a hundred times too small makes steps whose decrease falls short of (eta/2) |grad ell|^2."""
    true = certificate().required()
    small = Weights(0.0, 0.01)
    claimed = replace(true, curvature=CrossEntropyCurvature(small, small, 3, 1.0), domination=0.0)
    found = run(claimed, rule="proportional")
    assert found.first_violation is not None
    # nothing is claimed beforehand, so it is the ledger that fails
    torch.testing.assert_close(found.envelope, found.losses[:1].expand_as(found.envelope), rtol=1e-12, atol=0)


def test_a_loss_that_is_lost_does_not_hold() -> None:
    """An infinite step leads to values that are not numbers: no violation can be compared, yet the run does not hold."""
    assert not run(replace(certificate().required(), fixed=float("inf")), steps=3).holds


def test_plain_weights_are_not_certified_and_so_refused() -> None:
    here = landscape(
        parse("affine(3), tanh, affine(2)"), sympy.Integer(3), sympy.Integer(3), cost=CrossEntropy(sympy.Integer(2))
    )
    values = {symbols.x_0: 2, symbols.x_F: exact_ball(sympy.Rational(29, 4)).sqrt(), symbols.sigma: 1}
    refused = certify(here, values)
    assert not refused.certified
    with pytest.raises(ValueError, match="not certified: FAILS: layer 2, tanh"):
        refused.required()


def test_progress_is_told_after_every_chunk() -> None:
    seen: list[int] = []
    realisation = network()
    objective = Objective(realisation, DATA, LABELS)
    descend(objective, certificate().required(), starts(realisation), steps=60, progress=seen.append)
    assert seen == [25, 50, 60]


@pytest.fixture(scope="module")
def fixed() -> Trajectory:
    """1,500 steps of Theorem 1's length."""
    return run(steps=1500)


@pytest.mark.parametrize("rule", ["proportional", "posteriori"])
def test_steps_that_grow_with_falling_loss_reach_the_smallest_losses_below_every_bound(
    rule: str, fixed: Trajectory
) -> None:
    found = run(rule=rule, steps=1500)
    assert found.holds
    assert float(found.losses[-1, :2].max()) < 1e-10
    assert float(fixed.losses[-1, :2].min()) > 1e-4
    assert bool((found.losses <= found.proven * (1 + 1e-9)).all())
    assert bool((found.proven <= found.envelope * (1 + 1e-9)).all())
    # beta is not larger where the loss is smaller
    assert bool((found.steps[1:] >= found.steps[:-1] * (1 - 1e-9)).all()) or rule == "posteriori"


def test_the_step_a_posteriori_is_never_shorter_than_the_proportional_one() -> None:
    recursion = certificate().required()
    assert isinstance(recursion.curvature, CrossEntropyCurvature)
    source = torch.Generator().manual_seed(3)
    losses = torch.randn(200, 3, generator=source, dtype=DTYPE).mul(3).exp()
    gradient = torch.rand(200, generator=source, dtype=DTYPE)
    measured = measured_step(recursion.curvature, losses, gradient)
    plain = recursion.step_size(losses.mean(-1), "proportional", losses[:, 0])
    assert bool((measured >= plain * (1 - 1e-11)).all())
    assert bool((measured > 1.2 * plain).any())


def test_the_hessian_along_a_measured_step_is_at_most_one_over_the_step() -> None:
    """Dense Hessians at ten points of each step, small and large losses; the claim behind the ledger."""
    recursion, realisation = certificate().required(), network()
    objective = Objective(realisation, DATA, LABELS)
    assert isinstance(recursion.curvature, CrossEntropyCurvature)
    trained = run(rule="posteriori", steps=40).theta
    for theta in torch.cat([starts(realisation)[:2], trained]):
        point = theta.clone().requires_grad_(True)
        losses = objective.of_samples(point[None])
        (gradient,) = torch.autograd.grad(losses.mean(), point)
        eta = measured_step(recursion.curvature, losses.detach(), gradient.norm()[None])[0]
        for share in torch.linspace(0, 1, 10, dtype=DTYPE):
            there = theta - share * eta * gradient
            hessian = torch.autograd.functional.hessian(lambda t: objective(t[None]).sum(), there)
            assert float(torch.linalg.eigvalsh(hessian)[-1]) <= float(1 / eta) * (1 + 1e-9)


def test_squared_error_descends_linearly_below_its_envelope() -> None:
    here = landscape(parse(SPEC), sympy.Integer(3), sympy.Integer(3), cost=SquaredError())
    values = {symbols.x_0: 2, symbols.x_F: exact_ball(sympy.Rational(29, 4)).sqrt(), symbols.sigma: 1}
    found = certify(here, values)
    assert found.certified
    realisation = network()
    targets = torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 1.0]], dtype=DTYPE)
    objective = Objective(realisation, DATA, targets, cost="squared error")
    for rule in ("fixed", "proportional", "posteriori"):
        trajectory = descend(objective, found.required(), starts(realisation)[:2], steps=2000, rule=rule)
        assert trajectory.holds
        assert float(trajectory.losses[-1].max()) < 1e-8 * float(trajectory.losses[0].max())
        assert 0 < trajectory.tightness <= 1


def test_a_run_in_pieces_is_the_run_in_one() -> None:
    realisation, recursion = network(), certificate().required()
    objective, theta = Objective(realisation, DATA, LABELS), starts(realisation)
    whole = descend(objective, recursion, theta, steps=70, rule="posteriori")
    first = Descent(objective, recursion, theta, "posteriori")
    first.run(31)
    second = Descent(objective, recursion, first.done[0], "posteriori", first.records)
    second.run(39)
    pieces = second.trajectory()
    assert torch.equal(whole.losses, pieces.losses)
    assert torch.equal(whole.theta, pieces.theta)
    assert torch.equal(whole.proven, pieces.proven)


def test_a_certificate_of_another_problem_is_refused() -> None:
    realisation, recursion = network(), certificate().required()
    objective = Objective(realisation, DATA, LABELS)
    with pytest.raises(ValueError, match="unknown rule 'fast'"):
        Descent(objective, recursion, starts(realisation), "fast")
    with pytest.raises(ValueError, match="certificate speaks of cross-entropy on 4 samples"):
        Descent(objective, replace(recursion, samples=4), starts(realisation))
    with pytest.raises(ValueError, match="targets have shape"):
        Objective(realisation, DATA, LABELS[:2])
