"""Paths to zero loss from batches of networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from numerics.device import DTYPE, generator
from numerics.ensembles import draw
from numerics.valleys import Problem, dead, escape, lift, relative_sigma, separated
from theory.spec import parse

SPEC = "affine(12, bias=true), tanh, affine(12, bias=true), sigmoid, affine(3, bias=true)"


@pytest.fixture(name="given")
def _given() -> Problem:
    x = torch.randn(2, 7, dtype=DTYPE, generator=generator(0))
    return Problem.of(parse(SPEC), x, torch.arange(7) % 3)


def networks(given: Problem, count: int, seed: int = 1) -> Tensor:
    return draw(given.objective.realisation, count, "gaussian", 3.0, generator(seed))


def test_psi_times_the_output_weights_are_the_logits(given: Problem) -> None:
    theta = networks(given, 5)
    *_, weight, bias = given.objective.realisation.split(theta)
    logits = given.psi(theta) @ weight.mT + bias[:, None]
    torch.testing.assert_close(logits, given.logits(theta), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(
        torch.log1p(given.wrong_weights(theta)).mean(-1), given.objective(theta), rtol=1e-12, atol=1e-13
    )


def test_the_lift_moves_true_logits_by_t_and_no_others(given: Problem) -> None:
    theta = networks(given, 50)
    path = lift(given, theta)
    t = torch.linspace(0.5, 5, 50, dtype=DTYPE)
    moved = given.logits(path.at(t)) - given.logits(theta)
    # the right inverse is off by the condition number of Psi (up to 1e6) times 2^-52
    assert float(path.sigma.min()) > 1e-6
    torch.testing.assert_close(moved, t[:, None, None] * given.one_hot.expand_as(moved), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(given.objective(path.at(t)), path.predicted(t), rtol=1e-7, atol=0)
    ends = path.below(1e-5)
    assert bool((given.objective(path.at(ends)) <= 1e-5 * (1 + 1e-7)).all())
    hidden = slice(0, given.hidden.size)
    assert torch.equal(path.at(t)[:, hidden], theta[:, hidden])


def test_fewer_units_than_samples_have_no_lift() -> None:
    x = torch.randn(2, 7, dtype=DTYPE, generator=generator(0))
    narrow = Problem.of(parse("affine(6, bias=true), tanh, affine(3)"), x, torch.arange(7) % 3)
    assert torch.equal(lift(narrow, networks(narrow, 4)).sigma, torch.zeros(4, dtype=DTYPE))


def test_escape_leaves_a_singular_start_within_its_margin(given: Problem) -> None:
    theta = torch.cat([networks(given, 4), torch.zeros(2, given.objective.realisation.size, dtype=DTYPE)])
    found = escape(given, theta, 1e-4, 1e-2, generator(2))
    assert found.segments.tolist()[:4] == [0, 0, 0, 0]
    assert int(found.segments[4:].min()) >= 1
    assert bool((found.highest <= found.start + 1e-2).all())
    assert bool((found.end <= 1e-4 * (1 + 1e-6)).all())
    # where nothing has to be left the loss never rises
    assert torch.equal(found.highest[:4], found.start[:4])


def test_escape_says_which_network_it_cannot_help() -> None:
    x = torch.ones(2, 3, dtype=DTYPE)
    equal = Problem.of(parse("affine(6, bias=true), tanh, affine(3)"), x, torch.arange(3))
    with pytest.raises(ValueError, match=r"networks \[0, 1\]: no neighbour"):
        escape(equal, networks(equal, 2), 1e-3, 1e-2, generator(0))


def test_separation_is_zero_for_equal_samples_only() -> None:
    x = torch.randn(2, 5, dtype=DTYPE, generator=generator(3))
    x[:, 4] = x[:, 0]
    twice = Problem.of(parse("affine(6, bias=true), tanh, affine(3)"), x, torch.arange(5) % 3)
    assert torch.equal(separated(twice.psi(networks(twice, 3))), torch.zeros(3, dtype=DTYPE))
    assert float(separated(torch.eye(4, dtype=DTYPE)[None])) == pytest.approx(2**0.5)
    assert float(relative_sigma(2 * torch.eye(4, dtype=DTYPE))) == pytest.approx(1.0)


def test_curvature_along_an_output_bias_is_the_second_derivative(given: Problem) -> None:
    theta = networks(given, 3)
    for k in range(3):
        index = theta.shape[1] - 3 + k
        shift = torch.zeros(3, dtype=DTYPE, requires_grad=True)
        moved = theta + shift[:, None] * torch.nn.functional.one_hot(torch.tensor(index), theta.shape[1])
        (first,) = torch.autograd.grad(given.objective(moved).sum(), shift, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), shift)
        torch.testing.assert_close(second, given.output_curvature(theta)[:, k], rtol=1e-10, atol=1e-14)


def test_dead_networks_have_no_active_unit() -> None:
    x = torch.randn(2, 5, dtype=DTYPE, generator=generator(3))
    relu = Problem.of(parse("affine(6, bias=true), relu, affine(3)"), x, torch.arange(5) % 3)
    theta = dead(relu, networks(relu, 20))
    assert float(relu.psi(theta).abs().max()) == 0.0
    without = Problem.of(parse("affine(6), relu, affine(3)"), x, torch.arange(5) % 3)
    with pytest.raises(ValueError, match="need a first layer with a bias"):
        dead(without, networks(without, 2))
