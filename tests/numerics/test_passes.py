"""Mini-batches in full passes: the certificate, its refusals, and runs below the envelope."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sympy
import torch
from sympy import S
from torch import Tensor

from numerics.convergence.descent import Trajectory
from numerics.convergence.passes import PassDescent, batches_of
from numerics.device import DTYPE
from numerics.loss import Objective
from numerics.realise import realise
from theory.convergence import Certificate, certify
from theory.costs import CrossEntropy, SquaredError
from theory.landscape import Landscape, landscape
from theory.passes import PassCertificate, certify_passes, pass_steps
from theory.records import Shape
from theory.spec import parse

SPEC = "affine(4), residual(tanh, affine(4, weight_norm=frobenius, eps=1), scale(1/8)), crop(2)"
NORMS = {"N": 4, "x_0": 2, "x_F": 4, "sigma": 2, "x_s": 2}
DATA = 2 * torch.eye(4, dtype=DTYPE)
LABELS = torch.tensor([0, 1, 0, 1])


def certified(spec: str = SPEC, cost: object = None) -> tuple[Landscape, Certificate]:
    here = landscape(parse(spec), S(4), S(4), cost=cost or CrossEntropy(S(2)))  # type: ignore[arg-type]
    return here, certify(here, NORMS)


def starts(size: int) -> Tensor:
    direction = torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=DTYPE)
    return torch.stack([scale * direction / direction.norm() for scale in (1e-3, 1.0, 1e2)])


def run(certificate: PassCertificate, count: int, passes: int):
    network = parse(SPEC)
    whole = Objective(realise(network, Shape(S(4), S(4))), DATA, LABELS)
    batches = batches_of(network, DATA, LABELS, count)
    theta = starts(whole.realisation.size)
    return passed(whole, batches, certificate, theta, passes), whole, theta


def passed(
    whole: Objective, batches: list[Objective], certificate: PassCertificate, theta: Tensor, passes: int
) -> Trajectory:
    made = PassDescent(whole, batches, certificate, theta)
    made.run(passes)
    return made.trajectory()


def test_the_links_of_the_proof_hold() -> None:
    assert all(step.verify() for step in pass_steps())


def test_the_step_and_the_rate_are_the_formulas() -> None:
    here, full = certified()
    found = certify_passes(here, full)
    k, curvature = sympy.Rational(found.growth), found.recursion.curvature
    b, c = sympy.Rational(curvature.first), sympy.Rational(curvature.mean.at_zero)  # type: ignore[attr-defined]
    d = sympy.Rational(found.recursion.domination) * 4
    assert found.factor == pytest.approx(float(k * sympy.exp(-k) / (2 * b**2)), rel=1e-14)
    assert found.error == pytest.approx(float(c * k * sympy.exp(k) / sympy.sqrt(2 * b**2 * d)), rel=1e-14)
    assert found.error < 1
    assert c * k <= 2 * b**2 * (1 + sympy.Rational(1, 10**12))
    assert found.linear_rate == pytest.approx(found.factor / 2 * (1 - found.error**2) * float(d), rel=1e-12)
    assert 0 < found.linear_rate < full.linear_rate


@pytest.mark.parametrize("count", [1, 2, 4])
def test_passes_stay_below_their_envelope_and_the_batches_gradients_within_the_error(count: int) -> None:
    found = certify_passes(*certified())
    trajectory, whole, theta = run(found, count, 400)
    assert trajectory.holds
    assert bool((trajectory.losses[1:] < trajectory.losses[:-1]).all())
    # the mean gradient of a pass against the full one at its start, as the proof bounds it
    leaf = theta.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(whole(leaf).sum(), leaf)
    after = passed(whole, batches_of(parse(SPEC), DATA, LABELS, count), found, theta, 1)
    moved = (theta - after.theta) / after.steps[0][:, None]
    assert bool(((moved - gradient).norm(dim=1) <= found.error * gradient.norm(dim=1) * (1 + 1e-9)).all())


def test_passes_converge_linearly_to_small_losses() -> None:
    found = certify_passes(*certified())
    short, whole, _ = run(found, 4, 1)
    # enough passes for the certified rate alone to take the small starts far down
    passes = int(5 / found.linear_rate)
    batches = batches_of(parse(SPEC), DATA, LABELS, 4)
    trajectory = passed(whole, batches, found, starts(whole.realisation.size)[:2], passes)
    assert trajectory.holds
    half = passes // 2
    rate = 1 - (trajectory.losses[-1] / trajectory.losses[half]) ** (1 / (passes - half))
    assert float(rate.min()) >= found.linear_rate
    assert short.holds


def test_passes_in_pieces_are_the_passes_in_one() -> None:
    found = certify_passes(*certified())
    once, whole, theta = run(found, 2, 7)
    batches = batches_of(parse(SPEC), DATA, LABELS, 2)
    first = PassDescent(whole, batches, found, theta)
    first.run(3)
    second = PassDescent(whole, batches, found, first.done[0], records=first.records)
    second.run(4)
    assert torch.equal(once.losses, second.trajectory().losses)


def test_a_domination_claimed_too_large_is_caught() -> None:
    found = certify_passes(*certified())
    false = replace(found, recursion=replace(found.recursion, domination=1000 * found.recursion.domination))
    assert not run(false, 2, 20)[0].holds


def test_what_is_not_certified_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="a layer couples samples"):
        certify_passes(
            *certified(
                "affine(4), residual(batch_norm(eps=4), tanh, affine(4, weight_norm=frobenius, eps=1), scale(1/8)), crop(2)"
            )
        )
    with pytest.raises(ValueError, match="cross-entropy, not for squared error"):
        certify_passes(*certified(cost=SquaredError()))
    with pytest.raises(ValueError, match="not certified: FAILS"):
        certify_passes(*certified("affine(4), tanh, crop(2)"))
    with pytest.raises(ValueError, match="4 samples do not split into 3 equal batches: use one of 1, 2, 4"):
        batches_of(parse(SPEC), DATA, LABELS, 3)
