"""The batched autoencoder agrees with exact losses, with autograd and with noise that is drawn."""

import torch
from sympy import Matrix, Rational

from numerics.denoising import best_rank, descend, loss, network, risk
from numerics.device import DTYPE, generator
from theory.denoising import losses

X = Matrix([[1, 2, 0], [0, 1, -1]])
A = Matrix([[1, 0, 1], [Rational(1, 2), -1, 1]])


def tensor(matrix: Matrix) -> torch.Tensor:
    return torch.tensor(matrix.tolist(), dtype=DTYPE)


def test_losses_are_the_exact_ones() -> None:
    for skip, target in ((False, X), (True, A)):
        exact = losses(target, X + A, 1)
        for project, value in ((True, exact.least), (False, exact.unprojected)):
            weight = network(tensor(target), tensor(X + A), 1, skip=skip, project=project)
            found = loss(weight, tensor(X), tensor(X + A))
            torch.testing.assert_close(found, torch.tensor(float(value), dtype=DTYPE))  # double rounding


def test_best_rank_keeps_the_largest_singular_values() -> None:
    matrix = torch.diag(torch.tensor([1.0, 3.0, 2.0], dtype=DTYPE))
    torch.testing.assert_close(best_rank(matrix, 2), torch.diag(torch.tensor([0.0, 3.0, 2.0], dtype=DTYPE)))


def test_a_step_of_descent_is_a_gradient_step() -> None:
    source = generator(0)
    target, seen = torch.randn(2, 1, 4, 6, dtype=DTYPE, generator=source)
    outer = torch.randn(1, 4, 2, dtype=DTYPE, generator=source, requires_grad=True)
    inner = torch.randn(1, 2, 4, dtype=DTYPE, generator=source, requires_grad=True)
    half = (target - outer @ inner @ seen).square().sum() / 2
    slopes = torch.autograd.grad(half, (outer, inner))
    end = descend(target, seen, outer.detach(), inner.detach(), 1, 1.0)
    squares = outer.square().sum() + inner.square().sum()
    size = torch.linalg.matrix_norm(seen @ seen.mT, 2) * squares + torch.linalg.matrix_norm(target @ seen.mT, 2)
    torch.testing.assert_close(end.outer, (outer - slopes[0] / size).detach())
    torch.testing.assert_close(end.inner, (inner - slopes[1] / size).detach())
    torch.testing.assert_close(end.losses[0, 0], 2 * half.detach())


def test_the_risk_is_the_mean_over_drawn_noise() -> None:
    source = generator(1)
    weight, clean = torch.randn(3, 3, dtype=DTYPE, generator=source), torch.randn(3, 5, dtype=DTYPE, generator=source)
    noise = 0.5 * torch.randn(20000, 3, 5, dtype=DTYPE, generator=source)
    drawn = loss(weight, clean, clean + noise) / 5
    error = float(drawn.std()) / 20000**0.5
    assert abs(float(drawn.mean() - risk(weight, clean, 0.25))) < 4 * error
