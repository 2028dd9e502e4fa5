"""Descent under cross-entropy stays below its certified envelope; an envelope that falls too fast is caught with step and start."""

from __future__ import annotations

import pytest
import sympy
import torch
from torch import Tensor

from numerics.descent import Trajectory, descend, least_split
from numerics.device import DTYPE
from numerics.realise import Realisation, realise
from theory import symbols
from theory.convergence import Certificate, certify
from theory.costs import CrossEntropy, exact_least_split
from theory.evaluate import exact_ball, lower_float, upper_float
from theory.landscape import landscape
from theory.records import Shape
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


def run(decrease: float | None = None, step_size: float | None = None, steps: int = STEPS) -> Trajectory:
    found, realisation = certificate(), network()
    return descend(
        realisation,
        starts(realisation),
        DATA,
        LABELS,
        step_size=found.step_size if step_size is None else step_size,
        decrease=found.decrease if decrease is None else decrease,
        steps=steps,
        names=NAMES,
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
    """The largest decrease at which one step of a start holds is known exactly; above it that start breaks at step 1."""
    losses = run(steps=1).losses
    limits = (losses[0] - losses[1]) / least_split(3, losses[0])
    weakest = int(limits.argmin())
    found = run(decrease=1.001 * float(limits[weakest]), steps=5)
    assert found.first_violation == (1, weakest)
    assert not found.holds
    assert float(found.losses[1, weakest]) > float(found.envelope[1, weakest])
    assert run(decrease=0.999 * float(limits[weakest]), steps=1).first_violation is None


def test_a_loss_that_is_lost_does_not_hold() -> None:
    """An infinite step leads to values that are not numbers: no violation can be compared, yet the run does not hold."""
    assert not run(step_size=float("inf"), steps=3).holds


@pytest.mark.parametrize(("step_size", "decrease"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_without_a_certificate_there_is_no_descent(step_size: float, decrease: float) -> None:
    with pytest.raises(ValueError, match="needs a certificate that holds"):
        run(step_size=step_size, decrease=decrease)


def test_plain_weights_are_not_certified_and_so_refused() -> None:
    here = landscape(
        parse("affine(3), tanh, affine(2)"), sympy.Integer(3), sympy.Integer(3), cost=CrossEntropy(sympy.Integer(2))
    )
    values = {symbols.x_0: 2, symbols.x_F: exact_ball(sympy.Rational(29, 4)).sqrt(), symbols.sigma: 1}
    refused = certify(here, values)
    assert not refused.certified
    with pytest.raises(ValueError, match="needs a certificate that holds"):
        run(step_size=refused.step_size, decrease=refused.decrease)


def test_progress_is_told_after_every_step() -> None:
    seen: list[int] = []
    realisation = network()
    descend(realisation, starts(realisation), DATA, LABELS, step_size=0.1, decrease=1e-6, steps=4, names=NAMES, progress=seen.append)  # fmt: skip
    assert seen == [0, 1, 2, 3, 4]
